"""Says why no agent takes a job, and what would change that."""

from collections.abc import Mapping, Sequence
from typing import assert_never

from dstack_mesh.faults import Invalid, MeshError, Missing, Refused
from dstack_scheduler.agent_port import OTHER_THAN
from dstack_scheduler.verdict import Later, Never, NotNow, Now, Reason, Verdict

SHOWN = 8
"""Agents named in one message."""


class NoAgentFits(Refused):
    """Every agent that may be asked says that it can never run the job."""


class NoAgents(Refused):
    """Nobody can be asked."""


def reasons_of(verdict: Verdict) -> tuple[Reason, ...]:
    """Why an agent does not take a job at once; empty if it does."""
    match verdict:
        case Now():
            return ()
        case Later(reasons) | NotNow(reasons) | Never(reasons):
            return reasons
        case _:
            assert_never(verdict)


def silence(seconds: float) -> Reason:
    """The reason that stands for no answer."""
    return Reason("no-answer", f"It did not answer within {seconds:g} s.")


def refusal(error: MeshError) -> Reason:
    """An agent's error as its reason."""
    return Reason(error.code, str(error), error.hint)


def no_agents(placement: str, names: Sequence[str]) -> MeshError:
    """The error when nobody may be asked. `names` are the agents that are known but excluded."""
    match placement:
        case "":
            return NoAgents(
                "There are no agents.",
                "Nobody answered: neither on this machine nor in the mesh.",
                "Start one with: dstack-runner start",
                code="no-agents",
            )
        case "local":
            return NoAgents(
                "No agent runs on this machine.",
                _known(names),
                "Start one with: dstack-runner start",
                code="no-agents",
            )
        case _ if placement == "remote" or placement.startswith(OTHER_THAN):
            return NoAgents(
                "There is no other agent.",
                "Only this machine is known." if names else "Nobody answered.",
                "Leave --remote away, or see who is there with: dstack agents",
                code="no-agents",
            )
        case _:
            return Missing(
                f'There is no agent "{placement}".',
                _known(names),
                "See who is there with: dstack agents",
                code="no-such-agent",
            )


def ambiguous(placement: str, names: Sequence[str]) -> Invalid:
    """The error when a prefix names several agents."""
    return Invalid(
        f'"{placement}" is the beginning of several names.',
        f"They are {', '.join(sorted(names)[:SHOWN])}.",
        f"Say more of it, as: --agent {min(names)}",
        code="ambiguous-agent",
    )


def gang_broken() -> Refused:
    """The error when only some nodes of a gang have an agent and nobody holds for the others."""
    return Refused(
        "The nodes of the run cannot start together any more.",
        "Some have an agent, and whoever drove the run left before the others had one.",
        "run it again",
        code="gang-broken",
    )


def no_agent_fits(workflow: str, verdicts: Mapping[str, Never]) -> NoAgentFits:
    """The error when every agent said never; the hint is that of the nearest miss."""
    nearest = min(verdicts, key=lambda name: (len(verdicts[name].reasons), name))
    hints = (reason.hint for reason in verdicts[nearest].reasons if reason.hint)
    why = [f"{name}: {_sentence(verdicts[name].reasons)}" for name in sorted(verdicts)]
    more = len(why) - SHOWN
    return NoAgentFits(
        f"No agent can run {workflow}." if workflow else "No agent can run this job.",
        " ".join(why[:SHOWN]) + (f" And {more} more." if more > 0 else ""),
        next(hints, ""),
        code="no-agent-fits",
    )


def _sentence(reasons: Sequence[Reason]) -> str:
    return " ".join(reason.message for reason in reasons) or "It gave no reason."


def _known(names: Sequence[str]) -> str:
    return f"Known are {', '.join(sorted(names)[:SHOWN])}." if names else "Nobody answered."
