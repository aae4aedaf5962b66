"""On which terms a machine takes a job at a moment: state, policy and time together."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from dstack_mesh.frozen import frozen
from dstack_mesh.machine import AgentState, ExecutorKind, Machine
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.picture import RUNNING
from dstack_scheduler.agent_port import Question
from dstack_scheduler.asker import Asker
from dstack_scheduler.fit import Occasion, Taken, fit
from dstack_scheduler.job import JobSpec
from dstack_scheduler.needs import Needs
from dstack_scheduler.objections import NEVER, duration
from dstack_scheduler.policy import Network, Policy
from dstack_scheduler.verdict import Never, Reason, Verdict

EVERYTHING = Policy()


@frozen
class Terms:
    """Attributes are those of `fit` and of its `Occasion`; `role` is the machine's in its mesh,
    None where that is not known."""

    state: AgentState = AgentState.ALIVE
    policy: Policy = EVERYTHING
    at: datetime = NEVER
    paused_until: datetime | None = None
    disk_used_bytes: int = 0
    role: Role | None = None

    @property
    def room_bytes(self) -> float:
        """What of the disk that is lent is left; no end of it where the owner set none."""
        most = self.policy.disk_bytes
        return math.inf if most is None else max(0, most - self.disk_used_bytes)

    def verdict(
        self, question: Question, machine: Machine, taken: Sequence[Taken], asker: Asker
    ) -> Verdict:
        """The one rule behind an ask, a hold and an award."""
        if self.role is not None and self.role not in RUNNING and not asker.is_owner:
            # Whoever asks may not have heard of it yet.
            return Never((_no_runner(self.role),))
        occasion = Occasion(asker, self.at, self.paused_until, self.disk_used_bytes)
        return fit(question, machine, taken, self.state, self.policy, occasion)

    def limited(self, spec: JobSpec) -> tuple[JobSpec, str]:
        """The job as this machine runs it: what it leaves open is limited as the owner wants it.

        Returns:
            The job, and a sentence for people about what was limited; empty if nothing was.
        """
        policy, limits = self.policy, list[str]()
        if policy.longest_seconds is not None and spec.max_duration_seconds is None:
            spec = replace(spec, max_duration_seconds=policy.longest_seconds)
            limits.append(f"a job runs for {duration(policy.longest_seconds)} at most")
        if spec.executor is ExecutorKind.DOCKER:
            spec = replace(spec, needs=_contained(spec, policy))
            if policy.network is Network.NONE:
                limits.append("containers have no network")
        told = " and ".join(limits)
        return spec, f"On {policy.lender} {told}, says its owner." if told else ""


def _no_runner(role: Role) -> Reason:
    message = f"In its mesh the machine is a {role.value}, so it takes jobs of its owner alone."
    return Reason("no-runner", message, "an admin's `dstack mesh role NAME runner`")


def _contained(spec: JobSpec, policy: Policy) -> Needs:
    """A container that asks for no processors or memory gets what is lent, not all there is."""
    needs = spec.needs
    return replace(
        needs,
        cpus=needs.cpus or policy.cpus or 0,
        memory_bytes=needs.memory_bytes or policy.memory_bytes or 0,
    )
