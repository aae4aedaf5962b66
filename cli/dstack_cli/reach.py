"""The agents that a command can talk to, and what they know, put together.

`reaching` opens everything a command needs to speak to the mesh and closes it again. A private
agent of this home is started where the command needs one.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from enum import Enum, auto
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from dstack_cli import embedded
from dstack_cli.remotes.places import has_remotes, is_elsewhere, pulled_folder
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Forbidden, MeshError
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trouble import render
from dstack_mesh.trust.membership import Membership
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.greeter import open_roll_call
from dstack_mesh.wire.vetting import Vetting
from dstack_scheduler.agent_port import Advert, Agent, Listing
from dstack_scheduler.wire.directory import Clients, CommandDirectory

FRESH_SECONDS = 5.0
"""How long a command believes who is there."""

T = TypeVar("T")

# What only listings need is imported where they are made: a run that starts does not wait for it.
if TYPE_CHECKING:
    from dstack_cli.picture import Away, RunPicture
    from dstack_cli.remotes.elsewhere import Elsewhere
    from dstack_cli.searching import Patience, Search
    from dstack_mesh.remotes.port import TreeSource
    from dstack_scheduler.job import JobKey, LogTail
    from dstack_scheduler.wire.errand import ErrandClient
    from dstack_scheduler.wire.evidence import Told
    from dstack_scheduler.wire.tunnel import TunnelClient


class Private(Enum):
    """When a private agent of this home is started."""

    ALWAYS = auto()
    IF_ALONE = auto()
    """Only outside a mesh."""
    IF_HISTORY = auto()
    """Only if something ran in this home before."""
    NEVER = auto()


def carry_out(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's work to its end."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    return asyncio.run(work)


class Reach:
    """Agents within reach of this home; implements `agent_port.Directory`. For one event loop."""

    def __init__(self, home: Home, channels: Channels, store: ChunkStore) -> None:
        self.home = home
        self.store = store
        self.has_elsewhere = has_remotes(home) or pulled_folder(home).exists()
        self._roll = open_roll_call(home, channels, os.environ)
        self._clients = Clients(channels, store, home.agent_socket)
        self._vetting = Vetting(home, channels)
        self._directory = CommandDirectory(self._roll, self._clients, self._vetting.may_run)
        self._met: dict[PeerId, str] = {}
        self._local: PeerId | None = None
        self._found: tuple[float, Sequence[KnownAgent]] = (float("-inf"), ())
        self._away: Mapping[PeerId, Away] = {}
        self._cut: set[PeerId] = set()

    @cached_property
    def elsewhere(self) -> "Elsewhere":
        """What is kept outside the mesh."""
        from dstack_cli.remotes.elsewhere import Elsewhere

        return Elsewhere(self.home, self.store)

    async def agents(self) -> AsyncGenerator[Agent, None]:
        """Agents as they answer."""
        async with aclosing(self._directory.agents()) as found:
            async for agent in found:
                self._meet(agent)
                yield agent

    async def find(self, peer_id: PeerId) -> Agent | None:
        """The agent where it is now; None while nobody knows it.

        The agent of this home is started again if it is away: its jobs go on without it.
        """
        if peer_id == self._local and not embedded.answers(self.home):
            await asyncio.to_thread(embedded.ensure, self.home)
        agent = await self._directory.find(peer_id)
        if agent is not None:
            self._meet(agent)
        return agent

    async def known(self, patience: "Patience | None" = None) -> tuple[KnownAgent, ...]:
        """Everybody there is; remembered agents that do not answer are among them."""
        from dstack_cli.searching import EVERYBODY, search

        return await search(self._roll, patience or EVERYBODY)

    async def learn_of_members(self, known: Sequence[KnownAgent]) -> None:
        """Brings the roster together with agents that know something else than this home."""
        for agent in known:
            if agent.answer is not None and not agent.local and agent.addresses:
                await self._vetting.may_run(agent)

    async def answering(self) -> Sequence[Agent]:
        """Agents that answer; believed for a few seconds."""
        from dstack_cli.searching import LISTING

        if not self._is_fresh():
            self._believe(await self.known(LISTING))
        return [self._clients.of(one) for one in self._found[1]]

    async def takers(self) -> list[tuple[KnownAgent, Agent]]:
        """Agents that answer and that work may go to, with what they said of themselves."""
        await self.answering()
        found = self._found[1]
        may = await asyncio.gather(*(self._vetting.may_run(one) for one in found))
        return [
            (one, self._clients.of(one)) for one, allowed in zip(found, may, strict=True) if allowed
        ]

    async def listings(self, runs: Sequence[str] = ()) -> list[tuple[PeerId, Listing]]:
        """What each agent that answers knows of runs and tags, and passes on of others.

        All are asked at once, and nobody is waited for long who is slower than one that answers for
        all of them. What is kept outside the mesh is told like that of one more agent.
        """
        from dstack_cli.picture import absentees, current_tags, words
        from dstack_cli.remembered import note_runs, note_tags
        from dstack_cli.searching import LISTING, Search

        async def ask(known: KnownAgent) -> Listing | None:
            return await _unless_failed(self._clients.of(known).list_runs(runs))

        search = Search(LISTING, ask, lambda listing: listing.for_all)
        kept, _ = await asyncio.gather(self._kept(), self._run(search))
        found = [*((peer, search.answers[peer]) for peer in sorted(search.answers)), *kept]
        self._away = absentees(found)
        self._cut |= {peer for peer, listing in found if listing.cut}
        if found and not runs:  # then all runs and tags are told
            note_tags(self.home, [tag.tag for tag in current_tags(one for _, one in found)])
            note_runs(self.home, [run.run_name for _, one in words(found) for run in one.runs])
        for telling in (one for _, listing in found for one in listing.others):
            if telling.agent_name:
                self._met.setdefault(telling.agent_id, telling.agent_name)
        return found

    async def _kept(self) -> list[tuple[PeerId, Listing]]:
        return await self.elsewhere.listings() if self.has_elsewhere else []

    async def everybody(self) -> tuple[tuple[KnownAgent, ...], dict[PeerId, Advert]]:
        """Who was found, and what agents last said of themselves, those that are gone too."""
        from dstack_cli.searching import EVERYBODY, Search, by_name

        async def ask(known: KnownAgent) -> tuple[Advert, ...] | None:
            return await _unless_failed(self._clients.hearsay(known).adverts())

        search = Search(EVERYBODY, ask, lambda adverts: bool(adverts))
        await search.run(self._roll)
        self._believe(tuple(search.found.values()))
        newest: dict[PeerId, Advert] = {}
        for advert in (one for adverts in search.answers.values() for one in adverts):
            held = newest.get(advert.said.card.peer_id)
            if held is None or advert.heard_at > held.heard_at:
                newest[advert.said.card.peer_id] = advert
        return by_name(search.found), newest

    async def tails(self, run_id: RunId) -> "dict[JobKey, LogTail]":
        """The ends of a run's logs that others keep."""
        from dstack_cli.searching import LISTING, Search

        async def ask(known: KnownAgent) -> "tuple[LogTail, ...] | None":
            return await _unless_failed(self._clients.hearsay(known).tails(run_id))

        search = Search(LISTING, ask, lambda tails: bool(tails))
        await self._run(search)
        return {tail.key: tail for tails in search.answers.values() for tail in tails}

    async def evidence(self, run_id: RunId) -> "list[Told]":
        """What is signed of a run, as each agent that answers tells it."""
        from dstack_cli.searching import LISTING, Search

        async def ask(known: KnownAgent) -> "Told | None":
            return await _unless_failed(self._clients.evidence(known).tell(run_id))

        search = Search(LISTING, ask, lambda told: bool(told.attempts))
        await self._run(search)
        return [search.answers[peer] for peer in sorted(search.answers)]

    async def _run(self, search: "Search[Any]") -> None:
        """Asks those that were found a moment ago, else whoever is found."""
        if self._is_fresh():
            await search.run_among(list(self._found[1]))
        else:
            await search.run(self._roll)
            self._believe(tuple(search.found.values()))

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._found[0] <= FRESH_SECONDS

    def _believe(self, found: Sequence[KnownAgent]) -> None:
        answering = [
            one for one in found if one.answer is not None and (one.local or one.addresses)
        ]
        self._found = (time.monotonic(), answering)
        for one in answering:
            self._meet(self._clients.of(one))

    async def runs(self) -> "list[RunPicture]":
        """All runs that anybody who answers knows, and those that this home submitted."""
        from dstack_cli.picture import put_together
        from dstack_cli.remembered import recall

        return put_together(await self.listings(), recall(self.home))

    async def again(self, picture: "RunPicture") -> "RunPicture":
        """A run as it is now."""
        from dstack_cli.picture import put_together
        from dstack_cli.remembered import recall

        run_id = picture.record.run_id
        found = put_together(await self.listings([run_id]), recall(self.home))
        return next((one for one in found if one.record.run_id == run_id), picture)

    def nearest(self, holders: Sequence[PeerId]) -> Sequence[PeerId]:
        """Those who have something, in the order in which to ask: who answers, who is elsewhere,
        and the others last."""
        met = {one.card.peer_id for one in self._found[1]}

        def distance(peer_id: PeerId) -> int:
            return 0 if peer_id in met else 1 if is_elsewhere(peer_id) else 2

        return sorted(holders, key=distance)

    async def transfer(self, peer_id: PeerId) -> "TreeSource | None":
        """Moves bytes from an agent, or from what is kept elsewhere; None if it does not answer."""
        from dstack_cli.searching import LISTING

        if is_elsewhere(peer_id):
            return self.elsewhere.trees(peer_id)
        found = self._found[1] if self._is_fresh() else ()
        if not any(one.card.peer_id == peer_id for one in found):
            found = await self.known(LISTING)
        for known in found:
            if known.card.peer_id == peer_id and known.answer is not None:
                return self._clients.transfer(known)
        return None

    async def tunnel(self, peer_id: PeerId) -> "TunnelClient | None":
        """The way to what an agent's jobs listen on; None while it does not answer."""
        agent = await self.find(peer_id)
        return self._clients.tunnel(peer_id) if agent is not None else None

    async def errands(self, peer_id: PeerId) -> "ErrandClient | None":
        """Runs commands beside jobs of an agent; None while it does not answer."""
        agent = await self.find(peer_id)
        return self._clients.errands(peer_id) if agent is not None else None

    @property
    def refusal(self) -> MeshError | None:
        """Why the agents of the mesh do not speak to this home any more; None if they do."""
        return self._roll.refusal

    def check_heard(self, found: Sequence[KnownAgent]) -> None:
        """Raises why nobody speaks to this home any more, unless somebody from afar does."""
        refusal, membership = self.refusal, Membership.load(self.home)
        if refusal is None or membership is None or _from_afar(found):
            return
        mesh = f'the mesh "{membership.mesh_name}"'
        what = {
            "revoked": f"This home was revoked from {mesh}.",
            "left-the-mesh": f"This home left {mesh}.",
        }.get(refusal.code, f"This home's certificate counts no more in {mesh}.")
        raise Forbidden(what, refusal.why, refusal.hint, refusal.code)

    def away(self, peer_id: PeerId) -> "Away | None":
        """The agent, if those that answered a moment ago say that it does not."""
        return self._away.get(peer_id)

    def names(self) -> dict[PeerId, str]:
        """What agents are called, as far as they were met or told of, and other places."""
        return {**(self.elsewhere.names() if self.has_elsewhere else {}), **self._met}

    def leave(self) -> None:
        """Lets go of what is elsewhere, and says which of it did not answer, or not to the end."""
        for name in sorted(self._met.get(peer, peer[:8]) for peer in self._cut):
            print(f"{name} told of its newest runs; older ones took too long.", file=sys.stderr)
        if "elsewhere" in self.__dict__:
            self.elsewhere.close()
            for line in self.elsewhere.notes:
                print(line, file=sys.stderr)

    def _meet(self, agent: Agent) -> None:
        self._met[agent.card.peer_id] = agent.card.name
        if agent.local:
            self._local = agent.card.peer_id


def _from_afar(found: Sequence[KnownAgent]) -> bool:
    return any(one.answer is not None and not one.local for one in found)


async def _unless_failed(call: Awaitable[T]) -> T | None:
    try:
        return await call
    except MeshError:
        return None


@asynccontextmanager
async def reaching(
    home: Home, private: Private, starting: embedded.Starting | None = None
) -> AsyncGenerator[Reach]:
    """Everything a command needs to talk to agents; closed at the end of the block.

    Whoever was revoked is told so at the end: agents that refuse to speak look like none.

    Args:
        starting: A private agent that is on its way already.
    """
    starting = starting or _start_if_wanted(home, private)
    home.prepare()
    channels = Channels(home)
    store = ChunkStore(home.chunks)
    try:
        if starting is not None:
            await asyncio.to_thread(embedded.wait_until_ready, home, starting)
        reach = Reach(home, channels, store)
        told: MeshError | None = None
        try:
            with ExitStack() as held:
                with suppress(MeshError):  # a full disk keeps nobody from looking
                    held.enter_context(store.session())
                yield reach
        except Forbidden as said:
            told = said
            raise
        finally:
            reach.leave()
            if reach.refusal is not None and (told is None or told.code != reach.refusal.code):
                print(render(reach.refusal), file=sys.stderr)
            from dstack_cli.tidying import tidy_later  # what comes after the last line

            tidy_later(home, store)
    finally:
        await channels.close()
        store.close()


def chosen_run(text: str, pictures: "Sequence[RunPicture]") -> "RunPicture":
    """The run that a name, its beginning, an id, `@` or ":TAG" means; of several that are called
    so, the one of this home.

    Raises Missing or Misused.
    """
    from dstack_cli.names import Named, find

    if text.startswith(":"):
        from dstack_cli.tagged import tagged

        return tagged(text[1:], pictures)
    ours = [one for one in pictures if one.ours and one.record.run_name == text]
    if len(ours) == 1:
        return ours[0]
    named = [Named(one.record.run_name, one.record.run_id) for one in pictures]
    chosen = find(text, named, "run")
    return next(one for one in pictures if one.record.run_id == chosen.id)


def _start_if_wanted(home: Home, private: Private) -> embedded.Starting | None:
    wanted = (
        private is Private.ALWAYS
        or (private is Private.IF_ALONE and Membership.load(home) is None)
        or (private is Private.IF_HISTORY and embedded.ran_before(home))
    )
    return embedded.start(home) if wanted and not embedded.answers(home) else None
