"""The script of a job, run by real shells."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_scheduler.shell import script

SHELLS = ("bash", "sh")


def run(shell: str, commands: list[str], folder: Path | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [shell],
        input=script(commands),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_all_commands_share_one_shell(shell: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    commands = ["cd inner", "export WORD=hello", "f() { echo $WORD; }", "f > out", "cat out; pwd"]
    code, out = run(shell, commands, tmp_path)
    assert (code, out) == (0, f"hello\n{tmp_path}/inner\n")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ([], (0, "")),
        (["echo a", "false", "echo b"], (1, "a\n")),
        (["echo a", "(exit 7)", "echo b"], (7, "a\n")),
        (["echo a", "exit 3", "echo b"], (3, "a\n")),
        (["false; echo a", "echo b"], (0, "a\nb\n")),
        (["echo a # comment", "echo b"], (0, "a\nb\n")),
        (["# only a comment", "echo b"], (0, "b\n")),
        (["", "echo b"], (0, "b\n")),
        (["cat <<EOF\nx\nEOF", "echo b"], (0, "x\nb\n")),
        (["cat <<EOF\nopen", "echo b"], (0, "open\nb\n")),
        (["echo a \\", "echo b"], (0, "a\nb\n")),
        (["sleep 30 > /dev/null 2>&1 & pid=$!", "echo b", "kill $pid"], (0, "b\n")),
        (["sleep 0.01 &", "wait", "echo b"], (0, "b\n")),
        (["true || echo x && false", "echo b"], (1, "")),
        (["set -e\nfalse\necho a", "echo b"], (1, "")),
        (["echo one\necho two"], (0, "one\ntwo\n")),
        (["false\necho two", "echo three"], (0, "two\nthree\n")),
        (["set -- 'a b' c", 'echo "$#" "$1"'], (0, "2 a b\n")),
        (["sh -c 'kill -9 $$'", "echo b"], (137, "")),
        (["X='it'\"'\"'s'", 'echo "$X"'], (0, "it's\n")),
    ],
)
def test_the_first_failure_ends_the_script(
    shell: str, commands: list[str], expected: tuple[int, str]
) -> None:
    assert run(shell, commands) == expected


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("broken", ['echo "open', "if true; then", ")", "-x"])
def test_what_is_wrong_in_a_command_stays_in_it(shell: str, broken: str) -> None:
    code, out = run(shell, ["echo a", broken, "echo b"])
    assert code != 0
    assert out == "a\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_dash_in_front_is_part_of_the_command(shell: str) -> None:
    assert run(shell, ["-x", "echo b"]) == (127, "")


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20), max_size=5
    ),
    failing=st.integers(-1, 4),
    shell=st.sampled_from(SHELLS),
)
def test_commands_run_in_order_until_one_fails(texts: list[str], failing: int, shell: str) -> None:
    quoted = ["printf '%s\\n' '" + text.replace("'", "'\\''") + "'" for text in texts]
    commands = [
        command if index != failing else command + "; (exit 9)"
        for index, command in enumerate(quoted)
    ]
    reached = texts[: failing + 1] if 0 <= failing < len(texts) else texts
    expected = 9 if 0 <= failing < len(texts) else 0
    assert run(shell, commands) == (expected, "".join(f"{text}\n" for text in reached))
