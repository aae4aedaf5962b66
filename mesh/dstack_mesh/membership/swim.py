"""Who of the mesh is there, as one peer sees it (SWIM with Lifeguard). Pure: events and the time go
in, effects come out.

    probe without answer ── again, and by three helpers ── suspect ── told to the mesh, and to it
    suspect ── it says a newer word ── alive
    suspect ── its time is over ── called directly, three times ── gone ── 10 min ── forgotten
    it says that it goes ── left.   Somebody says that it left ── called directly ── left
    gone or left ── it answers, or says a newer word ── alive

Three rules guard the living. What others say buries nobody: it begins a suspicion here, whose time
runs here and which ends in our own calls. What a peer says itself, proved by TLS, always counts
more. And who was away itself, or misses what it should hear, waits longer before it suspects.
"""

from dataclasses import replace
from random import Random
from typing import assert_never

from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.health import Health
from dstack_mesh.membership.known import Change
from dstack_mesh.membership.member import Member, Suspicion
from dstack_mesh.membership.outbox import Outbox
from dstack_mesh.membership.pace import Pace, retry_seconds
from dstack_mesh.membership.probing import Probing
from dstack_mesh.membership.register import Register
from dstack_mesh.membership.rumour import (
    HIGHEST_INCARNATION,
    Condition,
    Message,
    Rumour,
    outweighs,
)
from dstack_mesh.membership.signs import (
    Answered,
    Effect,
    Event,
    Helped,
    Leave,
    Met,
    Portrayed,
    Purpose,
    Sighted,
    Silent,
    Tick,
    Told,
)

NEVER = float("inf")


class Swim:
    """The peers of a mesh that take jobs.

    Args:
        word: What we say of ourselves at first; its incarnation is higher than any of our past.
        random: Chooses whom to probe, to ask and to tell.
        now: When it begins.
        pace: The numbers.
    """

    def __init__(self, word: Rumour, random: Random, now: float, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        self.health = Health(self.pace.slowest)
        self._known = Register(self.pace)
        self._out = Outbox(word, self._known, random, self.pace)
        self._random = random
        self._probing = Probing(
            word.peer_id, self._known, self._out, self.health, random, self.pace
        )
        self._now = now
        self._probe_at = now
        self._compare_at = now + random.random() * self.pace.exchange
        self._retry_at = self._meet_at = now
        self._due = NEVER

    # Events in, effects out

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Takes an event in and says what to do. Answers to calls that are not out only tell."""
        self._now = now
        if now - self._due > self.pace.stall:
            self._woke()
        self._take(event)
        if not self.leaving:
            self._beat()
        self._due = self.next_due()
        return self._out.empty()

    def _take(self, event: Event) -> None:
        match event:
            case Tick():
                pass
            case Told(message):
                self._told(message, answered=False)
            case Answered(number, message):
                self._answered(number, message)
            case Silent(number):
                self._silent(number, nack=False)
            case Helped(number, reached):
                self._helped(number, reached)
            case Met(word, found_at):
                self._met(word, found_at)
            case Sighted(peer_id, address):
                self._sighted(peer_id, address)
            case Portrayed():
                self._portrayed(event)
            case Leave():
                self._leave()
            case _:
                assert_never(event)

    def next_due(self) -> float:
        """When the next Tick could matter; infinity if only another event can change something."""
        if self.leaving:
            return NEVER
        known = self._known
        dues = [one.due(known.size, self.pace) for one in known.suspects.values()]
        if known.living:
            dues += [self._probe_at, self._compare_at]
        if known.gone:
            dues.append(self._retry_at)
        return min(dues, default=NEVER)

    def message(self, to: PeerId) -> Message:
        """What is sent to a peer as an answer."""
        return self._out.message(to)

    @property
    def word(self) -> Rumour:
        """What we say of ourselves."""
        return self._out.word

    @property
    def leaving(self) -> bool:
        return self.word.condition is Condition.LEFT

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody known but us; not to be changed."""
        return tuple(self._known.members.values())

    def member(self, peer_id: PeerId) -> Member | None:
        """One of them."""
        return self._known.members.get(peer_id)

    # What is due

    def _beat(self) -> None:
        now, known = self._now, self._known
        for peer_id, suspicion in list(known.suspects.items()):
            if suspicion.due(known.size, self.pace) <= now:
                self._call_for_the_last_time(known.members[peer_id], suspicion)
        if known.living and self._probe_at <= now:
            self._probe_at = now + self.pace.interval * self.health.slowness
            self._probing.begin(now)
        if known.gone and self._retry_at <= now:
            pause = retry_seconds(len(known.living), len(known.gone), self.pace)
            self._retry_at = now + pause * self._spread()
            lost = known.members[self._random.choice(list(known.gone))]
            self._out.call(lost, Purpose.RETRY, self.pace.patience)
        if known.living and self._compare_at <= now:
            self._compare_at = now + self.pace.exchange * self._spread()
            self._out.compare(self._out.sample(1)[0], "it is time")
            self._forget()

    def _spread(self) -> float:
        return 0.8 + 0.4 * self._random.random()

    def _woke(self) -> None:
        """We slept, or our loop stood still: what we missed says nothing about others."""
        self.health.worsen(3)
        self._out.abandon()
        self._probing.abandon()
        for suspicion in self._known.suspects.values():
            suspicion.begin_again(self._now)
        self._probe_at = self._now
        self._compare_at = min(self._compare_at, self._now + self.pace.interval)

    def _forget(self) -> None:
        for member in self._known.forget(self._now):
            self._out.gossip.drop(member.peer_id)
            change = Change(member.peer_id, member.name, member.standing, None, "gone for long")
            self._out.add(change)

    # Answers to calls

    def _answered(self, number: int, message: Message) -> None:
        call = self._out.ended(number)
        self._probing.answered(number)
        self._told(message, answered=call is not None and call[0] == message.word.peer_id)

    def _helped(self, number: int, reached: bool) -> None:
        if not reached:
            self._silent(number, nack=True)
        elif self._out.ended(number) is not None:
            self._probing.answered(number)

    def _silent(self, number: int, nack: bool) -> None:
        call = self._out.ended(number)
        if call is None:
            return
        suspicion = self._known.suspects.get(call[0])
        if suspicion is not None:
            suspicion.calling.discard(number)
        missed = self._probing.silent(number, nack, self._now)
        member = self._known.members.get(missed) if missed is not None else None
        if member is not None and member.living:
            self._accuse(member, member.incarnation, (self.word.peer_id,), Condition.DEAD)

    # Suspicion

    def _accuse(
        self, member: Member, incarnation: int, accusers: tuple[PeerId, ...], verdict: Condition
    ) -> None:
        suspicion = member.suspicion
        if suspicion is not None and incarnation <= member.incarnation:
            if suspicion.join(accusers):
                self._out.tell_of(member, urgent=False)
            if verdict in (suspicion.verdict, Condition.DEAD):
                return
        member.incarnation = max(member.incarnation, incarnation)
        suspicion = Suspicion(verdict, self._now, accusers, self.health.slowness)
        self._known.suspect(member, suspicion)
        if verdict is Condition.DEAD:
            self._stand(member, Condition.SUSPECT, "it does not answer")
        self._out.tell_of(member, urgent=True)

    def _call_for_the_last_time(self, member: Member, suspicion: Suspicion) -> None:
        if suspicion.tries >= self.pace.calls:
            self._bury(member, suspicion.verdict)
            return
        patience = self.pace.patience * self.health.slowness
        number = self._out.call(member, Purpose.LAST, patience)
        suspicion.called(number, self._now + self.pace.patience)

    def _bury(self, member: Member, condition: Condition) -> None:
        said = "it said that it goes" if condition is Condition.LEFT else "nobody reaches it"
        accusers = member.suspicion.accusers if member.suspicion else ()
        self._known.clear(member)
        self._stand(member, condition, said)
        self._out.gossip.spread(replace(member.rumour(), accusers=accusers))

    # What is said

    def _told(self, message: Message, answered: bool) -> None:
        word = message.word
        if word.peer_id == self.word.peer_id:
            return
        self._believe(word, answered)
        for rumour in message.rumours:
            self._hear(rumour)

    def _believe(self, word: Rumour, answered: bool) -> None:
        """What a peer says of itself."""
        member = self._known.members.get(word.peer_id)
        if member is None:
            if word.condition is not Condition.LEFT:
                self._welcome(word, "it called", heard_at=self._now)
            return
        member.heard_at, member.roster = self._now, word.roster
        before, news = member.condition, member.news_in(word)
        if word.condition is Condition.LEFT:
            if outweighs(word, member.incarnation, member.condition):
                untold = member.suspicion is None or member.suspicion.verdict is Condition.DEAD
                self._known.clear(member)
                self._stand(member, Condition.LEFT, "it said that it goes", word)
                self._out.tell_of(member, urgent=untold)
        elif news or answered:
            urgent = member.suspicion is not None or not member.living
            self._known.clear(member)
            self._stand(member, Condition.ALIVE, "it says so", word if news else None)
            if news:
                self._out.tell_of(member, urgent)
            else:
                self._out.gossip.drop(member.peer_id)
        elif member.suspicion is not None:
            member.suspicion.begin_again(self._now)
        if before > Condition.SUSPECT and member.living:
            self._meet(member, "it is back")

    def _hear(self, rumour: Rumour) -> None:
        """What a peer says of another."""
        if rumour.peer_id == self.word.peer_id:
            self._refute(rumour)
            return
        member = self._known.members.get(rumour.peer_id)
        if member is None:
            member = self._heard_of(rumour)
        elif rumour.condition is Condition.ALIVE and rumour.incarnation > member.incarnation:
            urgent = member.suspicion is not None or not member.living
            self._known.clear(member)
            self._stand(member, Condition.ALIVE, "it says so to others", rumour)
            self._out.tell_of(member, urgent)
        if member is not None and rumour.condition is not Condition.ALIVE:
            self._hear_ill(member, rumour)

    def _heard_of(self, rumour: Rumour) -> Member | None:
        """Somebody we did not know. The dead are not worth knowing, and stay forgotten."""
        buried = self._known.buried(rumour.peer_id)
        if rumour.condition >= Condition.DEAD or rumour.incarnation <= buried:
            return None
        return self._welcome(replace(rumour, condition=Condition.ALIVE), "others know it")

    def _hear_ill(self, member: Member, rumour: Rumour) -> None:
        if not outweighs(rumour, member.incarnation, member.condition):
            if member.suspicion is None or rumour.incarnation < member.incarnation:
                return
        elif not member.living:
            if rumour.incarnation == member.incarnation:
                return
            self._stand(member, Condition.ALIVE, "it was seen later")
        verdict = Condition.LEFT if rumour.condition is Condition.LEFT else Condition.DEAD
        self._accuse(member, rumour.incarnation, rumour.accusers, verdict)
        if rumour.condition is Condition.DEAD and member.suspicion is not None:
            member.suspicion.slowness = 1

    def _refute(self, rumour: Rumour) -> None:
        """Somebody speaks of us: what is not so is answered with a newer word."""
        wrong = rumour.condition is not Condition.ALIVE
        ahead = rumour.incarnation - self.word.incarnation
        if self.leaving or ahead < 0 or (not ahead and not wrong):
            return
        self._say_anew(self.word, max(self.word.incarnation, rumour.incarnation))
        if wrong:
            self.health.worsen()
            self._out.push()

    def _say_anew(self, word: Rumour, above: int) -> None:
        self._out.word = replace(word, incarnation=min(above + 1, HIGHEST_INCARNATION))

    def _met(self, word: Rumour, found_at: Address | None) -> None:
        member = self._known.members.get(word.peer_id)
        if member is None:
            buried = max(self._known.buried(word.peer_id), word.incarnation)
            word = replace(word, incarnation=buried)
            member = self._welcome(word, "it answered", heard_at=self._now)
            if member is not None:
                member.found_at = found_at
                self._meet(member, "first contact")
            return
        if member.condition >= Condition.DEAD:
            self._meet(member, "it is back")
        member.heard_at, member.found_at = self._now, found_at
        if member.condition is not Condition.LEFT:  # then it may be on its way; its word decides
            self._known.clear(member)
            self._stand(member, Condition.ALIVE, "it answered")

    def _sighted(self, peer_id: PeerId, address: Address) -> None:
        member = self._known.members.get(peer_id)
        if member is not None and address not in member.addresses:
            member.found_at = address

    def _portrayed(self, event: Portrayed) -> None:
        # The roster's digest changes often, is nobody else's to tell, and so is no news by itself.
        self._out.word = replace(self.word, roster=event.roster)
        word = replace(self.word, name=event.name, addresses=event.addresses, state=event.state)
        if word != self.word and not self.leaving:
            urgent = word.state is not self.word.state
            self._say_anew(word, self.word.incarnation)
            if urgent:
                self._out.push()

    def _leave(self) -> None:
        if not self.leaving:
            self._say_anew(replace(self.word, condition=Condition.LEFT), self.word.incarnation)
            self._out.push(self.pace.farewell)

    # Parts of the above

    def _meet(self, member: Member, cause: str) -> None:
        """Compares views with somebody who may know of others; of many, with one a second."""
        if self._now >= self._meet_at:
            self._meet_at = self._now + self.pace.interval
            self._out.compare(member, cause)

    def _welcome(self, word: Rumour, cause: str, heard_at: float | None = None) -> Member | None:
        member = self._known.add(word, self._now)
        if member is None:
            return None
        member.heard_at, member.roster = heard_at, word.roster
        if self._known.size == 2:
            self._probe_at = self._now + self.pace.interval * self._random.random()
        self._out.add(Change(word.peer_id, word.name, None, member.standing, cause))
        self._out.tell_of(member, urgent=False)
        return member

    def _stand(
        self, member: Member, condition: Condition, cause: str, word: Rumour | None = None
    ) -> None:
        """Gives a member a condition and, where it said something new, its word."""
        before = member.standing
        if word is not None:
            member.take(word)
        self._known.stand(member, condition, self._now)
        if condition is Condition.DEAD and len(self._known.gone) == 1:
            self._retry_at = self._now + self.pace.retry
        if member.standing != before:
            self._out.add(Change(member.peer_id, member.name, before, member.standing, cause))
