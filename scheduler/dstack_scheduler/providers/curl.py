"""`provider: curl`: a file from the internet."""

import posixpath
import shlex
from collections.abc import Mapping
from dataclasses import replace

from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.port import Direct, Provider, one_job
from dstack_scheduler.workflow.model import Key, Option, Workflow
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.shapes import Scalar, shaped
from dstack_scheduler.workflow.tree import Node


def _option(name: str, example: str) -> Key:
    @shaped(Scalar.TEXT)
    def read(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
        text = scope.line(node)
        return replace(workflow, options={**workflow.options, name: text or ""})

    return Key(name, read, example)


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    url, output = workflow.options["url"], workflow.options["output"]
    folder = posixpath.dirname(output)
    words = ("curl", "--fail", "--location", "--show-error", "--silent")
    fetch = shlex.join((*words, *workflow.run_args, "--output", output, "--url", url))
    make = (f"mkdir -p {shlex.quote(folder)}",) if folder else ()
    return one_job(workflow, variables, (*make, fetch))


CURL = Provider(
    name="curl",
    about="Downloads a file",
    keys={
        "url": _option("url", "url: https://example.org/corpus.tar"),
        "output": _option("output", "output: data/corpus.tar"),
    },
    required=("url", "output"),
    direct=Direct(
        first=("url",),
        options=(Option(("-o", "--output"), "output", "Where the file goes", "FILE"),),
        usage="dstack run curl URL -o FILE -a FOLDER",
    ),
    appends_args=False,
    jobs=_jobs,
)
