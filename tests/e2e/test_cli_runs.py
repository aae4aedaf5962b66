"""Runs from the command line in a home of their own, with the real agent."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.alone import alone
from support.lab import DSTACK, Peer, project, said

WORKFLOWS = """
workflows:
  - name: prepare
    provider: bash
    commands: [mkdir -p data/deep, "echo $size > data/numbers", "echo x > data/deep/x"]
    artifacts: [data]
  - name: train
    provider: bash
    depends-on: [prepare]
    commands: [mkdir -p checkpoint, cat data/numbers data/numbers > checkpoint/model]
    artifacts: [checkpoint]
  - name: exit
    provider: bash
    commands: ["exit ${{ run.args }}"]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("cli")) as peer:
        yield peer


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("code") / "p", WORKFLOWS)
    (folder / ".dstack" / "variables.yaml").write_text("variables:\n  prepare:\n    size: 3\n")
    return folder


def test_the_first_run_needs_nothing_but_the_command(tmp_path: Path) -> None:
    with alone(tmp_path) as peer:
        folder = tmp_path / "empty"
        folder.mkdir()
        ended = peer.dstack("run", "hello", cwd=folder)
        assert ended.returncode == 0, said(ended)
        assert ended.stdout.startswith(b"Hello from ")
        first, *_, last = ended.stderr.decode().splitlines()
        assert "bash on home (" in first
        assert last.startswith("done in ") and "1 artifact" in last


def test_init_and_then_hello_with_a_variable(home: Peer, tmp_path: Path) -> None:
    home.dstack("init", cwd=tmp_path, check=True)
    before = (tmp_path / ".dstack" / "workflows.yaml").read_text()
    ended = home.dstack("run", "hello", "--name", "you", cwd=tmp_path, check=True)
    assert b"Hello, you," in ended.stdout
    again = home.dstack("init", cwd=tmp_path)
    assert again.returncode == 78
    assert (tmp_path / ".dstack" / "workflows.yaml").read_text() == before


@pytest.mark.parametrize("code_", [0, 1, 3, 42, 137, 255])
def test_the_exit_code_is_the_jobs(home: Peer, code: Path, code_: int) -> None:
    ended = home.dstack("run", "exit", str(code_), cwd=code)
    assert ended.returncode == code_, said(ended)
    assert home.dstack("wait", "@").returncode == code_
    assert home.dstack("logs", "-f", "@").returncode == code_
    assert home.dstack("attach", "@").returncode == code_


def test_a_job_killed_by_a_signal_ends_with_128_and_its_number(home: Peer, code: Path) -> None:
    assert home.dstack("run", "bash", "-c", "kill -TERM $$", cwd=code).returncode == 143


def test_each_stream_keeps_its_bytes(home: Peer, code: Path, tmp_path: Path) -> None:
    script = code / "both.py"
    script.write_text(
        "import os, random, sys\n"
        "for n, stream in ((1, sys.stdout.buffer), (2, sys.stderr.buffer)):\n"
        "    stream.write(random.Random(n).randbytes(1_000_000))\n"
    )
    ended = home.dstack("run", "python", "both.py", "-q", cwd=code)
    import random

    assert (
        hashlib.sha256(ended.stdout).digest()
        == hashlib.sha256(random.Random(1).randbytes(1_000_000)).digest()
    )
    assert ended.stderr == random.Random(2).randbytes(1_000_000)
    logs = home.dstack("logs", "@")
    assert (logs.stdout, logs.stderr) == (ended.stdout, ended.stderr)


def test_progress_bars_keep_their_carriage_returns_and_no_escape_is_ours(
    home: Peer, code: Path
) -> None:
    ended = home.dstack("run", "bash", "-c", r"printf '10%%\r50%%\r100%%\n'", cwd=code)
    assert ended.stdout == b"10%\r50%\r100%\n"
    assert b"\x1b" not in ended.stderr


def test_detached_then_waited_for_then_read(home: Peer, code: Path) -> None:
    submitted = home.dstack("run", "bash", "-c", "sleep 0.3; echo hi; exit 5", "-dq", cwd=code)
    name = submitted.stdout.decode().strip()
    assert submitted.stdout == f"{name}\n".encode(), said(submitted)
    waited = home.dstack("wait", name, "--json")
    assert waited.returncode == 5
    told = json.loads(waited.stdout)
    assert (told["status"], told["exit_code"], told["source"]) == ("failed", 5, "job")
    assert home.dstack("logs", name).stdout == b"hi\n"


def test_a_detached_chain_goes_on_without_us(home: Peer, code: Path) -> None:
    name = home.dstack("run", "train", "-d", "-q", cwd=code, check=True).stdout.decode().strip()
    waited = home.dstack("wait", name, "--timeout", "30")
    assert waited.returncode == 0, said(waited)
    [item] = home.json("ps", name)["items"]
    assert [(job["workflow"], job["status"]) for job in item["jobs"]] == [
        ("prepare", "done"),
        ("train", "done"),
    ]


def test_a_chain_runs_and_what_it_kept_is_listed_and_copied(
    home: Peer, code: Path, tmp_path: Path
) -> None:
    ended = home.dstack("run", "train", "--size", "7", "-t", "v1", cwd=code)
    assert ended.returncode == 0, said(ended)
    items = home.json("ls", "@", "-r")["items"]
    assert {item["path"]: item["size"] for item in items} == {
        "checkpoint/model": 4,
        "data/numbers": 2,
        "data/deep/x": 2,
    }
    assert all(item["state"] == "complete" and item["copies"] == ["home"] for item in items)
    top = home.dstack("ls", ":v1", "data", cwd=code, check=True).stdout.decode()
    assert "deep/" in top and "numbers" in top and "checkpoint" not in top
    home.dstack("cp", "@", "checkpoint/model", str(tmp_path / "model"), check=True)
    assert (tmp_path / "model").read_text() == "7\n7\n"
    home.dstack("cp", "train:v1", "checkpoint", str(tmp_path / "all"), cwd=code, check=True)
    assert (tmp_path / "all" / "model").read_text() == "7\n7\n"
    missing = home.dstack("cp", "@", "nothing", str(tmp_path / "n"))
    assert missing.returncode == 66
    assert b"checkpoint" in missing.stderr


def test_tags_in_both_orders_and_taken_back(home: Peer, code: Path) -> None:
    home.dstack("run", "prepare", "--no-reuse", cwd=code, check=True)
    name = home.json("ps", "@")["items"][0]["run"]
    home.dstack("tag", name, "good", check=True)
    home.dstack("tag", "better", name, check=True)
    home.dstack("tag", name, check=True)
    tags = {item["tag"] for item in home.json("tags")["items"] if item["run"] == name}
    assert tags == {"good", "better", name}
    assert "*" in home.dstack("status", name, check=True).stdout.decode()
    home.dstack("untag", "good", cwd=code, check=True)
    assert "good" not in home.dstack("tags", "-q", check=True).stdout.decode().split()


def test_status_prints_the_table_of_the_documents(home: Peer, code: Path) -> None:
    home.dstack("run", "prepare", "--size", "4", cwd=code, check=True)
    header, run, job = home.dstack("status", "@", check=True).stdout.decode().splitlines()
    columns = header.split()
    assert columns[:4] == ["RUN", "TAG", "JOB", "WORKFLOW"]
    assert columns[4:] == ["VARIABLES", "SUBMITTED", "RUNNER", "STATUS"]
    assert run.split()[1:] == ["<none>", "prepare", "--size", "4", *run.split()[5:]]
    assert run.endswith("DONE") and job.endswith("DONE")
    assert len(job.split()[0]) == 12


def test_json_has_the_shape_that_scripts_rely_on(home: Peer, code: Path) -> None:
    home.dstack("run", "exit", "3", cwd=code)
    listed = home.json("ps", "-a")
    assert listed["schema"] == "dstack.runs/v1"
    item = listed["items"][0]
    assert item | {"submitted_at": "", "run": "", "id": ""} == item | {
        "submitted_at": "",
        "run": "",
        "id": "",
        "workflow": "exit",
        "tag": None,
        "owner": "ana@home",
        "status": "failed",
        "exit_code": 3,
    }
    [job] = item["jobs"]
    assert {"job", "workflow", "agent", "attempt", "status", "exit_code", "gpus"} <= job.keys()
    [agent] = home.json("agents")["items"]
    assert {
        *("agent", "id", "addresses", "found_by", "state"),
        *("cpus", "memory_bytes", "gpus", "running"),
    } <= agent.keys()


def test_run_as_json_tells_how_it_ended_and_keeps_standard_output_for_it(
    home: Peer, code: Path
) -> None:
    ended = home.dstack("run", "bash", "-c", "echo to the log; exit 4", "--json", cwd=code)
    assert ended.returncode == 4
    told = json.loads(ended.stdout)
    assert (told["status"], told["exit_code"], told["source"]) == ("failed", 4, "job")
    assert b"to the log" in ended.stderr


def test_a_dry_run_plans_asks_and_starts_nothing(home: Peer, code: Path) -> None:
    before = len(home.json("ps", "-a")["items"])
    planned = home.json("run", "train", "--gpu", "1", "--no-reuse", "--dry-run", cwd=code)
    assert planned["schema"] == "dstack.plan/v1"
    first, second = planned["jobs"]
    assert (first["workflow"], second["workflow"], second["after"]) == ("prepare", "train", [0])
    assert second["resources"]["gpu"]["count"] == 1
    assert second["deps"][0]["workflow"] == "prepare"
    assert [one["verdict"] for one in planned["placement"]] == ["now"]
    assert len(home.json("ps", "-a")["items"]) == before


def test_a_dry_run_says_what_would_be_reused_and_what_is_missing(
    home: Peer, tmp_path: Path
) -> None:
    code = project(
        tmp_path / "code",
        "workflows:\n"
        "  - name: make\n    provider: bash\n    artifacts: [made]\n"
        "    commands: [mkdir -p made && echo $RUN_NAME > made/by]\n"
        "  - name: use\n    provider: bash\n    depends-on: [make]\n    artifacts: [used]\n"
        "    commands: ['cp made/by used/by; echo $word']\n"
        "  - name: report\n    provider: bash\n    deps: [other]\n    commands: [ls]\n"
        "  - name: other\n    provider: bash\n    commands: [ls]\n",
        _DOT_dstack__variables_DOT_yaml="variables:\n  use:\n    word: one\n",
    )
    whole = home.json("run", "use", "--dry-run", cwd=code)
    assert [job["workflow"] for job in whole["jobs"]] == ["make", "use"]
    assert whole["reused"] == []
    home.dstack("run", "use", cwd=code, check=True)
    run = home.json("ps", "-a")["items"][0]["run"]

    nothing = home.json("run", "use", "--dry-run", cwd=code)
    assert (nothing["jobs"], nothing["placement"]) == ([], [])
    assert nothing["reused"] == [{"workflow": "use", "run": run, "job": 1}]
    part = home.json("run", "use", "--word", "two", "--dry-run", cwd=code)
    assert [job["workflow"] for job in part["jobs"]] == ["use"]
    assert part["jobs"][0]["deps"] == [{"workflow": "make", "from": run, "artifacts": ["made"]}]
    all_again = home.json("run", "use", "--no-reuse", "--dry-run", cwd=code)
    assert len(all_again["jobs"]) == 2

    said_of_it = home.dstack("run", "report", "--dry-run", cwd=code, check=True).stdout.decode()
    assert "report cannot start: No run of other is done" in said_of_it


def test_a_run_that_nobody_can_take_is_refused_with_the_reason(home: Peer, code: Path) -> None:
    ended = home.dstack("run", "prepare", "--gpu", "8", cwd=code)
    assert ended.returncode == 125
    assert b"No agent can run prepare" in ended.stderr
    as_json = home.dstack("run", "prepare", "--gpu", "8", "--json", cwd=code)
    assert json.loads(as_json.stdout)["error"]["code"] == "no-agent-fits"


def test_stop_ends_a_run_and_what_it_wrote_is_there(home: Peer, code: Path) -> None:
    command = "trap 'echo bye; exit 9' TERM; echo up; while true; do sleep 0.1; done"
    name = home.dstack("run", "bash", "-c", command, "-d", "-q", cwd=code).stdout.decode().strip()
    until_it_says(home, name, b"up\n")
    stopped = home.dstack("stop", name)
    assert stopped.returncode == 0, said(stopped)
    assert b"stopped" in stopped.stdout
    assert home.dstack("logs", name).stdout == b"up\nbye\n"
    assert home.dstack("stop", name).returncode == 0


def test_stop_with_a_name_and_the_old_flag_aborts(home: Peer, code: Path) -> None:
    command = "trap '' TERM; echo up; while true; do sleep 0.1; done"
    name = home.dstack("run", "bash", "-c", command, "-d", "-q", cwd=code).stdout.decode().strip()
    until_it_says(home, name, b"up\n")
    assert b"aborted" in home.dstack("stop", "-a", name).stdout
    assert home.json("ps", name)["items"][0]["status"] == "aborted"


def until_it_says(home: Peer, name: str, text: bytes) -> None:
    """Waits for the first bytes of a run's log."""
    following = home.popen((*DSTACK, "logs", "-f", name), stdout=subprocess.PIPE)
    assert following.stdout is not None
    try:
        assert following.stdout.readline() == text
    finally:
        following.kill()
        following.wait()
        following.stdout.close()


def test_names_can_be_shortened_and_typos_get_a_suggestion(home: Peer, code: Path) -> None:
    home.dstack("run", "prepare", cwd=code, check=True)
    name = home.json("ps", "@")["items"][0]["run"]
    assert home.json("ps", name[:-1])["items"][0]["run"] == name
    typo = home.dstack("logs", name[1:])
    assert typo.returncode == 125
    assert name.encode() in typo.stderr


def test_runs_of_an_agent_that_is_away_are_still_shown(home: Peer, code: Path) -> None:
    """The laptop submitted it; nobody in reach knows it any more."""
    home.dstack("run", "prepare", cwd=code, check=True)
    name = home.json("ps", "@")["items"][0]["run"]
    other = Peer("other", home.home.parent / "other")
    (other.home / "state").mkdir(parents=True)
    kept = home.home / "state" / "submitted.jsonl"
    (other.home / "state" / "submitted.jsonl").write_bytes(kept.read_bytes())
    [item] = other.json("ps", name)["items"]
    assert (item["run"], item["heard"]) == (name, False)
