"""Ctrl-C in front of a terminal and without one."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.alone import alone
from support.eventually import eventually
from support.lab import DSTACK, Peer, join_mesh, make_peer, said
from support.terminal import Terminal

LOOP = "trap 'echo bye; exit 7' TERM; echo up; while true; do sleep 0.05; done"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("cli")) as peer:
        peer.dstack("run", "bash", "-c", "true", check=True)
        yield peer


def status(peer: Peer, name: str) -> str:
    return str(peer.json("ps", name)["items"][0]["status"])


def name_in(seen: bytes) -> str:
    found = re.search(rb"([a-z]+-[a-z]+-\d+)  bash on", seen)
    assert found is not None, seen
    return found[1].decode()


@pytest.mark.timed
def test_one_press_detaches_at_once_and_the_run_goes_on(home: Peer) -> None:
    terminal = Terminal(home, "run", "bash", "-c", LOOP)
    terminal.read_until("up\r\n")
    terminal.press(b"\x03")
    assert terminal.read_until("Detached.") < 0.3
    terminal.read_until("dstack stop")
    assert terminal.end() == 130
    name = name_in(terminal.seen)
    assert status(home, name) == "running"
    assert "Ctrl-C detaches" in terminal.seen.decode()
    assert home.dstack("stop", name).returncode == 0


@pytest.mark.timed
def test_enter_ends_the_time_to_press_again(home: Peer) -> None:
    terminal = Terminal(home, "run", "bash", "-c", LOOP)
    terminal.read_until("up\r\n")
    terminal.press(b"\x03")
    terminal.read_until("Detached.")
    began = time.monotonic()
    terminal.press(b"\n")
    assert terminal.end() == 130
    assert time.monotonic() - began < 1.5
    assert home.dstack("stop", name_in(terminal.seen)).returncode == 0


def test_a_second_press_stops_gracefully(home: Peer) -> None:
    terminal = Terminal(home, "run", "bash", "-c", LOOP)
    terminal.read_until("up\r\n")
    terminal.press(b"\x03")
    terminal.read_until("Detached.")
    terminal.press(b"\x03")
    terminal.read_until("Stopping")
    assert terminal.end() == 7
    assert status(home, name_in(terminal.seen)) == "stopped"


def test_a_third_press_aborts(home: Peer) -> None:
    stubborn = "trap '' TERM; echo up; while true; do sleep 0.05; done"
    terminal = Terminal(home, "run", "bash", "-c", stubborn)
    terminal.read_until("up\r\n")
    for said_ in ("Detached.", "Stopping", "Aborting"):
        terminal.press(b"\x03")
        terminal.read_until(said_)
    assert terminal.end() == 137
    assert status(home, name_in(terminal.seen)) == "aborted"


@pytest.mark.timed
def test_detaching_after_coming_back_is_the_same(home: Peer) -> None:
    name = home.dstack("run", "bash", "-c", LOOP, "-d", "-q").stdout.decode().strip()
    terminal = Terminal(home, "attach", name)
    terminal.read_until("up\r\n")
    terminal.press(b"\x03")
    assert terminal.read_until("Detached.") < 0.3
    assert terminal.end() == 130
    assert home.dstack("stop", name).returncode == 0


def test_who_leaves_a_run_that_started_again_has_its_document(home: Peer) -> None:
    name = home.dstack("run", "bash", "-c", LOOP, "-d", "-q").stdout.decode().strip()
    assert b"only a run that ended is started again" in home.dstack("restart", name).stderr
    assert home.dstack("stop", name).returncode == 0
    terminal = Terminal(home, "restart", name, "--json")
    terminal.read_until("up\r\n")
    terminal.press(b"\x03")
    terminal.read_until("dstack.submitted/v1")
    assert terminal.end() == 130
    assert home.dstack("stop", "@").returncode == 0


def test_one_press_at_a_question_is_enough(home: Peer) -> None:
    home.dstack("run", "bash", "-c", "true", "--no-reuse", check=True)
    terminal = Terminal(home, "rm", "@")
    terminal.read_until("[y/N]")
    terminal.press(b"\x03")
    terminal.read_until("\nInterrupted.")
    assert terminal.end() == 130


def test_one_press_at_the_question_before_somebody_is_shut_out_is_enough(tmp_path: Path) -> None:
    founder = make_peer(tmp_path, "founder", DSTACK_MDNS="0")
    other = make_peer(tmp_path, "other", DSTACK_MDNS="0")
    join_mesh(founder, other)
    for words in (("mesh", "revoke", "other"), ("mesh", "leave")):
        for key, code in ((b"\x03", 130), (b"n\r", 2)):
            terminal = Terminal(founder, *words)
            terminal.read_until("[y/N]")
            terminal.press(key)
            assert terminal.end() == code
    assert {"this home", "member"} == {
        one["state"] for one in founder.json("mesh", "members")["items"]
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_a_terminal_a_signal_stops_gracefully(home: Peer, number: signal.Signals) -> None:
    running = home.popen(
        (*DSTACK, "run", "bash", "-c", LOOP),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    running.send_signal(number)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 7, err
    assert out == b"bye\n"
    assert b"\x1b" not in err


def test_a_closed_terminal_leaves_the_run_alone(home: Peer) -> None:
    terminal = Terminal(home, "run", "bash", "-c", LOOP)
    terminal.read_until("up\r\n")
    name = name_in(terminal.seen)
    os.kill(terminal.pid, signal.SIGHUP)
    assert terminal.end() == 130
    assert status(home, name) == "running"
    assert home.dstack("stop", name).returncode == 0


def test_only_colours_of_the_job_reach_the_terminal(home: Peer) -> None:
    job = r"printf '\033]0;owned\007\033[2J\033[31mred\033[0m\n'"
    terminal = Terminal(home, "run", "bash", "-c", job)
    terminal.read_until("done in")
    assert terminal.end() == 0
    assert b"owned" not in terminal.seen and b"\x1b[2J" not in terminal.seen
    assert b"\x1b[31mred\x1b[0m" in terminal.seen


def test_a_reader_that_leaves_does_not_harm_the_run(home: Peer) -> None:
    command = "yes | head -c 3000000; echo end >&2"
    ended = subprocess.run(
        ("sh", "-c", f"{' '.join(DSTACK)} run bash -c '{command}' | head -1"),
        cwd=home.home,
        env=home.environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == b"y\n", said(ended)
    assert b"Traceback" not in ended.stderr
    eventually(lambda: status(home, "@") == "done", within=20, every=0.3)
