"""What Hello carries survives the wire, and what nobody could send is refused."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.card import HelloAnswer, PeerCard, PeerHint
from dstack_mesh.faults import Invalid
from dstack_mesh.ids import Address, MeshId, PeerId, RunId, RunName
from dstack_mesh.machine import (
    AgentState,
    CardLoad,
    ExecutorKind,
    Gpu,
    Isolation,
    JobLoad,
    Load,
    Machine,
    RunningJob,
)
from dstack_mesh.v1 import membership_pb2 as pb
from dstack_mesh.wire.membership import (
    answer_from_wire,
    answer_to_wire,
    card_from_wire,
    executor_from_wire,
    executor_to_wire,
    load_from_wire,
    machine_from_wire,
)

ids = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=32, max_size=32)
words = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=1, max_size=20
).filter(str.isprintable)
sizes = st.integers(0, 2**63)
addresses = st.lists(st.just(Address("10.0.0.1:7420")), max_size=3).map(tuple)
cards = st.builds(
    PeerCard,
    ids.map(PeerId),
    ids.map(MeshId) | st.just(MeshId("")),
    words,
    addresses,
    words,
    st.booleans(),
    st.integers(1, 9),
)
gpus = st.builds(Gpu, words, words, sizes, st.booleans(), words | st.just(""))
machines = st.builds(
    Machine,
    st.integers(1, 1024),
    sizes,
    sizes,
    sizes,
    st.lists(gpus, max_size=3).map(tuple),
    st.sets(st.sampled_from(ExecutorKind)).map(frozenset),
    st.lists(words, max_size=2).map(tuple),
    st.just(""),
    st.dictionaries(st.sampled_from(ExecutorKind), st.sampled_from(Isolation)),
)
running = st.builds(
    RunningJob, words.map(RunName), st.integers(0, 99), st.lists(words, max_size=2).map(tuple)
)
cpus = st.none() | st.floats(0, 1e6)
loads = st.builds(
    Load,
    cpus,
    st.lists(st.builds(JobLoad, words.map(RunId), st.integers(0, 99), cpus, sizes), max_size=3).map(
        tuple
    ),
    st.lists(st.builds(CardLoad, words, sizes, st.none() | st.integers(0, 100)), max_size=3).map(
        tuple
    ),
)
answers = st.builds(
    HelloAnswer,
    cards,
    st.sampled_from(AgentState),
    machines,
    st.lists(running, max_size=3).map(tuple),
    st.lists(st.builds(PeerHint, ids.map(PeerId), addresses), max_size=3).map(tuple),
    st.none()
    | st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda d: d.replace(tzinfo=UTC)),
    st.none() | loads,
)


@given(answers)
def test_an_answer_arrives_as_it_was_sent(answer: HelloAnswer) -> None:
    sent = answer_to_wire(answer).SerializeToString()
    assert answer_from_wire(pb.HelloResponse.FromString(sent)) == answer


@pytest.mark.parametrize("cpus", [float("nan"), float("inf"), -1.0, 1e9])
def test_a_load_that_no_machine_has_is_left_out(cpus: float) -> None:
    job = pb.JobLoad(run_id="01A", cpus=cpus, memory_bytes=5)
    card = pb.CardLoad(uuid="GPU-0", busy_percent=4000)
    load = load_from_wire(pb.Load(cpus=cpus, jobs=[job], cards=[card]))
    assert (load.cpus, load.jobs[0].cpus, load.jobs[0].memory_bytes) == (None, None, 5)
    assert load.cards[0].busy_percent == 100


@pytest.mark.parametrize("kind", list(ExecutorKind))
def test_every_way_to_run_a_job_has_a_word(kind: ExecutorKind) -> None:
    assert executor_from_wire(executor_to_wire(kind)) is kind


@pytest.mark.parametrize("peer_id", ["", "short", "A" * 32, "a" * 33, "../" * 11])
def test_a_card_without_an_id_is_refused(peer_id: str) -> None:
    with pytest.raises(Invalid):
        card_from_wire(pb.PeerCard(peer_id=peer_id))


def test_names_of_others_bring_no_control_characters() -> None:
    card = card_from_wire(pb.PeerCard(peer_id="a" * 32, name="ws\x1b]0;title\x07\n1", version="1"))
    assert card.name == "ws]0;title1"
    assert card_from_wire(pb.PeerCard(peer_id="a" * 32)).name == "aaaaaaaa"


@pytest.mark.parametrize("wrong", ["x\n", "10.0.0.1:1\0", "\x1b[2J", "", "a" * 256])
def test_addresses_that_nobody_can_dial_are_left_out(wrong: str) -> None:
    card = pb.PeerCard(peer_id="a" * 32, addresses=["10.0.0.1:1", wrong, "a" * 255])
    assert card_from_wire(card).addresses == ("10.0.0.1:1", "a" * 255)


def test_what_a_newer_peer_invented_is_read_with_care() -> None:
    response = pb.HelloResponse(answerer=pb.PeerCard(peer_id="a" * 32))
    response.MergeFromString(b"\x10\x63")  # state 99
    assert answer_from_wire(response).state is AgentState.PAUSED
    inventory = pb.Inventory(cpus=1)
    inventory.MergeFromString(b"\x32\x01\x63")  # executor 99
    inventory.MergeFromString(b"\xa0\x01\x63")  # isolation 99
    assert machine_from_wire(inventory).executors == frozenset()
    assert machine_from_wire(inventory).isolation == {}


def test_a_hint_that_names_nobody_is_left_out() -> None:
    response = pb.HelloResponse(
        answerer=pb.PeerCard(peer_id="a" * 32),
        known=[pb.PeerHint(peer_id="nobody"), pb.PeerHint(peer_id="b" * 32)],
    )
    assert [hint.peer_id for hint in answer_from_wire(response).known] == ["b" * 32]
