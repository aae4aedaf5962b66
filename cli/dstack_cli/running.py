"""What `dstack run` does, with nothing heavy loaded before it is needed.

While the workflow files are read the code is read too, in a thread that mostly waits for git; and a
private agent that has to start first does so while we load gRPC.
"""

import gc
import os
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dstack_cli import embedded
from dstack_cli.output.forms import chosen
from dstack_cli.remotes.places import chosen_remote, has_remotes
from dstack_cli.run_words import Asked, read
from dstack_mesh.home import Home
from dstack_scheduler.plan import Plan
from dstack_scheduler.workflow.files import load_project
from dstack_scheduler.workflow.planning import plan as make_plan
from dstack_scheduler.workflow.project import Project

if TYPE_CHECKING:
    from dstack_cli.code import Code


T = TypeVar("T")

HELLO = "hello"
HELLO_ARGS = (
    "-c",
    'echo "Hello from $RUN_NAME. What is written to ./output is kept."'
    " && mkdir -p output && date > output/when.txt",
    *("--artifact", "output"),
)


def run_words(args: Sequence[str]) -> int:
    """`dstack run` with these words; returns the exit code."""
    asked = read(args)
    if not asked.target:
        return list_targets(Path.cwd(), asked.as_json)
    return run(Home.of_environment(asked.home), Path.cwd(), asked)


def run(home: Home, folder: Path, asked: Asked) -> int:
    """Plans, and then shows, submits or carries out."""
    from dstack_cli.naming import order_id, order_name

    # Nothing made while we load is garbage soon; looking for some costs a tenth of the time.
    gc.disable()
    reading = in_thread(lambda: read_code(home, folder))
    project = load_project(folder)
    target, words = meant(project, asked)
    asked = _with_remote(home, asked)
    run_id, run_name = order_id(home), order_name(home)
    planned = partial(make_plan, project, target, words, run_name=run_name, run_id=run_id)
    plan = planned()
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

    def replanned(earlier: Collection[str]) -> Plan:
        return planned(earlier=earlier)

    replan = replanned if asked.reuse else None
    if asked.dry_run:
        from dstack_cli.dry_run import show_plan
        from dstack_cli.submitting import Order

        order = Order(plan, run_id, run_name, reading, asked.placement, replan=replan)
        return show_plan(home, order, asked)
    secrets = _secrets_of(home, folder, plan, asked.detach)
    if not asked.detach:
        _check_local_ports(plan)
    wanted = asked.placement != "remote"
    starting = embedded.start(home) if wanted and not embedded.answers(home) else None
    from dstack_cli.carrying import carry
    from dstack_cli.submitting import Order

    gc.freeze()
    gc.enable()
    order = Order(plan, run_id, run_name, reading, asked.placement, asked.tag, secrets, replan)
    return carry(home, order, asked, starting)


def meant(project: Project, asked: Asked) -> tuple[str, tuple[str, ...]]:
    """The target and its words; `hello` is ours where no workflow is called so."""
    if asked.target == HELLO and HELLO not in project.workflows:
        return "bash", (*HELLO_ARGS, *asked.words)
    return asked.target, asked.words


def _with_remote(home: Home, asked: Asked) -> Asked:
    """Where `--remote` and the remotes of this home have the run go, once it has ended.

    A remote of the name that was given comes before an agent of it; `--agent` always means one.
    """
    if not asked.remote or not has_remotes(home):
        return asked
    from dstack_mesh.remotes.configured import load_remotes  # most homes have none

    remotes = load_remotes(home, chosen_remote())
    if asked.placement in remotes.places:
        return replace(asked, placement="remote", push_to=asked.placement)
    return replace(asked, push_to=remotes.default)


def _secrets_of(home: Home, folder: Path, plan: Plan, detach: bool) -> dict[str, str]:
    """The values that a run takes along. Raises Misused if one is not kept here."""
    if not any(job.secrets_needed for job in plan.jobs):
        return {}
    from dstack_cli.keeping_secrets import values_of  # most runs need none

    return values_of(home, folder, plan, detach)


def _check_local_ports(plan: Plan) -> None:
    """Raises Refused if a port of this machine that apps must have is in use."""
    wanted = [app.local for job in plan.jobs for app in job.apps if app.local]
    if wanted:
        from dstack_cli.forwarding.local_port import bind_local  # most runs name none

        for port in wanted:
            bind_local(port, exactly=True).close()


def read_code(home: Home, folder: Path) -> "Code":
    """The folder's files as one tree in this home's store."""
    from dstack_cli.code import capture
    from dstack_mesh.chunks.store import ChunkStore

    home.prepare()
    store = ChunkStore(home.chunks)
    try:
        return capture(folder, store, home)
    finally:
        store.close()


def in_thread(work: Callable[[], T]) -> "Future[T]":
    """Does something beside us. It does not keep the process alive."""
    done: Future[T] = Future()

    def carry_out() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # whoever waits for the result gets it
            done.set_exception(error)

    threading.Thread(target=carry_out, daemon=True).start()
    return done


def list_targets(folder: Path, as_json: bool) -> int:
    """Lists the workflows of a folder and the providers."""
    from dstack_cli.targets import targets_listing

    project = load_project(folder)
    output = chosen(as_json)
    output.listing(targets_listing(project))
    if not as_json:
        output.talk(
            "\nRun one: dstack run NAME [VARIABLES AND FLAGS]      More: dstack run NAME -h"
        )
    return 0


def tell_about(folder: Path, target: str) -> int:
    """Tells what a workflow or provider takes."""
    from dstack_cli.targets import help_of

    print(help_of(load_project(folder), target))
    return 0
