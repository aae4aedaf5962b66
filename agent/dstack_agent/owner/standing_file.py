"""The owner's pause on disk: it outlives the agent and the machine's restart."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from dstack_agent.owner.standing import Draining, Open, Paused, Standing
from dstack_mesh.durable import write_durably

log = logging.getLogger(__name__)


def read_standing(path: Path) -> Standing:
    """What was said last. A file that cannot be read keeps the machine for its owner."""
    try:
        said: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Open()
    except (OSError, ValueError) as error:
        return _unreadable(path, error)
    match said:
        case {"standing": "open"}:
            return Open()
        case {"standing": "draining"}:
            return Draining()
        case {"standing": "paused", "until": None}:
            return Paused()
        case {"standing": "paused", "until": int() | float() as until}:
            return Paused(datetime.fromtimestamp(until, UTC))
        case _:
            return _unreadable(path, "it says something else")


def write_standing(path: Path, standing: Standing) -> None:
    """Durable on return. Blocks. Raises OSError."""
    match standing:
        case Open():
            said = {"standing": "open"}
        case Draining():
            said = {"standing": "draining"}
        case Paused(until):
            ends = None if until is None else until.timestamp()
            said = {"standing": "paused", "until": ends}
        case _:
            assert_never(standing)
    write_durably(path, json.dumps(said).encode())


def _unreadable(path: Path, why: object) -> Paused:
    log.error("%s cannot be read (%s): paused until `dstack-runner resume`", path, why)
    return Paused()
