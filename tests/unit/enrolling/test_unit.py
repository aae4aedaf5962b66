"""The texts that keep an agent running."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from dstack_cli.enrolling.unit import serve_text, unit_text


def test_the_script_starts_the_agent_with_exactly_these_words(tmp_path: Path) -> None:
    runner = tmp_path / "my runner"
    runner.write_text('#!/bin/sh\nprintf "%s\\n" "$PATH" "$@"\n')
    runner.chmod(0o700)
    script = tmp_path / "serve"
    path = "/usr/bin:/bin:/opt/it's here"
    script.write_text(serve_text(str(runner), "/home/a b", "[::]:7420", "$(id)", path))
    ended = subprocess.run(("sh", str(script)), capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == [
        path,
        *("start", "--home", "/home/a b", "--listen", "[::]:7420", "--name", "$(id)"),
    ]


def test_what_is_not_said_is_left_to_the_agent() -> None:
    text = serve_text("/r", "/h", "", "", "")
    assert shlex.split(text.splitlines()[-1]) == ["exec", "/r", "start", "--home", "/h"]


def test_jobs_outlive_the_agent_and_secrets_its_crash() -> None:
    lines = unit_text("/s", "/h").splitlines()
    for line in (
        *("Type=notify", "KillMode=process", "OOMPolicy=continue", "Restart=on-failure"),
        *("UMask=0077", "NoNewPrivileges=yes", "WatchdogSec=60"),
    ):
        assert line in lines
    assert any(line.startswith("LimitCORE=0") for line in lines)


@pytest.mark.may_skip
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    script = tmp_path / 'a "b" %h $HOME'
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    assert verify(tmp_path, unit_text(str(script), str(tmp_path))) == ""
    # The negative control: it would say so.
    assert verify(tmp_path, unit_text(str(script), str(tmp_path)).replace("Type=", "Tipe=")) != ""


def verify(folder: Path, text: str) -> str:
    """What systemd says of a unit."""
    unit = folder / "dstack-runner.service"
    unit.write_text(text)
    asked = subprocess.run(
        ("systemd-analyze", "--user", "verify", str(unit)),
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stderr
