"""Tells a person what a run does: where and why first, then its output, then how it ended."""

from collections.abc import Callable, Sequence
from typing import assert_never

from dstack_cli import exit_codes
from dstack_cli.output.screen import Screen
from dstack_cli.output.words import count, duration, size
from dstack_mesh.card import PeerCard
from dstack_scheduler.job import ArtifactSaved, Fin, Gap, JobState, LogFrame, StateChange
from dstack_scheduler.plan import Plan
from dstack_scheduler.progress import (
    Asked,
    Awarded,
    Awarding,
    Declined,
    Grown,
    Kept,
    Progress,
    RunEnded,
    Sending,
    TriedAgain,
    Unheard,
    Waiting,
)
from dstack_scheduler.verdict import Reason

DETACH_HINT = "   Ctrl-C detaches"


class Watching:
    """A `Watcher` that puts a run on a screen.

    Args:
        name: The run's name.
        workflows: What each job is called, by its index.
        clock: Steady seconds.
        hint: Said beside the first place: how to leave.

    Attributes:
        notes: Said below the first place.
    """

    def __init__(
        self,
        screen: Screen,
        name: str,
        workflows: Sequence[str],
        clock: Callable[[], float],
        hint: str = "",
    ) -> None:
        self._screen = screen
        self.name = name
        self._workflows = workflows
        self._clock = clock
        self._hint = hint
        self._began = clock()
        self._agents: dict[int, PeerCard] = {}
        self._artifacts: dict[tuple[int, str], ArtifactSaved] = {}
        self._exit_codes: dict[int, int] = {}
        self.notes: Sequence[str] = ()
        self.end: StateChange | None = None
        self.accepted = False

    def rename(self, workflows: Sequence[str]) -> None:
        """Says what each job is called, once it is known which of them run."""
        self._workflows = workflows

    async def saw(self, event: Progress) -> None:
        """Shows an event."""
        match event:
            case LogFrame():
                await self._screen.job_bytes(event.stream, event.data, self._clock())
            case Fin():
                await self._fin(event)
            case RunEnded():
                self._ended(event.state)
            case TriedAgain():
                self._tried_again(event)
            case Grown():
                self._grown(event)
            case _:
                self._talk(event)

    def _talk(
        self,
        event: Asked
        | Waiting
        | Sending
        | Awarding
        | Declined
        | Awarded
        | Unheard
        | Kept
        | StateChange
        | Gap
        | ArtifactSaved,
    ) -> None:
        match event:
            case Asked() | Awarding() | Declined():
                pass
            case Waiting():
                self._waiting(event)
            case Sending():
                self._sending(event)
            case Awarded():
                self._awarded(event)
            case Unheard():
                self._live(
                    f"{event.agent.name} does not answer; the job goes on there, trying again"
                )
            case Kept():
                self._screen.say(
                    f"kept a second copy of {self._job(event.job)}'s artifacts here"
                    f" ({size(event.size_bytes)})"
                )
            case StateChange():
                self._state(event)
            case Gap():
                lost = event.to_bytes - event.from_bytes
                self._screen.say(f"[{lost} bytes of {event.stream.value} are lost: {event.reason}]")
            case ArtifactSaved():
                self._artifacts[(event.key.job, event.path)] = event
            case _:
                assert_never(event)

    def _job(self, index: int) -> str:
        return self._workflows[index] if index < len(self._workflows) else f"job {index}"

    def _grown(self, event: Grown) -> None:
        made = len(event.jobs) - len(self._workflows)
        self._workflows = [one.spec.workflow or one.spec.provider for one in event.jobs]
        self._screen.say(f"{self._job(event.maker)} made {count(made, 'job')}")

    def _live(self, text: str) -> None:
        self._screen.live(text, self._clock())

    def _waiting(self, event: Waiting) -> None:
        lines = [f"{self.name}  {self._job(event.job)} waits; it starts when an agent can take it:"]
        lines += waiting_lines(event.reasons)
        self._screen.say("\n".join(lines))
        self._live(f"{self._job(event.job)} waits")

    def _sending(self, event: Sending) -> None:
        done = f"{size(event.sent_bytes)} of {size(event.total_bytes)}"
        self._live(f"sending {event.what} to {event.agent.name}, {done}")

    def _awarded(self, event: Awarded) -> None:
        again = f"attempt {event.attempt}" if event.attempt > 1 else ""
        gpus = count(len(event.gpu_uuids), "GPU") if event.gpu_uuids else ""
        about = "; ".join(part for part in (event.why, gpus, again) if part)
        place = f"{self._job(event.job)} on {event.agent.name}" + (f" ({about})" if about else "")
        hint = "" if self.accepted else self._hint
        self._screen.say(f"{self.name}  {place}{hint}")
        for note in () if self.accepted else self.notes:
            self._screen.say(note)
        self._agents[event.job] = event.agent
        self.accepted = True
        self._live(f"preparing on {event.agent.name}")

    def _tried_again(self, event: TriedAgain) -> None:
        job, end = self._job(event.job), how_it_ended(event.because)
        self._screen.say(f"{self.name}  {job} {end}; trying again (attempt {event.attempt})")
        self._artifacts = {at: kept for at, kept in self._artifacts.items() if at[0] != event.job}
        self._live(f"{job} is tried again")

    def _state(self, event: StateChange) -> None:
        agent = self._agents.get(event.key.job)
        where = f" on {agent.name}" if agent is not None else ""
        job = self._job(event.key.job)
        cause = f": {event.cause}" if event.cause else ""
        match event.state:
            case JobState.LOST:
                self._screen.say(f"{job} is lost{where}{cause}")
            case state if state.ended:
                self._live("")
            case state if event.reason:
                self._screen.say(f"{job} is {state.value}{where}{cause}")
            case JobState.RUNNING:
                self._live(f"{job} runs{where}")
            case state:
                self._live(f"{job} is {state.value}{where}{cause}")

    async def _fin(self, event: Fin) -> None:
        await self._screen.job_ended()
        for artifact in event.artifacts:
            self._artifacts[(event.key.job, artifact.path)] = artifact
        if len(self._workflows) > 1 and event.key.job < len(self._workflows) - 1:
            self._screen.say(f"{self.name}  {self._job(event.key.job)} {how_it_ended(event.state)}")

    def _ended(self, end: StateChange) -> None:
        self._live("")
        self.end = end
        if not self.accepted and end.state is JobState.FAILED:
            # Nothing ran; the error that follows says it better.
            return
        if waited := [name for job, name in enumerate(self._workflows) if job not in self._agents]:
            because = f"{self._job(end.key.job)} {how_it_ended(end)}"
            verb = "was" if len(waited) == 1 else "were"
            self._screen.say(f"{self.name}  {', '.join(waited)} {verb} not started: {because}")
        took = duration(self._clock() - self._began)
        self._screen.say(summary(self.name, end, took, self._kept(end.key.job)))

    def _kept(self, job: int) -> list[ArtifactSaved]:
        return [artifact for (index, _), artifact in self._artifacts.items() if index == job]


def workflows_of(plan: Plan) -> list[str]:
    """What each job of a plan is called."""
    return [job.workflow or job.provider for job in plan.jobs]


def why(end: StateChange) -> str:
    """What to say of an end beside its exit code: ": killed, out of memory"; often nothing."""
    plain_exit = not end.reason and end.exit_code is not None and end.exit_code <= 128
    if plain_exit or not end.cause or end.state is JobState.DONE:
        return ""
    return f": {end.cause.splitlines()[0].rstrip('.')}"


def how_it_ended(end: StateChange) -> str:
    """The state and the exit code: "done, exit 0", "failed, exit 137: killed, out of memory"."""
    code = f", exit {end.exit_code}" if end.exit_code is not None else ""
    return f"{end.state.value}{code}{why(end)}"


def summary(name: str, end: StateChange, took: str, kept: Sequence[ArtifactSaved]) -> str:
    """The last line of a run, and the next command."""
    line = f"{end.state.value} in {took}, exit {exit_codes.of_end(end)}{why(end)}"
    if kept:
        total = size(sum(artifact.size_bytes for artifact in kept))
        line += f".  {count(len(kept), 'artifact')}, {total}: dstack ls {name}"
    elif end.state is not JobState.DONE:
        line += f".  dstack logs {name}"
    return line


def waiting_lines(reasons: Sequence[tuple[str, tuple[Reason, ...]]]) -> list[str]:
    """Why each agent does not take the job; agents that say the same share a line."""
    if not reasons:
        return ["  no agent is in reach yet"]
    by_text: dict[str, list[str]] = {}
    for agent, given in reasons:
        text = "; ".join(reason.message for reason in given) or "does not say why"
        by_text.setdefault(text, []).append(agent)
    width = max(len(", ".join(agents)) for agents in by_text.values())
    return [f"  {', '.join(agents):<{width}}  {text}" for text, agents in by_text.items()]
