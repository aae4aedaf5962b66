"""Wrong files, wrong words, trouble of the machine: told in words, and nothing is started."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.alone import agent_pid, alone
from support.lab import ROOT, Peer, make_peer, said

CASES = sorted((ROOT / "tests" / "unit" / "workflow" / "wrong").glob("*.txt"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("cli")) as peer:
        yield peer


def lay_out(case: Path, root: Path) -> list[str]:
    """Writes the files of a case; returns the expected places and codes."""
    parts = re.split(r"^=== (.*)\n", case.read_text(), flags=re.MULTILINE)
    files = dict(zip([".dstack/workflows.yaml", *parts[1::2]], parts[::2], strict=True))
    expected = files.pop("problems", "").split("\n")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return [line.strip() for line in expected if line.strip()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_wrong_files_are_told_with_their_places_and_nothing_starts(
    home: Peer, case: Path, tmp_path: Path
) -> None:
    expected = lay_out(case, tmp_path)
    validated = home.dstack("validate", cwd=tmp_path)
    assert validated.returncode == 2, said(validated)
    text = validated.stderr.decode()
    for line in expected:
        assert line.split(" ")[0] + ":" in text, text
    assert text.count("fix: ") >= len(expected)
    assert "^" in text
    assert "Traceback" not in text
    name = re.search(r"name: *([a-z]+)", (tmp_path / ".dstack" / "workflows.yaml").read_text())
    ended = home.dstack("run", name[1] if name else "train", cwd=tmp_path)
    assert ended.returncode == 2, said(ended)
    assert b"Nothing was sent" in ended.stderr
    assert ended.stdout == b""
    assert agent_pid(home) is None


def test_problems_as_json_have_the_stable_shape(home: Peer, tmp_path: Path) -> None:
    lay_out(CASES[0], tmp_path)
    ended = home.dstack("validate", "--json", cwd=tmp_path)
    told = json.loads(ended.stdout)
    assert (ended.returncode, told["schema"]) == (2, "dstack.problems/v1")
    keys = {"file", "line", "column", "workflow", "key", "code", "message", "hint"}
    assert all(item.keys() == keys for item in told["items"])
    (tmp_path / ".dstack" / "workflows.yaml").unlink()
    fine = home.dstack("validate", "--json", cwd=tmp_path)
    assert (fine.returncode, json.loads(fine.stdout)["items"]) == (0, [])


@pytest.mark.parametrize(
    ("line", "suggested"),
    [
        ("rnu train", "run"),
        ("stauts", "status"),
        ("agnets", "agents"),
        ("valdate", "validate"),
        ("ps --jsno", "--json"),
        ("run --detahc train", "--detach"),
        ("run bahs -c true", "bash"),
        ("mesh crate lab", "create"),
        ("--hoem /tmp ps", "--home"),
    ],
)
def test_slips_get_the_right_suggestion(
    home: Peer, tmp_path: Path, line: str, suggested: str
) -> None:
    ended = home.dstack(*line.split(), cwd=tmp_path)
    assert ended.returncode == 2, said(ended)
    assert suggested in ended.stderr.decode()
    assert ended.stdout == b""


def test_trouble_as_json_is_an_object_on_standard_output(home: Peer, tmp_path: Path) -> None:
    ended = home.dstack("agnets", "--json", cwd=tmp_path)
    assert json.loads(ended.stdout)["error"].keys() >= {"code", "message", "hint"}


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    peer = Peer("x", tmp_path, env={"DSTACK_HOME": str(blocked / "home")})
    ended = peer.dstack("run", "bash", "-c", "true")
    assert ended.returncode == 125
    assert b"Traceback" not in ended.stderr and b"bug" not in ended.stderr
    assert str(blocked).encode() in ended.stderr


def test_an_agent_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    peer = make_peer(tmp_path, "x", DSTACK_IDLE="soon")
    ended = peer.dstack("run", "bash", "-c", "true")
    assert ended.returncode == 125
    assert b"did not start" in ended.stderr and b"DSTACK_IDLE" in ended.stderr
    assert b"agent.log" in ended.stderr


def test_joining_without_a_terminal_asks_for_the_flag(home: Peer) -> None:
    ended = home.dstack("mesh", "join", "7K3V-Q2MX-9T4B-HC6D")
    assert ended.returncode == 2
    assert b"--yes" in ended.stderr


def test_a_traceback_is_shown_only_when_it_is_asked_for(tmp_path: Path) -> None:
    peer = make_peer(tmp_path, "x", DSTACK_IDLE="soon", DSTACK_DEBUG="1")
    assert b"Traceback" in peer.dstack("run", "bash", "-c", "true").stderr


def test_no_verb_writes_an_escape_byte_into_a_pipe(home: Peer, tmp_path: Path) -> None:
    for line in ("", "--help", "run", "ps", "agents", "doctor", "tags", "nonsense"):
        for colour in ({}, {"FORCE_COLOR": "1"}, {"NO_COLOR": "1", "TERM": "dumb"}):
            peer = Peer("x", home.home, env={**home.env, **colour})
            ended = peer.dstack(*line.split(), cwd=tmp_path)
            assert b"\x1b" not in ended.stdout + ended.stderr, line
