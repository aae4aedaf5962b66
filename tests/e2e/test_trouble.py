"""Trouble as a person meets it: each time what happened, why, a fix, the right code, no traceback,
and nothing half-done."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.lab import DSTACK, Peer, invitation, make_peer, project
from support.person import give, without_rights
from support.trouble import (
    FORBIDDEN,
    HELLO,
    INVALID,
    MISSING,
    OURS,
    REFUSED,
    UNREACHABLE,
    USAGE,
    runner,
    told,
)

# What is typed.


@pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "0h"])
def test_a_time_that_is_none_is_told(founder: Peer, since: str) -> None:
    ended = runner(founder, "audit", "--since", since)
    told(ended, INVALID, "bad-time", since, "fix: dstack-runner audit --since 2h")


def test_an_audit_log_that_nobody_wrote_is_empty_and_whole(tmp_path: Path) -> None:
    ended = runner(make_peer(tmp_path, "new"), "audit", "--json")
    assert ended.returncode == 0
    shape = json.loads(ended.stdout)
    assert (shape["schema"], shape["items"], shape["head"]) == ("dstack.audit/v1", [], None)


@pytest.mark.parametrize("seeds", ["ws-1", "ws-1:99999", "http://ws-1:7420"])
def test_wrong_seeds_are_told_with_where_they_were_written(founder: Peer, seeds: str) -> None:
    peer = Peer("founder", founder.home, env={**founder.env, "DSTACK_SEEDS": seeds})
    started = runner(peer, "start", "--listen", "127.0.0.1:0")
    for ended, code in ((started, USAGE), (peer.dstack("agents"), INVALID)):
        told(ended, code, "bad-address", seeds, "DSTACK_SEEDS", "fix: ", "HOST:PORT")
    flag = runner(founder, "start", "--listen", "127.0.0.1:0", "--seed", seeds)
    told(flag, USAGE, seeds, "--seed")


def test_seeds_that_nobody_answers_at_leave_nobody_to_run_on(founder: Peer) -> None:
    peer = Peer("founder", founder.home, env={**founder.env, "DSTACK_SEEDS": "127.0.0.1:1"})
    told(peer.dstack("run", "bash", "-c", "true", "--remote"), OURS, "no-agents", "fix: ")


# Invitations.


def join(peer: Peer, code: str, address: str) -> subprocess.CompletedProcess[bytes]:
    return peer.dstack("mesh", "join", code, address, "--yes")


def slipped(code: str) -> str:
    """The code with a slip in its secret part."""
    return code[:-1] + ("7" if code[-1] != "7" else "8")


def test_wrong_codes_are_told_and_the_right_one_still_works_once(
    founder: Peer, tmp_path: Path
) -> None:
    one, two = (make_peer(tmp_path, name, DSTACK_MDNS="0") for name in ("one", "two"))
    with invitation(founder, "runner") as (code, addresses):
        address = addresses[0]
        told(join(one, "7K3V-Q2MX-9T4B-HC6D", address), INVALID, "bad-invite-code", "fix: ")
        told(join(one, code, "127.0.0.1:1"), UNREACHABLE, "127.0.0.1:1", "Connect call", "fix: ")
        told(join(one, code, "nonsense"), INVALID, "bad-address", "HOST:PORT")
        told(join(one, slipped(code), address), FORBIDDEN, "fix: ")
        told(runner(one, "join", slipped(code), address, "--yes"), FORBIDDEN, "fix: ")
        assert not (one.home / "keys" / "membership.json").exists()
        told(join(founder, code, address), REFUSED, "already-a-member", '"lab"', "fix: ")
        assert join(one, code, address).returncode == 0
    told(join(two, code, address), UNREACHABLE, "used or have expired", "fix: ")
    assert not (two.home / "keys" / "membership.json").exists()


def test_a_member_of_a_mesh_joins_and_makes_no_other(founder: Peer, tmp_path: Path) -> None:
    other = make_peer(tmp_path, "other", DSTACK_MDNS="0")
    other.dstack("mesh", "create", "theirs", check=True)
    again = other.dstack("mesh", "create", "more")
    told(again, REFUSED, "already-a-member", '"theirs"', "fix: ")
    newcomer = make_peer(tmp_path, "newcomer", DSTACK_MDNS="0")
    with invitation(founder, "runner") as (code, addresses):
        told(join(other, code, addresses[0]), REFUSED, "already-a-member", '"theirs"', "fix: ")
        assert join(newcomer, code, addresses[0]).returncode == 0
    assert newcomer.dstack("mesh", "invite").returncode != 0


def test_an_expired_invitation_is_told(founder: Peer, tmp_path: Path) -> None:
    late = make_peer(tmp_path, "late", DSTACK_MDNS="0")
    inviting = founder.dstack("mesh", "invite", "--minutes", "0.05", "--json")
    offered = json.loads(inviting.stdout.splitlines()[0])
    told(
        join(late, offered["code"], offered["addresses"][0]),
        UNREACHABLE,
        "used or have expired",
        "ask for a new invitation",
    )


# Programs that are not there.


def test_a_missing_git_is_told(home: Peer, tmp_path: Path) -> None:
    code = project(tmp_path / "code", HELLO)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "sh", "env"):
        (programs / name).symlink_to(str(shutil.which(name)))
    peer = Peer("home", home.home, env={**home.env, "PATH": str(programs)})
    told(peer.dstack("run", "train", cwd=code), OURS, "no-git", "apt-get install git")
    assert b"git is not on PATH" in peer.dstack("doctor").stdout


def test_a_folder_that_is_no_repository_runs(home: Peer, tmp_path: Path) -> None:
    for name, first in (("plain", ()), ("empty", ("git", "init", "-q"))):
        (tmp_path / name / ".dstack").mkdir(parents=True)
        (tmp_path / name / ".dstack" / "workflows.yaml").write_text(HELLO)
        if first:
            subprocess.run(first, cwd=tmp_path / name, check=True)
        assert home.dstack("run", "train", cwd=tmp_path / name, check=True).stdout == b"hi\n"


# Workflow files that are none.


def test_without_workflows_the_first_step_is_named(home: Peer, tmp_path: Path) -> None:
    ended = home.dstack("run", "train", cwd=tmp_path)
    told(ended, USAGE, 'no workflow or provider "train"', "dstack init", "Nothing was sent")


def test_an_unknown_workflow_gets_a_suggestion(home: Peer, tmp_path: Path) -> None:
    code = project(tmp_path / "code", HELLO)
    told(home.dstack("run", "tarin", cwd=code), USAGE, '"tarin"', 'did you mean "train"?')


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("folder", "1:1: This is not a file."),
        ("pipe", "1:1: This is not a file."),
        ("dangling", "1:1: The file cannot be read: No such file"),
        ("noise", "is not UTF-8"),
        ("binary", "delete it"),
        ("utf-16", "save the file as UTF-8"),
        ("deep", "write it flatter"),
    ],
)
def test_what_is_no_workflow_file_is_told_with_its_name(
    home: Peer, tmp_path: Path, kind: str, says: str
) -> None:
    path = tmp_path / ".dstack" / "workflows.yaml"
    path.parent.mkdir()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to("nowhere")
        case "noise":
            path.write_bytes(b"\xb3" * 5000)
        case "binary":
            path.write_bytes(b"\x7fELF\0\0\0\0" * 5000)
        case "utf-16":
            path.write_bytes(HELLO.encode("utf-16"))
        case _:
            path.write_bytes(b"a: " + b"[" * 100_000)
    for ended in (home.dstack("run", "train", cwd=tmp_path), home.dstack("validate", cwd=tmp_path)):
        text = told(ended, USAGE, ".dstack/workflows.yaml:1:", says, "fix: ")
        assert len(text) < 1000, "a long line is shown whole"


def test_a_workflow_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / ".dstack" / "workflows.yaml"
    path.parent.mkdir()
    path.write_text(HELLO)
    path.chmod(0)
    give(path)
    peer = make_peer(tmp_path, "p", without_rights())
    ended = peer.dstack("validate", cwd=tmp_path)
    told(ended, USAGE, "workflows.yaml:1:1", "Permission denied", "fix: chmod u+r .dstack/")


# Names.


def test_runs_that_nobody_knows_are_told_by_every_verb(home: Peer) -> None:
    for words, code in (
        (("logs", "nobody"), OURS),
        (("wait", "nobody"), OURS),
        (("attach", "nobody"), OURS),
        (("logs", "@99"), OURS),
        (("stop", "nobody"), MISSING),
        (("ps", "nobody"), MISSING),
        (("ls", "nobody"), MISSING),
        (("ls", ":nobody"), MISSING),
        (("cp", "nobody", "x", "y"), MISSING),
    ):
        told(home.dstack(*words), code, words[1].lstrip(":"), "fix: ")


def test_a_prefix_that_several_runs_have_is_told_with_them(home: Peer) -> None:
    known: list[str] = []
    shared = ""
    while not shared:  # there are fewer first letters than runs that this takes
        assert len(known) < 40
        ended = home.dstack("run", "bash", "-c", "true", "-dq", check=True)
        name = ended.stdout.decode().strip()
        shared = name[0] if any(other[0] == name[0] for other in known) else ""
        known.append(name)
    text = told(home.dstack("logs", shared), USAGE, f"'{shared}'")
    assert sum(name in text for name in known) >= 2, text
    for name in known:
        assert home.dstack("wait", name).returncode == 0


def test_a_folder_that_was_removed_under_us_is_told(home: Peer, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = ("sh", "-c", 'rmdir "$0" && exec "$@"', str(gone), *DSTACK, "run", "train")
    ended = subprocess.run(command, cwd=gone, env=home.environment, capture_output=True)
    told(ended, OURS, "The current folder does not exist", "fix: cd ")
