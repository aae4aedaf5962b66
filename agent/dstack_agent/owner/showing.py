"""`dstack-runner policy`: what is in force, or whether a file would be."""

import json
import os
from pathlib import Path

from dstack_agent.owner.desk import Rules
from dstack_agent.owner.policy_file import InForce, PolicyFile, check
from dstack_agent.owner.policy_text import PolicyBroken
from dstack_agent.owner.words import (
    broken_shape,
    broken_told,
    policy_told,
    rules_shape,
    rules_told,
)
from dstack_mesh.home import Home
from dstack_scheduler.policy import Policy

BROKEN = 2
"""Exit code for a file with mistakes, as of `dstack validate`."""


def check_file(file: str, as_json: bool) -> tuple[str, int]:
    """What a file says or what is wrong with it, and the exit code. Raises Invalid."""
    path = Path(file)
    try:
        policy = check(path)
    except PolicyBroken as broken:
        shape = broken_shape(broken, file)
        return (json.dumps(shape) if as_json else broken_told(broken)), BROKEN
    if as_json:
        return json.dumps(rules_shape(Rules(path, InForce(policy)))), 0
    return f"{file} is right; it would hold like this:\n{policy_told(policy)}", 0


def show_rules(home: Home, as_json: bool) -> tuple[str, int]:
    """What holds in a home, and the exit code: the agent's word, or the file's if none serves."""
    rules = _rules_of(home)
    if isinstance(rules, PolicyBroken):
        shape = broken_shape(rules, str(home.policy))
        return (json.dumps(shape) if as_json else broken_told(rules)), BROKEN
    told = json.dumps(rules_shape(rules)) if as_json else rules_told(rules)
    return told, BROKEN if rules.in_force.problem else 0


def _rules_of(home: Home) -> Rules | PolicyBroken:
    if home.agent_socket.exists():
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        from dstack_agent.status import order
        from dstack_mesh.faults import Unreachable

        try:
            return order(home, lambda owner: owner.show(Policy()))[1]
        except Unreachable:  # its socket is left of an agent that was killed
            pass
    file = PolicyFile(home.policy, Policy())
    try:
        file.load()
    except PolicyBroken as broken:
        return broken
    return Rules(home.policy, file.in_force)
