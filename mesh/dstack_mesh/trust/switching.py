"""A home changes its key, certificate and id in one step.

All that is new is written into one file first, in one step; from then on it counts, and whoever
reads the home next puts it in its places if a crash left that undone. Needs no cryptography.
"""

import json

from dstack_mesh.durable import write_durably
from dstack_mesh.home import Home

PLACES = ("key.pem", "peer-id", "cert.pem", "membership.json")
"""What is replaced, in this order: a port that shows the certificate looks at it last."""

_SWITCH, DRAFT = "switch.json", "next-key.pem"


def switch(home: Home, files: dict[str, bytes]) -> None:
    """Replaces all of `PLACES`; durable on return, and never done in part."""
    assert tuple(sorted(files)) == tuple(sorted(PLACES))
    said = {name: content.decode() for name, content in files.items()}
    write_durably(home.keys / _SWITCH, json.dumps(said).encode())
    finish_switch(home)


def finish_switch(home: Home) -> None:
    """Ends a switch that a crash left half done. Cheap where there is none; two at once agree."""
    path = home.keys / _SWITCH
    try:
        said = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    for name in PLACES:
        write_durably(home.keys / name, said[name].encode())
    (home.keys / DRAFT).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
