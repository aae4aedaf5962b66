"""What the owner reads of her own orders: a pause, the policy in force, a broken file."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar, assert_never

from dstack_agent.owner.desk import Holding, Rules
from dstack_agent.owner.policy_text import EVERYBODY, PolicyBroken
from dstack_agent.owner.word import wall_clock
from dstack_mesh.machine import AgentState
from dstack_scheduler.hours import clock
from dstack_scheduler.objections import duration
from dstack_scheduler.phrases import count, gigabytes
from dstack_scheduler.policy import Lent, Policy

T = TypeVar("T")


def holding_told(holding: Holding, now: datetime) -> str:
    """One line: "paused until 18:00; 1 job runs" or "drained: it runs nothing"."""
    match holding.state:
        case AgentState.ALIVE:
            return f"takes jobs; {_jobs(holding)}"
        case AgentState.DRAINING if holding.empty:
            return "drained: nothing runs, nothing new is taken"
        case AgentState.DRAINING:
            return f"draining: {_jobs(holding)}, nothing new is taken"
        case AgentState.PAUSED:
            until = "until you resume it"
            if holding.until is not None:
                until = f"until {clock(wall_clock(holding.until), wall_clock(now))}"
            return f"paused {until}; {_jobs(holding)}"
    assert_never(holding.state)


def holding_shape(holding: Holding) -> dict[str, object]:
    """The same for scripts."""
    return {
        "state": holding.state.value,
        "until": None if holding.until is None else holding.until.isoformat(),
        "running": holding.jobs,
        "borrowed": holding.borrowed,
        "empty": holding.empty,
    }


def _jobs(holding: Holding) -> str:
    if not holding.jobs:
        return "nothing runs"
    runs = "runs" if holding.jobs == 1 else "run"
    others = f" ({holding.borrowed} of others)" if holding.borrowed else ""
    return f"{count(holding.jobs, 'job')}{others} {runs}"


def policy_told(policy: Policy) -> str:
    """The policy, a line a rule."""
    limits = (
        ("who", _listed(policy.who, EVERYBODY)),
        ("images", _listed(policy.images, "all")),
        ("executors", _listed(_executors(policy), "all")),
        ("gpus", _gpus(policy.cards)),
        ("hours", _listed(_hours(policy), "always")),
        ("longest", _or_no_limit(policy.longest_seconds, duration)),
        ("cpus", _or_no_limit(policy.cpus, str)),
        ("memory", _or_no_limit(policy.memory_bytes, gigabytes)),
        ("disk", _or_no_limit(policy.disk_bytes, gigabytes)),
        ("network", policy.network.value),
        ("mounts", "allowed" if policy.mounts else "none"),
        ("reclaim", policy.reclaim.value),
        ("grace", duration(policy.grace_seconds)),
    )
    return "\n".join(f"{key + ':':<11}{said}" for key, said in limits)


def policy_shape(policy: Policy) -> dict[str, object]:
    """The policy for scripts; null is no limit."""
    return {
        "who": policy.who,
        "images": policy.images,
        "executors": _executors(policy),
        "gpus": {"cards": policy.cards.which, "most": policy.cards.most},
        "hours": _hours(policy),
        "longest_seconds": policy.longest_seconds,
        "cpus": policy.cpus,
        "memory_bytes": policy.memory_bytes,
        "disk_bytes": policy.disk_bytes,
        "network": policy.network.value,
        "mounts": policy.mounts,
        "reclaim": policy.reclaim.value,
        "grace_seconds": policy.grace_seconds,
    }


def rules_told(rules: Rules) -> str:
    """The policy in force and where it comes from."""
    source = f"in force, from {rules.path}:" if rules.in_force.text else f"no {rules.path}:"
    lines = [source, policy_told(rules.in_force.policy)]
    if rules.in_force.problem:
        lines.append(f"problem: {rules.in_force.problem}")
        lines.append("  what stands above holds until the file is right again")
    return "\n".join(lines)


def rules_shape(rules: Rules) -> dict[str, object]:
    """The same for scripts."""
    return {
        "schema": "dstack.policy/v1",
        "path": str(rules.path),
        "ok": not rules.in_force.problem,
        "problem": rules.in_force.problem,
        "policy": policy_shape(rules.in_force.policy),
        "problems": [],
    }


def broken_told(broken: PolicyBroken) -> str:
    """Every mistake of a file, each with its line."""
    lines: list[str] = []
    for each in broken.problems:
        lines.append(f"{each.file}:{each.line}:{each.column}: {each.message}")
        if each.source.strip():
            lines.append(f"  {each.source.rstrip()}")
            lines.append(f"  {' ' * (each.column - 1)}{'^' * max(1, each.length)}")
        lines += [f"  fix: {line}" for line in each.hint.splitlines()]
    return "\n".join(lines)


def broken_shape(broken: PolicyBroken, path: str) -> dict[str, object]:
    """The same for scripts."""
    return {
        "schema": "dstack.policy/v1",
        "path": path,
        "ok": False,
        "problem": broken.why,
        "policy": None,
        "problems": [
            {
                "line": each.line,
                "column": each.column,
                "key": each.key,
                "code": each.code.value,
                "message": each.message,
                "hint": each.hint,
            }
            for each in broken.problems
        ],
    }


def _executors(policy: Policy) -> tuple[str, ...] | None:
    kinds = policy.executors
    return None if kinds is None else tuple(sorted(kind.value for kind in kinds))


def _hours(policy: Policy) -> tuple[str, ...] | None:
    return None if policy.hours is None else tuple(window.text for window in policy.hours)


def _gpus(lent: Lent) -> str:
    cards = _listed(lent.which, "all")
    return cards if lent.most is None else f"{cards}, {lent.most} at once"


def _listed(words: tuple[str, ...] | None, otherwise: str) -> str:
    return otherwise if words is None else ", ".join(words) or "none"


def _or_no_limit(value: T | None, told: Callable[[T], str]) -> str:
    return "no limit" if value is None else told(value)
