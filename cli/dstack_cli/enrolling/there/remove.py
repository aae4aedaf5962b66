"""Ends the agent and forgets how it was kept. Its data stays, unless it is to go too."""

import contextlib
import shutil
import time
from collections.abc import Callable
from typing import IO, Any

from dstack_cli.enrolling.there.places import OWN, Places
from dstack_cli.enrolling.there.serve import end_detached, end_unit

END_SECONDS = 15.0
LOOK_SECONDS = 0.1


def answer(request: dict[str, Any], body: IO[bytes], tell: Callable[[str], None]) -> dict[str, Any]:
    """Says whether it was there, and whether one still serves that we did not start."""
    places = Places(request["home"])
    there = places.serve.exists() or places.unit.exists()
    if there:
        end_unit(places)
        end_detached(places)
    deadline = time.monotonic() + END_SECONDS
    while there and places.answers() and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    serves = places.answers()
    if there and not serves:
        shutil.rmtree(places.software, ignore_errors=True)
        places.pid.unlink(missing_ok=True)
        if request["purge"]:
            _purge(places)
    return {"there": there, "serves": serves, "root": str(places.root)}


def _purge(places: Places) -> None:
    """Removes what an agent keeps; the folder too, unless somebody has other things in it."""
    for name in OWN:
        shutil.rmtree(places.root / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            (places.root / name).unlink()
    with contextlib.suppress(OSError):
        places.root.rmdir()
