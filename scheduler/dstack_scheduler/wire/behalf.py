"""On whose behalf a driver asks, as metadata of the call.

Over its own Unix socket an agent is its owner, and to others it is a runner, who may stop any run.
A run that was handed over by a member must not get these rights by that, so its driver says for
whom it asks. It narrows the rights of whoever says it, and only who may drive runs of others is
heard: their word makes whom they name a giver of the run.
"""

from collections.abc import Iterable
from typing import Any

from dstack_mesh.faults import Invalid
from dstack_mesh.identity import is_id
from dstack_mesh.ids import PeerId
from dstack_scheduler.asker import OWNER, Asker

KEY = "dstack-behalf"


def behalf_to_wire(asker: Asker) -> tuple[tuple[str, str], ...]:
    """Metadata that says who is behind a call; none for the owner."""
    return () if asker.is_owner else ((KEY, behalf_text(asker)),)


def behalf_from_wire(metadata: "Iterable[tuple[str, Any]] | None") -> Asker:
    """Who is behind a call of the owner. Raises Invalid if it cannot be read."""
    said = [value for key, value in metadata or () if key == KEY]
    return behalf_of_text(str(said[0])) if said else OWNER


def behalf_text(asker: Asker) -> str:
    """An asker as one word and its role; empty for the owner."""
    return f"{asker.peer_id} {asker.role}".strip()


def behalf_of_text(text: str) -> Asker:
    """The asker of a text. Raises Invalid if nobody can be meant."""
    if not text:
        return OWNER
    peer_id, _, role = text.partition(" ")
    if not is_id(peer_id):
        raise Invalid("Nobody is behind the call.", f"It names {text[:64]!r}.")
    return Asker(PeerId(peer_id), role)
