"""Starts the agent and has the system keep it running; or starts it alone where nothing does."""

import contextlib
import getpass
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from dstack_cli.enrolling.there.places import Places, session, write_whole

READY_SECONDS = 45.0
END_SECONDS = 15.0
LOOK_SECONDS = 0.1
TAIL_LINES = 8
MOST_LOG_BYTES = 16 << 20
"""Beyond it the log begins anew, and the one before is kept."""


def answer(request: dict[str, Any], body: IO[bytes], tell: Callable[[str], None]) -> dict[str, Any]:
    """Says how it is kept (`systemd`, `detached` or `other`), and why it does not serve if so.

    An agent that serves just as it would be started now is left alone.
    """
    places = Places(request["home"])
    noted: dict[str, Any] = request["noted"]
    if places.answers() and not request["ours"]:
        write_whole(places.noted, _json(noted | {"kept": "other"}))
        return {"kept": "other", "no_unit": "", "trouble": "", "again": False}
    before = places.read_noted()
    kept = str(before.get("kept", ""))
    if before == noted | {"kept": kept, "started": request["environment"]} and (
        places.answers() and not request["restart"] and _as_written(places, request)
    ):
        return {"kept": kept, "no_unit": _why_no_unit(request), "trouble": "", "again": False}
    write_whole(places.serve, request["serve"].encode(), 0o700)
    no_unit = _why_no_unit(request) or _unit_trouble(places, request["unit"])
    by_systemd = not no_unit
    kept = "systemd" if by_systemd else "detached"
    write_whole(places.noted, _json(noted | {"kept": kept}))
    end_detached(places)
    if not by_systemd:
        end_unit(places)
    trouble = _start_unit(places) if by_systemd else _start_detached(places)
    if not trouble:
        noted |= {"kept": kept, "started": request["environment"]}
        write_whole(places.noted, _json(noted))
    return {"kept": kept, "no_unit": no_unit, "trouble": trouble, "again": True}


def _as_written(places: Places, request: dict[str, Any]) -> bool:
    """Whether script and unit are as they would be written now."""
    if not places.serve.exists() or places.serve.read_text() != request["serve"]:
        return False
    if _why_no_unit(request):
        return not places.unit.exists()
    return places.unit.exists() and places.unit.read_text() == request["unit"]


def _why_no_unit(request: dict[str, Any]) -> str:
    """Why the agent is not to be a service: "not-wanted", or "linger"; empty if it is to be.

    The services of a user who may not linger end with their last login, and jobs with them; what
    was started alone stays.
    """
    if not request["unit"]:
        return "not-wanted"
    return "" if _linger() else "linger"


def _json(noted: dict[str, Any]) -> bytes:
    return json.dumps(noted, indent=1).encode()


def _systemctl(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ("systemctl", "--user", *words),
        env=session(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def _unit_trouble(places: Places, text: str) -> str:
    """Writes the unit and has systemd read it; what went wrong."""
    write_whole(places.unit, text.encode(), 0o644)
    for words in (("daemon-reload",), ("enable", places.unit_name)):
        ended = _systemctl(*words)
        if ended.returncode != 0:
            return ended.stderr.strip()
    return ""


def _start_unit(places: Places) -> str:
    ended = _systemctl("restart", places.unit_name)
    if ended.returncode == 0:
        return ""
    journal = ("journalctl", "--user", "-u", places.unit_name, "-n", str(TAIL_LINES), "-o", "cat")
    said = subprocess.run(journal, env=session(), capture_output=True, text=True, check=False)
    return f"{ended.stderr.strip()}\n{said.stdout.strip()}".strip()


def _linger() -> bool:
    """Whether services of this user stay when nobody is logged in; asks for it if not."""
    if Path("/var/lib/systemd/linger", getpass.getuser()).exists():
        return True
    ended = subprocess.run(
        ("loginctl", "enable-linger"),
        env=session(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return ended.returncode == 0


def _start_detached(places: Places) -> str:
    """Starts it as nobody's child and waits until it is ready; what it said if it does not start.

    It tells by the same datagram that systemd waits for.
    """
    for folder in (places.log.parent, places.pid.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if places.log.exists() and places.log.stat().st_size > MOST_LOG_BYTES:
        places.log.replace(places.log.with_suffix(".log.1"))
    heard_at = places.pid.with_name("ready.sock")
    heard_at.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard, places.log.open("ab") as log:
        heard.bind(str(heard_at))
        process = subprocess.Popen(
            (str(places.serve),),
            env={**os.environ, "NOTIFY_SOCKET": str(heard_at)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=places.root,
            start_new_session=True,
        )
        write_whole(places.pid, f"{process.pid} {_started(process.pid)}".encode())
        ready = _is_ready(heard, process)
    heard_at.unlink(missing_ok=True)
    return "" if ready else _tail(places.log)


def _is_ready(heard: socket.socket, process: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + READY_SECONDS
    heard.settimeout(LOOK_SECONDS)
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            if b"READY=1" in heard.recv(4096).splitlines():
                return True
    return False


def end_detached(places: Places) -> None:
    """Ends the agent that was started alone before, if it still runs; its jobs go on."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + END_SECONDS
        if (pid := detached_pid(places)) is not None:
            os.kill(pid, number)
        while detached_pid(places) is not None and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)


def end_unit(places: Places) -> None:
    """Ends and forgets the unit, if there is one; jobs go on."""
    if places.unit.exists():
        _systemctl("disable", "--now", places.unit_name)
        places.unit.unlink(missing_ok=True)
        _systemctl("daemon-reload")


def detached_pid(places: Places) -> int | None:
    """The process that was started alone; None if it ended, whoever has its number now."""
    try:
        pid, started = places.pid.read_text().split()
        return int(pid) if _started(int(pid)) == started else None
    except (OSError, ValueError):
        return None


def _started(pid: int) -> str:
    """When a process was started, as the kernel counts; with its number it names one process.

    One that ended and was not buried yet is none.
    """
    state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[18] if state != "Z" else "ended"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    return "\n".join(lines) or "It ended and said nothing."
