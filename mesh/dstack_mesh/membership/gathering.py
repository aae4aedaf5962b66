"""One call of the roll for a command: greets each agent that was heard of, and whom those name.

Whom a person or this home's memory names is greeted at once. What the network says may come from
anybody: so many at a time are greeted, drawn by lot, and who says nothing makes room. Thousands of
fakes cost time, and shut nobody out.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from random import Random
from typing import Any

from dstack_mesh.card import HelloAnswer
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.greeter import Greeter
from dstack_mesh.membership.known import KnownAgent, Target, standing_of
from dstack_mesh.membership.place import may_dial
from dstack_mesh.membership.view import Heard

NO_MEMBER = frozenset({"revoked", "left-the-mesh", "issuer-removed"})
"""Codes with which an agent says that whoever calls is heard no more."""

TRUSTED = frozenset({"seed", "saved", "local"})
"""How those were heard of whom a person or this home's memory names."""

MOST_AT_ONCE = 256
"""Hints that are greeted at a time."""

MOST_ASKED = 4096
"""Whom one command greets in all; whoever floods the network with more hints is cut off here."""

HINT_SECONDS = 1.0
"""A hint that has not answered for so long gives its place away, and is greeted again last."""


class Gathering:
    """Collects answers. Give it a TaskGroup with `start`, then whom to `ask`.

    Results come out of `results` as they arrive; None ends them, after `finish`.

    Args:
        greeter: Says Hello.
        own: Who we are: found on the network, we are not an agent of others.
        random: Draws whom to greet next.

    Attributes:
        refusal: Why agents do not speak to us any more; None while none said so.
    """

    def __init__(self, greeter: Greeter, own: PeerId, random: Random | None = None) -> None:
        self.results: asyncio.Queue[KnownAgent | None] = asyncio.Queue()
        self._greeter = greeter
        self._own = own
        self._random = random or Random()
        self._asked: dict[Target, Heard] = {}
        self._answered: dict[PeerId, KnownAgent] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._within = 0.0
        self._greeting: set[asyncio.Task[None]] = set()
        self._hints: list[Heard] = []
        self._slow: list[Heard] = []
        self._at_once = 0
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
        """From now on `ask` greets in this group, nobody for longer than so many seconds."""
        self._tasks, self._within = tasks, within

    def ask(self, heard: Heard) -> None:
        """Greets somebody who was heard of, unless that was done or makes no sense."""
        target, trusted = heard.target, heard.found_by in TRUSTED
        allowed = trusted or (len(self._asked) < MOST_ASKED and may_dial(target.address))
        if self._is_new(target) and allowed:
            self._asked[target] = heard
            self._news.set()
            if trusted:
                self._begin(self._greet_trusted(heard))
            else:
                self._hints.append(heard)
                self._greet_hints()

    async def until_settled(self, pause: float) -> None:
        """Waits until all that were asked answered or failed, at most so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                while self._greeting:
                    await asyncio.wait(self._greeting)

    async def until_quiet(self, pause: float) -> None:
        """Waits until somebody trusted answered from afar, or anybody, and then nothing was heard
        for so long."""
        while not any(one.found_by in TRUSTED and not one.local for one in self.answered):
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

    def _is_new(self, target: Target) -> bool:
        return target not in self._asked and target.peer_id not in self._answered

    def _begin(self, greeting: Coroutine[Any, Any, None]) -> None:
        assert self._tasks is not None, "nobody is asked before `start`"
        task = self._tasks.create_task(greeting)
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)

    def _greet_hints(self) -> None:
        while (waiting := self._hints or self._slow) and self._at_once < MOST_AT_ONCE:
            drawn = self._random.randrange(len(waiting))
            waiting[drawn], waiting[-1] = waiting[-1], waiting[drawn]
            self._at_once += 1
            self._begin(self._greet_hint(waiting.pop()))

    async def _greet_trusted(self, heard: Heard) -> None:
        further: Heard | None = heard
        while further is not None:
            further = await self._greet(further)

    async def _greet_hint(self, heard: Heard) -> None:
        try:
            async with asyncio.timeout(HINT_SECONDS):
                further = await self._greet(heard)
        except TimeoutError:
            self._slow.append(heard)
            further = None
        if further is not None:
            await self._greet_hint(further)
            return
        self._at_once -= 1
        self._greet_hints()

    async def _greet(self, heard: Heard) -> Heard | None:
        """Greets somebody; returns whom to greet next for that."""
        target = heard.target
        if target.peer_id == self._own and heard.found_by != "local":
            return None
        try:
            answer = await self._greeter.hello(target, self._within)
        except MeshError as failed:
            self.refusal = failed if failed.code in NO_MEMBER else self.refusal
            return None
        peer_id = answer.card.peer_id
        if target.peer_id is None and heard.found_by != "local":
            # Any member could have said that; now it has to prove it.
            named = Heard(Target(target.address, peer_id), heard.found_by)
            self._asked.setdefault(named.target, named)
            return named if peer_id not in self._answered else None
        if peer_id == (target.peer_id or peer_id) and answer.card.agent:
            self._take(heard, answer)
        return None

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
