"""Who belongs to a mesh, with the commands a person uses and agents as processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dstack_mesh.card import PROTOCOL
from support.alone import agent_pid
from support.eventually import eventually
from support.lab import DSTACK, Peer, invitation, join_mesh, make_peer, project, said

WORKFLOWS = """
workflows:
  - name: long
    provider: bash
    commands: [echo started, sleep 120]
"""


@dataclass(slots=True)
class Lab:
    """Two agents, and a laptop that may submit."""

    root: Peer
    workstation: Peer
    laptop: Peer


def free_ports() -> tuple[int, int]:
    """Two ports that nobody has now."""
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def peers(folder: Path, one: int, two: int) -> Lab:
    env = {"DSTACK_MDNS": "0", "DSTACK_SEEDS": f"127.0.0.1:{one},127.0.0.1:{two}"}
    return Lab(*(Peer(name, folder / name, (), env) for name in ("root", "ws-1", "laptop")))


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The homes of a mesh: one joined by the root's command, one by an invitation of its agent."""
    folder = tmp_path_factory.mktemp("joined")
    for name in ("root", "ws-1", "laptop"):
        make_peer(folder, name)
    one, two = free_ports()
    lab = peers(folder, one, two)
    join_mesh(lab.root, lab.workstation, address="127.0.0.1")
    with lab.root.runner("--listen", f"127.0.0.1:{one}"):
        offer = lab.root.json("mesh", "invite", "--role", "submitter")
        where = f"127.0.0.1:{offer['addresses'][0].rsplit(':', 1)[1]}"
        lab.laptop.dstack("mesh", "join", offer["code"], where, "--yes", check=True)
    return folder


@pytest.fixture
def lab(joined: Path, tmp_path: Path) -> Generator[Lab]:
    """The same mesh as new for each test: its homes are copied, and live elsewhere."""
    shutil.copytree(joined, tmp_path, ignore=shutil.ignore_patterns("run"), dirs_exist_ok=True)
    one, two = free_ports()
    lab = peers(tmp_path, one, two)
    with (
        lab.root.runner("--listen", f"127.0.0.1:{one}"),
        lab.workstation.runner("--listen", f"127.0.0.1:{two}"),
    ):
        yield lab
    if (pid := agent_pid(lab.laptop)) is not None:  # its private agent, for `run`
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: agent_pid(lab.laptop) is None, within=10)


def states(peer: Peer) -> dict[str, str]:
    return {one["name"]: one["state"] for one in peer.json("mesh", "members")["items"]}


def test_members_are_shown_with_their_roles_and_who_let_them_in(lab: Lab) -> None:
    items = {one["name"]: one for one in lab.laptop.json("mesh", "members")["items"]}
    assert {name: one["role"] for name, one in items.items()} == {
        "root": "root",
        "ws-1": "runner",
        "laptop": "submitter",
    }
    assert items["laptop"]["state"] == "this home"
    assert {one["admitted_by"] for one in items.values()} == {"root"}
    assert all(one["expires_at"] for one in items.values())


WATCHED = """
import os, sys
from dstack_cli.main import main
code = main(sys.argv[1:])
print([name for name in ("dstack_mesh.wire.statements", "zeroconf") if name in sys.modules])
"""
"""The first one is what verifies; a library that signs is loaded later anyway, for the job."""


def test_a_warm_command_verifies_nothing_and_one_after_a_change_does(
    lab: Lab, tmp_path: Path
) -> None:
    work = project(tmp_path / "work", WORKFLOWS)

    def loaded() -> str:
        words = ("run", "bash", "--agent", "ws-1", "-c", "true")
        process = lab.laptop.popen(
            (sys.executable, "-c", WATCHED, *words), cwd=work, stdout=-1, stderr=-1
        )
        out, _ = process.communicate(timeout=60)
        return out.decode().splitlines()[-1]

    lab.laptop.dstack("mesh", "members", check=True)
    assert loaded() == "[]"
    lab.root.dstack("mesh", "role", "ws-1", "admin", check=True)
    assert loaded() == "['dstack_mesh.wire.statements']"
    assert loaded() == "[]"


def test_a_revoked_laptop_is_cut_off_and_its_job_ends(lab: Lab, tmp_path: Path) -> None:
    work = project(tmp_path / "work", WORKFLOWS)
    lab.laptop.dstack("run", "long", "--agent", "ws-1", "-d", "-q", cwd=work, check=True)
    run = lab.root.json("ps", "-a")["items"][0]["run"]
    attached = lab.laptop.popen(
        (*DSTACK, "attach", run), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert attached.stdout is not None
    assert attached.stdout.readline() == b"started\n"
    began = time.monotonic()
    revoked = lab.root.json("mesh", "revoke", "lap", "--stop", "--yes")
    assert (revoked["member"], sorted(revoked["told"]), revoked["silent"]) == (
        "laptop",
        ["root", "ws-1"],
        [],
    )
    eventually(lambda: lab.root.json("ps", run)["items"][0]["status"] == "stopped", within=20)
    print(f"revoked and its job stopped after {time.monotonic() - began:.1f} s")
    refused = lab.laptop.dstack("run", "long", "--remote", cwd=work, timeout=60)
    assert refused.returncode == 125, said(refused)
    assert b"This peer was revoked (revoked)." in refused.stderr, said(refused)
    told = lab.laptop.dstack("agents")
    assert (told.returncode, told.stdout) == (77, b""), said(told)
    for line in (b'This home was revoked from the mesh "lab" (revoked).', b"By root; ", b"fix: "):
        assert told.stderr.count(line) == 1, said(told)
    attached.kill()
    attached.communicate()
    assert states(lab.workstation)["laptop"] == "revoked"


def test_what_cannot_be_is_told_in_words(lab: Lab) -> None:
    def refused(peer: Peer, *words: str) -> tuple[int, str]:
        ended = peer.dstack("mesh", *words, "--json")
        return ended.returncode, json.loads(ended.stdout)["error"]["code"]

    assert refused(lab.laptop, "revoke", "ws-1", "--yes") == (77, "not-an-admin")
    assert refused(lab.laptop, "role", "ws-1", "reader") == (77, "not-an-admin")
    assert refused(lab.root, "revoke", "nobody", "--yes") == (66, "missing")
    assert refused(lab.root, "revoke", "root", "--yes") == (2, "revoking-oneself")
    assert refused(lab.root, "revoke", "ws-1") == (2, "not-agreed")
    lab.root.dstack("mesh", "revoke", "ws-1", "--yes", check=True)
    assert refused(lab.root, "revoke", "ws-1", "--yes") == (76, "already-revoked")
    assert refused(lab.root, "role", "ws-1", "reader") == (76, "already-revoked")


def test_work_goes_to_runners_only_and_an_admin_governs_but_no_admins(
    lab: Lab, tmp_path: Path
) -> None:
    work = project(tmp_path / "work", WORKFLOWS)
    assert "ws-1" in lab.root.json("mesh", "role", "ws-1", "reader")["told"]
    ended = lab.laptop.dstack("run", "bash", "--agent", "ws-1", "-c", "true", cwd=work)
    assert ended.returncode == 125, said(ended)
    lab.root.dstack("mesh", "role", "ws-1", "admin", check=True)
    lab.laptop.dstack("run", "bash", "--agent", "ws-1", "-c", "true", cwd=work, check=True)
    lab.workstation.dstack("mesh", "role", "laptop", "reader", check=True)
    ended = lab.laptop.dstack("run", "bash", "--remote", "-c", "true", cwd=work)
    assert ended.returncode == 125, said(ended)
    ended = lab.workstation.dstack("mesh", "revoke", "root", "--yes")
    assert ended.returncode == 77, said(ended)


def test_a_protocol_is_required_by_the_root_and_never_a_newer_than_its_own(
    lab: Lab,
) -> None:
    required = lab.root.json("mesh", "require-protocol", str(PROTOCOL))
    assert (required["protocol"], required["too_old"]) == (PROTOCOL, [])
    assert {"root", "ws-1"} >= set(required["told"])
    for peer, number, code in (
        (lab.laptop, PROTOCOL, (77, "not-an-admin")),
        (lab.workstation, PROTOCOL, (77, "not-an-admin")),
        (lab.root, PROTOCOL + 1, (2, "protocol-unknown")),
    ):
        ended = peer.dstack("mesh", "require-protocol", str(number), "--json")
        assert (ended.returncode, json.loads(ended.stdout)["error"]["code"]) == code


def test_who_would_remove_an_agent_that_was_not_added_from_here_is_told_how_to_revoke_it(
    lab: Lab,
) -> None:
    ended = lab.root.dstack("agents", "remove", "ws-1")
    assert ended.returncode == 66
    assert b"fix: dstack mesh revoke ws-1" in ended.stderr, said(ended)
    for name in ("nobody", "root"):
        assert b"dstack mesh revoke" not in lab.root.dstack("agents", "remove", name).stderr


def test_a_leave_is_said_aloud_and_the_same_key_may_come_back(lab: Lab) -> None:
    left = lab.laptop.dstack("mesh", "leave", "--yes", check=True)
    assert b"2 agents know it" in left.stderr
    assert states(lab.root)["laptop"] == "left"
    offer = lab.root.json("mesh", "invite", "--role", "reader")
    where = f"127.0.0.1:{offer['addresses'][0].rsplit(':', 1)[1]}"
    lab.laptop.dstack("mesh", "join", offer["code"], where, "--yes", check=True)
    assert states(lab.laptop)["ws-1"] == "alive"
    assert states(lab.root)["laptop"] == "member"


def test_a_lost_root_is_restored_from_its_file(lab: Lab, tmp_path: Path) -> None:
    file, passphrase = tmp_path / "file", b"correct horse battery\n"

    def told(peer: Peer, *words: str) -> bytes:
        process = peer.popen((*DSTACK, "mesh", *words), stdin=subprocess.PIPE, stdout=-1, stderr=-1)
        out, err = process.communicate(passphrase, timeout=30)
        assert process.returncode == 0, err
        return out + err

    told(lab.root, "recovery", str(file))
    fresh = make_peer(tmp_path, "fresh", (), **lab.laptop.env)
    assert b"2 agents know it" in told(fresh, "restore", str(file))
    assert states(lab.laptop)["fresh"] == "member"
    fresh.dstack("mesh", "revoke", "root", "--yes", check=True)
    assert (states(lab.workstation)["root"], states(fresh)["fresh"]) == ("revoked", "this home")


def test_an_admin_that_the_root_invited_invites_others(lab: Lab, tmp_path: Path) -> None:
    ann, ben = (
        make_peer(
            tmp_path, name, DSTACK_MDNS="0", DSTACK_SEEDS=lab.laptop.environment["DSTACK_SEEDS"]
        )
        for name in ("ann", "ben")
    )
    offer = lab.root.json("mesh", "invite", "--role", "admin")
    where = f"127.0.0.1:{offer['addresses'][0].rsplit(':', 1)[1]}"
    joined = json.loads(
        ann.dstack("mesh", "join", offer["code"], where, "--yes", "--json", check=True).stdout
    )
    assert joined["role"] == "admin"
    with invitation(ann, "runner") as (code, addresses):
        where = f"127.0.0.1:{addresses[0].rsplit(':', 1)[1]}"
        ben.dstack("mesh", "join", code, where, "--yes", check=True)
    members = {one["name"]: one for one in ben.json("mesh", "members")["items"]}
    assert members["ben"]["admitted_by"] == "ann"
    assert members["ann"]["role"] == "admin"
    refused = ann.dstack("mesh", "invite", "--role", "admin", "--json")
    assert json.loads(refused.stdout)["error"]["code"] == "not-an-admin"


def test_a_home_takes_a_new_key_and_works_with_it(lab: Lab) -> None:
    before = states(lab.root)
    old = lab.laptop.json("mesh", "members")["items"][0]["id"]
    turned = lab.laptop.json("mesh", "rotate", "--now")
    assert turned["peer"] != old
    assert lab.laptop.json("agents")["items"], "heard with the new key"
    members = lab.root.json("mesh", "members")["items"]
    assert {one["id"]: one["state"] for one in members if one["name"] == "laptop"} == {
        old: "revoked",
        turned["peer"]: "member",
    }
    assert before.keys() == states(lab.root).keys()


def test_what_an_admin_signed_is_voided_by_the_root_and_whom_it_let_in_joins_again(
    lab: Lab, tmp_path: Path
) -> None:
    seeds = lab.laptop.environment["DSTACK_SEEDS"]
    ann, ben = (
        make_peer(tmp_path, name, DSTACK_MDNS="0", DSTACK_SEEDS=seeds) for name in ("ann", "ben")
    )

    def joins(peer: Peer, role: str) -> None:
        offer = lab.root.json("mesh", "invite", "--role", role)
        where = f"127.0.0.1:{offer['addresses'][0].rsplit(':', 1)[1]}"
        peer.dstack("mesh", "join", offer["code"], where, "--yes", check=True)

    def issue(peer: Peer) -> set[str]:
        return {one["name"] for one in peer.json("mesh", "members")["items"] if one["issues"]}

    def refused(peer: Peer, *words: str) -> tuple[int, str]:
        ended = peer.dstack("mesh", *words, "--void-certificates", "--json")
        return ended.returncode, json.loads(ended.stdout)["error"]["code"]

    joins(ann, "admin")
    with invitation(ann, "submitter") as (code, addresses):
        where = f"127.0.0.1:{addresses[0].rsplit(':', 1)[1]}"
        ben.dstack("mesh", "join", code, where, "--yes", check=True)
    assert issue(ben) == {"root", "ann"}
    assert refused(lab.root, "role", "ws-1", "admin") == (76, "no-issuer")
    assert refused(lab.root, "role", "nobody", "admin") == (66, "missing")
    assert refused(lab.root, "role", "root", "admin") == (2, "voiding-the-root")
    assert refused(ann, "revoke", "ben", "--yes") == (77, "not-an-admin")
    voided = lab.root.dstack("mesh", "role", "ann", "admin", "--void-certificates", check=True)
    assert b"join again by an invitation: ben." in voided.stderr, said(voided)
    assert b"Only the mesh's root issues certificates now" in voided.stderr, said(voided)
    assert issue(lab.root) == {"root"}
    ended = ben.dstack("agents", "--json")
    assert (ended.returncode, json.loads(ended.stdout)["error"]["code"]) == (77, "issuer-removed")
    joins(ann, "admin")  # with another key to sign with
    assert issue(ann) == {"root", "ann"}
    revoked = lab.root.json("mesh", "revoke", "ann", "--yes")
    assert "joining_again" not in revoked
    later = lab.root.json("mesh", "revoke", "ann", "--void-certificates")
    assert later["joining_again"] == ["ben"]
    assert refused(lab.root, "revoke", "ann") == (76, "no-issuer")
    assert refused(lab.root, "role", "ann", "admin") == (76, "already-revoked")


def test_an_admin_takes_a_new_key_and_invites_with_it(lab: Lab, tmp_path: Path) -> None:
    seeds = lab.laptop.environment["DSTACK_SEEDS"]
    ann, ben = (
        make_peer(tmp_path, name, DSTACK_MDNS="0", DSTACK_SEEDS=seeds) for name in ("ann", "ben")
    )
    offer = lab.root.json("mesh", "invite", "--role", "admin")
    where = f"127.0.0.1:{offer['addresses'][0].rsplit(':', 1)[1]}"
    ann.dstack("mesh", "join", offer["code"], where, "--yes", check=True)
    old = ann.json("mesh", "members")["items"][0]["id"]
    turned = ann.json("mesh", "rotate")
    assert (turned["role"], turned["old_key"]) == ("admin", "overlapping")
    keys = {one["id"]: one for one in lab.root.json("mesh", "members")["items"]}
    assert (keys[old]["role"], keys[old]["issues"]) == ("runner", False)
    assert (keys[turned["peer"]]["role"], keys[turned["peer"]]["issues"]) == ("admin", True)
    with invitation(ann, "runner") as (code, addresses):
        where = f"127.0.0.1:{addresses[0].rsplit(':', 1)[1]}"
        ben.dstack("mesh", "join", code, where, "--yes", check=True)
    assert ben.json("agents")["items"], "heard by the agents"
    revoked = lab.root.json("mesh", "revoke", "ann", "--yes")
    assert revoked["id"] == turned["peer"], "of two keys of one name the newer is meant"
