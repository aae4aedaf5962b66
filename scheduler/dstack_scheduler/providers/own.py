"""Own providers of a project: `.dstack/providers.yaml`.

A program (an image with commands, or commands alone) runs as the first job of the workflow, with
no rights but those of a job. It finds the workflow in `workflow.yaml` and writes jobs to the file
`DSTACK_JOBS_FILE`, in the form of a workflow file. `dstack_scheduler.growing` reads them.
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import files

from dstack_scheduler.needs import Needs
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.port import WRITTEN, Direct, Provider, one_job, preparation
from dstack_scheduler.workflow.interpolation import Interpolator, Values
from dstack_scheduler.workflow.keys import (
    COMMANDS,
    COMMON,
    IMAGE,
    PYTHON,
    REQUIREMENTS,
    SETUP,
)
from dstack_scheduler.workflow.model import Key, Workflow
from dstack_scheduler.workflow.problem import Code, Report, did_you_mean
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.tree import (
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    describe,
    find,
    is_null,
    shorten,
)

FOLDER = ".dstack-jobs"
"""Where the program's jobs lie, from its working directory; kept as its artifact."""

FILE = "jobs.yaml"

_KEYS: Mapping[str, Key] = {
    "image": IMAGE,
    "commands": COMMANDS,
    "help": COMMON["help"],
    "requirements": REQUIREMENTS,
    "setup": SETUP,
    "python": PYTHON,
}
_LIBRARY = '"${TMPDIR:-/tmp}/dstack-provider"'


def read_own(trees: Iterable[Node], report: Report, taken: Iterable[str]) -> Mapping[str, Provider]:
    """The providers of all files by name.

    Args:
        taken: Names of providers that there are already.
    """
    found: dict[str, Provider] = {}
    for node in (node for tree in trees for node in _items(tree, report)):
        entry = find(node, ("name",)) if isinstance(node, MapNode) else None
        if not isinstance(node, MapNode) or entry is None or not isinstance(entry[1], ScalarNode):
            report.add(node.place, Code.MISSING_KEY, "The provider has no name.", "add name: sweep")
            continue
        name = entry[1].text
        if name in found or name in taken:
            message = f'There is a provider "{shorten(name)}" already.'
            report.add(entry[1].place, Code.SAID_TWICE, message, "give it another name")
            continue
        found[name] = _provider(name, node, Scope(report, Interpolator(Values()), name))
    return found


def _items(tree: Node, report: Report) -> Iterator[Node]:
    if is_null(tree):
        return
    entries = tree.entries if isinstance(tree, MapNode) else ()
    for key, value in entries:
        if key.text == "providers" and isinstance(value, ListNode):
            yield from value.items
            continue
        message = f'"{shorten(key.text)}" is not a list of providers.'
        report.add(key.place, Code.UNKNOWN_KEY, message, "write `providers:` and below `- name: x`")
    if not isinstance(tree, MapNode):
        message = f"The file must be a mapping, not {describe(tree)}."
        report.add(tree.place, Code.WRONG_TYPE, message, "begin it with `providers:`")


def _provider(name: str, node: MapNode, scope: Scope) -> Provider:
    program = Workflow(name, name)
    for key, value in node.entries:
        inner, row = scope.within(key.text), _KEYS.get(key.text)
        if row is not None:
            program = row.read(program, value, inner)
        elif key.text != "name":
            message = f'A provider takes no key "{shorten(key.text)}".'
            inner.complain(key, Code.UNKNOWN_KEY, message, did_you_mean(key.text, _KEYS))
    if not program.commands:
        message = f'The provider "{name}" has no commands.'
        scope.complain(node, Code.MISSING_KEY, message, "add commands: [python .dstack/sweep.py]")
    return Provider(
        name=name,
        about=program.help or "Own provider of .dstack/providers.yaml",
        keys={},
        required=(),
        direct=Direct(usage=f"dstack run {name} [ARGUMENTS]"),
        appends_args=True,
        jobs=partial(_jobs, program),
        any_key=True,
    )


def _jobs(
    program: Workflow, workflow: Workflow, variables: Mapping[str, str]
) -> tuple[PlannedJob, ...]:
    """The program as a job. What the workflow needs and keeps is for the jobs that it makes."""
    running = replace(
        workflow,
        image=program.image,
        python=program.python,
        requirements=program.requirements,
        setup=program.setup,
        needs=Needs(),
        nodes=1,
        ports=(),
        artifacts=(FOLDER,),
    )
    commands = (_laid(workflow, variables), *preparation(running), *program.commands)
    (job,) = one_job(running, variables, commands)
    return (replace(job, workflow="", makes=workflow.name),)


def _laid(workflow: Workflow, variables: Mapping[str, str]) -> str:
    """A command that lays the workflow and the library before the program."""
    library = files("dstack_scheduler.providers.program").joinpath("job_api.py").read_text("utf-8")
    known: dict[str, object] = {
        **json.loads(workflow.options.get(WRITTEN, "{}")),
        "workflow_name": workflow.name,
        "provider_name": workflow.provider,
        "provider_branch": "",
        "provider_args": list(workflow.run_args),
        "variables": dict(variables),
        "previous_job_ids": [],
    }
    lines = "".join(f"{json.dumps(key)}: {json.dumps(value)}\n" for key, value in known.items())
    return "\n".join(
        [
            f"mkdir -p {FOLDER} {_LIBRARY}",
            f"printf %s {shlex.quote(library)} > {_LIBRARY}/dstack.py",
            f"printf %s {shlex.quote(lines)} > workflow.yaml",
            'printf \'"run_name": "%s"\\n"user_name": "%s"\\n"repo_path": "%s"\\n\''
            ' "$RUN_NAME" "$USER" "$PWD" >> workflow.yaml',
            'printf \'"repo_branch": "%s"\\n"repo_hash": "%s"\\n\''
            ' "$(git branch --show-current 2>/dev/null)" "$(git rev-parse HEAD 2>/dev/null)"'
            " >> workflow.yaml",
            f'export REPO_PATH="$PWD" DSTACK_JOBS_FILE="$PWD/{FOLDER}/{FILE}"'
            f" DSTACK_PROVIDER={shlex.quote(workflow.provider)}",
            f'export PYTHONPATH={_LIBRARY}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        ]
    )
