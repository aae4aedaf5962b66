"""A home changes its key, certificate and id in one step; an admin's its issuer with them.

All that is new is written into one file first, in one step; from then on it counts, and whoever
reads the home next puts it in its places if a crash left that undone. Needs no cryptography.
"""

import json

from dstack_mesh.durable import write_durably
from dstack_mesh.home import Home

UNSAID = "unsaid-switch"
"""There while whoever admitted the new key does not know that this home has it."""

PLACES = (UNSAID, "key.pem", "peer-id", "cert.pem", "membership.json")
"""What is replaced, in this order: a port that shows the certificate looks at it last."""

ISSUER_PLACES = ("issuer-key.pem", "issuer.pem")
"""What is replaced before, in an admin's home."""

_SWITCH, DRAFT, ISSUER_DRAFT = "switch.json", "next-key.pem", "next-issuer-key.pem"


def switch(home: Home, files: dict[str, bytes]) -> None:
    """Replaces all of `PLACES`, and an issuer's; durable on return, and never done in part."""
    assert set(files) in ({*PLACES}, {*PLACES, *ISSUER_PLACES})
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
    for name in (*ISSUER_PLACES, *PLACES):
        if name in said:
            write_durably(home.keys / name, said[name].encode())
    for draft in (DRAFT, ISSUER_DRAFT):
        (home.keys / draft).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
