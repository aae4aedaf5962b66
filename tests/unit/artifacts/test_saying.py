"""What people are told of artifacts is short and names what it is about."""

from dstack_agent.artifacts.saying import CHANGING_BYTES, changing, warning
from dstack_mesh.chunks.tree import Saved, Skipped
from dstack_mesh.ids import Digest

DIGEST = Digest(bytes(32))


def saved(*skipped: Skipped, changed: tuple[str, ...] = ()) -> Saved:
    return Saved(DIGEST, 1, 1, skipped, changed)


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    assert warning([], {"out": saved()}) == ""


def test_what_was_left_out_is_named_once_for_each_reason_with_a_count() -> None:
    pipes = [Skipped(f"pipe{n}", "it is no regular file, folder or link") for n in range(1000)]
    links = [Skipped(f"l{n}", f"it points out of the tree: ../{n}") for n in range(2)]
    assert warning(["none"], {"out": saved(*pipes, *links)}) == (
        "There is no folder none: the artifact is empty. "
        "Left out of out: pipe0, pipe1, pipe2 and 997 more "
        "(it is no regular file, folder or link). "
        "Left out of out: l0, l1 (it points out of the tree)."
    )


def test_names_that_are_no_text_are_shown_as_escapes_and_cut() -> None:
    said = warning([], {"o": saved(Skipped("a\n\x1b[2J" + "x" * 5000, "its name is long"))})
    assert said.startswith("Left out of o: a\\n\\x1b[2Jxxx")
    assert len(said) < 200


def test_files_that_change_all_the_time_are_named_up_to_a_size() -> None:
    names = tuple(f"{n:04}" for n in range(1000))
    assert changing(saved(changed=names)) == names[: CHANGING_BYTES // 4]
    assert "0000, 0001, 0002 and 997 more changed" in warning([], {"o": saved(changed=names)})
