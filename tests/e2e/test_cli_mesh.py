"""Making a mesh, inviting, joining and leaving, with the commands alone."""

import json
import re
import subprocess
from pathlib import Path

from support.alone import agent_pid, alone
from support.eventually import eventually
from support.lab import DSTACK, RUNNER, Peer, invitation, make_peer, said


def founder(folder: Path) -> Peer:
    peer = make_peer(folder, "founder", DSTACK_MDNS="0")
    made = peer.dstack("mesh", "create", "vision lab", "--json", check=True)
    told = json.loads(made.stdout)
    assert (told["schema"], told["mesh"], told["role"]) == ("dstack.mesh/v1", "vision lab", "root")
    return peer


def test_both_sides_show_the_same_four_words(tmp_path: Path) -> None:
    first, second = founder(tmp_path), make_peer(tmp_path, "second", DSTACK_MDNS="0")
    inviting = first.popen(
        (*DSTACK, "mesh", "invite", "--role", "submitter", "--json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert inviting.stdout is not None
    offer = json.loads(inviting.stdout.readline())
    assert {"code", "addresses", "expires_at"} <= offer.keys()
    port = offer["addresses"][0].rsplit(":", 1)[1]
    joined = second.dstack("mesh", "join", offer["code"], f"127.0.0.1:{port}", "--yes")
    assert joined.returncode == 0, said(joined)
    _, shown = inviting.communicate(timeout=20)
    assert inviting.returncode == 0
    here = re.search(rb"must show: (\S+)", shown)
    there = re.search(rb"must show: (\S+)", joined.stderr)
    assert here is not None and there is not None
    assert here[1] == there[1] and here[1].count(b"-") == 3
    members = second.json("mesh", "members")
    assert members["items"][0]["role"] == "submitter"


def test_a_code_works_once_and_a_wrong_one_never(tmp_path: Path) -> None:
    first = founder(tmp_path)
    second, third = (make_peer(tmp_path, name, DSTACK_MDNS="0") for name in ("second", "third"))
    with invitation(first, "runner") as (code, addresses):
        where = f"127.0.0.1:{addresses[0].rsplit(':', 1)[1]}"
        wrong = code[:-1] + ("A" if code[-1] != "A" else "B")
        refused = third.dstack("mesh", "join", wrong, where, "--yes")
        assert refused.returncode == 77, said(refused)
        second.dstack("mesh", "join", code, where, "--yes", check=True)
    again = third.dstack("mesh", "join", code, where, "--yes")
    assert again.returncode in (66, 69), said(again)
    assert b"Traceback" not in again.stderr
    nonsense = third.dstack("mesh", "join", "hello", where, "--yes", "--json")
    assert nonsense.returncode == 64
    assert json.loads(nonsense.stdout)["error"]["code"] == "bad-invite-code"


def test_an_invitation_that_nobody_used_expires_and_says_so(tmp_path: Path) -> None:
    first = founder(tmp_path)
    ended = first.dstack("mesh", "invite", "--minutes", "0.05")
    assert ended.returncode == 66, said(ended)
    assert b"expired" in ended.stderr


def test_with_an_agent_the_invitation_returns_at_once(tmp_path: Path, free_port: int) -> None:
    first, second = founder(tmp_path), make_peer(tmp_path, "second", DSTACK_MDNS="0")
    with first.runner("--listen", f"127.0.0.1:{free_port}"):
        made = first.dstack("mesh", "invite", "--json", check=True, timeout=20)
        offer = json.loads(made.stdout)
        where = f"127.0.0.1:{offer['addresses'][0].rsplit(':', 1)[1]}"
        second.dstack("mesh", "join", offer["code"], where, "--yes", check=True)
        second.env = {**second.env, "DSTACK_SEEDS": f"127.0.0.1:{free_port}"}
        [agent] = second.json("agents")["items"]
        assert (agent["agent"], agent["found_by"], agent["state"]) == ("founder", "seed", "alive")


def test_a_daemon_can_start_right_after_a_private_agent_and_joining(
    tmp_path: Path, free_port: int
) -> None:
    with alone(tmp_path, DSTACK_MDNS="0") as peer:
        peer.dstack("run", "bash", "-c", "echo hi", check=True)
        assert agent_pid(peer) is not None
        peer.dstack("mesh", "create", "lab", check=True)
        eventually(lambda: agent_pid(peer) is None, within=5)
        with peer.runner("--listen", f"127.0.0.1:{free_port}"):
            assert [run["workflow"] for run in peer.json("ps", "-a")["items"]] == ["bash"]


def test_only_a_member_invites_and_leaving_ends_it(tmp_path: Path) -> None:
    stranger = make_peer(tmp_path, "stranger")
    refused = stranger.dstack("mesh", "invite")
    assert refused.returncode == 78
    assert b"dstack mesh" in refused.stderr
    first = founder(tmp_path)
    assert first.dstack("mesh", "leave").returncode == 2
    first.dstack("mesh", "leave", "--yes", check=True)
    assert first.dstack("mesh", "members").returncode == 78


def test_the_runners_own_join_needs_no_other_command(tmp_path: Path) -> None:
    first, second = founder(tmp_path), make_peer(tmp_path, "second", DSTACK_MDNS="0")
    with invitation(first, "runner") as (code, addresses):
        where = f"127.0.0.1:{addresses[0].rsplit(':', 1)[1]}"
        home = str(tmp_path / "elsewhere")
        joined = subprocess.run(
            (*RUNNER, "join", code, where, "--home", home, "--yes"),
            env=second.environment,
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert joined.returncode == 0, said(joined)
    assert (Path(home) / "keys" / "membership.json").exists()
