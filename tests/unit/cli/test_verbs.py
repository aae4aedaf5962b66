"""The table of verbs and what is made from it."""

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from dstack_cli.commands.completion import completion
from dstack_cli.misused import Misused
from dstack_cli.tree import EXAMPLES, full_help, invoke, root, short_help
from dstack_cli.verbs import GROUPS, VERBS, find, spellings


def test_every_verb_is_there_and_its_help_fits_a_line() -> None:
    with click.Context(root) as ctx:
        for verb in VERBS:
            command = root.get_command(ctx, verb.name)
            assert command is not None and command.name == verb.name
            assert len(verb.help) <= 60
            assert verb.group in GROUPS
            assert command.help or verb.name == "status"


def test_no_spelling_means_two_verbs() -> None:
    assert len(spellings()) == len(set(spellings()))
    assert all(find(word) is not None for word in spellings())


def test_help_shows_each_verb_in_its_group_and_fits_eighty_columns() -> None:
    text = full_help()
    assert all(f"\n  {verb.name} " in text for verb in VERBS)
    assert all(example in text for example, _ in EXAMPLES)
    assert max(map(len, text.splitlines())) <= 90


def test_bare_dstack_names_the_next_step(tmp_path: Path) -> None:
    assert "dstack init" in short_help(tmp_path)
    (tmp_path / ".dstack").mkdir()
    assert "dstack init" not in short_help(tmp_path)


def script(shell: str) -> str:
    from click.testing import CliRunner

    ended = CliRunner().invoke(completion, [shell])
    assert ended.exit_code == 0
    return ended.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_complete_every_verb_and_flag(shell: str) -> None:
    text = script(shell)
    assert all(verb.name in text for verb in VERBS)
    for flag in ("dry-run", "timestamps", "recursive", "role"):
        assert flag in text or flag == "role"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_complete_words_that_are_no_flags(shell: str) -> None:
    lines = [line for line in script(shell).splitlines() if "prune" in line and "cache" in line]
    assert lines, "prune cache"


@pytest.mark.parametrize(
    "line",
    [
        "tag @ v1 -n v2",
        "tags -r x",
        "tags list -a corpus",
        "tags add v1 calm-ibex-1 -r calm-ibex-2",
        "tags add v1 -a corpus -r calm-ibex-2",
        "artifacts upload corpus -t v1 -o out",
        "artifacts list calm-ibex-1 train -w test",
        "agents --json add ws-3",
        "agents -q remove ws-3",
        "config list --default",
        "prune cahce",
        "prune cache",
        "prune cache train test",
        "config list lab",
        "config delete lab --region eu-north-1",
        "config lab",
        "export calm-ibex-1 out --endpoint http://127.0.0.1:9",
        "export calm-ibex-1 s3:/lab-runs/out",
    ],
)
def test_no_word_of_a_command_line_is_dropped(line: str, tmp_path: Path) -> None:
    with pytest.raises(Misused):
        invoke(["--home", str(tmp_path), *line.split()])


def complete(folder: Path, words: list[str], home: Path) -> list[str]:
    """What bash would offer for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    asked = subprocess.run(
        (
            *("bash", "--norc", "-c"),
            f"{script('bash')}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
            '_dstack; printf "%s\\n" "${COMPREPLY[@]}"',
        ),
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "DSTACK_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return asked.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
def test_bash_completes_verbs_flags_workflows_and_runs(tmp_path: Path) -> None:
    (tmp_path / ".dstack").mkdir()
    (tmp_path / ".dstack" / "workflows.yaml").write_text(
        "workflows:\n  - name: train\n    provider: bash\n  - provider: bash\n    name: 'x'\n"
    )
    home = tmp_path / "home"
    (home / "state").mkdir(parents=True)
    (home / "state" / "run-names").write_text("calm-ibex-1\nshy-owl-2\n")
    assert complete(tmp_path, ["dstack", "val"], home) == ["validate"]
    assert complete(tmp_path, ["dstack", "run", "tr"], home) == ["train"]
    assert complete(tmp_path, ["dstack", "offers", "tr"], home) == ["train"]
    assert complete(tmp_path, ["dstack", "logs", "ca"], home) == ["calm-ibex-1"]
    assert complete(tmp_path, ["dstack", "logs", "--fol"], home) == ["--follow"]
    assert complete(tmp_path, ["dstack", "mesh", "inv"], home) == ["invite"]
    assert complete(tmp_path, ["dstack", "--home", "x", "ag"], home) == ["agents"]
