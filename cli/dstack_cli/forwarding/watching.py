"""Stands before whoever watches a run: leads to its apps while they run, and mends their links."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

from dstack_cli.forwarding.answering import answers
from dstack_cli.forwarding.browser import has_browser, opened
from dstack_cli.forwarding.entrance import entrance
from dstack_cli.forwarding.forward import Forward
from dstack_cli.forwarding.links import Link, Links
from dstack_cli.reach import Reach
from dstack_mesh.faults import Forbidden, MeshError
from dstack_mesh.ids import PeerId
from dstack_scheduler.job import Fin, JobKey, JobState, LogFrame, StateChange
from dstack_scheduler.progress import Awarded, Progress, Watcher
from dstack_scheduler.wire.tunnel import Offered, TunnelClient

LOOK_SECONDS = 0.5
LATER_SECONDS = 2.0
"""Between two looks at an app that does not listen yet: at first, and after a while."""

PATIENT_LOOKS = 20

MOMENT_SECONDS = 1.5
"""How long a line with a link waits at most for what it leads to."""

Told = Callable[[Link], Awaitable[None]]
"""Hears of an app that answers."""

Enter = Callable[[Link], AbstractContextManager[Link]]
"""Makes what a person gets in with; it goes with the attempt. Blocks."""


class AppsWatcher:
    """A `Watcher` in front of another one. What happens to apps never ends a run.

    Args:
        run: The run's name.
        watcher: Sees everything, links mended.
        told: Hears of each app once it answers.
        say: Takes a sentence about what does not work.
        only: Job whose apps are meant; None for all.
    """

    def __init__(
        self,
        reach: Reach,
        run: str,
        watcher: Watcher,
        told: Told,
        say: Callable[[str], None],
        only: int | None = None,
    ) -> None:
        self._reach = reach
        self._run = run
        self._watcher = watcher
        self._told = told
        self._say = say
        self._only = only
        self._places: dict[tuple[int, int], Awarded] = {}
        self._serving: dict[JobKey, _Serving] = {}
        self._tasks: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def forwarding(self) -> AsyncGenerator[None]:
        """Leads to apps until the end of the block."""
        async with asyncio.TaskGroup() as self._tasks:
            try:
                yield
            finally:
                for serving in self._serving.values():
                    serving.over.set()

    async def saw(self, event: Progress) -> None:
        match event:
            case Awarded():
                self._places[(event.job, event.attempt)] = event
            case StateChange(state=JobState.RUNNING, key=key):
                self._begin(key)
            case StateChange(state=state, key=key) if state.ended or state is JobState.SAVING:
                self._end(key)
            case Fin(key=key):
                self._end(key)
            case LogFrame(key=key) if (serving := self._serving.get(key)) is not None:
                event = replace(event, data=await serving.mended(event.data))
            case _:
                pass
        await self._watcher.saw(event)

    def _begin(self, key: JobKey) -> None:
        place = self._places.get((key.job, key.attempt))
        if place is None or self._tasks is None or key in self._serving:
            return
        if self._only in (None, key.job):
            peer = place.agent.peer_id
            forward = Forward(key, lambda: self._dial(peer), place.local)
            enter = partial(entrance, self._reach.home, self._run)
            self._serving[key] = _Serving(forward, enter, self._told, self._say)
            self._tasks.create_task(self._serving[key].run())

    def _end(self, key: JobKey) -> None:
        if (serving := self._serving.pop(key, None)) is not None:
            serving.over.set()

    async def _dial(self, peer: PeerId) -> TunnelClient | None:
        return await self._reach.tunnel(peer)


class _Serving:
    """The apps of one attempt."""

    def __init__(
        self, forward: Forward, enter: Enter, told: Told, say: Callable[[str], None]
    ) -> None:
        self.over = asyncio.Event()
        self._forward = forward
        self._enter = enter
        self._entrances = ExitStack()
        self._told = told
        self._say = say
        self._links: Links | None = None
        self._offered: Offered | None = None
        self._silent: list[Link] = []
        self._waited_for: set[int] = set()
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Until `over` is set."""
        with self._entrances:
            async with self._forward.running(), asyncio.TaskGroup() as tasks:
                looking = tasks.create_task(self._look_until_all_answer())
                await self.over.wait()
                looking.cancel()

    async def _look_until_all_answer(self) -> None:
        looks = 0
        while not await self._look():
            looks += 1
            await asyncio.sleep(LOOK_SECONDS if looks < PATIENT_LOOKS else LATER_SECONDS)

    async def _look(self) -> bool:
        """Leads to what listens by now; whether nothing is left to wait for."""
        try:
            new = await self._lead()
        except MeshError as error:
            if isinstance(error, Forbidden) or error.code == "local-port-taken":
                self._say(f"Its apps are not led to: {error} {error.hint}".rstrip())
                return True
            return False  # it may answer the next time
        self._silent += new
        for link in list(self._silent):
            if await answers(link):
                self._silent.remove(link)
                await self._told(self._entered(link))
        assert self._offered is not None
        led = {link.app.port for link in self._forward.links.values()}
        return not self._silent and all(app.port in led for app in self._offered.apps)

    def _entered(self, link: Link) -> Link:
        try:  # not in a thread: what is made once everything is over would stay
            return self._entrances.enter_context(self._enter(link))
        except OSError as error:
            self._say(f"How to get in cannot be written down: {error}.")
            return link

    async def _lead(self) -> tuple[Link, ...]:
        async with self._looking:
            self._offered = await self._forward.offered()
            self._links = Links(self._offered.hosts)
            return await self._forward.lead(self._offered)

    async def mended(self, data: bytes) -> bytes:
        """What the job wrote, with links that work here."""
        if b"://" not in data:
            return data
        await self._wait_for((self._links or Links(())).ports_in(data))
        return self._links.rewritten(data, self._forward.links) if self._links else data

    async def _wait_for(self, ports: set[int]) -> None:
        """Gives ports of the job a moment to listen: Jupyter tells its link before it does."""
        loop = asyncio.get_running_loop()
        until = loop.time() + MOMENT_SECONDS
        while (new := self._awaited(ports)) and loop.time() < until:
            try:
                self._silent += await self._lead()
            except MeshError:
                return
            if self._awaited(new):
                await asyncio.sleep(MOMENT_SECONDS / 10)
        self._waited_for |= ports

    def _awaited(self, ports: set[int]) -> set[int]:
        """Which ports are the job's, as far as is known, and do not lead anywhere yet."""
        known = ports if self._offered is None else ports & set(self._offered.ports)
        return known - set(self._forward.links) - self._waited_for


@asynccontextmanager
async def watched_apps(
    reach: Reach,
    run: str,
    watcher: Watcher,
    say: Callable[[str], None],
    opens: bool,
    show: Callable[[Link], None] | None = None,
    only: int | None = None,
) -> AsyncGenerator[AppsWatcher]:
    """A watcher that leads to apps, tells their links, and opens them in a browser if it may.

    Args:
        show: Tells a link otherwise than `say` does.
    """
    with ExitStack() as pages:

        async def told(link: Link) -> None:
            if show is None:
                for line in described(link):
                    say(line)
            else:
                show(link)
            if opens and link.app.web and has_browser():
                page = opened(reach.home, link.app.name, link.url)
                await asyncio.to_thread(pages.enter_context, page)

        watching = AppsWatcher(reach, run, watcher, told, say, only)
        async with watching.forwarding():
            yield watching


def described(link: Link) -> tuple[str, ...]:
    """An app in a line, and why it is at another port than the job's own; more for an editor."""
    if link.command:
        code = (f"code: {link.editor}",) if link.editor else ()
        once = f"  once, at the top of ~/.ssh/config:  {link.include}"
        more = (*code, once) if code and link.include else code
        return (f"{link.app.name}: {link.command}", *more)
    as_wished = link.local in (link.port, link.app.local)
    taken = "" if as_wished else f"  ({link.port} is taken here)"
    return (f"{link.app.name}: {link.url}{taken}",)
