"""Goes every way to every agent at once, and writes down what came of it.

Unlike a command that wants to get on, it does not stop at the first way that leads somewhere.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

from dstack_cli import embedded
from dstack_cli.checkup.knock import Door, knock
from dstack_cli.checkup.sights import Hello, Sights, Way
from dstack_mesh.card import HelloAnswer
from dstack_mesh.clock import Clock
from dstack_mesh.discovery.announcement import Sighting
from dstack_mesh.discovery.ear import ask_directly, listen_closely
from dstack_mesh.discovery.interfaces import multicast_interfaces, read_interfaces
from dstack_mesh.discovery.mdns import Multicast
from dstack_mesh.discovery.saved import load_saved
from dstack_mesh.discovery.seeds import all_seeds
from dstack_mesh.discovery.switch import enabled
from dstack_mesh.discovery.twins import read_twins
from dstack_mesh.faults import MeshError
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import Target
from dstack_mesh.membership.place import may_dial
from dstack_mesh.trust.membership import Membership
from dstack_mesh.trust.roster.book import read_picture
from dstack_mesh.version import installed_version
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.greeter import GrpcGreeter, command_card
from dstack_mesh.wire.prober import GrpcProber

LISTEN_SECONDS = 1.9
HELLO_SECONDS = 1.5
DIRECT_SECONDS = 0.5
CALL_BACK_SECONDS = 1.2
"""How long another agent may take to call ours."""

MOST_HELPERS = 16
"""Agents that are asked to call ours."""

MOST_WAYS = 96
MOST_STRANGERS = 1000


async def survey(home: Home, environ: Mapping[str, str], clock: Clock) -> Sights:
    """What there is to see; takes about three seconds where something does not answer.

    Raises:
        MeshError: What this home has written down cannot be read.
    """
    membership = Membership.load(home)
    own = Identity.load_or_make(home).peer_id
    channels = Channels(home)
    try:
        looking = _Surveyor(home, own, membership, channels, clock)
        if membership is None:  # then a command would start one
            await asyncio.to_thread(embedded.ensure, home)
        return await looking.look(environ)
    finally:
        await channels.close()


class _Surveyor:
    """One survey: collects ways as they become known and goes each once."""

    def __init__(
        self,
        home: Home,
        own: PeerId,
        membership: Membership | None,
        channels: Channels,
        clock: Clock,
    ) -> None:
        self._home = home
        self._own = own
        self._membership = membership
        self._clock = clock
        card = command_card(home)
        self._channels = channels
        self._greeter = GrpcGreeter(channels, lambda: card)
        self._ways: dict[Address, Way] = {}
        self._strangers: set[str] = set()
        self._going: set[asyncio.Task[None]] = set()
        self._tasks: asyncio.TaskGroup | None = None

    async def look(self, environ: Mapping[str, str]) -> Sights:
        interfaces = read_interfaces()
        mdns = enabled(environ)
        on = multicast_interfaces(interfaces) if mdns else ()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            listening = [tasks.create_task(listen_closely(one, LISTEN_SECONDS)) for one in on]
            local = tasks.create_task(self._ask_own_agent())
            multicast = None
            if self._membership is not None:
                self._take_up_what_is_written(self._membership, environ)
                if mdns:
                    multicast = tasks.create_task(Multicast(None, self._heard).run())
            await asyncio.wait([local, *listening])
            if multicast is not None and not listening:
                await asyncio.sleep(LISTEN_SECONDS)
            while self._going:
                await asyncio.wait(self._going)
            if multicast is not None:
                multicast.cancel()
        answer, trouble = local.result()
        found = Sights(
            own=self._own,
            version=installed_version(),
            membership=self._membership,
            mdns=mdns,
            interfaces=interfaces,
            earshots=tuple(one.result() for one in listening),
            ways=await self._asked_directly(mdns),
            local=answer,
            local_trouble=trouble,
            strangers=len(self._strangers),
            twins=read_twins(self._home, self._clock.now()),
            required=self._required(),
        )
        return await self._called_back(found)

    def _required(self) -> int:
        known = self._membership
        return read_picture(self._home, known.mesh_id).protocol if known is not None else 0

    def _take_up_what_is_written(self, membership: Membership, environ: Mapping[str, str]) -> None:
        for seed in all_seeds((), environ, self._home.config):
            self._take_up(Way(seed, frozenset({"seed"})))
        for one in load_saved(self._home.saved_peers, membership.mesh_id):
            for address in one.addresses:
                way = Way(address, frozenset({"saved"}), expected=one.peer_id, name=one.name)
                self._take_up(way)
        for address in membership.seeds:
            self._take_up(Way(address, frozenset({"saved"})))

    async def _ask_own_agent(self) -> tuple[HelloAnswer | None, str]:
        socket = self._home.agent_socket
        if not socket.exists():
            return None, ""
        try:
            target = Target(Address(f"unix:{socket}"))
            answer = await self._greeter.hello(target, HELLO_SECONDS)
        except MeshError as failed:
            return None, str(failed)
        self._told_by(answer)
        return answer, ""

    def _heard(self, sighting: Sighting) -> None:
        assert self._membership is not None
        if not sighting.of_mesh(self._membership.discovery_key):
            if len(self._strangers) < MOST_STRANGERS:
                self._strangers.add(sighting.instance)
            return
        for address in sighting.addresses:
            self._take_up(
                Way(address, frozenset({"mdns"}), heard_on=frozenset({sighting.interface}))
            )

    def _told_by(self, answer: HelloAnswer) -> None:
        said: list[tuple[PeerId, Address]] = [
            (hint.peer_id, address) for hint in answer.known for address in hint.addresses
        ]
        for peer_id, address in said:
            if peer_id != self._own and may_dial(address):
                self._take_up(Way(address, frozenset({"peer"}), expected=peer_id))

    def _take_up(self, way: Way) -> None:
        known = self._ways.get(way.address)
        if known is not None:
            self._ways[way.address] = replace(
                known,
                found_by=known.found_by | way.found_by,
                heard_on=known.heard_on | way.heard_on,
                expected=known.expected or way.expected,
                name=known.name or way.name,
            )
        elif len(self._ways) < MOST_WAYS and self._tasks is not None:
            self._ways[way.address] = way
            going = self._tasks.create_task(self._go(way.address))
            self._going.add(going)
            going.add_done_callback(self._going.discard)

    async def _go(self, address: Address) -> None:
        door, hello, code, trouble = await knock(address), None, "", ""
        if door is Door.OPEN:
            try:
                hello = await self._greet(address)
            except MeshError as failed:
                code, trouble = failed.code, str(failed)
        self._ways[address] = replace(
            self._ways[address], door=door, hello=hello, code=code, trouble=trouble
        )
        if hello is not None:
            self._said_of_itself(hello.answer)
            self._told_by(hello.answer)

    def _said_of_itself(self, answer: HelloAnswer) -> None:
        for address in answer.card.addresses:
            if answer.card.peer_id != self._own and may_dial(address):
                self._take_up(Way(address, frozenset(), expected=answer.card.peer_id))

    async def _greet(self, address: Address) -> Hello:
        began, before = time.monotonic(), self._clock.now()
        answer = await self._greeter.hello(Target(address), HELLO_SECONDS)
        took = time.monotonic() - began
        said = answer.now
        ahead = None if said is None else (said - before).total_seconds() - took / 2
        return Hello(answer, ahead, took)

    async def _asked_directly(self, mdns: bool) -> tuple[Way, ...]:
        """Asks those by unicast that answer, are near, and were not heard."""

        async def ask(way: Way) -> Way:
            if way.hello is None or way.heard_on or not mdns:
                return way
            return replace(way, announces=await ask_directly(way.host, DIRECT_SECONDS))

        return tuple(await asyncio.gather(*map(ask, self._ways.values())))

    async def _called_back(self, sights: Sights) -> Sights:
        """Has agents that our own agent knows call it: that it reaches them does not say so."""
        if sights.local is None or not sights.local.card.addresses:
            return sights
        ours = {hint.peer_id for hint in sights.local.known}
        helpers = {
            peer_id: ways[0].address
            for peer_id, ways in sights.answering.items()
            if peer_id in ours and peer_id != self._own
        }
        prober, addresses = GrpcProber(self._channels), sights.local.card.addresses
        reached: dict[PeerId, bool] = {}

        async def ask(helper: PeerId, at: Address) -> None:
            try:
                reached[helper] = await prober.probe_for(
                    helper, [at], self._own, addresses, CALL_BACK_SECONDS
                )
            except MeshError:  # it may not be asked, or helps too many already
                return

        try:
            asked = list(helpers.items())[:MOST_HELPERS]
            await asyncio.gather(*(ask(helper, at) for helper, at in asked))
        finally:
            await prober.close()
        return replace(sights, reached=reached)
