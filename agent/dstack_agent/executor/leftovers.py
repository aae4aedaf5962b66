"""Containers that an engine still has though their jobs ended: whose removal failed.

Whoever ends a job removes its container, and an engine that is away or broken then keeps it, with
what it wrote and, if it runs, its cards. Everything here blocks: call it in a thread.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from dstack_agent.executor.container import AGENT_LABEL, FOLDER_LABEL
from dstack_agent.executor.engine import Engine, EngineError

log = logging.getLogger(__name__)


def remove_leftovers(socket: Path, agent: str, is_over: Callable[[Path], bool]) -> int:
    """Removes an agent's containers of jobs that are over, running or not; how many.

    Args:
        socket: The engine's.
        agent: Whose containers, by the label that they were made with.
        is_over: Whether the job of a folder ended and is this agent's.

    Raises:
        EngineError: The engine refuses to list them.
        OSError: It is not there.
    """
    engine = Engine(str(socket))
    wanted = quote(json.dumps({"label": [f"{AGENT_LABEL}={agent}"]}))
    listed = json.loads(engine.call("GET", f"/containers/json?all=1&filters={wanted}"))
    over = [each for each in listed if is_over(Path(each["Labels"].get(FOLDER_LABEL, "")))]
    return sum(_removed(engine, str(each["Id"])) for each in over)


def _removed(engine: Engine, container: str) -> bool:
    """Whether it went now. One that cannot be removed is tried again another time."""
    try:
        engine.call("DELETE", f"/containers/{container}?force=1&v=1")
    except EngineError as error:
        log.warning("container %s of a job that ended stays: %s", container[:12], error)
        return False
    return True
