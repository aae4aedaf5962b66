"""Runs a command beside a job, in front of a person or of a script."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import ExitStack
from functools import partial

from dstack_cli.choosing import meant
from dstack_cli.console import is_terminal, raw, window_of
from dstack_cli.misused import Misused
from dstack_cli.names import listed
from dstack_cli.picture import RunPicture
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_mesh.faults import MeshError, Missing, Refused, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.trouble import render
from dstack_mesh.tunnel.descriptors import read_some, write_all
from dstack_scheduler.errand import STDERR, STDIN, STDOUT, Errand, Outcome
from dstack_scheduler.job import JobRecord, JobState
from dstack_scheduler.wire.errand import ErrandClient, Session

RUNS = frozenset({JobState.RUNNING, JobState.STOPPING})

_TERM = "xterm"
"""What a terminal is that does not say."""


@frozen
class Wanted:
    """A command line.

    Attributes:
        run: The run, as a person names it; the twelve digits of a job name one job of it.
        job: That job of the run; None for the one that runs.
        words: Program and arguments; empty for a shell.
        terminal: The command shall have one.
        interactive: It gets what is typed.
    """

    run: str
    job: int | None
    words: tuple[str, ...]
    terminal: bool
    interactive: bool


def carry_out_beside(home: Home, wanted: Wanted) -> int:
    """Runs a command beside a job; returns its exit code. Raises MeshError."""
    errand = _errand(wanted)
    typed = is_terminal(STDIN) and not errand.terminal
    reads = bool(wanted.interactive or not wanted.words or not typed)

    async def work() -> int:
        async with reaching(home, Private.IF_HISTORY) as reach:
            found = meant(wanted.run, await reach.runs())
            job = job_meant(found.picture, wanted.job if wanted.job is not None else found.job)
            client = await _client(reach, job)
            async with client.begun(job.key, errand) as session:
                outcome = await Front(session, bool(errand.terminal)).attend(reads)
        return _told(outcome, wanted)

    return carry_out(work())


def _errand(wanted: Wanted) -> Errand:
    both = is_terminal(STDIN) and is_terminal(STDOUT)
    if wanted.terminal and not both:
        stream = "input" if not is_terminal(STDIN) else "output"
        raise Misused(
            "-t gives the command this terminal, and there is none.",
            f"Standard {stream} is no terminal.",
            "leave -t away",
            "no-terminal",
        )
    if not both or (wanted.words and not wanted.terminal):
        return Errand(wanted.words)
    return Errand(wanted.words, os.environ.get("TERM") or _TERM, window_of(STDOUT))


def job_meant(picture: RunPicture, number: int | None) -> JobRecord:
    """The job beside which a command runs: the one that is named, or the one that runs.

    Raises:
        Missing: The run has no such job.
        Refused: It does not run.
        Misused: Several run.
    """
    name, jobs = picture.record.run_name, picture.record.jobs
    running = [job for job in jobs if job.state.state in RUNS and number in (None, job.key.job)]
    match running:
        case [job]:
            return job
        case []:
            raise _not_running(picture, number)
        case _:
            told = listed(f"{each.key.job} ({each.workflow or each.provider})" for each in running)
            raise Misused(
                f"{len(running)} jobs of {name} run.",
                f"They are {told}.",
                f"dstack exec {name} --job {running[0].key.job}",
                "ambiguous",
            )


def _not_running(picture: RunPicture, number: int | None) -> MeshError:
    record = picture.record
    name = record.run_name
    job = next((each for each in record.jobs if each.key.job == number), None)
    if number is not None and job is None and number >= record.job_count:
        jobs = "1 job" if record.job_count == 1 else f"{record.job_count} jobs"
        return Missing(
            f"{name} has no job {number}.",
            f"It has {jobs}, counted from 0.",
            f"dstack status {name}",
            "no-such-job",
        )
    status = picture.status if job is None else job.state.state
    about = name if number is None else f"Job {number} of {name}"
    if status.ended or status is JobState.SAVING:
        fix = f"dstack logs {name}   or start it again: dstack restart {name}"
        return Refused(f"{about} does not run any more.", f"It is {status.value}.", fix, "shut")
    fix = f"dstack explain {name}"
    return Refused(f"{about} does not run yet.", f"It is {status.value}.", fix, "shut")


async def _client(reach: Reach, job: JobRecord) -> ErrandClient:
    found = await reach.errands(job.agent_id) if job.agent_id is not None else None
    if found is None:
        raise Unreachable(
            f"{job.agent_name or job.agent_id}, which runs the job, does not answer.",
            "",
            "dstack agents",
            "agent-away",
        )
    return found


class Front:
    """Whoever is in front of a command: this process's streams, and its signals."""

    def __init__(self, session: Session, terminal: bool) -> None:
        self._session = session
        self._terminal = terminal
        self._ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._interrupted = False

    async def attend(self, reads: bool) -> Outcome:
        """Stays until the command ended, or a signal ends it.

        Args:
            reads: It gets standard input.
        """
        with ExitStack() as stack:
            self._listen()
            if self._terminal:
                stack.enter_context(raw(STDIN))
            read = partial(read_some, STDIN) if reads else None
            writes = {each: partial(write_all, each) for each in (STDOUT, STDERR)}
            running = asyncio.ensure_future(self._session.run(read, writes))
            try:
                await asyncio.wait((running, self._ended), return_when=asyncio.FIRST_COMPLETED)
                return running.result() if running.done() else self._ended.result()
            finally:
                running.cancel()

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        if self._terminal:
            loop.add_signal_handler(signal.SIGWINCH, self._resize)

    def _interrupt(self) -> None:
        """The first one is the command's to obey; another one ends it."""
        if self._interrupted or self._terminal:
            self._end(signal.SIGINT)
        else:
            self._interrupted = True
            self._do(self._session.interrupt())

    def _resize(self) -> None:
        self._do(self._session.resize(window_of(STDOUT)))

    def _end(self, number: int) -> None:
        if not self._ended.done():
            self._ended.set_result(Outcome(128 + number))

    def _do(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _told(outcome: Outcome, wanted: Wanted) -> int:
    """The exit code; says why the command did not start or was ended, if it was."""
    match outcome.exit_code:
        case _ if not outcome.why:
            return outcome.exit_code
        case 127:
            fix = f"look around in the job: dstack exec {wanted.run}"
            trouble = Refused(outcome.why, "", fix, "command-not-found")
        case 126:
            trouble = Refused(outcome.why, "", "", "command-not-started")
        case _:
            trouble = Refused(outcome.why, "", "", "command-ended")
    print(render(trouble), file=sys.stderr)
    return outcome.exit_code
