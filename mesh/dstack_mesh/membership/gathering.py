"""One call of the roll for a command: greets each agent once, and those that it names once."""

import asyncio

from dstack_mesh.card import HelloAnswer
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.greeter import Greeter
from dstack_mesh.membership.known import KnownAgent, Target, standing_of
from dstack_mesh.membership.place import may_dial
from dstack_mesh.membership.view import Heard

NO_MEMBER = frozenset({"revoked", "left-the-mesh", "issuer-removed"})
"""Codes with which an agent says that whoever calls is heard no more."""

MOST_ASKED = 512
"""Addresses that one command greets; whoever floods the network with hints is cut off here."""


class Gathering:
    """Collects answers. Give it a TaskGroup with `start`, then whom to `ask`.

    Results come out of `results` as they arrive; None ends them, after `finish`.

    Args:
        greeter: Says Hello.
        own: Who we are: found on the network, we are not an agent of others.

    Attributes:
        refusal: Why agents do not speak to us any more; None while none said so.
    """

    def __init__(self, greeter: Greeter, own: PeerId) -> None:
        self.results: asyncio.Queue[KnownAgent | None] = asyncio.Queue()
        self._greeter = greeter
        self._own = own
        self._asked: dict[Target, Heard] = {}
        self._answered: dict[PeerId, KnownAgent] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._within = 0.0
        self._news = asyncio.Event()
        self.refusal: MeshError | None = None

    @property
    def answered(self) -> tuple[KnownAgent, ...]:
        """Who answered so far."""
        return tuple(self._answered.values())

    @property
    def lonely(self) -> bool:
        """Whether nobody answered but the agent of this home."""
        return all(agent.local for agent in self._answered.values())

    def start(self, tasks: asyncio.TaskGroup, within: float) -> None:
        """From now on `ask` greets in this group, each time for at most so many seconds."""
        self._tasks, self._within = tasks, within

    def ask(self, heard: Heard) -> None:
        """Greets somebody who was heard of, unless that was done or makes no sense."""
        target = heard.target
        trusted = heard.found_by in ("seed", "saved", "local")
        known = target.peer_id is not None and target.peer_id in self._answered
        ourselves = target.peer_id == self._own and heard.found_by != "local"
        if known or ourselves or target in self._asked or len(self._asked) >= MOST_ASKED:
            return
        if self._tasks is not None and (trusted or may_dial(target.address)):
            self._asked[target] = heard
            self._news.set()
            self._tasks.create_task(self._greet(heard))

    async def until_quiet(self, pause: float) -> None:
        """Waits until somebody answered from afar and then nothing was heard for so long."""
        while True:
            self._news.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._news.wait()
            except TimeoutError:
                if not self.lonely:
                    return

    def finish(self) -> None:
        """Tells of the remembered that did not answer, and ends the results."""
        silent: dict[PeerId, KnownAgent] = {}
        for heard in self._asked.values():
            card = heard.card
            if card is not None and card.peer_id not in self._answered:
                agent = KnownAgent(card, card.addresses, heard.found_by, "gone", None)
                silent[card.peer_id] = agent
        for agent in silent.values():
            self.results.put_nowait(agent)
        self.results.put_nowait(None)

    async def _greet(self, heard: Heard) -> None:
        target = heard.target
        try:
            answer = await self._greeter.hello(target, self._within)
        except MeshError as failed:
            self.refusal = failed if failed.code in NO_MEMBER else self.refusal
            return
        peer_id = answer.card.peer_id
        if target.peer_id is None and heard.found_by != "local":
            # Any member could have said that; now it has to prove it.
            self.ask(Heard(Target(target.address, peer_id), heard.found_by))
        elif peer_id == (target.peer_id or peer_id) and answer.card.agent:
            self._take(heard, answer)

    def _take(self, heard: Heard, answer: HelloAnswer) -> None:
        if answer.card.peer_id in self._answered:
            return
        address, local = heard.target.address, heard.found_by == "local"
        said = (one for one in answer.card.addresses if may_dial(one))
        addresses = tuple(said) if local else tuple(dict.fromkeys((address, *said)))
        standing = standing_of(answer.state)
        agent = KnownAgent(answer.card, addresses, heard.found_by, standing, answer, local)
        self._answered[answer.card.peer_id] = agent
        self.results.put_nowait(agent)
        self._news.set()
        if heard.found_by != "peer":
            for hint in answer.known:
                for other in hint.addresses:
                    self.ask(Heard(Target(Address(other), hint.peer_id), "peer"))
