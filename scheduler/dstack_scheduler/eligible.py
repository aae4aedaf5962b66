"""Which agents a placement allows."""

from collections.abc import Iterable

from dstack_mesh.card import PeerCard
from dstack_mesh.ids import PeerId
from dstack_scheduler.agent_port import OTHER_THAN
from dstack_scheduler.auction_events import Found


def eligible(placement: str, known: Iterable[Found]) -> list[PeerId]:
    """The agents that may be asked.

    Args:
        placement: "", "local", "remote", `OTHER_THAN` and an id, or an agent's name or id or the
            beginning of one.
    """
    match placement:
        case "":
            return [found.card.peer_id for found in known]
        case "local":
            return [found.card.peer_id for found in known if found.local]
        case "remote":
            return [found.card.peer_id for found in known if not found.local]
        case _ if placement.startswith(OTHER_THAN):
            other = placement.removeprefix(OTHER_THAN)
            return [found.card.peer_id for found in known if found.card.peer_id != other]
        case _:
            cards = [found.card for found in known]
            exact = [card.peer_id for card in cards if is_named(placement, card)]
            return exact or [
                card.peer_id
                for card in cards
                if card.name.startswith(placement) or card.peer_id.startswith(placement)
            ]


def is_named(placement: str, card: PeerCard) -> bool:
    """Whether a placement names exactly this agent."""
    return placement in (card.name, card.peer_id)


def is_a_name(placement: str) -> bool:
    """Whether a person named an agent."""
    return placement not in ("", "local", "remote") and not placement.startswith(OTHER_THAN)
