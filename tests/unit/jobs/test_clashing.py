"""Two sources of one path merge, or both are named."""

from pathlib import PurePath

import pytest

from dstack_agent.jobs.clashing import Part, clash
from dstack_mesh.chunks.manifest import Entry, FileEntry, FolderEntry, LinkEntry, Manifest


def part(what: str, place: str, *entries: Entry) -> Part:
    return Part(what, PurePath("/job") / place, Manifest(entries))


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        (part("a", "d", FileEntry("x")), part("b", "d", FileEntry("x/y")), "/job/d/x"),
        (part("a", "d", FileEntry("x/y")), part("b", "d", LinkEntry("x", "z")), "/job/d/x"),
        (part("a", "d", FolderEntry("x")), part("b", "d", FileEntry("x")), "/job/d/x"),
        (part("a", "", FileEntry("d")), part("b", "d/e", FileEntry("x")), "/job/d"),
        (part("a", "d/e", FileEntry("x")), part("b", "", FileEntry("d/e")), "/job/d/e"),
        (part("a", "d", FileEntry("x")), part("b", "d/x"), "/job/d/x"),
    ],
)
def test_a_file_and_a_folder_of_one_name_are_refused_with_both_named(
    first: Part, second: Part, name: str
) -> None:
    for one, other in ((first, second), (second, first)):
        refused = clash(one, [part("c", "elsewhere", FileEntry("x")), other])
        assert refused is not None
        assert str(refused).startswith(f"{one.what} and {other.what} do not fit together.")
        assert f"both at {name}." in str(refused)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (part("a", "d", FileEntry("x")), part("b", "d", FileEntry("x"))),
        (part("a", "d", FileEntry("x")), part("b", "d", LinkEntry("x", "y"))),
        (part("a", "d", FolderEntry("x")), part("b", "d", FileEntry("x/y"))),
        (part("a", "d", FileEntry("x")), part("b", "dx", FileEntry("y"))),
        (part("a", "d"), part("b", "d")),
    ],
)
def test_what_merges_is_not_refused(first: Part, second: Part) -> None:
    assert clash(first, [second]) is None
    assert clash(second, [first]) is None
