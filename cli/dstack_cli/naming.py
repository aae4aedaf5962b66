"""Names and ids of new runs, and of who submits them."""

import os
import random
import socket
import time

from dstack_cli.remembered import heard_names, recall
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.ids import RunId, RunName
from dstack_mesh.run_ids import run_id
from dstack_mesh.user import user_name
from dstack_scheduler.names import run_name


def order_name(home: Home) -> RunName:
    """A name that no run has which this home submitted or heard of.

    Two homes that never heard of each other may choose the same one; then the id tells them apart.
    """
    taken = {run.run_name for run in recall(home)} | heard_names(home)
    words, number = random.getrandbits(64), 1
    while (name := run_name(random.Random(words).randrange, number)) in taken:
        number += 1
    return name


def order_id(home: Home) -> RunId:
    """An id that sorts by the time of submission and says that the run is this home's."""
    submitter = Identity.known(home)
    return run_id(time.time_ns() // 1_000_000, random.getrandbits(20), submitter)


def owner() -> str:
    """Who submits, for display: "ana@laptop"."""
    user = os.environ.get("USER") or user_name()
    return f"{user}@{os.environ.get('DSTACK_NAME') or socket.gethostname()}"
