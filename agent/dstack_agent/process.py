"""The daemon as a process of the operating system: its log, its limits, its end."""

import asyncio
import logging
import os

from dstack_agent.logbook import open_logbook
from dstack_agent.main import run_agent
from dstack_agent.settings import Settings
from dstack_mesh.allocator import collect_rarely, keep_buffers
from dstack_mesh.sealing import seal_memory


def serve(settings: Settings, log_json: bool) -> None:
    """Serves until stopped, then ends the process. Raises MeshError if it cannot start."""
    keep_buffers()
    collect_rarely()
    seal_memory()
    settings.home.prepare()
    open_logbook(settings.home.state / "agent.log" if settings.private else None, log_json)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(run_agent(settings))
    logging.shutdown()
    # Threads may be saving artifacts still. What they do is safe to break off and is begun again by
    # the next agent; waiting for them would keep a machine from shutting down.
    os._exit(0)
