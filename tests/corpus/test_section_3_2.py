"""Section 3.2: command lines of every epoch, as they were typed, at one home."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dstack_agent.command import root as runner
from dstack_cli.misused import Misused
from dstack_cli.run_words import read
from dstack_cli.tree import root
from support.alone import alone
from support.lab import Peer, project, said

WORKFLOWS = """
workflows:
  - name: prepare
    help: Makes data
    provider: bash
    commands: [mkdir -p data/in, echo "d $lr" > data/in/file, echo made, echo late >&2]
    artifacts: [data]
  - name: train
    provider: bash
    depends-on: [prepare]
    commands: [cat data/in/file]
  - name: cached
    provider: bash
    commands: [cat store/it 2>/dev/null || echo fresh, mkdir -p store, echo cached > store/it]
    cache: [store]
  - name: wait
    provider: bash
    commands: [mkdir -p out, echo half > out/half, sleep 600]
    artifacts: [out]
"""
VARIABLES = "variables:\n  prepare:\n    lr: 0.1\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("section-3-2")) as peer:
        yield peer


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("code"), WORKFLOWS)
    (folder / ".dstack" / "variables.yaml").write_text(VARIABLES)
    return folder


@pytest.fixture(scope="module")
def done(home: Peer, code: Path) -> str:
    """A run of two jobs that is done."""
    home.dstack("run", "train", "--lr", "0.2", cwd=code, check=True)
    return str(home.json("ps", cwd=code)["items"][0]["run"])


def parsed(line: str) -> bool:
    """Whether a command line can be meant, without carrying it out."""
    name, *words = line.split()
    if name == "run":
        read(words)
        return True
    with click.Context(root, obj=None) as ctx:
        command = root.get_command(ctx, name)
        assert command is not None, line
        command.make_context(name, words, parent=ctx)
    return True


LINES = [
    pytest.param("run train -f", id="3.2.9 run -f"),
    pytest.param("run train --follow --lr 1", id="3.2.9 run --follow"),
    pytest.param("run bash -c true -d", id="3.2.10 run of a provider"),
    pytest.param("run train -d", id="3.2.11 run -d"),
    pytest.param("run train -t best", id="3.2.13 run -t"),
    pytest.param("status calm-ibex-1 -n 3 --no-jobs", id="3.2.16 status"),
    pytest.param("runs -a", id="3.2.17 runs -a"),
    pytest.param("runs -n 10", id="3.2.17 runs -n"),
    pytest.param("ps -a", id="3.2.18 ps -a"),
    pytest.param("ps calm-ibex-1 -w -v", id="3.2.18 ps -w -v"),
    pytest.param("logs 711f6d690b4f -f -s 2022-03-17T10:00", id="3.2.19 logs of a job"),
    pytest.param("logs calm-ibex-1 train -a -s 1w", id="3.2.19 logs of a workflow"),
    pytest.param("logs -d calm-ibex-1", id="3.2.20 logs -d"),
    pytest.param("logs --diagnose calm-ibex-1", id="3.2.20 logs --diagnose"),
    pytest.param("stop calm-ibex-1 -a", id="3.2.21 stop -a as abort"),
    pytest.param("stop calm-ibex-1 train --abort", id="3.2.21 stop of a workflow"),
    pytest.param("stop --all --abort -y", id="3.2.21 stop --all"),
    pytest.param("stop -a -x -y", id="3.2.21 stop -a -x"),
    pytest.param("resume calm-ibex-1 -f", id="3.2.22 resume"),
    pytest.param("restart calm-ibex-1 train -c", id="3.2.23 restart"),
    pytest.param("restart calm-ibex-1 --clear", id="3.2.23 restart --clear"),
    pytest.param("tag calm-ibex-1 latest", id="3.2.24 tag"),
    pytest.param("tag calm-ibex-1 --name latest", id="3.2.24 tag --name"),
    pytest.param("tag calm-ibex-1 -n latest", id="3.2.24 tag -n"),
    pytest.param("tag calm-ibex-1", id="3.2.24 tag without a tag"),
    pytest.param("untag calm-ibex-1 -f", id="3.2.25 untag"),
    pytest.param("tags list", id="3.2.26 tags list"),
    pytest.param("tags create best -r calm-ibex-1", id="3.2.26 tags create"),
    pytest.param("tags add best calm-ibex-1 -y", id="3.2.26 tags add"),
    pytest.param("tags delete best -y", id="3.2.26 tags delete"),
    pytest.param("artifacts 711f6d690b4f -o out -t", id="3.2.27 artifacts of a job"),
    pytest.param("artifacts list calm-ibex-1 train", id="3.2.28 artifacts list"),
    pytest.param("artifacts download calm-ibex-1 -o out", id="3.2.28 artifacts download"),
    pytest.param("artifacts list :best", id="3.2.29 artifacts list"),
    pytest.param("artifacts download :best -o out", id="3.2.29 artifacts download"),
    pytest.param("ls -r -t :best data", id="3.2.30 ls"),
    pytest.param("cp calm-ibex-1 data out", id="3.2.31 cp"),
    pytest.param("push :best", id="3.2.32 push"),
    pytest.param("pull calm-ibex-1", id="3.2.32 pull"),
    pytest.param("prune -f", id="3.2.33 prune"),
    pytest.param("delete -y calm-ibex-1", id="3.2.34 delete"),
    pytest.param("rm -a -y", id="3.2.34 rm -a"),
    pytest.param("secrets", id="3.2.36 secrets"),
    pytest.param("secrets add -y TOKEN value", id="3.2.36 secrets add"),
    pytest.param("secrets update TOKEN value", id="3.2.36 secrets update"),
    pytest.param("secrets delete -y TOKEN", id="3.2.36 secrets delete"),
    pytest.param("runners", id="3.2.37 runners"),
]


@pytest.mark.parametrize("line", LINES)
def test_an_old_command_line_can_be_meant(line: str) -> None:
    assert parsed(line)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("config --token T --server U --no-verify", id="3.2.1 config of a server"),
        pytest.param("config --url U --project P --token T", id="3.2.4 config of a project"),
    ],
)
def test_what_a_server_needed_says_what_took_its_place(home: Peer, line: str) -> None:
    ended = home.dstack(*line.split())
    assert ended.returncode == 2 and b"mesh join" in ended.stderr, said(ended)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        pytest.param("aws config", "s3://", id="3.2.38 credentials of a vendor"),
        pytest.param("aws info", "s3://", id="3.2.38 credentials are shown nowhere"),
        pytest.param("on-demand limits", "agents add", id="3.2.39 limits"),
        pytest.param("on-demand limit -i p3 --spot", "agents add", id="3.2.39 a limit"),
        pytest.param("dashboard -p 8000", "dstack ps", id="3.2.40 dashboard"),
        pytest.param("hub start --port 3000", "dstack-runner start", id="3.2.41 hub start"),
        pytest.param("start -p 3000", "dstack-runner start", id="3.2.41 start"),
    ],
)
def test_what_has_no_meaning_here_says_what_took_its_place(line: str, instead: str) -> None:
    with click.Context(root) as ctx, pytest.raises(Misused) as told:
        root.resolve_command(ctx, line.split())
    assert instead in told.value.hint and told.value.code == "replaced"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("init --github-token T", id="3.2.5 init with credentials"),
        pytest.param("init --user U --password P", id="3.2.5 init with a password"),
        pytest.param("init -t T", id="3.2.6 init with a token"),
        pytest.param("init -i ~/.ssh/id", id="3.2.6 init with a key"),
        pytest.param("init --git-identity F --ssh-identity F", id="3.2.7 init with identities"),
    ],
)
def test_what_init_needed_is_said_to_be_needless_and_init_goes_on(line: str) -> None:
    assert parsed(line)


def test_3_2_8_run_without_a_name_tells_workflows_and_providers(home: Peer, code: Path) -> None:
    shown = home.dstack("run", cwd=code, check=True).stdout
    assert b"prepare" in shown and b"Makes data" in shown and b"bash" in shown


def test_3_2_14_a_workflow_tells_its_variables(home: Peer, code: Path) -> None:
    told = home.dstack("run", "prepare", "-h", cwd=code, check=True).stdout
    assert b"--lr" in told and b"default 0.1" in told


def test_3_2_16_status_lists_what_goes_on_or_the_last_run(
    home: Peer, code: Path, done: str
) -> None:
    lines = home.dstack("status", cwd=code, check=True).stdout.decode().splitlines()
    titles = "RUN TAG JOB WORKFLOW VARIABLES SUBMITTED RUNNER STATUS"
    assert lines[0].split() == titles.split() and len(lines) == 4
    assert lines[1].split()[:2] == [done, "<none>"] and "DONE" in lines[1]
    assert len(home.dstack("status", "--no-jobs", cwd=code).stdout.splitlines()) == 2


def test_3_2_19_logs_of_a_run_a_job_and_a_workflow(home: Peer, code: Path, done: str) -> None:
    status = home.dstack("status", done, cwd=code, check=True).stdout.decode()
    prepare = re.findall(r"^ +([0-9a-f]{12}) ", status, re.MULTILINE)[0]
    whole = home.dstack("logs", done, cwd=code, check=True)
    assert (whole.stdout, whole.stderr) == (b"made\nd 0.2\n", b"late\n")
    assert home.dstack("logs", prepare, cwd=code, check=True).stdout == b"made\n"
    assert home.dstack("logs", done, "train", "-s", "1h", cwd=code).stdout == b"d 0.2\n"
    assert home.dstack("logs", done, "-n", "1", "--job", "0", cwd=code).stdout == b"made\n"
    assert home.dstack("logs", done, "--until", "1h", cwd=code).stdout == b""
    assert re.match(rb"\d\d:\d\d:\d\d made", home.dstack("logs", done, "-t", cwd=code).stdout)


def test_3_2_24_tags_in_both_orders_and_none(home: Peer, code: Path, done: str) -> None:
    for words in (("tag", done, "first"), ("tag", "second", done), ("tag", done, "-n", "third")):
        home.dstack(*words, cwd=code, check=True)
    home.dstack("tag", done, cwd=code, check=True)
    assert " *" in home.dstack("status", done, cwd=code).stdout.decode()
    tags = {item["tag"]: item["run"] for item in home.json("tags", cwd=code)["items"]}
    assert tags == dict.fromkeys(("first", "second", "third", done), done)
    shown = home.dstack("tags", "list", cwd=code, check=True).stdout.decode().splitlines()[0]
    assert {"TAG", "CREATED", "RUN"} <= set(shown.split())
    nearly = home.dstack("ls", ":frist", cwd=code)
    assert nearly.returncode == 66 and b"did you mean first?" in nearly.stderr


def test_3_2_25_untag_takes_a_tag_or_all_of_a_run(home: Peer, code: Path, done: str) -> None:
    for words in (("tags", "add", "one", done), ("tags", "create", "two", "-r", done)):
        home.dstack(*words, cwd=code, check=True)
    home.dstack("untag", "one", cwd=code, check=True)
    assert "one" not in {item["tag"] for item in home.json("tags", cwd=code)["items"]}
    home.dstack("untag", done, "-f", cwd=code, check=True)
    assert home.json("tags", cwd=code)["items"] == []


def test_3_2_28_artifacts_are_listed_and_downloaded(
    home: Peer, code: Path, done: str, tmp_path: Path
) -> None:
    listed = home.dstack("artifacts", "list", done, cwd=code, check=True).stdout
    assert b"in/file" in listed
    totals = home.dstack("artifacts", done, "-t", cwd=code, check=True).stdout.decode()
    assert totals.split()[:3] == ["ARTIFACT", "SIZE", "FILES"]
    home.dstack("artifacts", "download", done, "prepare", "-o", str(tmp_path), cwd=code, check=True)
    assert len(list(tmp_path.rglob("file"))) == 1


def test_3_2_28_folders_are_uploaded_under_a_tag(home: Peer, code: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("a")
    folder = str(tmp_path / "corpus")
    home.dstack("artifacts", "upload", folder, "-t", "given", cwd=code, check=True)
    assert home.dstack("ls", ":given", "-r", "-q", cwd=code).stdout.split() == [b"corpus/a.txt"]
    lacking = home.dstack("artifacts", "uplaod", folder, cwd=code)
    assert lacking.returncode == 2 and b"did you mean upload?" in lacking.stderr
    home.dstack("rm", "@", "-y", cwd=code, check=True)
    home.dstack("untag", "given", cwd=code, check=True)


def test_3_2_30_ls_lists_the_top_or_all(home: Peer, code: Path, done: str) -> None:
    assert home.dstack("ls", done, "-q", "-r", cwd=code).stdout.split() == [b"data/in/file"]
    assert b"in" in home.dstack("ls", done, "data", cwd=code, check=True).stdout


def test_3_2_21_a_stop_saves_and_an_abort_saves_nothing(home: Peer, code: Path) -> None:
    for flags, state in (((), "stopped"), (("-a",), "aborted")):
        started = home.dstack("run", "wait", "-d", "-q", cwd=code, check=True)
        name = started.stdout.decode().strip()
        home.dstack("logs", name, cwd=code)
        ended = home.dstack("stop", name[:-1], *flags, cwd=code, check=True)
        assert state in ended.stdout.decode(), said(ended)
    again = home.dstack("stop", "@", cwd=code, check=True)
    assert b"aborted" in again.stdout


def test_3_2_34_what_ended_is_removed_and_a_tag_survives(home: Peer, code: Path, done: str) -> None:
    home.dstack("tag", done, "kept", cwd=code, check=True)
    home.dstack("prune", "-f", cwd=code, check=True)
    assert [item["run"] for item in home.json("ps", "-a", cwd=code)["items"]] == [done]
    home.dstack("rm", "-a", "-y", cwd=code, check=True)
    assert home.json("ps", "-a", cwd=code)["items"] == []
    assert home.dstack("ls", ":kept", "-r", "-q", cwd=code).stdout.split() == [b"data/in/file"]


def test_3_2_35_prune_cache_forgets_what_stays_between_runs(home: Peer, code: Path) -> None:
    """Whose caches go and whose stay: `tests/unit/jobs/test_caches.py`."""
    told = [home.dstack("run", "cached", cwd=code, check=True).stdout for _ in range(2)]
    [pruned] = home.json("prune", "cache", "cached", cwd=code)["items"]
    told.append(home.dstack("run", "cached", cwd=code, check=True).stdout)
    assert (pruned["caches"], told) == (1, [b"fresh\n", b"cached\n", b"fresh\n"])


def test_trap_70_prune_is_of_runs_and_prune_cache_of_what_stays_between_them(
    home: Peer, code: Path
) -> None:
    told = [home.dstack("run", "cached", cwd=code, check=True).stdout for _ in range(2)]
    home.dstack("prune", "-f", cwd=code, check=True)
    assert home.json("ps", "-a", cwd=code)["items"] == []
    told.append(home.dstack("run", "cached", cwd=code, check=True).stdout)
    assert told[1:] == [b"cached\n", b"cached\n"]
    home.dstack("prune", "cache", "cached", cwd=code, check=True)
    assert len(home.json("ps", "-a", cwd=code)["items"]) == 1


def test_4_13_2_names_that_a_listing_tells_of_are_taken(home: Peer, code: Path) -> None:
    home.dstack("run", "bash", "-c", "true", cwd=code, check=True)
    told = {item["run"] for item in home.json("ps", "-a", cwd=code)["items"]}
    assert told <= {*(home.home / "state" / "heard-names").read_text().split()}


def test_3_2_42_version_and_help(home: Peer) -> None:
    assert home.dstack("--version", check=True).stdout.startswith(b"dstack ")
    for flag in ("--help", "-h"):
        assert b"Usage: dstack" in home.dstack(flag, check=True).stdout


def test_3_2_44_the_agent_s_check_is_a_command() -> None:
    assert {"start", "check"} <= set(runner.commands)
