"""What is edited in the folder while a run goes on, laid into its jobs: `dstack run --reload`.

One way, from here to the jobs. A look is a snapshot as for a new run: what is ignored stays here, a
file that is gone here goes there, and what a job made or changed itself stays until the same file
is edited here. What goes wrong with an edit never ends the run.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from dstack_cli.code import Code
from dstack_cli.output.words import count
from dstack_mesh.chunks.replacing import Replaced
from dstack_mesh.faults import MeshError, Unreachable
from dstack_mesh.ids import Digest, PeerId
from dstack_mesh.to_the_end import to_the_end
from dstack_scheduler.agent_port import Directory
from dstack_scheduler.job import Fin, JobKey, JobState, StateChange
from dstack_scheduler.progress import Awarded, Progress, Watcher

LOOK_SECONDS = 0.5

REST = 4
"""So many times as long as a look took there is none: a look costs a fifth of a processor."""


class Reloading:
    """A `Watcher` in front of another one; `run` must run.

    Args:
        look: Takes a snapshot of the folder. Blocks.
        began: The code that the jobs begin with.
        workflows: What each job is called, by its index.
        look_seconds: Between two looks at least.
    """

    def __init__(
        self,
        directory: Directory,
        watcher: Watcher,
        look: Callable[[], Code],
        began: Digest,
        workflows: Sequence[str],
        say: Callable[[str], None],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._directory = directory
        self._watcher = watcher
        self._look = look
        self._began = began
        self._workflows = workflows
        self._say = say
        self._look_seconds = look_seconds
        self._places: dict[tuple[int, int], PeerId] = {}
        self._laid: dict[JobKey, Digest] = {}
        self._trouble = ""

    async def saw(self, event: Progress) -> None:
        """Notes what runs where and passes it on."""
        match event:
            case Awarded(job, attempt, agent):
                self._places[(job, attempt)] = agent.peer_id
            case StateChange(state=JobState.RUNNING, key=key):
                self._laid.setdefault(key, self._began)
            case StateChange(key=key) | Fin(key=key):
                self._laid.pop(key, None)
            case _:
                pass
        await self._watcher.saw(event)

    async def run(self) -> None:
        """Looks again and again until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            if self._laid:
                await self._follow()
            await asyncio.sleep(max(self._look_seconds, REST * (clock() - began)))

    async def _follow(self) -> None:
        try:
            code = await to_the_end(self._look)
            if code.changed:  # somebody is writing: the next look sees it whole
                return
            for key, laid in list(self._laid.items()):
                if code.digest != laid:
                    await self._bring(key, code.digest)
        except MeshError as error:
            self._complain(f"{error} {error.hint}".rstrip())
        except OSError as error:  # a file went, or may not be read: the next look may see it
            self._complain(f"{error}")
        else:
            self._trouble = ""

    async def _bring(self, key: JobKey, code: Digest) -> None:
        place = self._places.get((key.job, key.attempt))
        agent = await self._directory.find(place) if place is not None else None
        if agent is None:
            raise Unreachable("The agent of the job does not answer.")
        if not agent.local:
            await agent.send_tree(code)
        done = await agent.reload(key, code)
        if key in self._laid:
            self._laid[key] = code
        if done != Replaced():
            self._say(f"reloaded {self._job(key.job)}: {_told(done)}")

    def _job(self, index: int) -> str:
        return self._workflows[index] if index < len(self._workflows) else f"job {index}"

    def _complain(self, trouble: str) -> None:
        """Says it once, however often it is met."""
        if trouble != self._trouble:
            self._trouble = trouble
            self._say(f"not reloaded: {trouble}")


@asynccontextmanager
async def following_edits(reloading: Reloading) -> AsyncGenerator[Reloading]:
    """The same while the block runs."""
    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(reloading.run())
        try:
            yield reloading
        finally:
            looking.cancel()


def _told(done: Replaced) -> str:
    parts = [count(done.made, "file")] if done.made else []
    return ", ".join([*parts, *([f"{done.removed} removed"] if done.removed else [])])
