"""Has the chunk store of a home tidied up now and then where no agent does it.

A laptop that joined a mesh runs no agent of its own; its store would grow for ever. So a command,
at its end, starts a process that collects and outlives it, once a day.
"""

import os
import subprocess
import sys
import time

from dstack_cli.remembered import recall
from dstack_cli.remotes.places import pulled_folder
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import MeshError
from dstack_mesh.home import Home

EVERY_SECONDS = 86_400.0

CURSOR = "tidied"


def tidy_later(home: Home, store: ChunkStore) -> None:
    """Starts it if it is due. Copies of runs that this home forgot are let go of. Trouble waits for
    the next command."""
    if (home.state / "agent.db").exists():
        return  # its agent does it
    try:
        last = float(store.index.cursor(CURSOR) or 0)
        if time.time() < last + EVERY_SECONDS:
            return
        store.index.put_cursor(CURSOR, str(time.time()))
        known = {run.run_id for run in recall(home)}
        known |= {file.name for file in (pulled_folder(home) / "runs").glob("*")}
        for owner in store.shelf.owners() - known:
            store.let_go(owner)
        if last:
            _start(home)
    except (MeshError, OSError):
        return


def _start(home: Home) -> None:
    subprocess.Popen(
        (sys.executable, "-m", "dstack_agent.command", "prune", "--home", str(home.root)),
        cwd=home.root,
        env=os.environ | {"DSTACK_HOME": str(home.root)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
