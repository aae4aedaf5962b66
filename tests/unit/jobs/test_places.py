"""Where the paths of a job lie, and which it may not name."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.jobs.places import Places, folder_of, key_of
from dstack_mesh.faults import Refused
from dstack_mesh.ids import RunId
from dstack_scheduler.job import JobKey

WORK = Path("/jobs/r.0.1/work")
OUTSIDE = Path("/jobs/r.0.1/outside")
PROCESS = Places(WORK, "sub", Path("/home/ana"), None, (Path("/home/ana"),))
CONTAINER = Places(WORK, "sub", OUTSIDE / "home/dstack", OUTSIDE)


@pytest.mark.parametrize(
    ("path", "process", "container"),
    [
        ("model", WORK / "sub/model", WORK / "sub/model"),
        ("./model/", WORK / "sub/model", WORK / "sub/model"),
        (".", WORK / "sub", WORK / "sub"),
        ("../shared", WORK / "shared", WORK / "shared"),
        ("~/x", Path("/home/ana/x"), OUTSIDE / "home/dstack/x"),
        ("/home/ana/env", Path("/home/ana/env"), OUTSIDE / "home/ana/env"),
        ("/home/ana/a/../env", Path("/home/ana/env"), OUTSIDE / "home/ana/env"),
    ],
)
def test_a_path_lies_where_the_job_sees_it(path: str, process: Path, container: Path) -> None:
    assert PROCESS.of(path).path == process
    assert CONTAINER.of(path).path == container


@pytest.mark.parametrize("path", ["../../x", "a/../../../x", "~/../bob", "/etc", "/home/anabel"])
def test_a_process_may_not_name_what_is_not_its_own(path: str) -> None:
    with pytest.raises(Refused) as refused:
        PROCESS.of(path)
    assert refused.value.code == "path-not-allowed"
    assert refused.value.hint


@pytest.mark.parametrize(("start", "lies"), [("/app", "app"), ("/", ""), ("/app/../srv", "srv")])
def test_a_container_may_start_anywhere_and_its_paths_hang_off_that(start: str, lies: str) -> None:
    places = replace(CONTAINER, working_dir=start)
    assert places.start == OUTSIDE / lies
    assert places.of("out").path == OUTSIDE / lies / "out"
    assert places.of("/data").path == OUTSIDE / "data"


def test_a_process_may_start_where_its_absolute_paths_may_lie() -> None:
    places = replace(PROCESS, working_dir="/home/ana/project", closed=Path("/home/ana/.dstack"))
    assert places.start == Path("/home/ana/project")
    assert places.of("out").path == Path("/home/ana/project/out")
    assert replace(places, working_dir="/home/ana").start == Path("/home/ana")


@pytest.mark.parametrize("start", ["/srv", "/home/ana/../bob", "/home/ana/.dstack/jobs", "/"])
def test_a_process_starts_nowhere_else(start: str) -> None:
    places = replace(PROCESS, working_dir=start, closed=Path("/home/ana/.dstack"))
    with pytest.raises(Refused) as refused:
        _ = places.start
    assert refused.value.code == "path-not-allowed"
    assert start in str(refused.value)
    assert "image:" in refused.value.hint


def test_a_process_of_somebody_else_starts_in_its_own_folder() -> None:
    places = Places(WORK, "/home/ana", WORK.parent / "home", own_home=True)
    with pytest.raises(Refused) as refused:
        _ = places.start
    assert "in containers alone" in str(refused.value)


SEGMENTS = st.lists(st.sampled_from(["a", "b", "..", ".", "", "~"]), max_size=8)


@given(st.sampled_from(["", "/", "~/", "./"]), SEGMENTS)
def test_no_path_leads_out_of_the_folder_that_guards_it(start: str, segments: list[str]) -> None:
    path = start + "/".join(segments)
    elsewhere = (replace(PROCESS, working_dir="/home/ana"), replace(CONTAINER, working_dir="/app"))
    for places in (PROCESS, CONTAINER, *elsewhere):
        try:
            place = places.of(path)
        except Refused:
            continue
        assert ".." not in place.path.parts
        assert place.path.is_relative_to(place.within)


def test_a_folder_names_its_attempt() -> None:
    key = JobKey(RunId("0" * 26), 3, 2)
    assert key_of(folder_of(Path("/jobs"), key)) == key
    assert key_of(Path("/jobs/lost+found")) is None


@pytest.mark.parametrize("path", ["~/.dstack/keys", "/home/ana/.dstack", "~", "/home/ana"])
def test_the_agents_own_folder_is_closed_to_processes(path: str) -> None:
    places = replace(PROCESS, closed=Path("/home/ana/.dstack"))
    with pytest.raises(Refused) as refused:
        places.of(path)
    assert refused.value.code == "path-not-allowed"
    assert places.of("/home/ana/data").path == Path("/home/ana/data")
