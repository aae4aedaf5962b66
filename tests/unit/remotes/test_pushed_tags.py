"""Which statements about tags go to a remote with a run."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from dstack_cli.remotes.pushing import tags_to_push
from dstack_mesh.ids import RunId, RunName
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.job import TagRecord

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
RUN, OTHER = RunId("1" * 26), RunId("2" * 26)


def tag(name: str, run: RunId | None, minutes: int = 0) -> TagRecord:
    return TagRecord("lab", name, run, RunName("calm-ibex-1"), AT + timedelta(minutes=minutes))


def told(*tags: TagRecord) -> list[Listing]:
    return [Listing((), tags)]


def test_the_tags_of_the_run_go_and_no_others() -> None:
    ours, others = tag("v1", RUN), tag("v2", OTHER)
    assert tags_to_push(RUN, told(ours, others), ()) == [ours]


def test_a_tag_that_was_taken_back_or_moved_is_told_where_it_was_before() -> None:
    before = tag("v1", RUN)
    for later in (tag("v1", None, 5), tag("v1", OTHER, 5)):
        assert tags_to_push(RUN, told(before, later), [before]) == [later]
        assert tags_to_push(RUN, told(before, later), []) == []


def test_a_tag_of_another_repository_is_another_tag() -> None:
    elsewhere = replace(tag("v1", OTHER, 5), repo="other")
    assert tags_to_push(RUN, told(tag("v1", RUN), elsewhere), ()) == [tag("v1", RUN)]
