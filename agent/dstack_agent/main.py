"""The table of contents of an agent: everything is made here, started here and stopped here.

Heavy libraries (TLS, multicast, Docker, process lists) are loaded by the parts that need them, when
they need them: a private agent answers within a fraction of a second.
"""

import asyncio
import logging
import os
import random
import signal
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from dstack_agent.assembly import portrait_of, reclaiming_of, word_of, workshop_of
from dstack_agent.bids import BidDesk
from dstack_agent.driving import Driving, MakeDriver
from dstack_agent.executor.starting import Spare
from dstack_agent.gossip import Chorus, open_chorus, sources_of
from dstack_agent.idle import leave_when_idle
from dstack_agent.jobs.folders import Keeping
from dstack_agent.jobs.notes import Notes
from dstack_agent.jobs.supervisor import Supervisor
from dstack_agent.listing import Listings
from dstack_agent.logs.wake import Wake
from dstack_agent.members import Members
from dstack_agent.memory import Memory, open_memory
from dstack_agent.notary import Notary
from dstack_agent.notifying import Notifier
from dstack_agent.owner.desk import OwnersDesk
from dstack_agent.owner.word import OwnersWord
from dstack_agent.peers import Peers
from dstack_agent.self_portrait import SelfPortrait
from dstack_agent.servicers.activity import Activity
from dstack_agent.servicers.attach import Wishes
from dstack_agent.servicers.evidence import Testimony
from dstack_agent.servicers.membership import Answers
from dstack_agent.servicers.registration import (
    Served,
    add_invitations,
    add_roster,
    add_servicers,
)
from dstack_agent.servicers.run import Runs
from dstack_agent.settings import Settings
from dstack_agent.steering import Steering
from dstack_agent.succession import take_home
from dstack_agent.vouching import Vouching
from dstack_mesh.allocator import give_back
from dstack_mesh.clock import SystemClock
from dstack_mesh.discovery.twins import Twins
from dstack_mesh.faults import Refused
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.membership.roll import RollCall
from dstack_mesh.membership.vigil import Vigil
from dstack_mesh.signing import Signer
from dstack_mesh.trust.membership import Membership
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.greeter import open_roll_call, open_vigil
from dstack_mesh.wire.server import add_standard_services, listen_local, listen_tcp, make_server
from dstack_scheduler.driver import Driver
from dstack_scheduler.progress import Watcher
from dstack_scheduler.submission import Submission

log = logging.getLogger(__name__)

DRAIN_SECONDS = 0.3
"""How long calls may take to end when the agent stops; streams are cut, readers come back."""

RENEWAL_AFTER_SECONDS = 15.0
"""How long an agent waits before it sees whether its certificate is to be renewed."""

CLOCK = SystemClock()


async def run_agent(settings: Settings) -> None:
    """Serves until SIGTERM, SIGINT or, where so set, until idle. Jobs outlive it.

    Raises:
        MeshError: It cannot start, with the reason: no mesh, a broken policy, the port is taken,
            another agent runs.
    """
    membership = membership_of(settings)
    home = settings.home
    home.prepare()
    word = word_of(settings)
    stop = stop_on_signals()
    notifier = Notifier()
    async with AsyncExitStack() as stack:
        activity = Activity()
        members = Members(home, membership)
        server = make_server(activity, standings=members.standings)
        listen = partial(listen_local, server, home.agent_socket)
        stack.callback(await take_home(listen, home.sockets, settings.private))
        port = listen_tcp(server, membership, settings.host, settings.port) if membership else None

        memory = open_memory(home, CLOCK, stack)
        channels = Channels(home, members.picture)
        stack.push_async_callback(channels.close)
        wake = await stack.enter_async_context(Wake(home.sockets / "wake.sock"))

        portrait = portrait_of(settings, membership, memory, port, members)
        vigil = (
            open_vigil(channels, portrait.card, lambda: word.state, CLOCK) if membership else None
        )
        roll = roll_of(settings, channels, portrait, vigil)
        twins = Twins(home, portrait.card, CLOCK, roll.heard)
        peers = Peers(
            home,
            channels,
            memory.store,
            portrait.card,
            roll.agents,
            may_run=members.may_run,
            called=members.name,
        )
        notes = Notes()
        keeping = Keeping(settings.keep_days, settings.keep_work)
        spare = Spare()
        workshop = workshop_of(settings, memory, peers, portrait, wake, notes, spare, word)
        supervisor = Supervisor(workshop, keeping)
        notes.listener = supervisor.noted
        driving = Driving(memory.driven, driver_maker(peers))
        desk = desk_of(memory, portrait, supervisor, peers, word)
        owner = OwnersDesk(word, memory.ledger.leases, supervisor.take_back, settings.name)
        steering = Steering(supervisor, driving, memory.records, memory.ledger)
        chorus = (
            await open_chorus(home, channels, roll.agents, members, CLOCK, stack)
            if membership
            else None
        )
        notary = Notary(memory.records, memory.unsigned, partial(signer_of, home))
        testimony = testimony_of(memory, portrait, notary, chorus)
        served = served_of(
            memory, portrait, roll, vigil, twins, steering, desk, word, owner, testimony, chorus
        )
        add_servicers(server, served)
        health = add_standard_services(server)

        if membership is not None:
            await portrait.look()  # who says Hello is told where to call back
        ready = asyncio.Event()
        parts = [portrait.run(), supervisor.run(ready), desk.run(), driving.run(), roll.run()]
        parts += [twins.run(), notifier.run(), notary.run()]
        parts += [word.run(), reclaiming_of(memory, portrait, supervisor, word).run()]
        if settings.allow_process:
            parts.append(spare.run())
        if chorus is not None:
            parts += chorus.parts(sources_of(memory, served.answers, workshop.journal, CLOCK))
        parts.append(members.run(channels, roll.agents, CLOCK, steering.end_jobs_of))
        if members.keeper is not None:
            add_roster(server, home, members.keeper, CLOCK)
            parts.append(renewing(home, members.keeper, channels, roll))
            seeds, keeper = portrait.addresses, members.keeper
            parts.append(add_invitations(server, home, seeds, settings.host, keeper).run())
        if settings.idle_seconds is not None:
            busy = lambda: driving.busy or bool(supervisor.running())  # noqa: E731
            quiet = lambda: activity.idle_seconds  # noqa: E731
            parts.append(leave_when_idle(settings.idle_seconds, busy, quiet, stop.set))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
            await ready.wait()
            await server.start()
            log.info("ready: %s, %s", home.agent_socket, f"port {port}" if port else "no port")
            give_back()
            notifier.ready(f"serves {membership.mesh_name}" if membership else "private")
            await stop.wait()
            notifier.stopping()
            log.info("stopping; jobs go on")
            await roll.leave()
            await health.leave()
            await server.stop(DRAIN_SECONDS)
            for task in tasks:
                task.cancel()


def membership_of(settings: Settings) -> Membership | None:
    """The mesh to serve; None for a private agent. Raises Refused outside a mesh."""
    if settings.private:
        return None
    membership = Membership.load(settings.home)
    if membership is None:
        raise Refused(
            "This machine has not joined a mesh yet.",
            f"There is no membership in {settings.home.root}.",
            "dstack-runner join CODE   (a member makes the code: dstack mesh invite)\n"
            "dstack mesh create NAME   (a mesh of your own)\n"
            "dstack-runner start --private   (this machine alone)",
            "not-a-member",
        )
    return membership


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def roll_of(
    settings: Settings, channels: Channels, portrait: SelfPortrait, vigil: Vigil | None
) -> RollCall:
    """Keeps track of the other agents of the mesh."""
    return open_roll_call(
        settings.home,
        channels,
        os.environ,
        seeds=settings.seeds,
        card=portrait.card,
        port=portrait.port,
        mdns=settings.mdns and portrait.port is not None,
        vigil=vigil,
    )


async def renewing(home: Home, keeper: Keeper, channels: Channels, roll: RollCall) -> None:
    """Keeps the certificate of this home from expiring."""
    await asyncio.sleep(RENEWAL_AFTER_SECONDS)
    # Loads the library that signs, which an agent that has just started does without.
    from dstack_mesh.wire.renewal import Renewal

    await Renewal(home, keeper, channels, roll.agents, CLOCK).run()


def desk_of(
    memory: Memory,
    portrait: SelfPortrait,
    supervisor: Supervisor,
    peers: Peers,
    word: OwnersWord,
) -> BidDesk:
    """Answers asks and takes awards."""
    return BidDesk(
        portrait.inventory.read,
        memory.ledger,
        memory.store,
        supervisor.accept,
        terms=word.terms,
        name_of=peers.name,
        note=supervisor.note,
    )


def driver_maker(peers: Peers) -> MakeDriver:
    """Makes drivers of runs that were handed over."""

    def make(submission: Submission, watcher: Watcher) -> Driver:
        directory = replace(peers, behalf=submission.behalf)
        return Driver(submission, directory, peers.store, watcher, CLOCK, random.random)

    return make


def signer_of(home: Home) -> Signer:
    """Signs as this home. Blocks, and loads the library that signs."""
    return Signer.of(Identity.load_or_make(home))


def testimony_of(
    memory: Memory, portrait: SelfPortrait, notary: Notary, chorus: Chorus | None
) -> Testimony:
    """What is signed of runs, here and elsewhere."""
    return Testimony(
        own=notary.evidence,
        elsewhere=chorus.hearsay.evidence if chorus is not None else lambda run_id: (),
        vouch=Vouching(memory.records, portrait.peer_id).vouch,
    )


def served_of(
    memory: Memory,
    portrait: SelfPortrait,
    roll: RollCall,
    vigil: Vigil | None,
    twins: Twins,
    steering: Steering,
    desk: BidDesk,
    word: OwnersWord,
    owner: OwnersDesk,
    testimony: Testimony,
    chorus: Chorus | None,
) -> Served:
    """What the services speak for."""
    supervisor, driving = steering.supervisor, steering.driving
    others = chorus.hearsay.tellings if chorus is not None else None
    listings = Listings(memory.records, memory.driven, memory.tags, portrait.card, others)
    answers = Answers(
        card=portrait.card,
        state=lambda: word.state,
        machine=portrait.machine,
        running=supervisor.running,
        known=roll.hints,
        heard=twins.heard,
        vigil=vigil,
    )
    acknowledge = memory.records.acknowledge
    wishes = Wishes(supervisor.follow, steering.stop, acknowledge, memory.store, steering.givers)
    runs = Runs(listings.listing, driving.drive, memory.tags.state)
    gossiping = chorus.gossiping if chorus is not None else None
    return Served(answers, desk, wishes, runs, owner, testimony, CLOCK, gossiping)
