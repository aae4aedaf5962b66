"""Checkouts that are not the plain case."""

from support.desk import Desk, assert_same_to_git, git, names, write


def test_a_project_below_the_root_says_where_jobs_start(desk: Desk) -> None:
    root = desk.repository()
    write(root, {"sub/dir/.dstack/workflows.yaml": "workflows: []\n"})
    code, copy = desk.capture(root / "sub" / "dir")
    assert code.prefix == "sub/dir"
    assert "train.py" in names(copy)
    assert "sub/dir/.dstack/workflows.yaml" in names(copy)


def test_a_detached_head_stays_detached(desk: Desk) -> None:
    root = desk.repository()
    git(root, "checkout", "-q", "--detach")
    code, copy = desk.capture(root)
    assert code.revision.branch == ""
    assert git(copy, "branch", "--show-current") == ""
    assert_same_to_git(root, copy)


def test_a_branch_with_slashes_keeps_its_name(desk: Desk) -> None:
    root = desk.repository()
    git(root, "checkout", "-q", "-b", "ana/try/ü")
    code, copy = desk.capture(root)
    assert (
        git(copy, "rev-parse", "--abbrev-ref", "HEAD").strip()
        == code.revision.branch
        == "ana/try/ü"
    )


def test_a_repository_without_a_commit_travels(desk: Desk) -> None:
    root = desk.folder / "fresh"
    root.mkdir()
    git(root, "init", "-q", "-b", "trunk")
    write(root, {"a": "1", "b": "2"})
    git(root, "add", "a")
    code, copy = desk.capture(root)
    assert names(copy) == {"a", "b"}
    assert git(copy, "status", "--porcelain") == "?? a\n?? b\n"
    assert git(copy, "branch", "--show-current") == "trunk\n"
    assert (code.revision.commit, code.revision.dirty) == ("", True)


def test_a_work_tree_of_another_repository_travels(desk: Desk) -> None:
    root = desk.repository()
    git(root, "worktree", "add", "-q", str(desk.folder / "second"), "-b", "side")
    write(desk.folder / "second", {"train.py": "changed\n"})
    code, copy = desk.capture(desk.folder / "second")
    assert code.revision.branch == "side"
    assert_same_to_git(desk.folder / "second", copy)


def test_a_shallow_clone_travels(desk: Desk) -> None:
    root = desk.repository()
    write(root, {"more": "1"})
    git(root, "add", ".")
    git(root, "commit", "-qm", "second")
    git(desk.folder, "clone", "-q", "--depth", "1", f"file://{root}", "clone")
    _, copy = desk.capture(desk.folder / "clone")
    assert_same_to_git(desk.folder / "clone", copy)


def test_a_repository_with_long_hashes_travels(desk: Desk) -> None:
    root = desk.folder / "sha256"
    root.mkdir()
    git(root, "init", "-q", "--object-format=sha256")
    write(root, {"a": "1"})
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    _, copy = desk.capture(root)
    assert_same_to_git(root, copy)


def test_submodules_and_nested_repositories_travel_with_their_files(desk: Desk) -> None:
    library = desk.repository("library")
    root = desk.repository()
    git(root, "submodule", "add", "-q", str(library), "lib")
    git(root, "commit", "-qam", "with library")
    write(root, {"lib/fresh": "1", "lib/x.tmp": "ignored there"})
    nested = root / "nested"
    nested.mkdir()
    git(nested, "init", "-q")
    write(nested, {"n": "1"})
    _, copy = desk.capture(root)
    assert {"lib/train.py", "lib/fresh", "nested/n"} <= names(copy)
    assert "lib/x.tmp" not in names(copy)
    assert git(copy, "status", "--porcelain", "-uall") == "?? nested/n\n"


def test_a_submodule_that_is_not_checked_out_is_no_change(desk: Desk) -> None:
    library = desk.repository("library")
    root = desk.repository()
    git(root, "submodule", "add", "-q", str(library), "lib")
    git(root, "commit", "-qam", "with library")
    git(desk.folder, "clone", "-q", str(root), "clone")
    _, copy = desk.capture(desk.folder / "clone")
    assert git(copy, "status", "--porcelain") == ""


def test_a_folder_that_is_no_repository_honours_ignore_files(desk: Desk) -> None:
    root = desk.folder / "plain"
    write(root, {"a": "1", "b/c": "2", "b/x.tmp": "3", "b/.gitignore": "*.tmp\n", "data/d": "4"})
    write(root, {".dstackignore": "data/\n"})
    code, copy = desk.capture(root)
    assert names(copy) == {"a", "b/c", "b/.gitignore", ".dstackignore"}
    assert not (copy / ".git").exists()
    assert code.revision.repo == "plain"
    assert (code.revision.commit, code.prefix) == ("", "")
