"""What a machine answers to a question."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.machine import AgentState, ExecutorKind, Gpu, Machine
from dstack_scheduler.fit import Policy, Taken, fit, occupied
from dstack_scheduler.gpus import name_fits
from dstack_scheduler.needs import Needs
from dstack_scheduler.verdict import Later, Never, NotNow, Now, Reason, Verdict
from support.machines import GIB, gpu, key, machine, question

GB = 10**9


def taken(run: int, *uuids: str, needs: Needs | None = None, running: bool = True) -> Taken:
    return Taken(key(run), f"lazy-bobcat-{run} (ana)", needs or Needs(), uuids, running)


def only(verdict: Verdict, kind: type[Verdict]) -> Reason:
    assert isinstance(verdict, kind)
    assert not isinstance(verdict, Now)
    (reason,) = verdict.reasons
    return reason


def codes(verdict: Verdict) -> list[str]:
    assert not isinstance(verdict, Now)
    return [reason.code for reason in verdict.reasons]


def test_a_job_that_asks_for_nothing_fits_anything() -> None:
    assert fit(question(), machine(cpus=1, memory_gb=0.5)) == Now()


def test_a_machine_that_may_be_taken_away_takes_jobs_that_may_be_interrupted() -> None:
    spot = replace(machine(), interruptible=True)
    reason = only(fit(question(), spot), Never)
    assert (reason.code, reason.hint[:2]) == ("interruptible", "-i")
    for where in (spot, machine()):
        assert fit(question(Needs(interruptible=True)), where) == Now()


def test_a_free_card_is_named() -> None:
    assert fit(question(Needs(gpus=1)), machine(gpu(0), gpu(1))) == Now(("GPU-0",), gpus_left=1)


def test_who_holds_the_card_is_said() -> None:
    asked = question(Needs(gpus=1), key(2))
    reason = only(fit(asked, machine(gpu(0)), [taken(1, "GPU-0")]), Later)
    assert reason.code == "gpu-busy"
    assert reason.message == "GPU 0 is held by lazy-bobcat-1 (ana)."


def test_cards_of_one_holder_are_said_together() -> None:
    asked = question(Needs(gpus=3), key(3))
    held = [taken(1, "GPU-0", "GPU-2"), taken(2, "GPU-1")]
    verdict = fit(asked, machine(gpu(0), gpu(1), gpu(2)), held)
    assert isinstance(verdict, Later)
    assert [reason.message for reason in verdict.reasons] == [
        "GPUs 0 and 2 are held by lazy-bobcat-1 (ana).",
        "GPU 1 is held by lazy-bobcat-2 (ana).",
    ]


def test_a_card_that_a_stranger_uses_is_not_free() -> None:
    asked = question(Needs(gpus=1))
    reason = only(fit(asked, machine(gpu(0, holder="pid 42 (bo)"))), NotNow)
    assert reason.code == "gpu-foreign"
    assert "pid 42 (bo)" in reason.message


def test_a_stranger_on_a_spare_card_changes_nothing() -> None:
    has = machine(gpu(0, holder="pid 42 (bo)"), gpu(1))
    assert fit(question(Needs(gpus=1)), has) == Now(("GPU-1",))


def test_a_held_card_waits_for_the_holder_even_beside_a_stranger() -> None:
    has = machine(gpu(0, holder="pid 42 (bo)"), gpu(1))
    verdict = fit(question(Needs(gpus=1), key(2)), has, [taken(1, "GPU-1")])
    assert isinstance(verdict, Later)
    verdict = fit(question(Needs(gpus=2), key(2)), has, [taken(1, "GPU-1")])
    assert isinstance(verdict, NotNow)
    assert codes(verdict) == ["gpu-foreign", "gpu-busy"]


def test_our_own_process_on_a_leased_card_is_no_stranger() -> None:
    has = machine(gpu(0, holder="pid 42 (ana)"))
    verdict = fit(question(Needs(gpus=1), key(2)), has, [taken(1, "GPU-0")])
    assert codes(verdict) == ["gpu-busy"]


def test_a_machine_without_cards_says_so() -> None:
    reason = only(fit(question(Needs(gpus=1)), machine()), Never)
    assert (reason.code, reason.message) == (
        "gpu-too-few",
        "The job needs 1 GPU; the machine has none.",
    )


def test_too_few_cards_names_what_is_there() -> None:
    reason = only(fit(question(Needs(gpus=4)), machine(gpu(0), gpu(1))), Never)
    assert reason.code == "gpu-too-few"
    assert "2 x Tesla V100-SXM2-16GB 16 GB" in reason.message
    assert reason.hint == "--gpu 2"


def test_another_model_names_what_is_there() -> None:
    asked = question(Needs(gpus=1, gpu_name="A100"))
    reason = only(fit(asked, machine(gpu(0, "NVIDIA GeForce RTX 4090", 24))), Never)
    assert reason.code == "gpu-name"
    assert "A100" in reason.message
    assert "RTX 4090 24 GB" in reason.message


def test_too_small_cards_hint_at_what_would_fit() -> None:
    asked = question(Needs(gpus=2, gpu_memory_bytes=40 * GB))
    has = machine(gpu(0, "RTX 4090", 24), gpu(1, "RTX 4090", 24))
    reason = only(fit(asked, has), Never)
    assert reason.code == "gpu-memory"
    assert reason.hint == "--gpu-memory 24GB"
    assert isinstance(fit(question(Needs(gpus=2, gpu_memory_bytes=24 * GB)), has), Now)


def test_cards_above_the_upper_end_are_left_to_others() -> None:
    asked = question(Needs(gpus=1, gpu_memory_bytes=16 * GB, gpu_memory_most_bytes=24 * GB))
    has = machine(gpu(0, "A100", 80), gpu(1, "RTX 4090", 24))
    assert fit(asked, has) == Now(("GPU-1",), gpus_left=1)
    assert codes(fit(asked, machine(gpu(0, "A100", 80)))) == ["gpu-memory"]


def test_too_few_and_too_small_are_both_said() -> None:
    asked = question(Needs(gpus=2, gpu_memory_bytes=40 * GB))
    assert codes(fit(asked, machine(gpu(0, "RTX 3090", 24)))) == ["gpu-too-few", "gpu-memory"]


def test_memory_and_name_must_be_met_by_the_same_cards() -> None:
    has = machine(gpu(0, "V100", 16), gpu(1, "A100", 40))
    asked = question(Needs(gpus=1, gpu_name="V100", gpu_memory_bytes=32 * GB))
    assert codes(fit(asked, has)) == ["gpu-memory"]
    asked = question(Needs(gpus=2, gpu_memory_bytes=32 * GB))
    assert codes(fit(asked, has)) == ["gpu-memory"]


def test_the_smallest_sufficient_model_is_given() -> None:
    has = machine(gpu(0, "A100", 40), gpu(1, "V100", 16), gpu(2, "A100", 40), gpu(3, "T4", 15))
    assert fit(question(Needs(gpus=1)), has) == Now(("GPU-3",), gpus_left=3)
    wanted = Needs(gpus=1, gpu_memory_bytes=16 * GB)
    assert fit(question(replace(wanted, gpu_name="V100")), has) == Now(("GPU-1",), gpus_left=3)
    assert fit(question(Needs(gpus=2)), has) == Now(("GPU-0", "GPU-2"), gpus_left=2)
    assert fit(question(Needs(gpus=3)), has) == Now(("GPU-3", "GPU-1", "GPU-0"), gpus_left=1)


def test_processors_are_counted_against_what_jobs_asked_for() -> None:
    has = machine(cpus=4)
    others = [taken(1, needs=Needs(cpus=3)), taken(2)]
    assert fit(question(Needs(cpus=1), key(3)), has, others) == Now(running=2)
    assert fit(question(Needs(), key(3)), has, others) == Now(running=2)
    reason = only(fit(question(Needs(cpus=2), key(3)), has, others), Later)
    assert (reason.code, reason.message) == (
        "cpu-busy",
        "3 of 4 CPUs are taken by lazy-bobcat-1 (ana).",
    )
    reason = only(fit(question(Needs(cpus=5)), has), Never)
    assert (reason.code, reason.hint) == ("cpu-too-few", "--cpu 4")


def test_memory_is_counted_against_what_jobs_asked_for() -> None:
    has = machine(memory_gb=16.6)
    others = [taken(1, needs=Needs(memory_bytes=8 * GB))]
    assert isinstance(fit(question(Needs(memory_bytes=8 * GB), key(2)), has, others), Now)
    asked = question(Needs(memory_bytes=16 * GB), key(2))
    assert only(fit(asked, has, others), Later).code == "memory-busy"
    assert isinstance(fit(asked, has), Now)
    reason = only(fit(question(Needs(memory_bytes=17 * GB)), has), Never)
    assert (reason.code, reason.hint) == ("memory-too-small", "--memory 16GB")


def test_shared_memory_counts_against_memory() -> None:
    assert only(fit(question(Needs(shm_bytes=8 * GB)), machine(memory_gb=4)), Never)
    asked = question(Needs(memory_bytes=16 * GB, shm_bytes=8 * GB))
    assert isinstance(fit(asked, machine(memory_gb=16)), Now)


def test_holds_count_as_well_as_jobs_but_do_not_run() -> None:
    held = taken(1, "GPU-0", running=False)
    asked = question(Needs(gpus=1), key(2))
    assert fit(asked, machine(gpu(0), gpu(1)), [held]) == Now(("GPU-1",), gpus_left=0, running=0)
    assert codes(fit(asked, machine(gpu(0)), [held])) == ["gpu-busy"]


def test_what_the_job_itself_holds_is_free_for_it() -> None:
    held = taken(1, "GPU-0", needs=Needs(gpus=1, cpus=8), running=False)
    asked = question(Needs(gpus=1, cpus=8), key(1))
    assert fit(asked, machine(gpu(0)), [held]) == Now(("GPU-0",))


@pytest.mark.parametrize(
    ("policy", "cpus", "most"), [(None, 1, 4), (None, 4, 8), (Policy(max_jobs=1), 4, 1)]
)
def test_jobs_at_once_are_limited(policy: Policy | None, cpus: int, most: int) -> None:
    others = [taken(run) for run in range(most)]
    asked = question(key=key(99))
    assert isinstance(fit(asked, machine(cpus=cpus), others[1:], policy=policy), Now)
    reason = only(fit(asked, machine(cpus=cpus), others, policy=policy), Later)
    assert reason.code == "too-many-jobs"
    assert f"at most {most}" in reason.message


@pytest.mark.parametrize(
    ("state", "code"), [(AgentState.PAUSED, "paused"), (AgentState.DRAINING, "draining")]
)
def test_an_agent_that_takes_no_jobs_says_why(state: AgentState, code: str) -> None:
    assert only(fit(question(), machine(), state=state), NotNow).code == code


def test_a_full_disk_takes_no_jobs() -> None:
    assert only(fit(question(), machine(disk_gb=0.05)), NotNow).code == "disk-full"


def test_without_docker_a_container_never_runs() -> None:
    asked = question(executor=ExecutorKind.DOCKER)
    has = machine(executors=frozenset({ExecutorKind.PROCESS}))
    assert only(fit(asked, has), Never).code == "no-docker"
    assert isinstance(fit(asked, machine()), Now)


def test_processes_run_only_where_the_owner_allows() -> None:
    policy = Policy(allow_process=False)
    assert only(fit(question(), machine(), policy=policy), Never).code == "no-process"
    asked = question(executor=ExecutorKind.DOCKER)
    assert isinstance(fit(asked, machine(), policy=policy), Now)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [("", True), ("3", True), ("3.11", True), ("3.11.4", True), ("3.1", False), ("3.12", False)],
)
def test_a_python_that_is_insisted_on_must_be_here(wanted: str, fits: bool) -> None:
    verdict = fit(question(python=wanted), machine(pythons=("3.10", "3.11")))
    assert isinstance(verdict, Now) is fits
    if not fits:
        reason = only(verdict, Never)
        assert reason.code == "no-python"
        assert "3.10 and 3.11" in reason.message


def test_a_container_brings_its_own_python() -> None:
    asked = question(python="3.12", executor=ExecutorKind.DOCKER)
    assert isinstance(fit(asked, machine()), Now)


def test_never_comes_before_everything_else() -> None:
    asked = question(Needs(gpus=1, cpus=99), key(2))
    verdict = fit(asked, machine(gpu(0)), [taken(1, "GPU-0")], AgentState.PAUSED)
    assert codes(verdict) == ["cpu-too-few"]


def test_not_now_tells_of_what_is_busy_too() -> None:
    asked = question(Needs(gpus=1), key(2))
    verdict = fit(asked, machine(gpu(0)), [taken(1, "GPU-0")], AgentState.PAUSED)
    assert isinstance(verdict, NotNow)
    assert codes(verdict) == ["paused", "gpu-busy"]


def test_holders_are_filled_in_for_others_to_see() -> None:
    has = machine(gpu(0), gpu(1, holder="pid 7"), gpu(2))
    shown = occupied(has, [taken(1, "GPU-0")])
    assert [card.holder for card in shown.gpus] == ["lazy-bobcat-1 (ana)", "pid 7", ""]


NAMES = ("Tesla V100-SXM2-16GB", "NVIDIA A100-SXM4-40GB", "NVIDIA GeForce RTX 4090")
cards = st.builds(
    gpu,
    index=st.integers(0, 7),
    name=st.sampled_from(NAMES),
    gib=st.sampled_from([16, 24, 40]),
    holder=st.sampled_from(["", "", "pid 7 (bo)"]),
)


def made(gpus: list[Gpu], cpus: int, memory: int) -> Machine:
    return machine(*gpus, cpus=cpus, memory_gb=memory)


machines = st.builds(
    made,
    st.lists(cards, max_size=8, unique_by=lambda card: card.uuid),
    st.integers(1, 16),
    st.sampled_from([1, 16, 64]),
)
needs = st.builds(
    Needs,
    cpus=st.integers(0, 20),
    memory_bytes=st.sampled_from([0, GB, 32 * GB, 2**64 - 1]),
    gpus=st.integers(0, 9),
    gpu_name=st.sampled_from(["", "V100", "A100", "4090"]),
    gpu_memory_bytes=st.sampled_from([0, 16 * GB, 39 * GIB]),
    shm_bytes=st.sampled_from([0, GB]),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Machine, list[Taken]]:
    """A machine and takers with disjoint cards."""
    has = draw(machines)
    owners = draw(st.lists(st.integers(0, 4), min_size=len(has.gpus), max_size=len(has.gpus)))
    return has, [
        taken(
            run,
            *(card.uuid for card, owner in zip(has.gpus, owners, strict=True) if owner == run),
            needs=draw(needs),
            running=draw(st.booleans()),
        )
        for run in range(1, 4)
    ]


@given(situations(), needs)
def test_what_is_given_is_free_and_enough(
    situation: tuple[Machine, list[Taken]], wanted: Needs
) -> None:
    has, others = situation
    verdict = fit(question(wanted, key(9)), has, others)
    if not isinstance(verdict, Now):
        assert verdict.reasons
        return
    by_uuid: dict[str, Gpu] = {card.uuid: card for card in has.gpus}
    given_cards = [by_uuid[uuid] for uuid in verdict.gpu_uuids]
    assert len(set(verdict.gpu_uuids)) == len(given_cards) == wanted.gpus
    assert all(card.free and name_fits(wanted.gpu_name, card.name) for card in given_cards)
    assert not {uuid for other in others for uuid in other.gpu_uuids} & set(verdict.gpu_uuids)
    assert verdict.gpus_left >= 0
    assert wanted.cpus == 0 or wanted.cpus + sum(o.needs.cpus for o in others) <= has.cpus


@given(situations(), needs)
def test_never_does_not_depend_on_what_is_taken(
    situation: tuple[Machine, list[Taken]], wanted: Needs
) -> None:
    has, others = situation
    ours = {uuid for other in others for uuid in other.gpu_uuids}
    has = replace(has, gpus=tuple(replace(g, holder="") if g.uuid in ours else g for g in has.gpus))
    asked = question(wanted, key(9))
    busy = fit(asked, has, others)
    assert isinstance(busy, Never) is isinstance(fit(asked, has), Never)
    if isinstance(busy, Later):
        assert isinstance(fit(asked, has), Now), "once everything of ours ended, it fits"


@given(situations(), needs)
def test_the_choice_is_deterministic(situation: tuple[Machine, list[Taken]], wanted: Needs) -> None:
    has, others = situation
    asked = question(wanted, key(9))
    assert fit(asked, has, others) == fit(asked, has, list(reversed(others))) or isinstance(
        fit(asked, has, others), Later | NotNow
    )
