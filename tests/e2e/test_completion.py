"""TAB in each shell that is installed, in a terminal, as a person presses it."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DSTACK = "dstack_cli.main"
WITHIN_SECONDS = 15.0
START = {
    "bash": (("bash", "--norc", "-i"), "source {script}"),
    "zsh": (("zsh", "-f", "-i"), "autoload -U compinit; compinit -u -D; source {script}"),
}
PRESSES = [
    pytest.param("val", "validate", id="verb"),
    pytest.param("run tr", "train", id="workflow"),
    pytest.param("run pyt", "python", id="provider"),
    pytest.param("logs ca", "calm-ibex-1", id="run"),
    pytest.param("resume sh", "shy-owl-2", id="run of an alias"),
    pytest.param("untag be", "best", id="tag"),
    pytest.param("logs --fol", "--follow", id="flag"),
    pytest.param("mesh inv", "invite", id="group"),
    pytest.param("--home x age", "agents", id="after home"),
    pytest.param("ls :be", ":best", id="what a tag names"),
]


class Shell:
    """An interactive shell at the other end of a terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def until(self, text: str) -> bool:
        """Reads until this text is on the screen; false if it never comes."""
        end = time.monotonic() + WITHIN_SECONDS
        while text not in self.seen and time.monotonic() < end:
            if select.select([self._descriptor], [], [], 0.1)[0]:
                self.seen += os.read(self._descriptor, 65536).decode(errors="replace")
        return text in self.seen


@contextmanager
def shell(kind: str, folder: Path) -> Generator[Shell]:
    command, begin = START[kind]
    script = script_of(kind, folder)
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        opened = Shell(ours)
        opened.type(begin.format(script=script) + "; echo rea''dy\n")
        assert opened.until("ready"), opened.seen
        yield opened
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def script_of(kind: str, folder: Path) -> Path:
    script = folder / "completion"
    with script.open("wb") as sink:
        subprocess.run((sys.executable, "-m", DSTACK, "completion", kind), stdout=sink, check=True)
    return script


def environment(folder: Path) -> dict[str, str]:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TERM": "xterm", "LANG": "C.UTF-8"}
    return env | {"DSTACK_HOME": str(folder / "home")}


def laid_out(kind: str, folder: Path) -> Path:
    """A folder with workflows and a home with runs; skips where the shell is not installed."""
    if shutil.which(kind) is None:
        pytest.skip(f"{kind} is not installed")
    (folder / ".dstack").mkdir()
    workflows = "workflows:\n  - name: train\n  - provider: bash\n    name: 'prepare'\n"
    (folder / ".dstack" / "workflows.yaml").write_text(workflows)
    (folder / "home" / "state").mkdir(parents=True)
    (folder / "home" / "state" / "run-names").write_text("calm-ibex-1\nshy-owl-2\n")
    (folder / "home" / "state" / "tag-names").write_text("best\n")
    return folder


@pytest.fixture(scope="module", params=["bash", "zsh"])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    kind = str(request.param)
    with shell(kind, laid_out(kind, tmp_path_factory.mktemp(kind))) as running:
        yield running


@pytest.mark.may_skip
def test_fish_offers_what_was_begun(tmp_path: Path) -> None:
    folder = laid_out("fish", tmp_path)
    cases = [(str(one.values[0]), str(one.values[1])) for one in PRESSES]
    asking = "; ".join(f"echo '== {typed}'; complete -C 'dstack {typed}'" for typed, _ in cases)
    asked = subprocess.run(
        ("fish", "-c", f"source {script_of('fish', folder)}; {asking}"),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answers = dict(part.split("\n", 1) for part in asked.stdout.split("== ")[1:])
    offered = {
        typed: [line.split("\t")[0] for line in answers[typed].split("\n")] for typed, _ in cases
    }
    assert {typed: completed for typed, completed in cases if completed not in offered[typed]} == {}


@pytest.mark.may_skip
@pytest.mark.parametrize(("typed", "completed"), PRESSES)
def test_tab_completes_what_was_begun(opened: Shell, typed: str, completed: str) -> None:
    opened.seen = ""
    opened.type(f"dstack {typed}\t")
    rest = completed.removeprefix(typed.split()[-1])
    assert opened.until(rest), opened.seen
    opened.type("\x15")  # the line is taken back
