"""Who is there, as one peer sees it: stories, and what holds whatever happens."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.card import HelloAnswer, PeerCard, PeerHint
from dstack_mesh.ids import Address, MeshId, PeerId
from dstack_mesh.machine import AgentState, Machine
from dstack_mesh.membership.known import FoundBy, Target
from dstack_mesh.membership.place import Policy, may_dial
from dstack_mesh.membership.view import (
    Answered,
    Dial,
    Effect,
    Event,
    Failed,
    Forget,
    Heard,
    Tick,
    View,
)

OWN, ANA, BOB = (PeerId(letter * 32) for letter in "oab")
AT_ANA, AT_BOB = Address("10.0.0.2:7420"), Address("10.0.0.3:7420")
MACHINE = Machine(1, 2, 3, 4)


def answer_of(
    peer_id: PeerId,
    *addresses: Address,
    known: tuple[PeerHint, ...] = (),
    state: AgentState = AgentState.ALIVE,
    agent: bool = True,
) -> HelloAnswer:
    card = PeerCard(peer_id, MeshId("m" * 32), f"ws-{peer_id[0]}", addresses, "1", agent)
    return HelloAnswer(card, state, MACHINE, (), known, datetime(2026, 1, 1, tzinfo=UTC))


def view_of(policy: Policy | None = None) -> View:
    return View(OWN, Random(1), policy)


def dials(effects: list[Effect]) -> list[Target]:
    return [effect.target for effect in effects if isinstance(effect, Dial)]


def alive_view() -> View:
    """A view in which Ana answered at time 0."""
    view = view_of()
    view.handle(Heard(Target(AT_ANA, ANA), "seed"), 0.0)
    view.handle(Answered(Target(AT_ANA, ANA), answer_of(ANA, AT_ANA)), 0.0)
    return view


def state_of(view: View, now: float) -> str:
    return {agent.card.peer_id: agent.state for agent in view.agents(now)}.get(ANA, "unknown")


def fail_until(view: View, end: float) -> tuple[list[float], float]:
    """Every dial to Ana fails; returns when she was dialled and when it ended."""
    now, when = 0.0, list[float]()
    while (now := max(now, view.next_due())) <= end:
        for target in dials(view.handle(Tick(), now)):
            when.append(now)
            view.handle(Failed(target), now)
    return when, now


def test_a_heard_address_is_asked_who_it_is_and_then_dialled_by_its_id() -> None:
    view = view_of()
    assert dials(view.handle(Heard(Target(AT_ANA), "mdns"), 0.0)) == [Target(AT_ANA)]
    assert view.agents(0.0) == ()
    effects = view.handle(Answered(Target(AT_ANA), answer_of(ANA, AT_ANA)), 0.1)
    assert dials(effects) == [Target(AT_ANA, ANA)]
    assert view.agents(0.1) == ()
    view.handle(Answered(Target(AT_ANA, ANA), answer_of(ANA, AT_ANA)), 0.2)
    (known,) = view.agents(0.2)
    assert (known.state, known.found_by, known.addresses) == ("alive", "mdns", (AT_ANA,))


def test_who_claims_to_be_somebody_else_is_not_believed() -> None:
    view = view_of()
    view.handle(Heard(Target(AT_BOB), "mdns"), 0.0)
    view.handle(Answered(Target(AT_BOB), answer_of(ANA, AT_BOB)), 0.1)
    view.handle(Failed(Target(AT_BOB, ANA)), 0.2)
    assert view.agents(0.2) == ()


def test_a_hint_of_a_peer_is_followed() -> None:
    view = view_of()
    view.handle(Heard(Target(AT_ANA, ANA), "saved"), 0.0)
    answer = answer_of(ANA, AT_ANA, known=(PeerHint(BOB, (AT_BOB,)), PeerHint(OWN, (AT_BOB,))))
    effects = view.handle(Answered(Target(AT_ANA, ANA), answer), 0.0)
    assert dials(effects) == [Target(AT_BOB, BOB)]
    view.handle(Answered(Target(AT_BOB, BOB), answer_of(BOB, AT_BOB)), 0.1)
    assert [(one.card.peer_id, one.found_by) for one in view.agents(0.1)] == [
        (ANA, "saved"),
        (BOB, "peer"),
    ]


def test_a_way_of_finding_that_needs_nobodys_word_is_the_one_shown() -> None:
    view = view_of()
    view.handle(Heard(Target(AT_ANA, ANA), "peer"), 0.0)
    view.handle(Answered(Target(AT_ANA, ANA), answer_of(ANA, AT_ANA)), 0.0)
    assert view.agents(0.0)[0].found_by == "peer"
    effects = view.handle(Heard(Target(AT_ANA), "mdns"), 1.0)
    assert dials(effects) == []
    assert view.agents(1.0)[0].found_by == "mdns"


def test_silence_makes_suspect_then_gone_then_forgotten() -> None:
    view = alive_view()
    seen: dict[str, float] = {}
    now = 0.0
    while "unknown" not in seen and now < 2000:
        now = max(now, view.next_due())
        for target in dials(view.handle(Tick(), now)):
            view.handle(Failed(target), now)
        seen.setdefault(state_of(view, now), now)
    assert list(seen) == ["alive", "suspect", "gone", "unknown"]
    assert seen["suspect"] <= 8
    assert 10 <= seen["gone"] <= 20
    assert seen["unknown"] >= 600


def test_an_answer_brings_it_back_from_anything() -> None:
    for end in (3.0, 8.0, 100.0, 300.0):
        view = alive_view()
        _, now = fail_until(view, end)
        (target,) = dials(view.handle(Tick(), now))
        view.handle(Answered(target, answer_of(ANA, AT_ANA)), now)
        assert state_of(view, now) == "alive"


def test_pauses_grow_and_stay_bounded() -> None:
    when, _ = fail_until(alive_view(), 500.0)
    pauses = [after - before for before, after in pairwise(when)]
    assert pauses[0] < 2
    assert max(pauses) <= 30 * 1.2 + 0.01
    assert min(pauses[-5:]) >= 30 * 0.8 - 0.01


def test_a_second_address_is_tried_before_a_round_counts_as_failed() -> None:
    other = Address("10.9.0.2:7420")
    view = view_of()
    view.handle(Heard(Target(AT_ANA, ANA), "seed"), 0.0)
    view.handle(Answered(Target(AT_ANA, ANA), answer_of(ANA, AT_ANA, other)), 0.0)
    now = view.next_due()
    (first,) = dials(view.handle(Tick(), now))
    (second,) = dials(view.handle(Failed(first), now))
    assert (first.address, second.address) == (AT_ANA, other)
    view.handle(Answered(second, answer_of(ANA, AT_ANA, other)), now)
    assert view.agents(now)[0].addresses == (other, AT_ANA)


def test_what_an_agent_says_of_its_addresses_replaces_old_ones() -> None:
    view = alive_view()
    moved = Address("10.0.0.9:7420")
    now = view.next_due()
    view.handle(Heard(Target(moved, ANA), "peer"), now)
    (target,) = dials(view.handle(Tick(), now)) or [Target(AT_ANA, ANA)]
    view.handle(Answered(target, answer_of(ANA, target.address)), now)
    assert view.agents(now)[0].addresses == (target.address,)


def test_draining_and_paused_are_told_as_such() -> None:
    for state in (AgentState.DRAINING, AgentState.PAUSED):
        view = view_of()
        view.handle(Heard(Target(AT_ANA, ANA), "seed"), 0.0)
        view.handle(Answered(Target(AT_ANA, ANA), answer_of(ANA, AT_ANA, state=state)), 0.0)
        assert state_of(view, 0.0) == state.value


def test_another_meshs_agent_is_left_alone() -> None:
    view = view_of()
    view.handle(Heard(Target(AT_BOB), "seed"), 0.0)
    view.handle(Failed(Target(AT_BOB), foreign=True), 0.0)
    assert dials(view.handle(Tick(), 60.0)) == []
    assert view.agents(60.0) == ()


def test_a_peer_that_takes_no_jobs_is_no_agent() -> None:
    view = view_of()
    view.handle(Heard(Target(AT_BOB, BOB), "peer"), 0.0)
    view.handle(Answered(Target(AT_BOB, BOB), answer_of(BOB, AT_BOB, agent=False)), 0.0)
    assert view.agents(0.0) == ()


def test_we_are_not_dialled() -> None:
    view = view_of()
    assert view.handle(Heard(Target(AT_ANA, OWN), "peer"), 0.0) == []
    view.handle(Heard(Target(AT_ANA), "seed"), 0.0)
    view.handle(Answered(Target(AT_ANA), answer_of(OWN, AT_ANA)), 0.0)
    assert dials(view.handle(Tick(), 20.0)) == []


def test_a_seed_is_tried_for_ever_and_a_rumour_is_not() -> None:
    cases: list[tuple[FoundBy, bool]] = [("seed", True), ("mdns", False)]
    for found_by, kept in cases:
        view = view_of()
        view.handle(Heard(Target(AT_ANA), found_by), 0.0)
        forgotten = False
        now = 0.0
        view.handle(Failed(Target(AT_ANA)), now)
        for _ in range(20):
            if view.next_due() == float("inf"):
                break
            now = view.next_due()
            effects = view.handle(Tick(), now)
            for target in dials(effects):
                effects += view.handle(Failed(target), now)
            forgotten |= any(isinstance(effect, Forget) for effect in effects)
        assert forgotten is not kept


def test_a_fresh_sign_ends_the_pause_of_a_silent_agent() -> None:
    view = alive_view()
    _, now = fail_until(view, 120.0)
    now -= 5.0
    assert dials(view.handle(Tick(), now)) == []
    sign = Heard(Target(AT_ANA, ANA), "peer", fresh=True)
    assert dials(view.handle(sign, now)) == [Target(AT_ANA, ANA)]


def test_a_flood_of_hints_is_dialled_slowly_and_stored_bounded() -> None:
    view = view_of()
    started = 0
    for number in range(2000):
        address = Address(f"10.1.{number // 250}.{number % 250 + 1}:7420")
        started += len(dials(view.handle(Heard(Target(address), "mdns"), 0.5)))
    assert started == Policy().stranger_dials
    assert len(dials(view.handle(Tick(), 1.6))) == Policy().stranger_dials


def test_nothing_is_due_while_every_dial_is_taken() -> None:
    view = view_of(Policy(most_dials=2))
    for number in range(5):
        view.handle(Heard(Target(Address(f"10.0.0.{number + 1}:1")), "seed"), 0.0)
    assert view.next_due() == float("inf")


def test_only_literal_addresses_of_single_machines_are_dialled_for_strangers() -> None:
    good = ["10.0.0.1:1", "[fe80::1]:7420", "127.0.0.1:65535"]
    bad = [f"[fe80::1%{hidden}]:80" for hidden in ("eth0", "\x1b[31m")]
    bad += [f"{'[' * 99}::1]:80", "10.0.0.1:\u0661"]
    bad += ["evil.example:80", "224.0.0.251:5353", "0.0.0.0:1", "10.0.0.1:0", "10.0.0.1", "", ":1"]
    assert all(may_dial(Address(address)) for address in good)
    assert not any(may_dial(Address(address)) for address in bad)


SMALL = Policy(most_agents=4, most_addresses=2, most_dials=3, stranger_dials=2)


def _address(number: int) -> Address:
    return Address(f"10.0.0.{number}:7420")


def _hint(peer_id: PeerId, address: Address) -> PeerHint:
    return PeerHint(peer_id, (address,))


def _answer(peer_id: PeerId, address: Address, known: list[PeerHint], agent: bool) -> HelloAnswer:
    return answer_of(peer_id, address, known=tuple(known), agent=agent)


peers = st.sampled_from([OWN, *(PeerId(letter * 32) for letter in "abcdefg")])
addresses = st.builds(_address, st.integers(1, 9))
targets = st.builds(Target, addresses, st.none() | peers)
hints = st.builds(_hint, peers, addresses)
answers = st.builds(_answer, peers, addresses, st.lists(hints, max_size=3), st.booleans())
ways: list[FoundBy] = ["mdns", "seed", "peer", "saved"]
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        Heard,
        targets,
        st.sampled_from(ways),
        st.none(),
        st.booleans(),
    ),
    st.builds(Answered, targets, answers),
    st.builds(Failed, targets, st.booleans()),
    st.just(Tick()),
)
steps = st.lists(st.tuples(events, st.floats(0, 700), st.booleans()), max_size=60)


@given(steps)
@settings(max_examples=400, deadline=None)
def test_no_order_of_events_breaks_the_view(given_steps: list[tuple[Event, float, bool]]) -> None:
    view, now = view_of(SMALL), 0.0
    in_flight: list[Target] = []
    failed_in_a_row: dict[PeerId, int] = {}
    for event, pause, real in given_steps:
        now += pause
        if real and in_flight and isinstance(event, Answered | Failed):
            # An event that belongs to a dial, and not one from nowhere.
            event = replace(event, target=in_flight[0])
        if isinstance(event, Answered | Failed) and event.target in in_flight:
            in_flight.remove(event.target)
            if event.target.peer_id is not None:
                count = failed_in_a_row.get(event.target.peer_id, 0)
                failed_in_a_row[event.target.peer_id] = (
                    count + 1 if isinstance(event, Failed) else 0
                )
        in_flight += dials(view.handle(event, now))

        assert len(in_flight) <= SMALL.most_dials
        assert len(set(in_flight)) == len(in_flight)
        assert all(target.peer_id != OWN for target in in_flight)
        agents = view.agents(now)
        assert len(agents) <= SMALL.most_agents
        for agent in agents:
            assert 1 <= len(agent.addresses) <= SMALL.most_addresses
            if agent.state == "gone":
                assert failed_in_a_row[agent.card.peer_id] >= SMALL.gone_after
        assert view.next_due() > now
