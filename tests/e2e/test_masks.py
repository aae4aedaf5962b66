"""An agent whose system refuses namespaces: it says so, and runs jobs of others within walls."""

import json
import subprocess
from pathlib import Path

import pytest

from dstack_agent.executor import landlock
from support.eventually import eventually
from support.lab import RUNNER, join_mesh, make_peer, project, said

REFUSING = 'echo 0 > /proc/sys/user/max_mnt_namespaces && exec "$@"'
WORKFLOWS = """
workflows:
  - name: nothing
    provider: bash
    commands: ["true"]
"""
WARNED = "jobs of others reach the sockets of this user"


def refusing() -> tuple[str, ...]:
    """The words before a command that gets no mount namespace; none where that cannot be."""
    words = ("unshare", "--user", "--map-root-user", "sh", "-c", REFUSING, "sh")
    try:
        ran = subprocess.run((*words, "true"), capture_output=True, check=False)
    except FileNotFoundError:
        return ()
    return words if ran.returncode == 0 else ()


@pytest.mark.skipif(landlock.version() == 0, reason="the kernel of this machine has no Landlock")
@pytest.mark.skipif(not refusing(), reason="nothing refuses namespaces here")
@pytest.mark.parametrize("refused", [True, False])
def test_where_namespaces_are_refused_a_job_has_the_walls_alone_and_it_is_said(
    tmp_path: Path, free_port: int, refused: bool
) -> None:
    """Where they are not, nothing is said."""
    listens = f"127.0.0.1:{free_port}"
    station = make_peer(tmp_path, "ws", refusing() if refused else (), DSTACK_MDNS="0")
    laptop = make_peer(tmp_path, "laptop", DSTACK_MDNS="0", DSTACK_SEEDS=listens)
    join_mesh(station, laptop)
    code = project(tmp_path / "code", WORKFLOWS)
    key = station.home / "keys" / "key.pem"
    with station.runner("--listen", listens) as daemon:
        looks = f"cat {key}; grep -c NoNewPrivs:.1 /proc/self/status"
        ran = laptop.dstack("run", "bash", "-c", looks, "--remote", cwd=code, check=True)
        assert ran.stdout.strip() == b"1", said(ran)
        shut = b"Permission denied" if refused else b"No such file or directory"
        assert shut in ran.stderr, said(ran)
        if refused:
            eventually(lambda: WARNED in daemon.log.read_text(), within=10)
        told = daemon.log.read_text()
    assert told.count(WARNED) == refused
    assert ("No space left on device" in told and "max_mnt_namespaces" in told) == refused
    checked = station.popen((*RUNNER, "check", "--json"), stdout=subprocess.PIPE)
    notes = json.loads(checked.communicate()[0])["notes"]
    assert ("no-masks" in {note["code"] for note in notes}) == refused
