"""How `dstack top` shows what was seen."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from dstack_cli.output.table import draw
from dstack_cli.output.top import (
    Seen,
    agents_table,
    jobs_table,
    screen_lines,
    summary,
    top_document,
)
from dstack_cli.picture import Away, RunPicture
from dstack_mesh.card import HelloAnswer, PeerCard
from dstack_mesh.ids import MeshId, PeerId, RunId, RunName
from dstack_mesh.machine import AgentState, CardLoad, Gpu, JobLoad, Load, Machine, RunningJob
from dstack_mesh.membership.known import KnownAgent
from dstack_scheduler.job import JobKey, JobRecord, JobState, RunRecord, StateChange

AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
GIB = 2**30
V100 = Gpu("GPU-1", "V100", 16 * GIB, holder="calm-ibex-1 (ana)")
FREE = Gpu("GPU-2", "V100", 16 * GIB)


def agent(name: str, load: Load | None = None, *cards: Gpu, answers: bool = True) -> KnownAgent:
    card = PeerCard(PeerId(f"id-{name}"), MeshId("m"), name, (), "0", agent=True)
    machine = Machine(8, 32 * GIB, 20 * GIB, 10**11, cards)
    running = (RunningJob(RunName("calm-ibex-1"), 0),)
    said = HelloAnswer(card, AgentState.ALIVE, machine, running, (), AT, load)
    return KnownAgent(card, (), "seed", "alive" if answers else "gone", said)


def run(name: str, *states: JobState, agent_name: str = "ws-1") -> RunPicture:
    run_id = RunId(f"id-{name}")
    jobs = tuple(
        JobRecord(
            key=JobKey(run_id, index, 1),
            workflow="train",
            provider="bash",
            state=StateChange(JobKey(run_id, index, 1), state, AT - timedelta(seconds=251)),
            agent_id=PeerId(f"id-{agent_name}"),
            agent_name=agent_name,
            gpu_uuids=("GPU-1",),
        )
        for index, state in enumerate(states)
    )
    return RunPicture(RunRecord(run_id, RunName(name), "train", "ana@laptop", AT, 1, jobs=jobs))


LOAD = Load(
    1.26,
    (JobLoad(RunId("id-calm-ibex-1"), 0, 0.94, 3 * GIB),),
    (CardLoad("GPU-1", 12 * GIB, 90), CardLoad("GPU-2", 0, 10)),
)
SEEN = Seen(
    AT,
    "lab",
    [
        agent("ws-1", LOAD, V100, FREE),
        agent("ws-2"),
        agent("ws-3", answers=False),
    ],
    {PeerId("id-ws-3"): AT - timedelta(minutes=3)},
    [
        run("calm-ibex-1", JobState.RUNNING, JobState.DONE),
        run("shy-owl-2", JobState.WAITING),
        replace(
            run("old-elk-3", JobState.RUNNING, agent_name="ws-3"),
            away=(Away(PeerId("id-ws-3"), "ws-3", AT),),
        ),
    ],
)


def squeezed(line: str) -> str:
    return " ".join(line.split())


def test_an_agent_has_what_it_uses_of_what_it_has() -> None:
    head, first, second, gone = draw(agents_table(SEEN), None)
    assert squeezed(head) == "AGENT STATE CPU MEMORY GPU GPU MEMORY GPU BUSY JOBS"
    assert squeezed(first) == "ws-1 alive 1.3/8 12/32GiB 1/2 12/32GiB 50% 1"
    assert squeezed(second) == "ws-2 alive -/8 12/32GiB - - - 1"
    assert squeezed(gone) == "ws-3 gone (3 mins ago) - - - - - -"


def test_what_no_driver_says_has_no_column() -> None:
    seen = replace(SEEN, agents=[agent("ws-1", Load(0.5), V100)])
    assert "GPU BUSY" not in draw(agents_table(seen), None)[0]
    assert "1/1" in draw(agents_table(seen), None)[1]


def test_jobs_that_go_on_have_a_line_with_what_they_use() -> None:
    _, running, old = draw(jobs_table(SEEN), None)
    assert squeezed(running) == "calm-ibex-1 0 train ana@laptop ws-1 running 4m11s 0.9 3GiB 1"
    assert old.split()[:6] == ["old-elk-3", "0", "train", "ana@laptop", "ws-3", "running?"]
    assert old.split()[-3:] == ["-", "-", "1"]


def test_the_first_line_counts() -> None:
    assert summary(SEEN) == ("lab · 2 agents · 2 GPUs, 1 in use · 2 jobs running · 1 run waiting")


def test_scripts_get_the_same_in_full() -> None:
    fields = json.loads(json.dumps(top_document(SEEN, None).fields))
    assert fields["schema"] == "dstack.top/v1"
    first, second, gone = fields["agents"]
    assert (first["agent"], first["cpus_used"], first["stale"]) == ("ws-1", 1.26, False)
    assert first["cards"][0] == {
        "uuid": "GPU-1",
        "memory_used_bytes": 12 * GIB,
        "busy_percent": 90,
    }
    assert second["cpus_used"] is None and gone["stale"]
    assert [(one["run"], one["job"], one["stale"]) for one in fields["jobs"]] == [
        ("calm-ibex-1", 0, False),
        ("old-elk-3", 0, True),
    ]
    assert fields["jobs"][0]["memory_used_bytes"] == 3 * GIB


@given(st.integers(0, 60), st.integers(0, 60), st.integers(20, 200), st.integers(1, 60))
def test_a_screen_is_never_larger_than_its_terminal(
    agents: int, jobs: int, width: int, height: int
) -> None:
    seen = Seen(
        AT,
        "lab",
        [agent(f"workstation-{number}", LOAD, V100) for number in range(agents)],
        {},
        [run(f"lazy-bobcat-{number}", JobState.RUNNING) for number in range(jobs)],
    )
    lines = screen_lines(seen, width, height, "q quits")
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    if height > 1:
        assert lines[-1] == "q quits"
    if height >= 24:
        text = "\n".join(lines)
        assert min(agents, 3) <= text.count("workst") and min(jobs, 3) <= text.count("lazy-b")
