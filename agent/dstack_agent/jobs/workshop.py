"""Gathers what an attempt is lived with: its folder, places, executor, cards, environment."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from dstack_agent.artifacts.saving import Saver
from dstack_agent.caches import Caches, owner_of
from dstack_agent.environments.equipping import Equipped, Equipper
from dstack_agent.executor.container import OUTSIDE
from dstack_agent.executor.environment import CONTAINER_HOME, HOME
from dstack_agent.executor.port import Executor, Launch
from dstack_agent.executor.ports import noted_ports
from dstack_agent.executor.walls import WORK
from dstack_agent.jobs.bringing import Bringer
from dstack_agent.jobs.caching import Caching
from dstack_agent.jobs.live import Means
from dstack_agent.jobs.places import Places, folder_of
from dstack_agent.jobs.preparing import Note, Preparation
from dstack_agent.jobs.reloading import Reloading, is_reloaded
from dstack_agent.ledger import Ledger
from dstack_agent.logs.wake import Wake
from dstack_agent.records import Accepted, Records
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.clock import Clock
from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId
from dstack_mesh.machine import ExecutorKind, Gpu, Machine
from dstack_scheduler.job import NOTHING, JobKey, JobSpec
from dstack_scheduler.reuse import is_reusable, reuse_key

Environment = Callable[[JobSpec, Path, tuple[Gpu, ...]], Mapping[str, str]]
"""What a job sees as its environment but for secrets, given its folder and cards."""


@frozen
class Workshop:
    """Everything that attempts share.

    Attributes:
        jobs: One folder an attempt below it.
        machine: The cards as they are now.
        allowed: Where a process may have absolute paths.
        closed: The agent's own folder, where no process may.
        token: Makes what opens the apps of an attempt. Blocks.
        user_home: What "~" is for a process of the person whose machine it is.
        equipper: Installs what jobs ask for.
        limited: The job as the owner of the machine wants it run; what is kept stays as it came.
        network: Whether containers get one now.
        is_own: Whether that person asked for a job, as far as is known for sure.
    """

    jobs: Path
    journal_name: str
    records: Records
    caches: Caches
    ledger: Ledger
    executors: Mapping[ExecutorKind, Executor]
    store: ChunkStore
    bringer: Bringer
    wake: Wake
    clock: Clock
    machine: Callable[[], Machine]
    environment: Environment
    allowed: tuple[Path, ...]
    closed: Path
    user_home: Path
    equipper: Equipper
    token: Callable[[JobKey], str] = lambda key: ""
    limited: Callable[[JobSpec], JobSpec] = lambda spec: spec
    network: Callable[[], bool] = lambda: True
    is_own: Callable[[Accepted], bool] = lambda accepted: True

    def folder(self, accepted: Accepted) -> Path:
        return folder_of(self.jobs, accepted.key)

    def journal(self, accepted: Accepted) -> Path:
        return self.folder(accepted) / self.journal_name

    def places(self, accepted: Accepted) -> Places:
        """Where the paths of a job lie."""
        spec = accepted.spec
        folder = folder_of(self.jobs, spec.key)
        work = folder / WORK
        if spec.executor is ExecutorKind.DOCKER:
            outside = folder / OUTSIDE
            home = outside / CONTAINER_HOME.removeprefix("/")
            return Places(work, spec.working_dir, home, outside)
        if not self.is_own(accepted):
            return Places(work, spec.working_dir, folder / HOME, closed=self.closed, own_home=True)
        return Places(work, spec.working_dir, self.user_home, None, self.allowed, self.closed)

    def means(self, accepted: Accepted) -> Means:
        """What this attempt is lived with."""
        spec = accepted.spec
        folder = self.folder(accepted)
        places = self.places(accepted)
        told = {each.path: each.digest for each in self.records.artifacts(spec.key)}
        saver = Saver(spec.key, spec.artifacts, places, self.store, self.clock, told)
        caching = self._caching(accepted, places)

        own = self.is_own(accepted)
        hidden = () if own else (self.closed, self.user_home)
        whose = "" if own else _giver(accepted)

        def preparation(note: Note, secrets: Mapping[str, str]) -> Preparation:
            job = Equipped(spec, folder, places, whose, hidden, secrets)
            equip = partial(self.equipper.equip, job)
            return Preparation(
                folder, spec, places, self.store, self.bringer, saver, caching, note, equip
            )

        async def end_lease() -> None:
            await asyncio.to_thread(self.ledger.end, spec.key)

        async def order(secrets: Mapping[str, str]) -> Launch:
            gpus = await asyncio.to_thread(self._cards, accepted.gpu_uuids)
            lost = set(spec.secrets_needed) - set(secrets)
            if lost:
                raise _secrets_lost(lost)
            env = await asyncio.to_thread(self.environment, spec, folder, gpus)
            ports = await asyncio.to_thread(noted_ports, folder)
            tokens = await asyncio.to_thread(self._tokens, spec)
            limited, network = self.limited(spec), self.network()
            given = {**secrets, **tokens}
            ssh = await asyncio.to_thread(self._ssh, spec)
            return Launch(
                folder, places.work, limited, gpus, env, given, hidden, network, ports, ssh
            )

        return Means(
            folder=folder,
            journal=self.journal(accepted),
            executor=self.executors[spec.executor],
            preparation=preparation,
            saver=saver,
            caching=caching,
            order=order,
            end_lease=end_lease,
            reuse_key=partial(self._reuse_key, accepted),
            reload=Reloading(folder, spec.code_digest, places, self.store).lay,
            wake=self.wake,
            records=self.records,
            clock=self.clock,
        )

    def _tokens(self, spec: JobSpec) -> dict[str, str]:
        return {app.token: self.token(spec.key) for app in spec.apps if app.token}

    def _ssh(self, spec: JobSpec) -> str:
        return self.token(spec.key) if any(app.ssh for app in spec.apps) else ""

    def _caching(self, accepted: Accepted, places: Places) -> Caching:
        spec, given = accepted.spec, accepted.given
        peer = given.submitter if given is not None else PeerId("")
        paths = spec.cache if given is not None else ()
        owner = owner_of(spec, peer)
        return Caching(owner, paths, places, self.store, self.caches, self.clock)

    def _reuse_key(self, accepted: Accepted) -> Digest:
        """What the result may stand in for; empty where nobody knows who gave the job."""
        spec, given = accepted.spec, accepted.given
        if given is None or not is_reusable(spec) or is_reloaded(self.folder(accepted)):
            return NOTHING
        return reuse_key(spec, self.store.get_manifest(spec.code_digest), given.submitter)

    def _cards(self, uuids: tuple[str, ...]) -> tuple[Gpu, ...]:
        if not uuids:
            return ()
        present = {gpu.uuid: gpu for gpu in self.machine().gpus}
        gone = [uuid for uuid in uuids if uuid not in present]
        if gone:
            raise Refused(
                "A card that was granted is not there any more.",
                f"{', '.join(gone)} fell off the bus or was taken out.",
                code="gpu-gone",
            )
        return tuple(present[uuid] for uuid in uuids)


def _giver(accepted: Accepted) -> str:
    """Who gave somebody else's job; what nobody wrote down is nobody's, and not the owner's."""
    return (accepted.given.submitter if accepted.given else "") or "unknown"


def _secrets_lost(names: set[str]) -> Refused:
    return Refused(
        "The job's secrets are gone.",
        f"The agent restarted before the job did start; {', '.join(sorted(names))} "
        "were in its memory only.",
        "Run it again.",
        "secrets-lost",
    )
