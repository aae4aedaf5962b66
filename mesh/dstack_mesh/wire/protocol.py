"""Which protocol a caller speaks, said with every call, and who speaks one that is too old.

A version is a claim, and none that anybody gains by: it says what the software can do.
"""

import re
from typing import Any

import grpc

from dstack_mesh.card import PROTOCOL
from dstack_mesh.faults import Refused

_BEGIN = "dstack-mesh/"
_SAID = re.compile(re.escape(_BEGIN) + r"(\d{1,9})\b")

UNSAID = 1
"""What software speaks that does not say it."""

UPDATE = "pip install -U dstack-mesh"


def said_of(protocol: int) -> str:
    """How a channel says it: the begin of gRPC's own user agent, which every call carries."""
    return f"{_BEGIN}{protocol}"


def protocol_of(context: "grpc.aio.ServicerContext[Any, Any]") -> int:
    """What a caller speaks."""
    for key, value in context.invocation_metadata() or ():
        found = _SAID.match(str(value)) if key == "user-agent" else None
        if found is not None:
            return int(found[1])
    return UNSAID


def check_protocol(required: int, theirs: int, ours: int = PROTOCOL) -> None:
    """Raises Refused if the mesh requires a newer protocol than either side of a call speaks."""
    if theirs < required:
        raise _too_old("caller", theirs, required, f"Update it: {UPDATE}")
    if ours < required:
        raise _too_old("agent", ours, required, f"On the agent's machine: {UPDATE}")


def _too_old(who: str, spoken: int, required: int, hint: str) -> Refused:
    return Refused(
        f"The software of the {who} is too old for new work in this mesh.",
        f"It speaks protocol {spoken}; {required} is required. What runs goes on.",
        hint,
        code="protocol-too-old",
    )
