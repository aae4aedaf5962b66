"""The files with which ssh gets into a job: there while the way is, one folder for each."""

import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_cli.forwarding.entrance import entrance
from dstack_cli.forwarding.links import Link
from dstack_mesh.home import Home
from dstack_mesh.ssh_keys import person_keys, server_keys
from dstack_scheduler.app import App, Login

TOKEN, RUN = "a" * 32, "calm-ibex-1"
LINK = Link(App("ssh", ssh=True, editor=True), 4000, 4001, TOKEN, Login("sue", "/a b/work"))

HOLDS = """
import sys
from pathlib import Path
from unit.forwarding.test_entrance import LINK, RUN, Home, entrance
with entrance(Home(Path(sys.argv[1])), RUN, LINK):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    (tmp_path / "person" / ".ssh").mkdir(parents=True)
    return Home(tmp_path / "a 100% home")


def folders(home: Home) -> list[str]:
    return sorted(path.name for path in home.ssh.iterdir() if path.is_dir())


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh on this machine")
def test_what_is_typed_names_one_host_its_key_and_ours(home: Home) -> None:
    with entrance(home, RUN, LINK) as link:
        folder = home.ssh / RUN
        assert link.command == f"ssh -F '{folder}/config' {RUN}"
        assert link.url == "ssh://sue@127.0.0.1:4001"
        assert link.editor == f"vscode://vscode-remote/ssh-remote+{RUN}/a%20b/work"
        kept = subprocess.run(("ssh-keygen", "-y", "-f", folder / "key"), capture_output=True)
        assert kept.stdout.decode().strip() == person_keys(TOKEN).public
        assert (folder / "known_hosts").read_text() == f"{RUN} {server_keys(TOKEN).public}\n"
        modes = {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())}
        assert modes == {0}
        config = folder / "config"
        told = subprocess.run(("ssh", "-G", "-F", config, RUN), capture_output=True, check=True)
        said = dict(line.split(" ", 1) for line in told.stdout.decode().splitlines())
        assert (said["hostname"], said["port"], said["user"]) == ("127.0.0.1", "4001", "sue")
        assert said["stricthostkeychecking"] == "true" and said["forwardagent"] == "no"
        assert said["identityfile"] == str(folder / "key").replace("%", "%%")
    assert folders(home) == []


def test_two_ways_into_one_run_do_not_disturb_each_other(home: Home) -> None:
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(entrance(home, RUN, LINK))
        other = second.enter_context(entrance(home, RUN, replace(LINK, local=4002)))
        assert folders(home) == [RUN, f"{RUN}.2"] and other.command.endswith(f" {RUN}.2")
        first.close()
        assert folders(home) == [f"{RUN}.2"]
        with entrance(home, RUN, LINK) as again:
            assert again.command.endswith(f" {RUN}")


def test_what_a_killed_command_left_is_removed_by_the_next(home: Home) -> None:
    held = (sys.executable, "-c", HOLDS, str(home.root))
    with subprocess.Popen(held, stdin=-1, stdout=-1, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None and process.stdout.readline() == b"in\n"
        with entrance(home, "other-run-1", LINK):
            assert folders(home) == [RUN, "other-run-1"], "one that lives is left alone"
        process.kill()
    assert folders(home) == [RUN]
    with entrance(home, "other-run-1", LINK):
        assert folders(home) == ["other-run-1"]


@pytest.mark.parametrize(
    ("before", "reads"),
    [
        ("", False),
        ("Host x\n  Port 1\n", False),
        ('# mine\nInclude "{home}/ssh/*/config"\nHost x\n', True),
        ("include other {home}/ssh/*/config\n", True),
        ("Host x\nInclude {home}/ssh/*/config\n", False),
        ("Include ~/elsewhere/*/config\n", False),
    ],
)
def test_where_her_own_settings_include_it_the_name_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, reads: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home = Home(tmp_path / "dstack")
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(before.format(home=home.root))
    with entrance(home, RUN, LINK) as link:
        assert (link.command == f"ssh {RUN}") is reads is (link.include == "")


def test_what_a_browser_opens_stays_as_it_is(home: Home) -> None:
    link = Link(App("lab", web=True), 1, 2, TOKEN)
    with entrance(home, RUN, link) as same:
        assert same == link and not home.ssh.exists()
