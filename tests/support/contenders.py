"""Drivers that fight over the cards of one ledger, as a process of their own.

`python -m support.contenders LEDGER FOLDER FIRST ROUNDS [careless]` runs four of them, in threads,
each with a connection of its own. Whoever is awarded a card makes a file of the card's name in
FOLDER meanwhile, so that two owners of a card are noticed by the file system, not by the ledger
itself. It prints how many awards and clashes there were. Careless drivers do not ask the ledger.
"""

import json
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dstack_agent.lease import Award, Claim, NotFree
from dstack_agent.ledger import Ledger
from dstack_mesh.clock import SystemClock
from dstack_mesh.ids import Digest, PeerId
from dstack_scheduler.agent_port import Question
from dstack_scheduler.fit import fit
from dstack_scheduler.needs import Needs
from support.machines import gpu, key, machine, question

THREADS = 4
HAS = machine(gpu(0), gpu(1), cpus=64)


class Contender:
    """One driver that wants a card again and again."""

    def __init__(self, ledger: Path, folder: Path, number: int) -> None:
        self._ledger = Ledger(ledger, SystemClock())
        self._folder = folder
        self._number = number
        self.awards = 0
        self.clashes = 0

    def run(self, rounds: int, careless: bool) -> None:
        for round_ in range(rounds):
            asked = question(Needs(gpus=1), key(round_ * 100 + self._number))
            with self._careless() if careless else self._awarded(asked) as cards:
                self.awards += bool(cards)
                self._use(cards)
        self._ledger.close()

    @contextmanager
    def _awarded(self, asked: Question) -> Generator[tuple[str, ...]]:
        peer = PeerId(f"{self._number:032d}")
        claim = Claim(asked.key, asked.run_name, asked.needs, asked.executor, 1, peer)
        try:
            hold = self._ledger.reserve(claim, lambda taken: fit(asked, HAS, taken))
        except NotFree:
            yield ()
            return
        award = Award(hold.hold_id, 1, asked.key, asked.needs, asked.executor, Digest(b"spec"))
        yield self._ledger.commit(award).gpu_uuids
        self._ledger.end(asked.key)

    @contextmanager
    def _careless(self) -> Generator[tuple[str, ...]]:
        yield ("GPU-0",)

    def _use(self, cards: tuple[str, ...]) -> None:
        for card in cards:
            lock = self._folder / card
            try:
                lock.touch(exist_ok=False)
            except FileExistsError:
                self.clashes += 1
                continue
            lock.unlink()


def main() -> None:
    ledger, folder, first, rounds, *words = sys.argv[1:]
    contenders = [
        Contender(Path(ledger), Path(folder), int(first) + each) for each in range(THREADS)
    ]
    threads = [
        threading.Thread(target=each.run, args=(int(rounds), "careless" in words))
        for each in contenders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(
        json.dumps(
            {
                "awards": sum(each.awards for each in contenders),
                "clashes": sum(each.clashes for each in contenders),
            }
        )
    )


if __name__ == "__main__":
    main()
