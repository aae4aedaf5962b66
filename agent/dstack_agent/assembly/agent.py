"""The whole agent: its layers, the services that speak for them, and what of them must run."""

import asyncio
import socket
from collections.abc import Awaitable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from dstack_agent.assembly.company import Company, company_of
from dstack_agent.assembly.ground import Ground
from dstack_agent.assembly.work import Work, reclaiming_of, work_of
from dstack_agent.copying import Copying, Surroundings
from dstack_agent.executor.masking import warn_without_masks
from dstack_agent.forgetting import Forgetting
from dstack_agent.gossip import Chorus, listings_of, open_chorus, sources_of
from dstack_agent.housekeeping import housekeeping_of
from dstack_agent.jobs.doorkeeper import Doorkeeper
from dstack_agent.notary import Notary
from dstack_agent.removing import Heard, Left, Removing
from dstack_agent.servicers.attach import Wishes
from dstack_agent.servicers.evidence import Testimony
from dstack_agent.servicers.membership import Answers
from dstack_agent.servicers.registration import (
    Invitations,
    Served,
    Server,
    add_invitations,
    add_roster,
    add_servicers,
)
from dstack_agent.servicers.run import Runs
from dstack_agent.servicers.tunnel import Hearing
from dstack_agent.tidying import Tidying, tidy_containers
from dstack_agent.vouching import Vouching
from dstack_agent.witness import Diary, Witness
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.ids import PeerId
from dstack_mesh.signing import Signer
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_scheduler.asker import Asker
from dstack_scheduler.job import RunRecord

RENEWAL_AFTER_SECONDS = 15.0
"""How long an agent waits before it sees whether its certificate is to be renewed."""

Running = Coroutine[Any, Any, None]


@frozen
class Agent:
    """Everything an agent is made of. A private one has no chorus.

    Attributes:
        invitations: Of the mesh that is served; None for a private agent.
    """

    ground: Ground
    company: Company
    work: Work
    chorus: Chorus | None
    notary: Notary
    removing: Removing
    answers: Answers
    invitations: Invitations | None

    def parts(self, ready: asyncio.Event) -> list[Running]:
        """What must run; `ready` is set once the jobs of before were found again."""
        company, work, start = self.company, self.work, self.ground.start
        parts: list[Running] = [company.portrait.run(), work.supervisor.run(ready)]
        parts += [work.desk.run(), work.driving.run(), company.roll.run(), company.twins.run()]
        parts += [self.notary.run(), start.word.run(), self.ground.auditor.run()]
        parts += [self.removing.run(), tidying_of(self.ground, company, work).run(ready)]
        parts.append(reclaiming_of(self.ground, company, work.supervisor).run())
        agents, channels = company.roll.agents, self.ground.channels
        parts.append(housekeeping_of(start.settings, self.ground.memory, channels, agents).run())
        if start.settings.allow_process:
            parts.append(work.spare.run())
        return parts + self._among_members()

    def _among_members(self) -> list[Running]:
        """What keeps the agent a member of its mesh."""
        ground, work, start = self.ground, self.work, self.ground.start
        agents, members = self.company.roll.agents, start.members
        end_jobs = work.steering.end_jobs_of
        parts: list[Running] = [members.run(ground.channels, agents, start.clock, end_jobs)]
        if start.settings.allow_process and start.membership is not None:
            parts.append(warn_without_masks())
        if self.chorus is not None:
            journal = work.workshop.journal
            parts += self.chorus.parts(
                sources_of(ground.memory, self.answers, journal, start.clock)
            )
            parts.append(copying_of(ground, self.company, self.chorus).run())
            parts.append(witness_of(ground, self.chorus).run())
        if members.keeper is not None:
            parts.append(renewing(ground, self.company, members.keeper))
        if self.invitations is not None:
            parts.append(self.invitations.run())
        return parts


async def assemble(ground: Ground, server: Server, stack: AsyncExitStack) -> Agent:
    """Makes an agent and adds its services to a server; the stack closes what was opened.

    Raises:
        Refused: A file was written by a newer version.
    """
    start, company = ground.start, company_of(ground)
    work, notary = work_of(ground, company), notary_of(ground)
    chorus = await chorus_of(ground, company, stack) if start.membership is not None else None
    answers = answers_of(ground, company, work)
    testimony = testimony_of(ground, company, notary, chorus)
    removing = removing_of(ground, work, answers, chorus)
    doorkeeper = doorkeeper_of(company, work)
    served = served_of(ground, work, answers, testimony, removing, doorkeeper, chorus)
    add_servicers(server, served)
    keeper, invitations = start.members.keeper, None
    if keeper is not None:
        add_roster(server, start.home, keeper, start.clock)
        seeds, host = company.portrait.addresses, start.settings.host
        invitations = add_invitations(server, start.home, seeds, host, keeper)
        await company.portrait.look()  # who says Hello is told where to call back
    return Agent(ground, company, work, chorus, notary, removing, answers, invitations)


async def chorus_of(ground: Ground, company: Company, stack: AsyncExitStack) -> Chorus:
    """What all agents of the mesh know."""
    start, agents = ground.start, company.roll.agents
    where = company.peers.addresses
    return await open_chorus(
        start.home, ground.channels, agents, start.members, start.clock, where, stack
    )


def notary_of(ground: Ground) -> Notary:
    """Signs what happens to jobs."""
    memory = ground.memory
    return Notary(memory.records, memory.unsigned, partial(signer_of, ground.start.home))


def signer_of(home: Home) -> Signer:
    """Signs as this home. Blocks, and loads the library that signs."""
    return Signer.of(Identity.load_or_make(home))


def testimony_of(
    ground: Ground, company: Company, notary: Notary, chorus: Chorus | None
) -> Testimony:
    """What is signed of runs, here and elsewhere."""
    return Testimony(
        own=notary.evidence,
        elsewhere=chorus.hearsay.evidence if chorus is not None else lambda run_id: (),
        vouch=Vouching(ground.memory.records, company.portrait.peer_id).vouch,
    )


def doorkeeper_of(company: Company, work: Work) -> Doorkeeper:
    """Lets people to what their jobs listen on."""
    portrait = company.portrait
    return Doorkeeper(
        work.workshop,
        work.supervisor.follow,
        lambda: (portrait.host, socket.gethostname()),
        work.supervisor.connected,
    )


def answers_of(ground: Ground, company: Company, work: Work) -> Answers:
    """What Hello is answered with."""
    word = ground.start.word
    return Answers(
        card=company.portrait.card,
        state=lambda: word.state,
        machine=company.portrait.machine,
        running=work.supervisor.running,
        known=company.roll.hints,
        heard=company.twins.heard,
        vigil=company.vigil,
        load=company.portrait.load,
    )


def removing_of(ground: Ground, work: Work, answers: Answers, chorus: Chorus | None) -> Removing:
    """What takes runs out of all lists."""
    memory, heard = ground.memory, None
    if chorus is not None:
        memory.removals.heard_tags = chorus.hearsay.tags
        heard = Heard(chorus.hearsay.removals, chorus.hearsay.tells_of)
    return Removing(
        answers.card().peer_id,
        listings_of(memory, answers),
        memory.removals,
        Left(memory.records, memory.driven, memory.store, ground.start.home.jobs),
        goes_on=lambda run_id: work.driving.giver(run_id) is not None,
        clock=ground.start.clock,
        heard=heard,
    )


def tidying_of(ground: Ground, company: Company, work: Work) -> Tidying:
    """Keeps what jobs left bounded."""
    start, memory, supervisor = ground.start, ground.memory, work.supervisor
    jobs = start.home.jobs
    tagged = memory.removals.tagged
    forgetting = Forgetting(memory.records, memory.driven, tagged, jobs, start.clock)
    peer_id = company.portrait.peer_id
    containers = tidy_containers(start.ports.engine(), peer_id, jobs, supervisor.over)
    return Tidying([supervisor.sweep, containers, forgetting.look])


def served_of(
    ground: Ground,
    work: Work,
    answers: Answers,
    testimony: Testimony,
    removing: Removing,
    doorkeeper: Doorkeeper,
    chorus: Chorus | None,
) -> Served:
    """What the services speak for."""
    memory, steering = ground.memory, work.steering
    listings = listings_of(memory, answers, chorus)
    return Served(
        answers=answers,
        desk=work.desk,
        wishes=Wishes(
            follow=work.supervisor.follow,
            stop=steering.stop,
            store=memory.store,
            givers=steering.givers,
        ),
        runs=Runs(
            runs=listings.runs,
            beside=listings.beside,
            drive=steering.drive,
            tag=memory.tags.state,
            stopped=ground.auditor.stopped,
            tagged=ground.auditor.tagged,
            remove=removing.remove,
            removed=ground.auditor.removed,
            forget=memory.caches.forget,
            reload=work.supervisor.reload,
        ),
        owner=work.owner,
        testimony=testimony,
        clock=ground.start.clock,
        doorkeeper=doorkeeper,
        hearing=Hearing(ground.auditor.opened, ground.auditor.entered),
        gossiping=chorus.gossiping if chorus is not None else None,
    )


def witness_of(ground: Ground, chorus: Chorus) -> Witness:
    """Has other agents know our audit log, and us know theirs."""
    start, auditor = ground.start, ground.auditor
    diary = Diary(lambda: auditor.head, auditor.note)
    kept = start.home.state / "witnessed.json"
    return Witness(chorus.book, diary, start.members.name, kept, start.clock)


def copying_of(ground: Ground, company: Company, chorus: Chorus) -> Copying:
    """Keeps two copies of what jobs kept."""
    start, store = ground.start, ground.memory.store

    def inherit(run: RunRecord, teller: PeerId) -> Awaitable[None]:
        return ground.memory.driven.inherit(run, Asker(run.given_by or teller))

    around = Surroundings(
        agents=company.roll.agents,
        may_run=start.members.may_run,
        state=lambda: start.word.state,
        room=lambda: min(store.room_bytes(), start.word.terms().room_bytes),
        lacking=company.peers.lacking,
        bring=company.peers.bring,
        inherit=inherit,
        has=company.peers.has,
    )
    return Copying(chorus.book, chorus.hearsay, chorus.holdings, store, around, start.clock)


async def renewing(ground: Ground, company: Company, keeper: Keeper) -> None:
    """Keeps the certificate of this home from expiring."""
    await asyncio.sleep(RENEWAL_AFTER_SECONDS)
    # Loads the library that signs, which an agent that has just started does without.
    from dstack_mesh.wire.renewal import Renewal

    start, agents = ground.start, company.roll.agents
    await Renewal(start.home, keeper, ground.channels, agents, start.clock).run()
