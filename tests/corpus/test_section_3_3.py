"""Section 3.3: tables as they were printed."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dstack_cli.output.agents import COLUMNS as AGENTS
from dstack_cli.output.port import Listing
from dstack_cli.output.runs import PS_COLUMNS, VERBOSE_COLUMNS, ps_listing, run_item, status_listing
from dstack_cli.output.table import draw
from dstack_cli.output.words import ago
from dstack_cli.picture import RunPicture
from dstack_cli.tagging import tags_listing
from dstack_mesh.ids import PeerId, RunId, RunName
from dstack_scheduler.job import (
    JobKey,
    JobRecord,
    JobState,
    RunRecord,
    StateChange,
    TagRecord,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RUN = RunId("0" * 26)

OF_004 = """\
RUN            TAG     JOB           WORKFLOW    VARIABLES    SUBMITTED    RUNNER          STATUS
lazy-bobcat-1  <none>                prepare     --gpu 4      5 mins ago   quick-mule-1    DONE
                       711f6d690b4f  prepare     --gpu 4      5 mins ago   grumpy-duck-1   DONE
"""


def picture(**run: object) -> RunPicture:
    key = JobKey(RUN, 0, 1)
    done = StateChange(key, JobState.DONE, NOW, exit_code=0)
    job = JobRecord(key, "prepare", "docker", done, PeerId("a" * 32), "quick-mule-1")
    record = RunRecord(
        RUN,
        RunName("lazy-bobcat-1"),
        "prepare",
        "ana@laptop",
        NOW - timedelta(minutes=5),
        1,
        variables={"gpu": "4"},
        jobs=(job,),
    )
    return RunPicture(record, **run)  # type: ignore[arg-type]


def cells(listing: Listing) -> list[list[str]]:
    """The cells of a table as they stand under each other."""
    return [re.split(r" {2,}", line) for line in draw(listing.table, None)]


def test_3_3_1_status_is_the_table_of_document_004() -> None:
    printed = cells(status_listing([picture()], NOW))
    wanted = [re.split(r" {2,}", line) for line in OF_004.splitlines()]
    assert printed[0] == wanted[0]
    assert printed[1] == [*wanted[1]]
    assert (printed[2][0], len(printed[2][1])) == ("", len(wanted[2][1]))
    assert printed[2][2:5] == wanted[2][2:5] and printed[2][-1] == "DONE"
    assert cells(status_listing([picture(tags=("lazy-bobcat-1",))], NOW))[1][1] == "*"
    assert len(cells(status_listing([picture()], NOW, with_jobs=False))) == 2


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param("RUN WORKFLOW STATUS SUBMITTED TAG", id="3.3.2 runs"),
        pytest.param("RUN WORKFLOW STATUS APPS SUBMITTED TAG", id="3.3.3 runs"),
        pytest.param("RUN WORKFLOW STATUS APPS SUBMITTED TAG", id="3.3.4 status with targets"),
        pytest.param("RUN WORKFLOW STATUS APPS SUBMITTED TAG", id="3.3.5 ps"),
        pytest.param("RUN WORKFLOW SUBMITTED OWNER STATUS TAG", id="3.3.6 ps with owners"),
    ],
)
def test_what_lists_of_runs_told_ps_tells(columns: str) -> None:
    """Artifacts are listed by `ls`: one table for all epochs."""
    shown = cells(ps_listing([picture()], NOW))[0]
    assert set(columns.split()) <= set(shown)


@pytest.mark.parametrize(
    ("state", "apps"), [(JobState.RUNNING, "lab, port0"), (JobState.PREPARING, ""), (None, "")]
)
def test_2_3_2_ps_names_the_applications_that_can_be_opened(
    state: JobState | None, apps: str
) -> None:
    record = picture().record
    (job,) = record.jobs
    now = replace(job.state, state=state or JobState.DONE)
    shown = RunPicture(replace(record, jobs=(replace(job, state=now, apps=("lab", "port0")),)))
    table = ps_listing([shown], NOW).table
    assert table.rows[0][[column.title for column in table.columns].index("APPS")] == apps
    assert run_item(shown)["jobs"][0]["apps"] == ["lab", "port0"]  # type: ignore[index, call-overload]


def test_3_3_7_ps_tells_errors_when_it_is_asked_for_more() -> None:
    titles = {column.title for column in (*PS_COLUMNS, *VERBOSE_COLUMNS)}
    assert {"RUN", "WORKFLOW", "SUBMITTED", "OWNER", "STATUS", "TAG", "ERROR"} <= titles


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        *((0, "now"), (20, "20 sec ago"), (60, "1 min ago"), (300, "5 mins ago")),
        *((3600, "1 hour ago"), (7200, "2 hours ago"), (86_400, "yesterday")),
        *((3 * 86_400, "3 days ago"), (8 * 86_400, "1 week ago"), (70 * 86_400, "2 months ago")),
        (800 * 86_400, "2 years ago"),
    ],
)
def test_3_3_11_times_as_people_say_them(seconds: int, told: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == told


def test_3_3_9_agents_are_told_with_what_runners_had() -> None:
    """HOST is ADDRESS; of one that does not answer STATUS says when it was heard."""
    assert {"ADDRESS", "CPU", "MEMORY", "GPU", "STATUS"} <= {column.title for column in AGENTS}


def test_3_3_8_tags_with_their_runs_and_ages() -> None:
    tag = TagRecord("lab", "best", RUN, "lazy-bobcat-1", NOW)
    titles, row = cells(tags_listing([tag], {}))
    assert {"TAG", "CREATED", "RUN"} <= set(titles)
    assert {"best", "lazy-bobcat-1"} <= set(row)
