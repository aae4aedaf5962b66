"""`provider: curl`: a file from the internet."""

import posixpath
import shlex
from collections.abc import Mapping

from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.options import option
from dstack_scheduler.providers.port import Direct, Provider, one_job
from dstack_scheduler.workflow.model import Option, Workflow


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    url, output = workflow.options["url"], workflow.options["output"]
    folder = posixpath.dirname(output)
    words = ("curl", "--fail", "--location", "--show-error", "--silent", *workflow.run_args)
    fetch = f"{shlex.join(words)} --output {_path(output)} {shlex.join(('--url', url))}"
    make = (f"mkdir -p {_path(folder)}",) if folder and folder != "~" else ()
    return one_job(workflow, variables, (*make, fetch))


def _path(path: str) -> str:
    """A path as a word of a shell, which finds the home folder only outside quotes."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


CURL = Provider(
    name="curl",
    about="Downloads a file",
    keys={
        "url": option("url", "url: https://example.org/corpus.tar"),
        "output": option("output", "output: data/corpus.tar"),
    },
    required=("url", "output"),
    direct=Direct(
        first=("url",),
        options=(Option(("-o", "--output"), "output", "Where the file goes", "FILE"),),
        usage="dstack run curl URL -o FILE -a FOLDER [OPTIONS OF CURL]",
        rest=True,
    ),
    appends_args=False,
    jobs=_jobs,
)
