"""What the owner allows: each rule refuses and admits what it says, and none ever widens."""

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.ids import PeerId
from dstack_mesh.machine import AgentState, ExecutorKind, Gpu, Machine
from dstack_scheduler.agent_port import Question
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.fit import Occasion, Policy, Taken, fit
from dstack_scheduler.hours import parse_window
from dstack_scheduler.needs import Needs
from dstack_scheduler.objections import for_good, image_fits
from dstack_scheduler.policy import Lent, Network, Reclaim
from dstack_scheduler.verdict import Later, Never, NotNow, Now, Reason, Verdict
from support.machines import gpu, key, machine, question

ANA = Asker(PeerId("a" * 32), "submitter", "ana-laptop")
BO = Asker(PeerId("b" * 32), "runner", "")
WEDNESDAY = datetime(2026, 11, 25, 14, 20)
NIGHT = datetime(2026, 11, 25, 22, 0)
NIGHTS = (parse_window("weekdays 19:00-08:00"),)
DOCKER = ExecutorKind.DOCKER
TWO = machine(gpu(0), gpu(1))
ONE_GPU = question(Needs(gpus=1))
STATION = Policy(lender="ws-2")


def ask(
    policy: Policy,
    asked: Question = ONE_GPU,
    by: Asker = ANA,
    at: datetime = WEDNESDAY,
    has: Machine = TWO,
    taken: tuple[Taken, ...] = (),
    used: int = 0,
) -> Verdict:
    occasion = Occasion(by, at, None, used)
    return fit(asked, has, taken, AgentState.ALIVE, policy, occasion)


def why(verdict: Verdict, kind: type[Verdict]) -> Reason:
    assert isinstance(verdict, kind), verdict
    assert not isinstance(verdict, Now)
    return verdict.reasons[0]


def container(image: str = "pytorch/pytorch:2.4", ports: int = 0, paths: int = 0) -> Question:
    outside = ("/data",) * bool(paths)
    return replace(question(executor=DOCKER), image=image, ports=ports, outside_paths=outside)


# who


@pytest.mark.parametrize("word", ["ana-laptop", "a" * 32, "role:submitter"])
def test_who_is_named_by_name_id_or_role_may_use_the_machine(word: str) -> None:
    policy = replace(STATION, who=(word,))
    assert isinstance(ask(policy), Now)
    reason = why(ask(policy, by=BO), Never)
    assert (reason.code, reason.message) == (
        "policy-who",
        "ws-2 is not lent to bbbbbbbb (runner).",
    )
    assert BO.peer_id in reason.hint


def test_an_id_is_never_taken_for_a_name_nor_its_beginning_for_the_whole() -> None:
    posing = Asker(BO.peer_id, "runner", ANA.peer_id)
    assert isinstance(ask(replace(STATION, who=(ANA.peer_id,)), by=posing), Never)
    assert isinstance(ask(replace(STATION, who=(ANA.peer_id[:8],)), by=ANA), Never)
    assert isinstance(ask(replace(STATION, who=("",)), by=BO), Never)


def test_a_stranger_learns_nothing_else_of_the_policy() -> None:
    policy = replace(STATION, who=("bo",), cards=Lent(()), images=("lab/*",))
    verdict = ask(policy)
    assert isinstance(verdict, Never)
    assert [reason.code for reason in verdict.reasons] == ["policy-who"]


def test_the_owner_is_bound_by_neither_who_nor_hours() -> None:
    policy = replace(STATION, who=(), hours=NIGHTS)
    assert isinstance(ask(policy, by=OWNER), Now)
    assert isinstance(ask(policy, by=ANA, at=NIGHT), Never)


def test_the_owner_is_bound_by_what_may_run() -> None:
    assert isinstance(ask(replace(STATION, cards=Lent(())), by=OWNER), Never)


# images, executors, network, mounts


def test_only_images_that_a_pattern_names_run() -> None:
    policy = replace(STATION, images=("pytorch/*", "ubuntu:*"))
    assert isinstance(ask(policy, container()), Now)
    assert isinstance(ask(policy, container("ubuntu")), Now)
    assert isinstance(ask(policy, question()), Now), "a process has no image"
    reason = why(ask(policy, container("evil/pytorch/pytorch")), Never)
    assert reason.code == "policy-images"
    assert reason.hint == "an image of: pytorch/*, ubuntu:*"


@pytest.mark.parametrize(
    ("pattern", "image", "fits"),
    [
        ("ubuntu:*", "ubuntu", True),
        ("ubuntu:22.04", "ubuntu", False),
        ("ubuntu", "ubuntu:22.04", False),
        ("ubuntu:*", "ubuntu.evil.org/x:1", False),
        ("ghcr.io/lab/*", "ghcr.io/lab/train@sha256:ab", True),
        ("lab/*", "LAB/train", False),
    ],
)
def test_a_pattern_of_images(pattern: str, image: str, fits: bool) -> None:
    assert image_fits(pattern, image) is fits


def test_an_image_that_is_not_said_yet_is_judged_later() -> None:
    assert isinstance(ask(replace(STATION, images=()), container("")), Now)


def test_only_allowed_executors_run() -> None:
    policy = replace(STATION, executors=frozenset({DOCKER}))
    assert isinstance(ask(policy, container()), Now)
    reason = why(ask(policy), Never)
    assert reason.message == "ws-2 runs no processes, only containers."
    assert reason.hint == 'give the workflow an "image"'
    assert why(ask(replace(policy, executors=frozenset())), Never).code == "policy-executors"


def test_a_container_without_network_listens_on_nothing() -> None:
    policy = replace(STATION, network=Network.NONE)
    assert why(ask(policy, container(ports=1)), Never).code == "policy-network"
    gang = why(ask(policy, replace(container(), meets=True)), Never)
    assert (gang.code, "several nodes" in gang.message) == ("policy-network", True)
    assert isinstance(ask(policy, container()), Now)
    assert isinstance(ask(policy, replace(ONE_GPU, ports=1)), Now), "processes are not contained"


def test_a_process_stays_in_its_own_folder_where_mounts_are_forbidden() -> None:
    policy = replace(STATION, mounts=False)
    reason = why(ask(policy, replace(ONE_GPU, outside_paths=("~/models",))), Never)
    assert reason.code == "policy-mounts"
    assert "~/models" in reason.message
    assert isinstance(ask(policy, ONE_GPU), Now)
    assert isinstance(ask(policy, container(paths=1)), Now), "it lies in the job's folder there"


# cards


@pytest.mark.parametrize("word", ["1", "GPU-1234-b", "RTX 4090"])
def test_a_card_is_lent_by_number_uuid_or_name(word: str) -> None:
    cards = (gpu(0), replace(gpu(1, "NVIDIA GeForce RTX 4090", 24), uuid="GPU-1234-beef"))
    verdict = ask(replace(STATION, cards=Lent((word,))), has=machine(*cards))
    assert verdict == Now(("GPU-1234-beef",))


def test_a_number_is_the_drivers_even_if_a_card_before_it_fell_off() -> None:
    left = replace(gpu(1), number=1)
    reason = why(ask(replace(STATION, cards=Lent(("0",))), has=machine(left)), Never)
    assert reason.code == "policy-gpus"


def test_no_card_is_lent() -> None:
    reason = why(ask(replace(STATION, cards=Lent(()))), Never)
    assert reason.message == "The job needs 1 GPU; ws-2 lends none of its GPUs."
    assert isinstance(ask(replace(STATION, cards=Lent(())), question()), Now)


def test_so_many_cards_at_once() -> None:
    policy = replace(STATION, cards=Lent(most=1))
    assert ask(policy) == Now(("GPU-0",), gpus_left=1)
    reason = why(ask(policy, question(Needs(gpus=2))), Never)
    assert reason.message.endswith("ws-2 lends 2 x Tesla V100-SXM2-16GB 16 GB, 1 at once.")
    other = Taken(key(2), "lazy-bobcat-2 (bo)", Needs(gpus=1), ("GPU-1",))
    waiting = why(ask(policy, taken=(other,)), Later)
    assert waiting.message == "ws-2 lends 1 GPU at once; 1 held by lazy-bobcat-2 (bo)."


def test_a_card_that_is_not_lent_is_not_given_though_it_fits_best() -> None:
    cards = machine(gpu(0, gib=16), gpu(1, gib=80))
    assert ask(replace(STATION, cards=Lent(("1",))), has=cards) == Now(("GPU-1",))


# hours


def test_hours_say_when_it_starts() -> None:
    policy = replace(STATION, hours=NIGHTS)
    assert isinstance(ask(policy, at=NIGHT), Now)
    reason = why(ask(policy), NotNow)
    assert (reason.code, reason.message, reason.hint) == (
        "policy-hours",
        "ws-2 lends its GPUs weekdays 19:00-08:00, next at 19:00; there it is Wednesday 14:20.",
        "it can start at 19:00",
    )
    assert why(ask(replace(STATION, hours=())), NotNow).message == "ws-2 lends its GPUs at no time."


# limits


def test_a_job_that_asks_for_longer_is_refused() -> None:
    policy = replace(STATION, longest_seconds=4 * 3600.0)
    for seconds in (None, 60.0, 4 * 3600.0):
        assert isinstance(ask(policy, replace(ONE_GPU, max_duration_seconds=seconds)), Now)
    reason = why(ask(policy, replace(ONE_GPU, max_duration_seconds=5400.0 * 3)), Never)
    assert reason.message == "The job may run for 4h30m; on ws-2 for 4h."


def test_processors_and_memory_are_lent_in_part() -> None:
    policy = replace(STATION, cpus=4, memory_bytes=16 * 10**9)
    assert isinstance(ask(policy, question(Needs(cpus=4, memory_bytes=16 * 10**9))), Now)
    reason = why(ask(policy, question(Needs(cpus=6))), Never)
    assert (reason.code, reason.hint) == ("policy-cpus", "--cpu 4")
    assert reason.message == "The job needs 6 CPUs; ws-2 lends 4 of its 8 CPUs."
    assert why(ask(policy, question(Needs(memory_bytes=17 * 10**9))), Never).hint == "--memory 16GB"
    assert why(ask(policy, question(Needs(cpus=9))), Never).code == "cpu-too-few"
    other = Taken(key(2), "lazy-bobcat-2 (bo)", Needs(cpus=3))
    assert why(ask(policy, question(Needs(cpus=2)), taken=(other,)), Later).code == "cpu-busy"


def test_disk_that_is_used_up_takes_no_jobs() -> None:
    policy = replace(STATION, disk_bytes=10**11)
    assert isinstance(ask(policy, used=10**11 - 1), Now)
    assert why(ask(policy, used=10**11), NotNow).code == "policy-disk"


# no rule widens

POLICIES = st.builds(
    Policy,
    allow_process=st.booleans(),
    max_jobs=st.none() | st.integers(1, 3),
    who=st.none() | st.sampled_from([(), ("ana-laptop",), ("role:runner",), ("b" * 32,)]),
    images=st.none() | st.sampled_from([(), ("pytorch/*",), ("ubuntu:*",)]),
    executors=st.none() | st.frozensets(st.sampled_from(ExecutorKind)),
    cards=st.builds(
        Lent,
        st.none() | st.sampled_from([(), ("0",), ("1", "2"), ("V100",), ("4090",)]),
        st.none() | st.integers(0, 3),
    ),
    hours=st.none() | st.sampled_from([(), NIGHTS, (parse_window("mon"),)]),
    longest_seconds=st.none() | st.sampled_from([60.0, 3600.0]),
    cpus=st.none() | st.integers(0, 9),
    memory_bytes=st.none() | st.sampled_from([0, 10**9, 10**11]),
    disk_bytes=st.none() | st.sampled_from([0, 10**9]),
    network=st.sampled_from(Network),
    mounts=st.booleans(),
    reclaim=st.sampled_from(Reclaim),
)
QUESTIONS = st.builds(
    Question,
    key=st.just(key(1)),
    run_name=st.just("lazy-bobcat-1"),
    needs=st.builds(
        Needs,
        cpus=st.integers(0, 9),
        memory_bytes=st.sampled_from([0, 10**9, 2 * 10**9]),
        gpus=st.integers(0, 3),
        gpu_name=st.sampled_from(["", "V100", "4090"]),
    ),
    executor=st.sampled_from(ExecutorKind),
    image=st.sampled_from(["", "ubuntu", "pytorch/pytorch:2"]),
    max_duration_seconds=st.none() | st.sampled_from([30.0, 600.0]),
    outside_paths=st.sampled_from([(), ("/data",)]),
    ports=st.integers(0, 1),
)
CARDS = st.lists(st.sampled_from(["Tesla V100-SXM2-16GB", "NVIDIA GeForce RTX 4090"]), max_size=3)
OCCASIONS = st.builds(
    Occasion,
    st.sampled_from([OWNER, ANA, BO]),
    st.sampled_from([WEDNESDAY, NIGHT]),
    st.none(),
    st.sampled_from([0, 10**9]),
)


def _machine(names: list[str], held: set[int]) -> tuple[Machine, tuple[Taken, ...]]:
    cards = [gpu(number, name) for number, name in enumerate(names)]
    held = {number for number in held if number < len(cards)}
    taken = Taken(key(2), "other", Needs(cpus=1, gpus=len(held)), tuple(f"GPU-{n}" for n in held))
    return machine(*cards), (taken,)


RULES = tuple(field.name for field in fields(Policy) if field.name != "lender")
Case = tuple[Policy, list[str], int, Question, list[str], set[int], Occasion]
CASES = st.tuples(
    POLICIES,
    st.lists(st.sampled_from(RULES), min_size=1, max_size=4, unique=True),
    st.integers(1, 4),
    QUESTIONS,
    CARDS,
    st.sets(st.integers(0, 2)),
    OCCASIONS,
)
Rule = Callable[[Policy, Question, Machine, tuple[Taken, ...], Occasion], Verdict]


def house_rule(
    policy: Policy, asked: Question, has: Machine, taken: tuple[Taken, ...], occasion: Occasion
) -> Verdict:
    return fit(asked, has, taken, AgentState.ALIVE, policy, occasion)


def widens(rule: Rule, case: Case) -> bool:
    """Whether some rules say yes where the same ones without the last few say no."""
    policy, rules, dropped, asked, names, held, occasion = case
    said = {name: getattr(policy, name) for name in rules}
    fewer = {name: said[name] for name in rules[:-dropped]}
    has, taken = _machine(names, held)
    strict = rule(Policy(**said), asked, has, taken, occasion)
    loose = rule(Policy(**fewer), asked, has, taken, occasion)
    return isinstance(strict, Now) and not isinstance(loose, Now)


@given(CASES)
def test_adding_a_rule_never_turns_a_no_into_a_yes(case: Case) -> None:
    assert not widens(house_rule, case)


def test_a_rule_that_widens_would_be_found() -> None:
    """The negative control of the property above: a limit that makes the others be forgotten."""

    def broken(
        policy: Policy, asked: Question, has: Machine, taken: tuple[Taken, ...], at: Occasion
    ) -> Verdict:
        forgetful = Policy() if policy.longest_seconds else policy
        return house_rule(forgetful, asked, has, taken, at)

    policy = Policy(cards=Lent(()), longest_seconds=60.0)
    case = (policy, ["cards", "longest_seconds"], 1, ONE_GPU, ["Tesla V100"], {1}, Occasion())
    assert widens(broken, case)
    assert not widens(house_rule, case)


@given(POLICIES, QUESTIONS, CARDS, st.sets(st.integers(0, 2)), OCCASIONS)
def test_what_is_given_is_lent(
    policy: Policy, asked: Question, names: list[str], held: set[int], occasion: Occasion
) -> None:
    has, taken = _machine(names, held)
    verdict = fit(asked, has, taken, AgentState.ALIVE, policy, occasion)
    if isinstance(verdict, Now):
        lent: tuple[Gpu, ...] = policy.cards.of(has.gpus)
        assert set(verdict.gpu_uuids) <= {each.uuid for each in lent}
        most = policy.cards.most
        out = len(verdict.gpu_uuids) + len(taken[0].gpu_uuids)
        assert most is None or not verdict.gpu_uuids or out <= most
        assert for_good(asked, has, policy, occasion.asker) == []
