"""The third layer: the jobs that run here, the runs that are driven here, and who says so."""

import random
from collections.abc import Mapping
from dataclasses import replace

from dstack_agent.assembly.company import Company
from dstack_agent.assembly.ground import Ground
from dstack_agent.assembly.workshop import workshop_of
from dstack_agent.bids import BidDesk
from dstack_agent.driving import Driving, MakeDriver
from dstack_agent.executor.nodes import meeting_point
from dstack_agent.executor.starting import Spare
from dstack_agent.jobs.folders import Keeping
from dstack_agent.jobs.notes import Notes
from dstack_agent.jobs.supervisor import Supervisor
from dstack_agent.jobs.workshop import Workshop
from dstack_agent.owner.desk import OwnersDesk
from dstack_agent.owner.reclaim import Reclaim
from dstack_agent.owner.reclaiming import Reclaiming
from dstack_agent.owner.terms import Terms
from dstack_agent.peers import Peers
from dstack_agent.records import Given
from dstack_agent.steering import Steering
from dstack_mesh.clock import Clock
from dstack_mesh.frozen import frozen
from dstack_scheduler.driver import Driver
from dstack_scheduler.job import JobSpec
from dstack_scheduler.progress import Watcher
from dstack_scheduler.submission import Submission


@frozen
class Work:
    """What an agent does, from the answer to an ask to a job's end."""

    spare: Spare
    workshop: Workshop
    supervisor: Supervisor
    driving: Driving
    desk: BidDesk
    owner: OwnersDesk
    steering: Steering

    def busy(self) -> bool:
        """Whether a job runs or a run is driven."""
        return self.driving.busy or bool(self.supervisor.running())


def work_of(ground: Ground, company: Company) -> Work:
    """Makes it; jobs of before are found again once it runs."""
    start, memory = ground.start, ground.memory
    settings, notes, spare = start.settings, Notes(), Spare()
    workshop = workshop_of(ground, company, notes, spare)
    supervisor = Supervisor(workshop, Keeping(settings.keep_days, settings.keep_work))
    notes.listener = supervisor.noted
    makes = driver_maker(company.peers, start.clock)
    driving = Driving(memory.driven, start.ports.drivers(makes))
    owner = OwnersDesk(start.word, memory.ledger.leases, supervisor.take_back, settings.name)
    return Work(
        spare=spare,
        workshop=workshop,
        supervisor=supervisor,
        driving=driving,
        desk=desk_of(ground, company, supervisor),
        owner=owner,
        steering=Steering(supervisor, driving, memory.records, memory.ledger),
    )


def driver_maker(peers: Peers, clock: Clock) -> MakeDriver:
    """Makes drivers of runs that were handed over."""

    def make(submission: Submission, watcher: Watcher) -> Driver:
        directory = replace(peers, behalf=submission.behalf)
        return Driver(submission, directory, peers.store, watcher, clock, random.random)

    return make


def desk_of(ground: Ground, company: Company, supervisor: Supervisor) -> BidDesk:
    """Answers asks and takes awards."""

    async def accept(
        spec: JobSpec, gpu_uuids: tuple[str, ...], secrets: Mapping[str, str], given: Given
    ) -> None:
        await supervisor.accept(spec, gpu_uuids, secrets, given)
        ground.auditor.given(spec.key.run_id, given.peer)

    def terms() -> Terms:
        start = ground.start
        return replace(start.word.terms(), role=start.members.role(company.portrait.peer_id))

    return BidDesk(
        company.portrait.inventory.read,
        ground.memory.ledger,
        ground.memory.store,
        accept,
        terms=terms,
        name_of=company.peers.name,
        note=supervisor.note,
        meeting_point=lambda: meeting_point(company.portrait.addresses()),
    )


def reclaiming_of(ground: Ground, company: Company, supervisor: Supervisor) -> Reclaiming:
    """Gives cards back to whoever else uses them, where the policy says so."""
    word, ledger, portrait = ground.start.word, ground.memory.ledger, company.portrait
    return Reclaiming(
        cards=portrait.inventory.look_at_cards,
        leases=ledger.leases,
        changes=ledger.changes,
        policy=lambda: word.in_force.policy,
        take_back=supervisor.take_back,
        core=Reclaim(portrait.name),
    )
