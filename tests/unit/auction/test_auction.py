"""Stories of one auction, told by events and the effects that they have."""

import random
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.card import PeerCard
from dstack_mesh.faults import Busy, Conflict, Forbidden, Missing, Refused
from dstack_mesh.ids import HoldId, MeshId, PeerId
from dstack_scheduler.agent_port import Hold
from dstack_scheduler.auction import REFUSALS, Auction
from dstack_scheduler.auction_events import (
    AllFound,
    Answered,
    Ask,
    Award,
    Declined,
    Effect,
    Event,
    Found,
    GiveUp,
    Held,
    Look,
    Lot,
    Reserve,
    Silent,
    Tell,
    Tick,
    WakeAt,
)
from dstack_scheduler.poll import HARD_SECONDS, SOFT_SECONDS
from dstack_scheduler.progress import Asked, Waiting
from dstack_scheduler.refusal import NoAgentFits, NoAgents
from dstack_scheduler.verdict import Bid, Later, Never, Now, Reason, Verdict

BUSY = Later((Reason("gpu-busy", "Its GPU is held by lazy-bobcat-1."),))
NEVER = Never((Reason("gpu-too-few", "It has no GPU.", "ask for none"),))
NOW = Now()


def found(name: str, local: bool = False) -> Found:
    return Found(PeerCard(PeerId(name), MeshId("m"), name, (), "0", agent=True), local)


def said(name: str, verdict: Verdict, round: int = 1) -> Answered:
    return Answered(PeerId(name), round, Bid(verdict))


def hold(name: str) -> Held:
    return Held(PeerId(name), Hold(HoldId(f"hold-{name}"), 15.0))


class Table:
    """An auction at which a test sits."""

    def __init__(self, placement: str = "", **of_lot: int) -> None:
        lot = Lot(0, "train", placement=placement, **of_lot)
        self.auction = Auction(lot, random.Random(1).random)
        self.now = 100.0
        self.effects: list[Effect] = self.auction.start(self.now)

    def hears(self, *events: Event, after: float = 0.0) -> list[Effect]:
        """What comes of some events."""
        self.now += after
        new = [effect for event in events for effect in self.auction.handle(event, self.now)]
        self.effects += new
        return new

    def of(self, kind: type, effects: Iterable[Effect] | None = None) -> list[Effect]:
        effects = self.effects if effects is None else effects
        return [effect for effect in effects if isinstance(effect, kind)]

    @property
    def reserved(self) -> list[str]:
        return [effect.peer for effect in self.effects if isinstance(effect, Reserve)]

    @property
    def gave_up(self) -> GiveUp:
        (over,) = self.of(GiveUp)
        assert isinstance(over, GiveUp)
        return over

    @property
    def waits(self) -> list[Waiting]:
        told = [effect.event for effect in self.effects if isinstance(effect, Tell)]
        return [event for event in told if isinstance(event, Waiting)]

    def next_round(self) -> int:
        """Lets the wait pass."""
        until = [effect.at for effect in self.effects if isinstance(effect, WakeAt)][-1]
        (look,) = self.of(Look, self.hears(Tick(), after=until - self.now))
        assert isinstance(look, Look)
        return look.round


def test_everybody_is_asked_as_soon_as_found() -> None:
    table = Table()

    assert table.of(Look) == [Look(1)]
    assert table.of(Ask, table.hears(found("a"))) == [Ask(PeerId("a"), 1)]
    assert table.of(Ask, table.hears(found("b"), found("a"))) == [Ask(PeerId("b"), 1)]


def test_it_is_decided_when_all_have_answered() -> None:
    table = Table()
    table.hears(found("a"), found("b"), said("a", NOW), AllFound(1))
    assert not table.reserved

    table.hears(said("b", BUSY))

    assert table.reserved == ["a"]


def test_this_machine_is_taken_without_waiting_for_the_others() -> None:
    table = Table()
    table.hears(found("a"), found("here", local=True), said("here", NOW))

    assert table.reserved == ["here"]


def test_at_the_soft_deadline_any_now_is_good_enough() -> None:
    table = Table()
    table.hears(found("a"), found("b"), AllFound(1), said("a", NOW))
    assert not table.reserved

    table.hears(Tick(), after=SOFT_SECONDS)

    assert table.reserved == ["a"]


def test_without_a_now_the_hard_deadline_decides() -> None:
    table = Table()
    table.hears(found("a"), found("b"), AllFound(1), said("a", BUSY))
    table.hears(Tick(), after=SOFT_SECONDS)
    assert not table.waits

    table.hears(Tick(), after=HARD_SECONDS)

    (waiting,) = table.waits
    assert [(name, why[0].code) for name, why in waiting.reasons] == [
        ("a", "gpu-busy"),
        ("b", "no-answer"),
    ]


def test_the_winner_is_awarded_with_a_reason() -> None:
    table = Table(gpus=1)
    table.hears(found("a"), found("b"), AllFound(1), said("a", NEVER), said("b", NOW))

    (award,) = table.of(Award, table.hears(hold("b")))

    assert isinstance(award, Award)
    assert (award.peer, award.why) == ("b", "only agent with a free GPU")


def test_who_was_too_slow_tries_the_next_best_and_then_asks_again() -> None:
    table = Table()
    table.hears(found("a"), found("b"), AllFound(1), said("a", NOW), said("b", NOW))
    table.hears(Declined(PeerId("a"), Busy("It is not free any more.")))
    assert table.reserved == ["a", "b"]
    table.hears(Declined(PeerId("b"), Busy("It is not free any more.")))

    round = table.next_round()
    table.hears(said("b", BUSY, round), said("a", NOW, round), AllFound(round))

    assert table.reserved == ["a", "b", "a"]
    assert not table.waits


def test_an_award_that_failed_for_sure_goes_to_the_next_best() -> None:
    table = Table()
    table.hears(found("a"), found("b"), AllFound(1), said("a", NOW), said("b", NOW), hold("a"))

    table.hears(Declined(PeerId("a"), Missing("The hold is gone.")))

    assert table.reserved == ["a", "b"]


def test_waiting_is_said_again_only_when_it_changes() -> None:
    table = Table()
    table.hears(found("a"), AllFound(1), said("a", BUSY))
    for _ in range(5):
        round = table.next_round()
        table.hears(said("a", BUSY, round), AllFound(round))
    assert len(table.waits) == 1

    round = table.next_round()
    other = Later((Reason("gpu-busy", "Its GPU is held by calm-ibex-2."),))
    table.hears(said("a", other, round))

    assert len(table.waits) == 2


def test_a_number_that_wobbles_is_no_change() -> None:
    table = Table()
    for free in range(5):
        round = 1 if not table.waits else table.next_round()
        low = Later((Reason("memory-busy", f"It has {free} GB free."),))
        table.hears(found("a"), said("a", low, round), AllFound(round))

    assert len(table.waits) == 1


def test_the_pause_between_rounds_grows_to_a_second_and_not_further() -> None:
    table = Table()
    table.hears(found("a"), AllFound(1), said("a", BUSY))
    pauses = list[float]()
    for _ in range(8):
        before = table.now
        round = table.next_round()
        pauses.append(table.now - before)
        table.hears(said("a", BUSY, round), AllFound(round))

    assert 0.1 <= pauses[0] <= 0.2
    assert max(pauses) <= 1.0


def test_answers_of_an_earlier_round_do_not_count() -> None:
    table = Table()
    table.hears(found("a"), AllFound(1), said("a", BUSY))
    table.next_round()

    table.hears(said("a", NOW, round=1))

    assert not table.reserved


def test_all_never_fails_at_once_with_the_nearest_miss() -> None:
    table = Table()
    far = Never((Reason("gpu-too-few", "It has no GPU."), Reason("no-docker", "No Docker.")))
    table.hears(found("a"), found("b"), AllFound(1), said("a", far), said("b", NEVER))

    error = table.gave_up.error

    assert isinstance(error, NoAgentFits)
    assert "a: It has no GPU. No Docker." in error.why
    assert error.hint == "ask for none"


def test_a_silent_agent_is_waited_for() -> None:
    table = Table()
    table.hears(found("a"), found("b"), AllFound(1), said("a", NEVER))

    table.hears(Silent(PeerId("b"), 1, "b cannot be reached."))

    assert not table.of(GiveUp)
    assert len(table.waits) == 1


def test_an_agent_that_comes_late_is_waited_for_before_giving_up() -> None:
    table = Table()
    table.hears(found("a"), said("a", NEVER))
    table.hears(Tick(), after=2 * HARD_SECONDS)
    assert not table.of(GiveUp)

    table.hears(found("b"), said("b", NOW), AllFound(1))

    assert table.reserved == ["b"]


def test_nobody_at_all_is_said_in_other_words() -> None:
    table = Table()

    table.hears(AllFound(1))

    assert isinstance(table.gave_up.error, NoAgents)


def test_local_asks_this_machine_alone() -> None:
    table = Table("local")
    table.hears(found("a"), found("here", local=True))

    assert table.of(Ask) == [Ask(PeerId("here"), 1)]


def test_remote_asks_everybody_else() -> None:
    table = Table("remote")
    table.hears(found("here", local=True), found("a"))

    assert table.of(Ask) == [Ask(PeerId("a"), 1)]


def test_any_but_one_asks_everybody_else_even_where_that_one_is_not_this_machine() -> None:
    table = Table("not:laptop")
    table.hears(found("laptop"), found("ws-1", local=True))

    assert table.of(Ask) == [Ask(PeerId("ws-1"), 1)]


def test_an_agent_is_named_by_a_prefix_if_it_is_the_only_one() -> None:
    table = Table("ws-2")
    table.hears(found("ws-1"), found("ws-20"), AllFound(1), said("ws-20", NOW))

    assert table.reserved == ["ws-20"]


def test_a_whole_name_beats_a_prefix_and_waits_for_nobody() -> None:
    table = Table("ws-2")
    table.hears(found("ws-20"), found("ws-2"), said("ws-2", NOW))

    assert table.reserved == ["ws-2"]


def test_a_prefix_of_several_names_is_refused() -> None:
    table = Table("ws")
    table.hears(found("ws-1"), found("ws-2"), AllFound(1), said("ws-1", NOW), said("ws-2", NOW))

    assert table.gave_up.error.code == "ambiguous-agent"


def test_a_name_that_nobody_has_is_refused_with_those_that_are_known() -> None:
    table = Table("ws-9")
    table.hears(found("ws-1"), AllFound(1))

    assert table.gave_up.error.code == "no-such-agent"
    assert "ws-1" in table.gave_up.error.why


def test_a_driver_that_was_replaced_gives_up() -> None:
    table = Table()
    table.hears(found("a"), AllFound(1), said("a", NOW))
    replaced = Conflict("Another driver has taken the run over.", code="epoch")

    table.hears(Declined(PeerId("a"), replaced))

    assert table.gave_up.error is replaced


def test_an_agent_that_forbids_is_not_asked_for_ever() -> None:
    table = Table()
    table.hears(found("a"), AllFound(1), said("a", NOW))
    table.hears(Declined(PeerId("a"), Forbidden("You may not.")))
    round = table.next_round()

    table.hears(said("a", NOW, round), AllFound(round))

    assert "You may not." in table.gave_up.error.why


def test_an_agent_that_says_now_and_refuses_again_and_again_is_not_believed() -> None:
    table = Table()
    round = 1
    table.hears(found("a"))
    for _ in range(REFUSALS):
        table.hears(AllFound(round), said("a", NOW, round))
        table.hears(Declined(PeerId("a"), Refused("The code is not here.")))
        round = table.next_round()

    table.hears(said("a", NOW, round), AllFound(round))

    assert isinstance(table.gave_up.error, NoAgentFits)


def test_the_first_round_tells_who_answered_what() -> None:
    table = Table()
    table.hears(found("b"), found("a"), AllFound(1), said("b", NOW), said("a", NEVER))

    (told,) = table.of(Tell)

    assert isinstance(told, Tell)
    assert isinstance(told.event, Asked)
    assert [card.name for card, _ in told.event.bids] == ["a", "b"]


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[Event], list[Event]]:
    """Agents with verdicts, and everything that is heard of them in an order of its own."""
    names = draw(st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True))
    verdicts = [
        Now((), draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        BUSY,
        NEVER,
    ]
    bids = [(f"peer-{n}", draw(st.sampled_from(verdicts))) for n in names]
    local = draw(st.sampled_from([None, *(name for name, _ in bids)]))
    order = draw(st.permutations(bids))
    heard: list[Event] = [said(name, verdict) for name, verdict in order]
    first: list[Event] = [found(name, name == local) for name, _ in bids]
    return first, [*heard, AllFound(1)]


@given(rounds(), st.randoms(use_true_random=False))
def test_every_order_of_answers_has_the_same_winner(
    events: tuple[list[Event], list[Event]], shuffler: random.Random
) -> None:
    known, heard = events
    shuffled = list(heard)
    shuffler.shuffle(shuffled)
    one, other = Table(), Table()
    one.hears(*known, *heard)
    other.hears(*known, *shuffled)

    assert one.reserved == other.reserved
    assert bool(one.of(GiveUp)) == bool(other.of(GiveUp))
