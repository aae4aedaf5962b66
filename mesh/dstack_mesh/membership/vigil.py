"""Keeps watch over the agents of the mesh: carries out what `membership.swim` decides."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random

from dstack_mesh.card import HelloAnswer
from dstack_mesh.clock import Clock
from dstack_mesh.faults import Busy, MeshError
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.comparing import Question, Reply, comparing, reply_to
from dstack_mesh.membership.known import Change
from dstack_mesh.membership.member import Member
from dstack_mesh.membership.place import may_dial
from dstack_mesh.membership.prober import Prober
from dstack_mesh.membership.rumour import MOST_ADDRESSES, Condition, Message, Rumour
from dstack_mesh.membership.signs import (
    Answered,
    Call,
    CallFor,
    Compare,
    Effect,
    Event,
    Helped,
    Leave,
    Met,
    Portrayed,
    Sighted,
    Silent,
    Tick,
    Told,
)
from dstack_mesh.membership.swim import Swim

log = logging.getLogger(__name__)

COMPARE_SECONDS = 5.0
"""How long one step of a comparison may take."""

LEAVE_SECONDS = 0.5
"""How long a stopping agent waits for those to whom it says goodbye."""

MOST_CALLS = 64
"""Calls at the same time; further ones wait, and their patience begins when they do not."""

MOST_HELP = 32
"""Peers that are probed for others at the same time."""

LONGEST_HELP_SECONDS = 5.0


class Vigil:
    """The members of a mesh, kept by probes.

    Args:
        own: Who we are.
        prober: Calls peers.
        portrait: What we say of ourselves at the moment of the call.
        clock: Orders everything.
        random: Chooses whom to call.
    """

    def __init__(
        self,
        own: PeerId,
        prober: Prober,
        portrait: Callable[[], Portrayed],
        clock: Clock,
        random: Random | None = None,
    ) -> None:
        self._prober = prober
        self._portrait = portrait
        self._clock = clock
        self._random = random or Random()
        # Milliseconds: who starts again within one must not say less than before.
        born = Rumour(own, int(clock.now().timestamp() * 1000), Condition.ALIVE)
        self._swim = Swim(born, self._random, clock.elapsed())
        self._tasks: asyncio.TaskGroup | None = None
        self._sooner = asyncio.Event()
        self._awaited = float("-inf")
        self._calling = asyncio.Semaphore(MOST_CALLS)
        self._helping = 0
        self._listeners: list[Callable[[Change], None]] = []

    async def run(self) -> None:
        """Probes until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                while True:
                    self._handle(self._portrait())
                    self._handle(Tick())
                    await self._until_due()
        finally:
            self._tasks = None
            await self._prober.close()

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Calls it for every peer that stands otherwise than before; it must not block."""
        self._listeners.append(listener)

    # What it knows

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody known but us; not to be changed."""
        return self._swim.members

    def member(self, peer_id: PeerId) -> Member | None:
        """One of them."""
        return self._swim.member(peer_id)

    def addresses(self, member: Member) -> tuple[Address, ...]:
        """Where a member can be dialled, the one that works first."""
        works = self._prober.reached_at(member.peer_id)
        return tuple(dict.fromkeys((*([works] if works else []), *member.reachable)))

    # What others ask of it

    def met(self, address: Address, answer: HelloAnswer) -> None:
        """An agent answered to Hello, proved by TLS."""
        card = answer.card
        said = tuple(one for one in card.addresses if may_dial(one))[:MOST_ADDRESSES]
        word = Rumour(card.peer_id, 0, Condition.ALIVE, answer.state, card.name, said)
        self._handle(Met(word, address))

    def sighted(self, peer_id: PeerId, address: Address) -> None:
        """Somebody says that this agent is at an address."""
        self._handle(Sighted(peer_id, address))

    def probed(self, message: Message) -> Message:
        """The answer to a probe."""
        self._handle(Told(message))
        return self._swim.message(message.word.peer_id)

    def compared(self, question: Question) -> Reply:
        """The answer to a step of a comparison."""
        self._handle(Told(question.message))
        return reply_to(self._swim, question)

    async def probe_for(self, peer_id: PeerId, addresses: Sequence[Address], within: float) -> bool:
        """Whether a peer answers that another one did not reach. Raises Busy."""
        if self._helping >= MOST_HELP:
            raise Busy("This agent probes for too many others at once.")
        member = self._swim.member(peer_id)
        patience = 0.8 * min(within, LONGEST_HELP_SECONDS)
        message = self._swim.message(peer_id)
        self._helping += 1
        try:
            known = member.reachable if member is not None else ()
            told = tuple(filter(may_dial, addresses))
            reply = await self._prober.probe(peer_id, known or told, message, patience)
        except MeshError:
            return False
        finally:
            self._helping -= 1
        self._handle(Told(reply))
        return True

    async def leave(self) -> None:
        """Says to some peers that we go; they tell the others. Call it before the server stops."""
        told = self._handle(Leave())
        if told:
            await asyncio.wait(told, timeout=LEAVE_SECONDS)

    # Carrying out

    def _handle(self, event: Event) -> list[asyncio.Task[None]]:
        effects = self._swim.handle(event, self._clock.elapsed())
        if self._swim.next_due() < self._awaited:
            self._sooner.set()
        return [task for effect in effects if (task := self._do(effect)) is not None]

    def _do(self, effect: Effect) -> asyncio.Task[None] | None:
        match effect:
            case Change():
                for listener in self._listeners:
                    listener(effect)
                return None
            case Call():
                work = self._call(effect)
            case CallFor():
                work = self._call_for(effect)
            case Compare():
                work = self._compare(effect)
        if self._tasks is None:
            work.close()
            return None
        return self._tasks.create_task(work)

    async def _until_due(self) -> None:
        self._awaited = self._swim.next_due()
        self._sooner.clear()
        wait = self._awaited - self._clock.elapsed()
        try:
            async with asyncio.timeout(None if wait == float("inf") else max(wait, 0.0)):
                await self._sooner.wait()
        except TimeoutError:
            pass

    async def _call(self, call: Call) -> None:
        async with self._calling:
            try:
                reply = await self._prober.probe(
                    call.peer_id, call.addresses, call.message, call.within
                )
            except MeshError as failed:
                log.debug("%s, %s: %s", call.peer_id, call.purpose.value, failed)
                self._handle(Silent(call.number))
            else:
                self._handle(Answered(call.number, reply))

    async def _call_for(self, call: CallFor) -> None:
        async with self._calling:
            try:
                reached = await self._prober.probe_for(
                    call.helper, call.helper_addresses, call.peer_id, call.addresses, call.within
                )
            except MeshError:
                self._handle(Silent(call.number))
            else:
                self._handle(Helped(call.number, reached))

    async def _compare(self, compare: Compare) -> None:
        steps = comparing(self._swim)
        question = next(steps)
        while True:
            try:
                reply = await self._prober.compare(
                    compare.peer_id, compare.addresses, question, COMPARE_SECONDS
                )
            except MeshError as failed:
                log.debug("no comparison with %s: %s", compare.peer_id, failed)
                return
            self._handle(Told(reply.message))
            try:
                question = steps.send(reply)
            except StopIteration:
                return
