"""Sixty slips of the finger, and what is suggested for each: at least 54 must be right."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from dstack_cli.misused import Misused
from dstack_cli.names import Named, find
from dstack_cli.run_words import read
from dstack_cli.tree import root
from dstack_mesh.faults import Missing
from dstack_mesh.ids import RunId
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.job import TagRecord
from dstack_scheduler.plan import Reuse
from dstack_scheduler.resolve import resolve
from dstack_scheduler.workflow.problem import WorkflowProblems
from support.workflow_files import plan_of, project_of

RIGHT = 54
TAGS = ("best", "baseline", "v1", "nightly", "release-2")
RUNS = ("lazy-bobcat-1", "calm-ibex-12", "quick-mule-3")
VARIABLES = "variables: {global: {seed: 1}, x: {learning_rate: 1, epochs: 2, batch-size: 3}}"
KEYS = """
artifiacts: [a] -> artifacts
artefacts: [a] -> artifacts
artifact: [a] -> artifacts
resorces: {gpu: 1} -> resources
resource: {gpu: 1} -> resources
dependson: [y] -> depends-on
depends_on: [y] -> depends-on
dependancies: [y] -> dependencies
dep: [y] -> deps
enviroment: [A=1] -> environment
envs: [A=1] -> env
workdir: src -> working_dir
working-dir: src -> working_dir
pyhton: 3.11 -> python
requirments: r.txt -> requirements
setups: [a] -> setup
before-run: [a] -> before_run
max-duration: 1h -> max_duration
retries: 3 -> retry
port: 1 -> ports
resources: {memroy: 16GB} -> memory
resources: {cpus: 4} -> cpu
resources: {GPU: 1} -> gpu
resources: {gpus: 1} -> gpu
resources: {interuptible: true} -> interruptible
resources: {shm-size: 1GB} -> shm_size
resources: {gpu: {cuont: 1}} -> count
retry: {atempts: 3} -> attempts
retry: interuption -> interruption
depends-on: {workflow: [y]} -> workflows
template: smal-gpu -> small-gpu
"""
PROVIDERS = """
bsh -> bash
Bash -> bash
pyton -> python
phyton -> python
dokcer -> docker
doker -> docker
"""
WORKFLOWS = """
trian -> train
Train -> train
prepair -> prepare
evaluation -> evaluate
"""
OF_VARIABLES = """
${{ learning_rte }} -> learning_rate
${{ epoch }} -> epochs
${{ batchsize }} -> batch-size
${{ sed }} -> seed
${{ run.arg }} -> run.args
"""
FLAGS_OF_A_WORKFLOW = """
--epocs 3 -> --epochs
--learningrate 3 -> --learning_rate
--gppu 3 -> --gpu
--memroy 1GB -> --memory
"""
VERBS = """
rnu -> run
stats -> status
lgos -> logs
validat -> validate
arifacts -> artifacts
secret -> secrets
ofers -> offers
tpo -> top
"""
FLAGS_OF_A_VERB = """
--detatch -> --detach
--dryrun -> --dry-run
--folow -> --follow
"""
OF_TAGS = """
bset -> best
base-line -> baseline
nigthly -> nightly
release2 -> release-2
"""
OF_RUNS = """
lazy-bobcta-1 -> lazy-bobcat-1
calm-ibx-12 -> calm-ibex-12
"""

FILE = """
workflows:
- {{name: train, provider: bash, commands: [a]}}
- {{name: prepare, provider: bash, commands: [a]}}
- {{name: evaluate, provider: bash, commands: [a]}}
- {{name: y, provider: bash, commands: [a]}}
- name: x
  provider: {provider}
  commands: ['{command}']
  {line}
"""


def planned(
    provider: str = "bash", command: str = "a", line: str = "", target: str = "x", args: str = ""
) -> str:
    """What is said of a run with a slip in it."""
    text = FILE.format(provider=provider, command=command, line=line)
    try:
        plan_of(project_of(text, VARIABLES, TEMPLATES), target, *args.split())
    except WorkflowProblems as wrong:
        return " ".join(problem.hint for problem in wrong.problems)
    return ""


TEMPLATES = "templates: [{name: small-gpu, image: x}, {name: large-gpu, image: x}]"


def of_verb(typed: str) -> str:
    return CliRunner().invoke(root, [typed]).output


def of_flag(typed: str) -> str:
    with pytest.raises(Misused) as wrong:
        read([typed, "x"])
    return wrong.value.hint


def of_tag(typed: str) -> str:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    tags = tuple(TagRecord("lab/x", name, RunId("0" * 26), "calm-ibex-1", at) for name in TAGS)
    with pytest.raises(Missing) as wrong:
        resolve(Reuse(tag=typed), "lab/x", [Listing((), tags)])
    return wrong.value.hint


def of_run(typed: str) -> str:
    with pytest.raises(Missing) as wrong:
        find(typed, [Named(name, name) for name in RUNS], "run")
    return wrong.value.hint


SAID: list[tuple[str, Callable[[str], str]]] = [
    (KEYS, lambda typed: planned(line=typed)),
    (PROVIDERS, lambda typed: planned(provider=typed)),
    (WORKFLOWS, lambda typed: planned(target=typed)),
    (OF_VARIABLES, lambda typed: planned(command=typed)),
    (FLAGS_OF_A_WORKFLOW, lambda typed: planned(args=typed)),
    (VERBS, of_verb),
    (FLAGS_OF_A_VERB, of_flag),
    (OF_TAGS, of_tag),
    (OF_RUNS, of_run),
]


def slips() -> list[tuple[str, str, str]]:
    """Each slip, what was meant, and what is said."""
    return [
        (typed, meant.strip(), say(typed))
        for lines, say in SAID
        for line in lines.strip().splitlines()
        for typed, _, meant in [line.partition(" ->")]
        if meant
    ]


def is_right(meant: str, said: str) -> bool:
    """Whether what was meant is named as a whole word."""
    return meant in said.replace("?", " ").replace('"', " ").replace("'", " ").split()


def test_most_slips_get_the_right_suggestion() -> None:
    found = slips()
    wrong = [(typed, meant, said) for typed, meant, said in found if not is_right(meant, said)]
    assert len(found) >= 60
    assert len(found) - len(wrong) >= RIGHT * len(found) / 60, wrong


def test_a_slip_that_gets_no_suggestion_would_be_seen() -> None:
    """The negative control of the test above."""
    assert not is_right("artifacts", planned(line="zzzz: 1"))
    assert not is_right("run", of_verb("xyzzy"))
    assert is_right("run", of_verb("rnu"))
