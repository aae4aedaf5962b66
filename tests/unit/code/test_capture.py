"""A job finds the code as it lies in the work tree, in a checkout that git understands."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from dstack_cli import code as rules
from dstack_cli.code import capture
from dstack_cli.repository import normalised, without_credentials
from dstack_mesh.faults import Refused
from support.desk import Desk, assert_same_to_git, git, names, write


def test_a_clean_checkout_is_clean_in_the_job(desk: Desk) -> None:
    root = desk.repository()
    code, copy = desk.capture(root)
    assert_same_to_git(root, copy)
    assert git(copy, "status", "--porcelain") == ""
    assert git(copy, "branch", "--show-current") == "main\n"
    assert git(copy, "log", "--format=%s") == "first\n"
    assert (code.revision.branch, code.revision.dirty) == ("main", False)
    assert code.revision.commit == git(root, "rev-parse", "HEAD").strip()
    assert (code.files, code.prefix, code.skipped) == (3, "", ())


def test_a_project_on_another_disk_with_an_odd_name_travels(desk: Desk) -> None:
    """git can give a file another name only on the same disk."""
    with tempfile.TemporaryDirectory(prefix='odd ":\\ name', dir="/dev/shm") as folder:
        assert Path(folder).stat().st_dev != desk.folder.stat().st_dev
        root = desk.repository()
        moved = Path(folder) / "project"
        shutil.copytree(root, moved)
        _, copy = desk.capture(moved)
        assert_same_to_git(moved, copy)
        assert not list(moved.glob(".git/objects/pack/*"))


def test_changes_of_every_kind_arrive(desk: Desk) -> None:
    root = desk.repository()
    write(root, {"gone.txt": "1\n", "mode.sh": "#!/bin/sh\n", "old name": "some lines\n" * 20})
    write(
        root, {"bin": bytes(range(256)) * 40, "staged.txt": "1\n", "kind": "file\n", "d/f": "1\n"}
    )
    (root / "link").symlink_to("train.py")
    git(root, "add", ".")
    git(root, "commit", "-qm", "second")
    (root / "gone.txt").unlink()
    (root / "mode.sh").chmod(0o755)
    git(root, "mv", "old name", "new name")
    write(
        root, {"bin": bytes(range(256)) * 41, "staged.txt": "2\n", "crlf": "a\r\nb", "ig.tmp": ""}
    )
    git(root, "add", "staged.txt")
    write(
        root, {"staged.txt": "3\n", "src/fresh.py": "new\n", 'odd "name" ü\\x': "1", "-dash": "2"}
    )
    (root / "link").unlink()
    (root / "link").symlink_to("src")
    (root / "kind").unlink()
    (root / "kind").symlink_to("train.py")
    (root / "d" / "f").unlink()
    (root / "d").rmdir()
    write(root, {"d": "now a file\n"})
    git(root, "add", "-N", "src/fresh.py")
    code, copy = desk.capture(root)
    assert code.revision.dirty
    assert "ig.tmp" not in names(copy)
    assert "gone.txt" not in names(copy)
    assert (copy / "staged.txt").read_text() == "3\n"
    assert os.access(copy / "mode.sh", os.X_OK)
    git(root, "reset", "-q")
    assert_same_to_git(root, copy)


def test_the_job_gets_no_hooks_credentials_history_or_links(desk: Desk) -> None:
    root = desk.repository()
    git(root, "remote", "add", "origin", "https://ana:s3cret@git.example.org/Acme/digits.git")
    git(root, "config", "user.email", "private@example.org")
    git(root, "config", "credential.helper", "store")
    git(root, "config", "core.sshCommand", "evil")
    write(root, {"again": "1"})
    git(root, "add", ".")
    git(root, "commit", "-qm", "second")
    hook = root / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\ntouch /tmp/hooked\n")
    hook.chmod(0o755)
    code, copy = desk.capture(root)
    everything = b"".join(p.read_bytes() for p in (copy / ".git").rglob("*") if p.is_file())
    for word in (b"s3cret", b"ana:", b"private@", b"evil", b"credential", b"hooked"):
        assert word not in everything
    assert not (copy / ".git" / "hooks").exists()
    assert not (copy / ".git" / "objects" / "info" / "alternates").exists()
    assert git(copy, "rev-list", "--count", "HEAD") == "1\n"
    assert git(copy, "remote", "get-url", "origin") == "https://git.example.org/Acme/digits.git\n"
    assert code.revision.repo == "git.example.org/Acme/digits"


def test_the_same_code_has_the_same_digest_and_another_has_another(desk: Desk) -> None:
    root = desk.repository()
    first = capture(root, desk.store, desk.home)
    assert capture(root, desk.store, desk.home) == first
    write(root, {"train.py": "print('ho')\n"})
    assert capture(root, desk.store, desk.home).digest != first.digest


def test_a_later_commit_adds_only_what_is_new(desk: Desk) -> None:
    root = desk.repository()
    write(root, {"big": os.urandom(200_000)})
    git(root, "add", ".")
    git(root, "commit", "-qm", "big")
    desk.capture(root)
    copy = root
    for number in range(12):
        write(root, {"train.py": f"print({number})\n"})
        git(root, "commit", "-qam", f"number {number}")
        _, copy = desk.capture(root)
        assert_same_to_git(root, copy)
    packs = list((copy / ".git" / "objects" / "pack").glob("*.pack"))
    assert 1 < len(packs) <= 8
    kept = [p for p in (desk.home.root / "checkouts").glob("*/*") if not p.name.startswith(".")]
    assert len(kept) <= 4


def test_a_rewritten_history_is_no_obstacle(desk: Desk) -> None:
    root = desk.repository()
    desk.capture(root)
    git(root, "commit", "-q", "--amend", "-m", "other")
    git(root, "reflog", "expire", "--expire=now", "--all")
    git(root, "gc", "-q", "--prune=now")
    _, copy = desk.capture(root)
    assert_same_to_git(root, copy)


def test_a_dstackignore_takes_out_tracked_files_too_and_says_so(desk: Desk) -> None:
    root = desk.repository()
    write(root, {"data/d": "1", "data/keep": "2", "src/junk": "3"})
    git(root, "add", ".")
    git(root, "commit", "-qm", "data")
    write(
        root,
        {".dstackignore": "data/*\n!data/keep\n", "src/.dstackignore": "junk\n", "data/new": ""},
    )
    code, copy = desk.capture(root)
    assert {"data/d", "data/new", "src/junk"}.isdisjoint(names(copy))
    assert "data/keep" in names(copy)
    assert [left.path for left in code.skipped] == ["data/d", "src/junk"]


def test_secrets_stay_here_unless_git_tracks_them(desk: Desk) -> None:
    root = desk.repository()
    write(root, {"certs/tracked.pem": "1"})
    git(root, "add", ".")
    git(root, "commit", "-qm", "certificate")
    write(root, {".env": "K=1", "keys/id_rsa": "1", "keys/id_rsa.pub": "1", ".env.example": "K="})
    code, copy = desk.capture(root)
    assert [left.path for left in code.skipped] == [".env", "keys/id_rsa"]
    assert {"certs/tracked.pem", "keys/id_rsa.pub", ".env.example"} <= names(copy)
    assert "keys/id_rsa" not in names(copy)


def test_what_cannot_travel_is_named(desk: Desk) -> None:
    root = desk.repository()
    (root / "out").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe")
    Path(os.fsdecode(os.fsencode(root) + b"/bad\xff")).touch()
    code, copy = desk.capture(root)
    assert {left.path for left in code.skipped} >= {"out", "bad\\xff"}
    assert "out" not in names(copy)


def test_too_much_code_is_refused_with_the_biggest_files(desk: Desk) -> None:
    root = desk.repository()
    with (root / "weights.bin").open("wb") as file:
        file.truncate(rules.MOST_BYTES + 1)
    with pytest.raises(Refused) as refused:
        capture(root, desk.store, desk.home)
    assert "weights.bin" in refused.value.why
    assert ".dstackignore" in refused.value.hint


def test_variables_of_a_hook_do_not_mislead_us(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    root, other = desk.repository(), desk.repository("other")
    write(root, {"only here": "1"})
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    code = capture(root, desk.store, desk.home)
    assert "only here" in {entry.path for entry in desk.store.get_manifest(code.digest).entries}


def test_without_git_the_message_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    root = desk.repository()
    monkeypatch.setenv("PATH", str(desk.folder))
    with pytest.raises(Refused, match="git is not installed"):
        capture(root, desk.store, desk.home)


def test_taking_a_snapshot_changes_nothing_in_the_repository(desk: Desk) -> None:
    root = desk.repository()
    write(root, {"train.py": "changed\n", "new": "1"})
    os.utime(root / "src" / "model.py", (1, 1))

    def state() -> dict[str, tuple[int, int]]:
        found = [path for path in (root / ".git").rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    before = state()
    capture(root, desk.store, desk.home)
    assert state() == before


@pytest.mark.parametrize(
    ("remote", "name", "address"),
    [
        ("https://github.com/acme/digits.git", "github.com/acme/digits", None),
        (
            "https://u:p@GitHub.com/acme/digits",
            "github.com/acme/digits",
            "https://github.com/acme/digits",
        ),
        ("https://t0ken@host:8443/a/b.git/", "host/a/b", "https://host:8443/a/b.git/"),
        ("https://host/a/b?token=x#y", "host/a/b", "https://host/a/b"),
        ("git@github.com:acme/digits.git", "github.com/acme/digits", None),
        ("ssh://git@github.com:22/acme/digits.git", "github.com/acme/digits", None),
        ("ssh://ana:pw@host/a.git", "host/a", "ssh://host/a.git"),
        ("git://[::1]:9418/a/b", "::1/a/b", None),
        ("/srv/git/digits.git", "digits", None),
        ("../digits", "digits", None),
        ("file:///srv/git/digits.git", "digits", None),
        ("", "", None),
    ],
)
def test_remotes_are_named_without_credentials(remote: str, name: str, address: str | None) -> None:
    assert normalised(remote) == name
    assert without_credentials(remote) == (remote if address is None else address)
