"""The way to the agents: who answers, whose clock differs, what stands in between."""

import asyncio
from datetime import UTC, datetime

from dstack_cli import embedded
from dstack_cli.checkup.finding import Finding, failed, passed, warned
from dstack_cli.reach import Private, carry_out, reaching
from dstack_mesh.faults import MeshError
from dstack_mesh.home import Home
from dstack_mesh.membership.known import KnownAgent

CLOCK_WARN_SECONDS = 5.0
SEARCH_SECONDS = 4.0


def checks(home: Home) -> list[Finding]:
    """Talks to every agent in reach."""

    async def look() -> tuple[KnownAgent, ...]:
        async with reaching(home, Private.IF_ALONE) as reach, asyncio.timeout(SEARCH_SECONDS):
            return await reach.known()

    try:
        agents = carry_out(look())
    except MeshError as error:
        return [failed("agents", str(error), error.hint)]
    except TimeoutError:
        return [failed("agents", f"the search took over {SEARCH_SECONDS:.0f} s", "dstack agents")]
    now = datetime.now(UTC)
    found = [_finding(agent, now) for agent in agents]
    if not any(agent.local for agent in agents):
        found.append(_no_local(home))
    return found or [warned("agents", "nobody is in reach", "dstack-runner start")]


def _finding(agent: KnownAgent, now: datetime) -> Finding:
    name = f"agent {agent.card.name}"
    where = "this machine" if agent.local else ", ".join(agent.addresses[:2])
    if agent.answer is None:
        return warned(
            name,
            f"{where} does not answer (found by {agent.found_by})",
            "on that machine: dstack-runner status   (and look at its firewall)",
        )
    skew = (agent.answer.now - now).total_seconds()
    if abs(skew) > CLOCK_WARN_SECONDS:
        return warned(
            name,
            f"answers at {where}; its clock differs by {skew:+.0f} s",
            "sudo timedatectl set-ntp true   (on the machine whose clock is off)",
        )
    return passed(name, f"answers at {where} (found by {agent.found_by})")


def _no_local(home: Home) -> Finding:
    if embedded.answers(home):
        return failed(
            "agent here",
            f"something listens at {home.agent_socket} and does not answer",
            "dstack-runner status",
        )
    return passed("agent here", "none runs; a run that needs it starts it")
