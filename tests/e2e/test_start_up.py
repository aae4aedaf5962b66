"""Help, version and completion are quick, write nothing, open no socket, import nothing heavy."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEAVY = (
    "asyncio",
    "boto3",
    "cryptography",
    "docker",
    "grpc",
    "rich",
    "sqlite3",
    "yaml",
    "zeroconf",
)

WATCH = """
import atexit, json, os, sys
seen = {"writes": [], "sockets": []}
def hook(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
        seen["writes"].append(str(args[0]))
    elif event in ("os.mkdir", "os.rename", "os.remove"):
        seen["writes"].append(str(args[0]))
    elif event == "socket.__new__":
        seen["sockets"].append(str(args[1:]))
sys.addaudithook(hook)
descriptor = int(sys.argv.pop(1))
from dstack_cli.main import main
code = main(sys.argv[1:])
os.write(descriptor, json.dumps(seen | {"code": code, "modules": sorted(sys.modules)}).encode())
"""

LIGHT = [
    ("--help",),
    ("--version",),
    (),
    ("run", "--help"),
    ("mesh", "--help"),
    ("completion", "bash"),
    ("completion", "zsh"),
    ("completion", "fish"),
]


def watched(folder: Path, *arguments: str) -> dict[str, Any]:
    """What a command line did, as seen by an audit hook in its process."""
    report = folder / "report"
    with report.open("wb") as sink:
        subprocess.run(
            (sys.executable, "-B", "-c", WATCH, str(sink.fileno()), *arguments),
            cwd=folder,
            env={"DSTACK_HOME": str(folder / "home"), "PYTHONPATH": ":".join(sys.path)},
            pass_fds=(sink.fileno(),),
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return json.loads(report.read_text())


@pytest.mark.parametrize("arguments", LIGHT, ids=lambda words: " ".join(words) or "bare")
def test_light_commands_write_nothing_open_no_socket_and_import_nothing_heavy(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    seen = watched(tmp_path, *arguments)
    assert seen["code"] == 0
    assert seen["writes"] == []
    assert seen["sockets"] == []
    assert [name for name in HEAVY if name in seen["modules"]] == []
    assert not (tmp_path / "home").exists()


def test_the_hook_would_see_a_write_and_a_socket(tmp_path: Path) -> None:
    """The negative control: `init` writes files."""
    assert watched(tmp_path, "init")["writes"] != []


def cpu_seconds(folder: Path, *command: str) -> float:
    """User and system time of the quickest of a few runs."""
    spent: list[float] = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            command,
            cwd=folder,
            env={"DSTACK_HOME": str(folder / "home"), "PYTHONPATH": ":".join(sys.path)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("completion", "bash")])
def test_light_commands_take_no_more_than_a_tenth_of_a_second(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """On a machine where Python itself is slow the bound is a multiple of a bare `import click`."""
    click = cpu_seconds(tmp_path, sys.executable, "-c", "import click")
    ours = cpu_seconds(tmp_path, sys.executable, "-m", "dstack_cli.main", *arguments)
    assert ours <= max(0.10, 3 * click)
