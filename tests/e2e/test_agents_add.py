"""`dstack agents add` and `remove`, over a real ssh server to a user who is not us."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from support.eventually import eventually
from support.lab import DSTACK, Peer, make_peer, said
from support.netns import lan
from support.netns import missing as no_namespaces
from support.ssh_machine import SshMachine, missing, ssh_machine, ssh_server

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

JOB_WITHIN_SECONDS = 90
USER = "dstack-host"
USUAL = ".local/share/dstack"


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """A home with a mesh; what it carries is put together once for all tests."""
    peer = make_peer(tmp_path_factory.mktemp("ssh"), "laptop", DSTACK_MDNS="0")
    peer.dstack("mesh", "create", "lab", check=True)
    return peer


@pytest.fixture(scope="module")
def box() -> Generator[SshMachine]:
    """A host. What one test installs the next one finds, as on a host that is added again."""
    with ssh_machine(USER) as machine:
        yield machine


def words(box: SshMachine, *flags: str, port: int = 0) -> tuple[str, ...]:
    """The command line after `dstack`; the agent listens on loopback."""
    listen = ("--listen", f"127.0.0.1:{port or box.agent_port}")
    return ("agents", "add", box.target, *box.flags, *listen, "--name", "box", *flags)


def add(
    laptop: Peer, box: SshMachine, *flags: str, port: int = 0
) -> "subprocess.CompletedProcess[bytes]":
    """The command to its end."""
    return laptop.dstack(*words(box, *flags, port=port), timeout=120)


def refused(ended: "subprocess.CompletedProcess[bytes]") -> tuple[str, str]:
    """Code and message of an error in JSON, which is all that standard output has."""
    assert ended.returncode not in (0, 70), said(ended)
    assert b"Traceback" not in ended.stderr
    error = json.loads(ended.stdout)["error"]
    return error["code"], error["message"]


def agent_of(box: SshMachine) -> int:
    """The process of the one agent of the usual home there. Fails if there are several."""
    [pid] = box.processes(f"dstack-runner start --home {box.home / USUAL} ")
    return pid


def test_what_ssh_says_is_told_in_words_and_nothing_is_changed(
    laptop: Peer, box: SshMachine
) -> None:
    before = list(box.home.glob(".local/*"))
    box.know("other")
    assert refused(add(laptop, box, "--json"))[0] == "ssh-host-key-changed"
    box.known_hosts.write_text("")
    assert refused(add(laptop, box, "--json"))[0] == "ssh-host-unknown"
    assert box.known_hosts.read_text() == ""
    box.know()
    stranger = replace(box, user="no-such-user")
    assert refused(add(laptop, stranger, "--json"))[0] == "ssh-permission-denied"
    closed = replace(box, port=box.agent_port)
    assert refused(add(laptop, closed, "--json"))[0] == "ssh-refused"
    nowhere = replace(box, address="no-such-host.invalid")
    assert refused(add(laptop, nowhere, "--json"))[0] == "ssh-no-such-host"
    assert refused(add(laptop, box, "-o", "NoSuchOption=1", "--json"))[0] == "ssh-option"
    assert list(box.home.glob(".local/*")) == before
    without = replace(laptop, env={**laptop.env, "PATH": "/nowhere"})
    assert refused(add(without, box, "--json"))[0] == "ssh-missing"


def test_a_host_that_cannot_be_added_leaves_no_mesh_behind(
    box: SshMachine, tmp_path: Path, free_port: int
) -> None:
    newcomer = make_peer(tmp_path, "newcomer", DSTACK_MDNS="0")
    assert refused(add(newcomer, box, "--json"))[0] == "not-agreed"
    closed = replace(box, port=free_port)
    assert refused(add(newcomer, closed, "-y", "--json"))[0] == "ssh-refused"
    assert not (newcomer.home / "keys" / "membership.json").exists()


def test_a_job_lands_on_the_host_soon_after_the_command_was_typed(
    laptop: Peer, box: SshMachine, tmp_path: Path
) -> None:
    began = time.monotonic()
    added = add(laptop, box, "--json")
    assert added.returncode == 0, said(added)
    ran = laptop.dstack(*("run", "--remote=box", "bash", "-c", "id -un"), cwd=tmp_path)
    assert time.monotonic() - began < JOB_WITHIN_SECONDS
    assert (ran.returncode, ran.stdout.decode().strip()) == (0, USER), said(ran)
    told = json.loads(added.stdout)
    assert told["schema"] == "dstack.added/v1"
    assert (told["agent"], told["kept"], len(told["words"])) == ("box", "detached", 4)
    assert not told["survives_restart"] and "setsid" in " ".join(told["notes"])
    mode = (box.home / USUAL / "keys/key.pem").stat().st_mode
    assert mode & 0o077 == 0


def test_adding_again_leaves_what_is_well_and_mends_what_is_not(
    laptop: Peer, box: SshMachine, tmp_path: Path
) -> None:
    assert add(laptop, box).returncode == 0
    first = agent_of(box)
    again = add(laptop, box, "--json")
    assert again.returncode == 0, said(again)
    assert json.loads(again.stdout)["words"] == []
    assert agent_of(box) == first
    running = laptop.dstack(
        *("run", "-d", "-q", "--remote=box", "bash", "-c", "sleep 4; echo went on"),
        cwd=tmp_path,
        check=True,
    )
    renamed = add(laptop, box, "--name", "crate", "--json")
    assert json.loads(renamed.stdout)["agent"] == "crate", said(renamed)
    second = agent_of(box)
    assert second != first
    os.kill(second, signal.SIGKILL)
    (box.home / USUAL / "software/serve").unlink()
    mended = add(laptop, box, "--name", "crate")
    assert mended.returncode == 0, said(mended)
    assert agent_of(box) not in (first, second)
    name = running.stdout.decode().strip()
    log = laptop.dstack("logs", "-f", name, cwd=tmp_path)
    assert (log.returncode, log.stdout) == (0, b"went on\n"), said(log)


def test_what_stands_in_the_way_on_the_host_is_told_at_once(
    laptop: Peer, box: SshMachine, tmp_path: Path, free_port: int
) -> None:
    import socket

    full = box.home / "tiny"
    full.mkdir()
    with _tiny_disk(full), socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        ended = add(laptop, box, "--remote-home", "tiny/agent", "--json", port=free_port)
    code, message = refused(ended)
    assert code == "host-not-ready"
    assert "host-disk-full" in message and "host-port-taken" in message
    assert list(full.iterdir()) == []
    stranger = make_peer(tmp_path, "stranger", DSTACK_MDNS="0")
    assert add(laptop, box).returncode == 0
    stranger.dstack("mesh", "create", "other", check=True)
    assert refused(add(stranger, box, "--json"))[0] == "host-in-other-mesh"
    member = json.loads((box.home / USUAL / "keys/membership.json").read_text())
    assert member["mesh_name"] == "lab"


def test_a_disk_that_fills_up_half_way_is_told_and_leaves_no_half_software(
    laptop: Peer, box: SshMachine, free_port: int
) -> None:
    full = box.home / "full"
    full.mkdir()
    with _tiny_disk(full, free="400m"):
        filler = full / "filler"
        with filler.open("wb") as file:
            # Enough by the estimate, not enough in truth: somebody else fills it meanwhile.
            process = laptop.popen(
                (*DSTACK, *words(box, "--remote-home", "full/home", port=free_port)),
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
            )
            eventually(lambda: (full / "home" / "software").exists(), within=60)
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * (1 << 20))
                    file.flush()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 75, errors.decode()
        assert b"host-disk-full" in errors
        assert not (full / "home" / "software" / "current").exists()
        filler.unlink()
        again = add(laptop, box, "--remote-home", "full/home", "--name", "full", port=free_port)
        assert again.returncode == 0, said(again)


def test_where_the_connection_breaks_the_same_command_goes_on(
    laptop: Peer, box: SshMachine, free_port: int
) -> None:
    process = laptop.popen(
        (*DSTACK, *words(box, "--remote-home", "cut", "--json", port=free_port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    wheels = box.home / "cut/software/wheels"
    eventually(lambda: wheels.exists() and list(wheels.glob("*.whl")), within=60, every=0.001)
    box.cut()
    output, _ = process.communicate(timeout=60)
    error = json.loads(output)["error"]
    assert (process.returncode, error["code"]) == (69, "ssh-lost")
    assert "dstack agents add" in error["hint"]
    kept = len(list(wheels.glob("*.whl")))
    assert kept
    again = add(laptop, box, "--remote-home", "cut", "--name", "cut", port=free_port)
    assert again.returncode == 0, said(again)
    assert b"sent" in again.stderr


def test_ctrl_c_half_way_says_how_to_go_on_and_leaves_nothing_running(
    laptop: Peer, box: SshMachine, free_port: int
) -> None:
    process = laptop.popen(
        (*DSTACK, *words(box, "--remote-home", "stopped", port=free_port)),
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    software = box.home / "stopped/software"
    eventually(software.exists, within=60, every=0.001)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    assert b"goes on from there" in errors and b"Traceback" not in errors
    eventually(lambda: not box.processes("json.loads"), within=10)
    again = add(laptop, box, "--remote-home", "stopped", "--name", "stopped", port=free_port)
    assert again.returncode == 0, said(again)


def test_where_ssh_may_forward_nothing_the_host_joins_over_the_network(
    laptop: Peer, box: SshMachine
) -> None:
    assert add(laptop, box).returncode == 0
    (box.home / USUAL / "keys/membership.json").unlink()
    with ssh_server(USER, "AllowTcpForwarding=no") as strict:
        joined = add(laptop, strict, "--json", port=box.agent_port)
    assert joined.returncode == 0, said(joined)
    assert len(json.loads(joined.stdout)["words"]) == 4


def test_noisy_start_up_files_and_another_shell_change_nothing(
    laptop: Peer, box: SshMachine
) -> None:
    (box.home / ".bashrc").write_text("echo 'Welcome!'; printf '%s\\n' '--dstack--' >&2\n")
    assert add(laptop, box).returncode == 0


def test_removing_ends_the_agent_and_keeps_its_data_unless_told(
    laptop: Peer, box: SshMachine
) -> None:
    (laptop.home / "state" / "hosts.json").unlink(missing_ok=True)
    assert laptop.dstack("agents", "remove", "box").returncode == 66
    assert add(laptop, box).returncode == 0
    kept = box.home / USUAL / "keys/key.pem"
    removed = laptop.dstack("agents", "remove", "box", "--json")
    assert removed.returncode == 0, said(removed)
    assert kept.exists()
    assert not (box.home / USUAL / "software").exists()
    with pytest.raises(ValueError):
        agent_of(box)
    assert add(laptop, box).returncode == 0
    asked = laptop.dstack("agents", "remove", "box", "--purge")
    assert asked.returncode == 2 and b"(not-agreed)" in asked.stderr, said(asked)
    assert kept.exists()
    assert laptop.dstack("agents", "remove", "box", "--purge", "-y").returncode == 0
    assert not kept.parent.parent.exists()


@pytest.mark.netns
@pytest.mark.skipif(bool(no_namespaces()), reason=no_namespaces() or "-")
def test_a_host_without_internet_needs_none(tmp_path: Path) -> None:
    """Nor does who adds it need a mesh: with -y one is made."""
    with (
        lan(["laptop", "box"]) as net,
        ssh_machine(f"{USER}-far", prefix=net["box"].prefix, address=net["box"].address) as box,
    ):
        outside = net["box"].popen(("getent", "hosts", "pypi.org"), stdout=subprocess.DEVNULL)
        assert outside.wait(timeout=60) != 0
        inside = make_peer(tmp_path, "newcomer", net["laptop"].prefix, DSTACK_MDNS="0")
        words = ("agents", "add", box.target, *box.flags, "--name", "far", "-y")
        added = inside.dstack(*words, timeout=120)
        assert added.returncode == 0, said(added)
        ran = inside.dstack(*("run", "--remote=far", "bash", "-c", "id -un"), cwd=tmp_path)
        assert ran.stdout.decode().strip() == f"{USER}-far", said(ran)


@contextlib.contextmanager
def _tiny_disk(folder: Path, free: str = "4m") -> Generator[None]:
    """A disk that holds next to nothing, mounted there."""
    owner = f"uid={folder.parent.stat().st_uid}"
    subprocess.run(
        ("mount", "-t", "tmpfs", "-o", f"size={free},{owner}", "tmpfs", str(folder)), check=True
    )
    try:
        yield
    finally:
        subprocess.run(("umount", "-l", str(folder)), check=True)
