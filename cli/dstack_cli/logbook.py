"""Shows logs: chooses lines by time and number, stamps them, keeps bytes as they are."""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from dstack_cli import exit_codes
from dstack_cli.choosing import Meant, meant
from dstack_cli.misused import Misused
from dstack_cli.output.screen import Screen
from dstack_cli.output.terminal import Terminal
from dstack_cli.output.words import ago
from dstack_cli.picture import Away, RunPicture
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_mesh.faults import Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_scheduler.job import Gap, JobKey, JobRecord, LogFrame, LogStream, LogTail
from dstack_scheduler.progress import Progress, Unheard

_LINES = re.compile(rb"[^\n]*\n|[^\n]+")
"""Only a newline ends a line: a progress bar's carriage returns belong to it."""

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@frozen
class Selection:
    """Which part of a log.

    Attributes:
        job: Index of the only job; None for all.
        workflow: Name of the only job; "" for all.
        stream: "stdout", "stderr" or "" for both.
        since: Frames read from the job at or after this time.
        until: Frames read before this time.
        last: Lines from the end of each stream; None for all.
        timestamps: Begin each line with its time.
    """

    job: int | None = None
    stream: str = ""
    workflow: str = ""
    since: datetime | None = None
    until: datetime | None = None
    last: int | None = None
    timestamps: bool = False

    def takes(self, frame: LogFrame) -> bool:
        """Whether a frame is in the part."""
        return (
            self.stream in ("", frame.stream.value)
            and (self.since is None or frame.at >= self.since)
            and (self.until is None or frame.at < self.until)
        )


def moment(text: str, now: datetime) -> datetime:
    """The time that "10m" ago, "2h" ago or an ISO time means. Raises Misused."""
    counted = re.fullmatch(r"(\d+)([smhdw])", text)
    try:
        if counted is not None:
            return now - timedelta(**{_UNITS[counted[2]]: int(counted[1])})
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Misused(
            f"{text!r} is no time.", "", "10m, 2h, 1d or 2026-11-20T14:00", code="usage"
        ) from None


class Stamps:
    """Puts the time in front of each line of a stream, however frames cut it."""

    def __init__(self) -> None:
        self._at_start = True

    def stamp(self, data: bytes, at: datetime) -> bytes:
        """The same bytes with times."""
        if not data:
            return data
        mark = at.astimezone().strftime("%H:%M:%S ").encode()
        lines = _LINES.findall(data)
        stamped = b"".join(
            (mark if self._at_start or n else b"") + line for n, line in enumerate(lines)
        )
        self._at_start = data.endswith(b"\n")
        return stamped


class Tail:
    """Keeps the last lines of a stream."""

    def __init__(self, lines: int) -> None:
        self._whole: deque[bytes] = deque(maxlen=lines)
        self._open: list[bytes] = []
        self._lines = lines

    def feed(self, data: bytes) -> None:
        lines: list[bytes] = _LINES.findall(data)
        for line in lines:  # of an endless line the pieces are put together once
            self._open.append(line)
            if line.endswith(b"\n"):
                self._whole.append(b"".join(self._open))
                self._open.clear()

    def end(self) -> bytes:
        """The last lines; an unfinished one counts."""
        kept = [*self._whole, b"".join(self._open)] if self._open else [*self._whole]
        return b"".join(kept[-self._lines :] if self._lines else [])


class LogWatcher:
    """A `Watcher` that shows the selected part of a log and nothing else."""

    def __init__(self, screen: Screen, selection: Selection) -> None:
        self._screen = screen
        self._selection = selection
        self._stamps = {stream: Stamps() for stream in LogStream}
        self._shown: dict[tuple[JobKey, LogStream], int] = {}
        last = selection.last
        self._tails = {s: Tail(last) for s in LogStream} if last is not None else None

    async def saw(self, event: Progress) -> None:
        """Shows bytes, and bytes that are lost."""
        match event:
            case LogFrame() if self._selection.takes(event):
                await self._frame(event)
            case Gap():
                lost = event.to_bytes - event.from_bytes
                self._screen.say(f"[{lost} bytes of {event.stream.value} are lost: {event.reason}]")
            case Unheard():
                self._screen.say(f"{event.agent.name} does not answer; trying again")
            case _:
                pass

    async def saw_tail(self, tail: LogTail, whose: str) -> None:
        """Shows what is left of a log, after a line that says what is missing and where it is."""
        missing = {
            LogStream.STDOUT: tail.stdout_bytes - len(tail.stdout),
            LogStream.STDERR: tail.stderr_bytes - len(tail.stderr),
        }
        lost = ", ".join(
            f"{count:,} bytes of {stream.value}" for stream, count in missing.items() if count
        )
        self._screen.say(
            f"[{whose}. The log's first {lost} are there alone; its end was kept elsewhere]"
            if lost
            else f"[{whose}. This is a copy that was kept elsewhere]"
        )
        for stream, data in ((LogStream.STDOUT, tail.stdout), (LogStream.STDERR, tail.stderr)):
            if data:
                await self.saw(LogFrame(tail.key, stream, missing[stream], data, tail.at))

    async def flush_tails(self) -> None:
        """Shows the last lines that were kept back; what follows is shown as it comes."""
        tails, self._tails = self._tails, None
        for stream, tail in (tails or {}).items():
            await self._screen.job_bytes(stream, tail.end(), 0.0)

    async def _frame(self, frame: LogFrame) -> None:
        place = (frame.key, frame.stream)
        shown = self._shown.get(place, 0)
        data = frame.data[max(0, shown - frame.offset_bytes) :]
        self._shown[place] = max(shown, frame.offset_bytes + len(frame.data))
        if self._selection.timestamps:
            data = self._stamps[frame.stream].stamp(data, frame.at)
        if self._tails is not None:
            self._tails[frame.stream].feed(data)
        else:
            await self._screen.job_bytes(frame.stream, data, 0.0)


def show(home: Home, run: str, selection: Selection, follow: bool) -> int:
    """Shows a log; returns the exit code."""
    screen = Screen(Terminal.of_process())

    async def look() -> int:
        async with reaching(home, Private.IF_HISTORY) as reach:
            chosen, found = _chosen(run, await reach.runs(), selection)
            watcher = LogWatcher(screen, chosen)
            read = _follow if follow else _read
            try:
                return await read(reach, found.picture, chosen, watcher)
            finally:  # what was read is shown, whatever could not be
                await watcher.flush_tails()
                await screen.job_ended()

    return carry_out(look())


def _chosen(
    run: str, pictures: Sequence[RunPicture], selection: Selection
) -> tuple[Selection, Meant]:
    """The run, and the part of its log. Raises Misused if two jobs are named."""
    number = selection.job
    found = meant(run, pictures, selection.workflow if number is None else "")
    if number is None:
        return replace(selection, job=found.job), found
    if selection.workflow or found.job is not None:
        raise Misused(
            f"{selection.workflow or run} and --job {number} both name a job.",
            "The log of one job is shown, or of all.",
            f"dstack logs {found.picture.record.run_name} --job {number}",
            code="usage",
        )
    return selection, found


async def _read(
    reach: Reach, picture: RunPicture, selection: Selection, watcher: LogWatcher
) -> int:
    chosen = [job for job in picture.record.jobs if selection.job in (None, job.key.job)]
    if selection.job is not None and not chosen:
        count = len(picture.record.jobs)
        raise Misused(
            f"{picture.record.run_name} has no job {selection.job}.",
            f"It has {count} so far, counted from 0.",
            f"dstack status {picture.record.run_name}",
            code="no-such-job",
        )
    trouble: Unreachable | None = None
    for job in chosen:
        if job.agent_id is not None:
            try:
                await _read_job(reach, picture, job, watcher)
            except Unreachable as error:  # the logs of the other jobs may be there
                trouble = trouble or error
    if trouble is not None:
        raise trouble
    return 0


async def _read_job(reach: Reach, picture: RunPicture, job: JobRecord, watcher: LogWatcher) -> None:
    """Shows the log of a job, or what others keep of it if its agent does not answer."""
    from dstack_cli.following import read_now

    if picture.is_kept(job) and await _show_pushed(reach, job, watcher):
        return
    away = picture.away_of(job.agent_id)
    if away is None:
        try:
            await read_now(reach, job, watcher.saw)
            return
        except Unreachable as error:
            if error.code != "agent-away" or not await _show_tail(reach, job, None, watcher):
                raise
    elif not await _show_tail(reach, job, away, watcher):
        raise Unreachable(
            f"{_last_heard(job, away)}.",
            "The log is on that machine; of a job that goes on nothing is kept elsewhere.",
            "dstack agents",
            code="agent-away",
        )


async def _show_pushed(reach: Reach, job: JobRecord, watcher: LogWatcher) -> bool:
    """Shows the log that a remote keeps, or that was pulled; whether there is one."""
    from dstack_cli.remotes.logs import read_log

    for trees, pushed in await reach.elsewhere.pushed(job.key.run_id):
        for log in pushed.logs:
            if log.key == job.key:
                await trees.fetch_tree(log.digest)
                for event in read_log(reach.store, log):
                    await watcher.saw(event)
                return True
    return False


async def _show_tail(reach: Reach, job: JobRecord, away: Away | None, watcher: LogWatcher) -> bool:
    """Shows the end of a log that others keep, and says what is missing; whether there is one."""
    tail = (await reach.tails(job.key.run_id)).get(job.key)
    if tail is None:
        return False
    await watcher.saw_tail(tail, _last_heard(job, away))
    return True


def _last_heard(job: JobRecord, away: Away | None) -> str:
    name = job.agent_name or str(job.agent_id)
    if away is not None and away.revoked:
        return f"{name} was revoked"
    if away is None or away.heard_at is None:
        return f"{name} does not answer"
    return f"{name} does not answer, last heard {ago(away.heard_at, datetime.now(UTC))}"


async def _follow(
    reach: Reach, picture: RunPicture, selection: Selection, watcher: LogWatcher
) -> int:
    from dstack_cli.following import RunFollower

    for job in picture.record.jobs:
        chosen = selection.job in (None, job.key.job)
        away = picture.away_of(job.agent_id) if chosen else None
        if chosen and picture.is_kept(job) and await _show_pushed(reach, job, watcher):
            continue
        if away is not None and job.state.state.ended:
            await _show_tail(reach, job, away, watcher)
    if selection.last is not None and not picture.stale:
        await _read(reach, picture, selection, watcher)
        await watcher.flush_tails()
    end = await RunFollower(reach, picture, watcher, selection.job).run()
    return exit_codes.of_end(end)
