"""Help, version and completion are quick, write nothing, open no socket, import nothing heavy."""

import json
import resource
import shutil
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
import importlib, json, os, sys
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
main = importlib.import_module(sys.argv.pop(1)).main
code = main(sys.argv[1:])
os.write(descriptor, json.dumps(seen | {"code": code, "modules": sorted(sys.modules)}).encode())
"""

LIGHT = [
    ("--help",),
    ("--version",),
    (),
    ("run", "--help"),
    ("mesh", "--help"),
    ("offers", "--help"),
    ("top", "--help"),
    ("completion", "bash"),
    ("completion", "zsh"),
    ("completion", "fish"),
]


DSTACK, RUNNER = "dstack_cli.main", "dstack_agent.command"

LIGHT_RUNNER = [
    ("--help",),
    ("--version",),
    ("start", "--help"),
    ("join", "--help"),
    ("status", "--help"),
    ("check", "--help"),
]

BOTH = [*((DSTACK, words) for words in LIGHT), *((RUNNER, words) for words in LIGHT_RUNNER)]


def watched(folder: Path, *arguments: str, command: str = DSTACK) -> dict[str, Any]:
    """What a command line did, as seen by an audit hook in its process."""
    report = folder / "report"
    with report.open("wb") as sink:
        subprocess.run(
            (sys.executable, "-B", "-c", WATCH, str(sink.fileno()), command, *arguments),
            cwd=folder,
            env={"DSTACK_HOME": str(folder / "home"), "PYTHONPATH": ":".join(sys.path)},
            pass_fds=(sink.fileno(),),
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return json.loads(report.read_text())


@pytest.mark.parametrize(
    ("command", "arguments"),
    BOTH,
    ids=[f"{name.split('.')[0]} {' '.join(words)}" for name, words in BOTH],
)
def test_light_commands_write_nothing_open_no_socket_and_import_nothing_heavy(
    tmp_path: Path, command: str, arguments: tuple[str, ...]
) -> None:
    seen = watched(tmp_path, *arguments, command=command)
    assert seen["code"] == 0
    assert seen["writes"] == []
    assert seen["sockets"] == []
    assert [name for name in HEAVY if name in seen["modules"]] == []
    assert not (tmp_path / "home").exists()


def test_where_no_remote_is_named_nothing_of_remotes_is_loaded(tmp_path: Path) -> None:
    seen = watched(tmp_path, "ps", "-a")
    loaded = [name for name in seen["modules"] if name.startswith(("boto", "dstack_mesh.remotes"))]
    assert (seen["code"], loaded) == (0, [])
    (tmp_path / "home" / "remotes.json").write_text('{"default": "", "remotes": {}}')
    assert "dstack_mesh.remotes.configured" in watched(tmp_path, "ps", "-a")["modules"]


def test_the_hook_would_see_a_write_and_a_socket(tmp_path: Path) -> None:
    """The negative control: `init` writes files."""
    assert watched(tmp_path, "init")["writes"] != []
    working = watched(tmp_path, "check", command=RUNNER)
    assert working["sockets"] != []
    assert {"grpc", "sqlite3", "cryptography"} & set(working["modules"])


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


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (DSTACK, ("--help",)),
        (DSTACK, ("--version",)),
        (DSTACK, ("completion", "bash")),
        (RUNNER, ("--help",)),
        (RUNNER, ("--version",)),
    ],
)
def test_light_commands_take_no_more_than_a_tenth_of_a_second(
    tmp_path: Path, command: str, arguments: tuple[str, ...]
) -> None:
    """On a machine where Python itself is slow the bound is a multiple of a bare `import click`."""
    click = cpu_seconds(tmp_path, sys.executable, "-c", "import click")
    ours = cpu_seconds(tmp_path, sys.executable, "-m", command, *arguments)
    assert ours <= max(0.10, 3 * click)


TAB = """
set -u
export PS1='$ '
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_dstack
printf '%s\\n' "${COMPREPLY[@]}"
complete -p dstack dstack-runner >&2
"""


def script_of(folder: Path, shell: str) -> Path:
    """The completion script of a shell, in a file."""
    script = folder / f"completion.{shell}"
    with script.open("wb") as sink:
        subprocess.run(
            (sys.executable, "-m", DSTACK, "completion", shell),
            env={"PYTHONPATH": ":".join(sys.path)},
            stdout=sink,
            check=True,
        )
    return script


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        (["dstack", "ru"], {"run"}, {"stop"}),
        (["dstack", ""], {"run", "ps", "--help"}, set[str]()),
        (["dstack", "--home", "/x", "sta"], {"status"}, {"stop"}),
        (["dstack", "run", "tr"], {"train"}, {"prepare"}),
        (["dstack", "run", "--det"], {"--detach"}, {"train"}),
        (["dstack", "logs", "calm"], {"calm-ibex-1"}, {"train"}),
        (["dstack", "mesh", ""], {"invite", "join"}, {"train"}),
    ],
    ids=["verb", "nothing", "after home", "workflow", "flag", "run", "group"],
)
def test_tab_in_bash_offers_what_fits_without_python(
    tmp_path: Path, line: list[str], offered: set[str], not_offered: set[str]
) -> None:
    script = script_of(tmp_path, "bash")
    (tmp_path / ".dstack").mkdir()
    text = "workflows:\n  - name: train\n  - name: 'prepare'\n"
    (tmp_path / ".dstack" / "workflows.yaml").write_text(text)
    (tmp_path / "home" / "state").mkdir(parents=True)
    (tmp_path / "home" / "state" / "run-names").write_text("calm-ibex-1\nkind-bee-2\n")
    pressed = subprocess.run(
        ("bash", "--norc", "-c", TAB, "bash", str(script), *line),
        cwd=tmp_path,
        env={"DSTACK_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = set(pressed.stdout.split())
    assert offered <= found and not not_offered & found, found
    assert "-F _dstack dstack" in pressed.stderr and "dstack-runner" in pressed.stderr


@pytest.mark.may_skip
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_sound(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = script_of(tmp_path, shell)
    subprocess.run((shell, "-n", str(script)), check=True)
    script.write_text(script.read_text() + "\nif (((\n")
    broken = subprocess.run((shell, "-n", str(script)), check=False, capture_output=True)
    assert broken.returncode != 0, "this shell's check finds nothing"


def test_completion_knows_what_the_daemon_can() -> None:
    from dstack_agent.command import root
    from dstack_cli.commands.completion import RUNNER_WORDS

    assert {word for word in RUNNER_WORDS if word[:2] != "--"} == set(root.commands)


def test_completion_knows_what_runs_without_a_file() -> None:
    from dstack_cli.commands.completion import PROVIDERS as OFFERED
    from dstack_scheduler.providers.registry import PROVIDERS

    assert set(OFFERED) == set(PROVIDERS)
