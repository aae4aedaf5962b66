"""Jobs that a job made: how they wait, what they may ask for, what is said of wrong ones."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from dstack_mesh.faults import Refused
from dstack_mesh.ids import Digest
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.growing import MOST_MADE, grown
from dstack_scheduler.job import Input
from dstack_scheduler.retry import Retry
from support.submissions import planned, submission

EARLIER = Input(Digest(b"d" * 32), "data")


def run(secrets: tuple[str, ...] = ()) -> tuple[DrivenJob, ...]:
    """prepare, a program that makes jobs after it, and who waits for them."""
    jobs = submission(
        planned(0, "prepare"), planned(1, "sweep", after=[0]), planned(2, "report", after=[0, 1])
    ).jobs
    maker = replace(jobs[1].spec, workflow="", makes="grid", secret_names=secrets)
    maker = replace(maker, working_dir="src", inputs=(EARLIER,))
    return (jobs[0], replace(jobs[1], spec=maker, placement="local"), jobs[2])


def made(*workflows: Mapping[str, object], secrets: tuple[str, ...] = ()) -> tuple[DrivenJob, ...]:
    text = json.dumps({"workflows": [{"provider": "bash", **one} for one in workflows]})
    return grown(run(secrets), 1, text.encode())


def test_made_jobs_come_last_and_whoever_waits_for_their_maker_waits_for_all_of_them() -> None:
    jobs = made(
        {"name": "b", "commands": ["b"], "depends-on": ["a"], "working_dir": "deep"},
        {"name": "a", "commands": ["a"], "artifacts": ["out"]},
    )

    assert [job.spec.key.job for job in jobs] == [0, 1, 2, 3, 4]
    assert [job.spec.commands for job in jobs[3:]] == [("a",), ("b",)]
    assert [job.after for job in jobs[3:]] == [(0,), (0, 3)]
    assert jobs[2].after == (0, 3, 4)
    assert [job.spec.working_dir for job in jobs[3:]] == ["src", "src/deep"]
    assert {job.spec.workflow for job in jobs[3:]} == {"grid"}
    assert {job.spec.job_count for job in jobs[3:]} == {5}
    assert {job.spec.inputs for job in jobs[3:]} == {(EARLIER,)}
    assert {job.placement for job in jobs[3:]} == {"local"}
    assert not any(job.spec.makes for job in jobs)


@pytest.mark.parametrize(
    ("workflow", "why"),
    [
        ({"secrets": ["OTHER"]}, "asks for the secret OTHER"),
        ({"env": {"A": "${{ secrets.OTHER }}"}}, "asks for the secret OTHER"),
        ({"deps": ["prepare:v1"]}, "takes prepare:v1 from another run"),
        ({"provider": "sweep"}, 'There is no provider "sweep"'),
        ({"working_dir": "../.."}, "jobs.yaml:"),
        ({"comands": ["a"]}, "comands"),
    ],
)
def test_made_jobs_ask_for_nothing_that_their_workflow_does_not_name(
    workflow: dict[str, object], why: str
) -> None:
    jobs = made({"name": "a", "commands": ["a"]} | workflow, secrets=("TOKEN",))

    (complaint,) = jobs[3:]
    assert complaint.spec.commands[0].endswith("exit 65")
    assert why in complaint.spec.commands[0]
    assert not complaint.spec.secret_names


def test_a_secret_that_the_workflow_names_may_be_used() -> None:
    jobs = made({"name": "a", "commands": ["a"], "secrets": ["TOKEN"]}, secrets=("TOKEN",))
    assert jobs[3].spec.secret_names == ("TOKEN",)


@pytest.mark.parametrize("text", [b"", b"{", b"workflows: []", b"\xff", b"[]"])
def test_what_is_no_list_of_jobs_becomes_a_job_that_says_so(text: bytes) -> None:
    (complaint,) = grown(run(), 1, text)[3:]
    assert complaint.spec.commands[0].startswith("printf %s")


def test_more_jobs_than_a_program_may_make_are_none() -> None:
    many = [{"name": f"j{n}", "commands": ["a"]} for n in range(MOST_MADE + 1)]
    assert len(made(*many)) == 4


def test_made_jobs_have_what_they_say_and_else_what_their_workflow_says() -> None:
    before = run()
    maker = replace(before[1].spec, max_duration_seconds=60.0, retry=Retry(2), cache=("pip",))
    text = {
        "workflows": [
            {"name": "a", "provider": "bash", "commands": ["a"]},
            {
                "name": "b",
                "provider": "gradio",
                "file": "b.py",
                "retry": 5,
                "max_duration": "2h",
                "cache": ["wheels"],
            },
        ]
    }
    jobs = (before[0], replace(before[1], spec=maker), before[2])
    plain, said = (job.spec for job in grown(jobs, 1, json.dumps(text).encode())[3:])

    assert (plain.max_duration_seconds, plain.retry, plain.cache) == (60.0, Retry(2), ("pip",))
    assert (said.max_duration_seconds, said.cache) == (7200.0, ("wheels",))
    assert said.retry is not None
    assert said.retry.attempts == 5
    assert [app.name for app in said.apps] == ["gradio"]


def test_what_kept_the_jobs_from_being_read_is_said() -> None:
    (complaint,) = grown(run(), 1, Refused("It is too large.", "", "make fewer jobs"))[3:]
    assert "It is too large." in complaint.spec.commands[0]
