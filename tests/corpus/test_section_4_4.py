"""Sections 4.4, 4.6, 4.7, 4.9, 4.10 and 4.14 of the map: what a job finds, and how it ends."""

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from dstack_agent.executor.port import Ended
from dstack_agent.jobs.attempt import Attempt, step
from dstack_agent.jobs.effect import Forget, Save
from dstack_agent.jobs.event import Begin, CommandsEnded, Launched, Prepared, Saved, StopAsked
from dstack_mesh.ids import RunId
from dstack_scheduler.job import RECLAIMED, JobKey, JobState, StateChange
from dstack_scheduler.retry import INTERRUPTED, ONCE, Retry
from dstack_scheduler.run import Changed, End, Part, Place, Placed, Run
from support.alone import alone
from support.eventually import eventually
from support.lab import Peer, project, said

WORKFLOWS = r"""
workflows:
  - name: shell
    provider: bash
    artifacts: [kept/deep]
    commands:
      - test -d kept/deep
      - mkdir -p d && cd d
      - export WORD='a  b' # to the end
      - test "$WORD" = 'a  b' && pwd
      - |
        if true; then
          cat <<END
        two
          lines
        END
        fi
      - cd .. ; pwd
  - name: chain
    provider: bash
    commands: [echo one, "false", echo never]
  - name: beside
    provider: bash
    commands:
      - sleep 321 &
      - (sleep 0.2; echo up > up) &
      - while ! test -e up; do sleep 0.05; done
      - echo served
  - name: broken
    provider: bash
    artifacts: [half]
    commands: [echo x > half/x, exit 3]
  - name: after
    provider: bash
    depends-on: [broken]
    commands: [echo never]
  - name: takes
    provider: bash
    deps: [broken]
    commands: [echo never]
  - name: long
    provider: bash
    artifacts: [out]
    commands:
      - trap "echo bye > out/bye; exit 7" TERM
      - echo begun | tee out/x
      - sleep 321 & wait
  - name: limited
    provider: bash
    max_duration: 1s
    artifacts: [out]
    commands: [echo x > out/x, sleep 321]
  - name: unused
    provider: bash
    ports: 1
    idle_timeout: 1s
    artifacts: [out]
    commands: [echo x > out/x, sleep 321]
  - name: environment
    provider: bash
    ports: 2
    env: [FROM=env, lower_case=kept, http_proxy=p, batch_size=env, "URL=x:${{ secrets.WORD }}"]
    secrets: [TOKEN]
    commands: [python print.py]
  - name: cached
    provider: bash
    cache: [build, ./deep/er/]
    commands: ['cat build/* || true', date +%N >> build/x, 'exit ${{ run.args }}']
"""

PRINT = "import json, os; print(json.dumps(dict(os.environ)))\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("jobs")) as peer:
        yield peer


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("code") / "p", WORKFLOWS, print_DOT_py=PRINT)
    variables = {"environment": {"batch-size": 5, "TOKEN": "variable", "FROM_VAR": "variable"}}
    (folder / ".dstack/variables.yaml").write_text(json.dumps({"variables": variables}))
    return folder


def shown(home: Peer, run: str = "@") -> dict[str, Any]:
    (item,) = home.json("ps", run)["items"]
    return item


def kept(home: Peer, run: str = "@") -> dict[str, str]:
    """Files of a run, and whether they are partial or complete."""
    listed = home.json("ls", run, "-r")["items"]
    return {item["path"]: item["state"] for item in listed if item["size"]}


def begun(home: Peer, code: Path, workflow: str) -> str:
    """A run in the background whose job has said so."""
    name = home.dstack("run", workflow, "-d", "-q", cwd=code, check=True).stdout.decode().strip()
    eventually(lambda: b"begun" in home.dstack("logs", name).stdout, within=15)
    return name


def test_4_4_3_commands_share_one_shell_and_find_their_artifacts(home: Peer, code: Path) -> None:
    ended = home.dstack("run", "shell", cwd=code)
    assert ended.returncode == 0, said(ended)
    first, *middle, last = ended.stdout.decode().splitlines()
    assert first == f"{last}/d"
    assert middle == ["two", "  lines"]


def test_4_4_2_artifact_folders_exist_beforehand(home: Peer, code: Path) -> None:
    """The first command of `shell` looks: here it is seen that it would fail without."""
    asked = home.dstack("run", "bash", "-c", "test -d kept/deep", cwd=code)
    assert asked.returncode == 1
    command = ("run", "bash", "-c", "test -d kept/deep", "-a", "kept/deep")
    assert home.dstack(*command, cwd=code).returncode == 0


def test_4_4_3_the_first_failure_stops_the_chain(home: Peer, code: Path) -> None:
    ended = home.dstack("run", "chain", cwd=code)
    assert (ended.returncode, ended.stdout) == (1, b"one\n")


def test_4_4_3_what_runs_in_the_background_neither_breaks_the_chain_nor_holds_the_job(
    home: Peer, code: Path
) -> None:
    began = time.monotonic()
    ended = home.dstack("run", "beside", cwd=code)
    assert (ended.returncode, ended.stdout) == (0, b"served\n"), said(ended)
    assert time.monotonic() - began < 30
    left = [one.info["cmdline"] for one in psutil.process_iter(["cmdline"])]
    assert ["sleep", "321"] not in left


def test_4_4_4_what_a_failed_job_kept_is_partial_and_satisfies_nothing(
    home: Peer, code: Path
) -> None:
    ended = home.dstack("run", "after", cwd=code)
    assert ended.returncode == 3
    assert b"after was not started: broken failed, exit 3" in ended.stderr, said(ended)
    assert b"never" not in ended.stdout
    assert shown(home)["status"] == "failed"
    assert kept(home) == {"half/x": "partial"}
    taken = home.dstack("run", "takes", cwd=code)
    assert taken.returncode != 0 and b"No run of broken is done" in taken.stderr, said(taken)


def test_4_10_2_a_stop_saves_and_is_no_result(home: Peer, code: Path) -> None:
    name = begun(home, code, "long")
    home.dstack("stop", name, check=True)
    assert shown(home, name)["status"] == "stopped"
    assert kept(home, name) == {"out/x": "complete", "out/bye": "complete"}
    again = begun(home, code, "long")  # it ran, and its result was not taken
    assert again != name
    home.dstack("stop", again, "-x", check=True)


def test_4_10_3_an_abort_keeps_nothing(home: Peer, code: Path) -> None:
    name = begun(home, code, "long")
    home.dstack("stop", name, "--abort", check=True)
    assert shown(home, name)["status"] == "aborted"
    assert kept(home, name) == {}


def test_4_4_1_a_job_that_runs_too_long_is_ended_and_says_so(home: Peer, code: Path) -> None:
    ended = home.dstack("run", "limited", cwd=code)
    assert ended.returncode == 124, said(ended)
    assert b"ran longer than it may" in ended.stderr
    job = shown(home)
    assert (job["status"], job["reason"]) == ("failed", "time-limit")
    assert kept(home) == {"out/x": "partial"}


def test_4_4_1_an_app_that_nobody_uses_is_stopped_and_keeps_what_it_saved(
    home: Peer, code: Path
) -> None:
    name = home.dstack("run", "unused", "-d", "-q", cwd=code, check=True).stdout.decode().strip()
    assert home.dstack("wait", name).returncode == 124
    job = shown(home, name)
    assert (job["status"], job["reason"]) == ("stopped", "idle-timeout")
    assert kept(home, name) == {"out/x": "complete"}


@pytest.fixture(scope="module")
def environment(home: Peer, code: Path) -> dict[str, str]:
    """What a job sees, with secrets of two kinds."""
    for name in ("TOKEN", "WORD"):
        home.dstack("secrets", "add", name, f"very-secret-{name}", cwd=code, check=True)
    name = home.dstack("run", "environment", "-d", "-q", cwd=code, check=True).stdout.decode()
    home.dstack("wait", name.strip(), check=True)
    log = home.dstack("logs", name.strip(), check=True).stdout
    found: dict[str, str] = json.loads(log)
    return {**found, "RUN": name.strip()}


def test_4_7_1_a_job_knows_its_run_and_itself(environment: dict[str, str]) -> None:
    assert environment["RUN_NAME"] == environment["RUN"]
    assert re.fullmatch(r"[0-9a-f]{12}", environment["JOB_ID"])


def test_4_7_2_and_its_host(environment: dict[str, str]) -> None:
    assert environment["JOB_HOSTNAME"] == environment["HOSTNAME"] != ""


def test_4_7_3_and_its_ports(environment: dict[str, str]) -> None:
    ports = [environment["PORT_0"], environment["PORT_1"]]
    assert len(set(ports)) == 2 and all(port.isdigit() for port in ports)
    assert [environment["JOB_PORT_0"], environment["JOB_PORT_1"]] == ports


def test_4_7_5_its_output_has_no_buffer(environment: dict[str, str]) -> None:
    assert environment["PYTHONUNBUFFERED"] == "1"


def test_4_7_7_env_then_variables_then_secrets_and_names_as_written(
    environment: dict[str, str],
) -> None:
    assert environment["FROM"] == "env"
    assert (environment["lower_case"], environment["http_proxy"]) == ("kept", "p")
    assert (environment["batch_size"], environment["BATCH_SIZE"]) == ("env", "5")
    assert environment["FROM_VAR"] == "variable"
    # Of the secrets only stars are in the log: they were the last ones all the same.
    assert set(environment["TOKEN"]) == {"*"}
    assert environment["URL"].startswith("x:*")


def test_4_14_1_secrets_are_listed_by_name_and_told_by_nobody(
    home: Peer, code: Path, environment: dict[str, str]
) -> None:
    listed = home.dstack("secrets", cwd=code, check=True)
    assert b"TOKEN" in listed.stdout and b"very-secret" not in listed.stdout
    told = [home.dstack(*words, cwd=code) for words in (("ps", "-a", "--json"), ("logs", "@"))]
    told += [home.dstack("run", "environment", "--dry-run", "--json", cwd=code)]
    assert not [one for one in told if b"very-secret" in one.stdout + one.stderr]


def test_4_9_4_a_cache_is_as_the_last_good_run_left_it(home: Peer, code: Path) -> None:
    def run(code_: str) -> list[str]:
        ended = home.dstack("run", "cached", code_, cwd=code)
        assert ended.returncode == int(code_), said(ended)
        return ended.stdout.decode().split()

    assert run("0") == []
    (first,) = run("1")
    assert run("0") == [first]
    assert len(run("0")) == 2


KEY = JobKey(RunId("0" * 26), 0)
AT = datetime(2026, 11, 20, tzinfo=UTC)
STOP, ABORT = StopAsked(False, "stopped by ana"), StopAsked(True, "aborted by ana")


def test_4_10_1_a_stop_before_it_runs_ends_it_at_once() -> None:
    preparing, _ = step(Attempt(), Begin())
    for attempt in (Attempt(), preparing):
        assert step(attempt, STOP)[0].state is JobState.STOPPED


def test_4_10_4_a_stop_while_it_saves_changes_nothing() -> None:
    attempt = Attempt()
    for event in (Begin(), Prepared(), Launched(), CommandsEnded(Ended(0))):
        attempt, effects = step(attempt, event)
    assert Save(complete=True) in effects
    assert step(attempt, STOP) == (attempt, ())
    assert Forget() in step(attempt, ABORT)[1]
    assert step(attempt, Saved())[0].state is JobState.DONE


def run_of(retry: Retry) -> Run:
    run = Run([Part(KEY, "train", retry=retry, since=AT)])
    run.start()
    run.handle(Placed(KEY))
    return run


@pytest.mark.parametrize(
    ("retry", "effect"),
    [
        pytest.param(ONCE, End, id="4.10.5 not interruptible"),
        pytest.param(INTERRUPTED, Place, id="4.10.6 interruptible"),
    ],
)
def test_a_job_whose_machine_is_taken_back_goes_on_elsewhere_if_it_may(
    retry: Retry, effect: type[object]
) -> None:
    taken = StateChange(KEY, JobState.STOPPED, AT, "ana took GPU 0 back.", RECLAIMED)
    (next_,) = run_of(retry).handle(Changed(taken))
    assert isinstance(next_, effect)
