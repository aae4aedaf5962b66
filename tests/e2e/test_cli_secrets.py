"""`dstack secrets`, and runs that ask for some."""

import os
import pty
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_agent.executor import landlock
from dstack_agent.executor.masking import why_no_masks
from support.alone import agent_pid, alone
from support.lab import DSTACK, Peer, join_mesh, make_peer, project, said
from support.launches import has_memory

VALUE = "hunter2-canary 'quoted'"

WORKFLOWS = """
workflows:
  - name: use
    provider: bash
    secrets: [TOKEN]
    env: ["URL=https://me:${{ secrets.PASS }}@host"]
    commands:
      - printf %s "$TOKEN" | wc -c; printf %s "$URL" | wc -c
      - if [ "$DSTACK_SECRETS_DIR" ]; then cat "$DSTACK_SECRETS_DIR/TOKEN" | wc -c; fi
      - echo "token $TOKEN"; echo ${PASS-no variable of that name}
  - name: missing
    provider: bash
    secrets: [NOT_THERE]
    commands: [echo started]
  - name: shaky
    provider: bash
    secrets: [TOKEN]
    retry: 1
    artifacts: [out]
    commands: ['echo "try $DSTACK_ATTEMPT" | tee -a out/tries', 'test "$DSTACK_ATTEMPT" = 2']
  - name: first
    provider: bash
    commands: [mkdir -p out, sleep 1]
    artifacts: [out]
  - name: chain
    provider: bash
    depends-on: [first]
    secrets: [TOKEN]
    commands: [echo chained $TOKEN]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("cli")) as peer:
        yield peer


@pytest.fixture
def code(tmp_path: Path) -> Path:
    return project(tmp_path / "p", WORKFLOWS)


def give(
    peer: Peer, code: Path, *words: str, value: str = VALUE
) -> subprocess.CompletedProcess[bytes]:
    """`dstack secrets …` with a value on standard input."""
    return subprocess.run(
        (*DSTACK, "secrets", *words),
        cwd=code,
        env=peer.environment,
        input=f"{value}\n".encode(),
        capture_output=True,
        check=False,
    )


def names(peer: Peer, code: Path) -> list[str]:
    return [item["name"] for item in peer.json("secrets", cwd=code)["items"]]


def test_a_secret_is_kept_listed_by_name_changed_and_forgotten(home: Peer, code: Path) -> None:
    assert names(home, code) == []
    assert give(home, code, "add", "TOKEN", "-").returncode == 0
    assert names(home, code) == ["TOKEN"]
    listed = home.dstack("secrets", "list", cwd=code)
    assert listed.stdout.split() == [b"NAME", b"TOKEN"]
    again = give(home, code, "add", "TOKEN", "-")
    assert again.returncode == 76, said(again)
    assert give(home, code, "add", "-y", "TOKEN", "-").returncode == 0
    assert give(home, code, "update", "TOKEN", "-", value="new").returncode == 0
    unknown = give(home, code, "update", "OTHER", "-")
    assert unknown.returncode == 66 and b"dstack secrets add OTHER" in unknown.stderr
    assert home.dstack("secrets", "delete", "TOKEN", cwd=code).returncode == 2
    assert home.dstack("secrets", "delete", "-y", "TOKEN", cwd=code).returncode == 0
    assert home.dstack("secrets", "delete", "-y", "TOKEN", cwd=code).returncode == 66
    assert names(home, code) == []


@pytest.mark.parametrize("name", ["1X", "A-B", "LD_PRELOAD", "PATH", "DSTACK_HOME", "a b", ""])
def test_a_name_that_no_variable_can_have_is_refused(home: Peer, code: Path, name: str) -> None:
    refused = give(home, code, "add", name, "-")
    assert refused.returncode == 2 and b"cannot be the name of a secret" in refused.stderr


def test_a_value_on_the_command_line_is_taken_with_a_warning(home: Peer, code: Path) -> None:
    kept = home.dstack("secrets", "add", "ARGUED", VALUE, cwd=code)
    assert kept.returncode == 0
    assert kept.stderr.count(b"history") == 1
    assert VALUE.encode() not in kept.stdout + kept.stderr


def test_on_a_terminal_the_value_is_asked_for_and_not_shown(home: Peer, code: Path) -> None:
    leader, follower = pty.openpty()
    asked = subprocess.Popen(
        (*DSTACK, "secrets", "add", "TYPED"),
        cwd=code,
        env=home.environment,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    shown = b""
    while b"not shown" not in shown:
        shown += os.read(leader, 1000)
    os.write(leader, f"{VALUE}\n".encode())
    assert asked.wait(20) == 0
    shown += os.read(leader, 4000)
    os.close(leader)
    assert VALUE.encode() not in shown
    assert "TYPED" in names(home, code)


def test_a_run_starts_again_with_the_secrets_of_its_own_repository_alone(
    home: Peer, code: Path, tmp_path: Path
) -> None:
    other = project(tmp_path / "q", WORKFLOWS)
    for folder in (code, other):
        for name in ("TOKEN", "PASS"):
            assert give(home, folder, "add", name, "-", value=folder.name).returncode == 0
    assert home.dstack("run", "use", "--no-reuse", cwd=code).returncode == 0
    name = str(home.json("ps", "-n", "1")["items"][0]["run"])
    refused = home.dstack("restart", name, cwd=other)
    assert refused.returncode == 2, said(refused)
    assert b"takes secrets of p" in refused.stderr and b"cd to p" in refused.stderr
    home.dstack("restart", name, cwd=code, check=True)


def test_without_a_value_and_a_terminal_it_says_how(home: Peer, code: Path) -> None:
    ended = home.dstack("secrets", "add", "TOKEN", cwd=code)
    assert ended.returncode == 2
    assert b"dstack secrets add TOKEN - < FILE" in ended.stderr


def test_values_are_the_owner_s_alone_and_of_one_repository(
    home: Peer, code: Path, tmp_path: Path
) -> None:
    give(home, code, "add", "TOKEN", "-")
    other = project(tmp_path / "other" / "p", WORKFLOWS)
    assert names(home, other) == []
    kept = home.home / "secrets"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in kept.iterdir()} == {0o600}


def test_a_run_gets_its_secrets_and_its_log_shows_stars(home: Peer, code: Path) -> None:
    give(home, code, "add", "TOKEN", "-")
    give(home, code, "add", "PASS", "-", value="p4ssw0rd")
    ended = home.dstack("run", "use", cwd=code)
    assert ended.returncode == 0, said(ended)
    length, url = len(VALUE), len("https://me:p4ssw0rd@host")
    file = f"{length}\n" if has_memory() else ""
    expected = f"{length}\n{url}\n{file}token {'*' * length}\nno variable of that name\n"
    assert ended.stdout.decode() == expected
    told = (ended, home.dstack("ps", "-a", "--json"), home.dstack("logs", "@"))
    assert all(b"hunter2" not in each.stdout + each.stderr for each in told)


def test_a_plan_shows_names_and_placeholders(home: Peer, code: Path) -> None:
    give(home, code, "add", "TOKEN", "-")
    (job,) = home.json("run", "use", "--dry-run", cwd=code)["jobs"]
    assert job["secrets"] == ["TOKEN", "PASS"]
    assert job["env"]["URL"] == "https://me:${{ secrets.PASS }}@host"


def test_a_secret_that_is_not_kept_stops_the_run_before_anything_is_sent(
    home: Peer, code: Path
) -> None:
    before = home.json("ps", "-a")["items"]
    refused = home.dstack("run", "missing", cwd=code)
    assert refused.returncode == 2, said(refused)
    assert b"dstack secrets add NOT_THERE" in refused.stderr
    assert home.json("ps", "-a")["items"] == before


def test_a_chain_with_secrets_is_not_handed_over(home: Peer, code: Path) -> None:
    give(home, code, "add", "TOKEN", "-")
    refused = home.dstack("run", "chain", "-d", cwd=code)
    assert refused.returncode == 2, said(refused)
    assert b"chain will need secrets" in refused.stderr
    attached = home.dstack("run", "chain", cwd=code)
    assert attached.returncode == 0, said(attached)
    assert b"chained ****" in attached.stdout


def test_one_job_with_secrets_is_left_once_an_agent_has_it(home: Peer, code: Path) -> None:
    give(home, code, "add", "TOKEN", "-")
    give(home, code, "add", "PASS", "-", value="p4ssw0rd")
    left = home.dstack("run", "use", "-d", "-q", cwd=code, check=True)
    ended = home.dstack("wait", left.stdout.decode().strip())
    assert ended.returncode == 0, said(ended)


def test_ctrl_c_does_not_leave_a_job_that_will_need_secrets(home: Peer, code: Path) -> None:
    give(home, code, "add", "TOKEN", "-")
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        (*DSTACK, "run", "chain"),
        cwd=code,
        env=home.environment,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(follower)
    shown = b""
    while b"on home" not in shown:
        shown += os.read(leader, 1000)
    os.write(leader, b"\x03")
    while b"chained" not in shown:
        shown += os.read(leader, 1000)
    assert running.wait(30) == 0
    os.close(leader)
    assert b"Still attached: chain will need secrets" in shown


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.skipif(landlock.version() == 0, reason="the kernel of this machine has no Landlock")
def test_a_job_that_somebody_else_submits_does_not_read_the_agent_s_key(
    tmp_path: Path, free_port: int
) -> None:
    station = make_peer(tmp_path, "ws", DSTACK_MDNS="0")
    laptop = make_peer(tmp_path, "laptop", DSTACK_MDNS="0", DSTACK_SEEDS=f"127.0.0.1:{free_port}")
    join_mesh(station, laptop)
    code = project(tmp_path / "code", WORKFLOWS)
    keys = [path for path in (station.home / "keys").rglob("*.pem") if "key" in path.name]
    assert keys
    refused = b"Permission denied" if why_no_masks() else b"No such file or directory"
    with station.runner("--listen", f"127.0.0.1:{free_port}"):
        for path in (*keys, station.home / "state"):
            command = f"cat {path} $(find {path} -type f | head -1)"
            tried = laptop.dstack("run", "bash", "-c", command, "--remote", cwd=code)
            assert tried.returncode == 1, said(tried)
            assert refused in tried.stderr and b"BEGIN" not in tried.stdout
        own = station.dstack("run", "bash", "-c", f"cat {keys[0]}", "--local", cwd=code)
        assert b"BEGIN" in own.stdout, said(own)  # the command would find it
        (agent,) = laptop.json("agents")["items"]
        assert agent["isolation"]["process"] == ("plain" if os.getuid() == 0 else "landlock")
        assert b"ISOLATION" in laptop.dstack("agents", "-v").stdout


def test_an_agent_leaves_no_core_file(home: Peer, code: Path) -> None:
    home.dstack("run", "hello", cwd=code, check=True)
    limits = Path(f"/proc/{agent_pid(home)}/limits").read_text()
    assert [line.split()[4] for line in limits.splitlines() if "core file" in line] == ["0"]


def test_a_job_with_secrets_is_not_tried_again_without_its_submitter(
    home: Peer, code: Path
) -> None:
    give(home, code, "add", "-y", "TOKEN", "-")
    left = home.dstack("run", "shaky", "-d", cwd=code, check=True)
    assert b"shaky is not tried again without you: secrets are kept" in left.stderr
    assert home.dstack("wait", "@", cwd=code).returncode == 1
    (run,) = home.json("ps", "@", cwd=code)["items"]
    assert (run["status"], run["exit_code"], run["jobs"][0]["attempt"]) == ("failed", 1, 1)
