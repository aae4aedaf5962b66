"""What happens in an auction, and what is to be done: the words between `auction` and `search`."""

from dstack_mesh.card import PeerCard
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_scheduler.agent_port import Hold
from dstack_scheduler.progress import Asked, Waiting
from dstack_scheduler.verdict import Bid


@frozen
class Lot:
    """What is auctioned.

    Attributes:
        placement: "" for this machine first, "local", "remote", or an agent's id or name.
        input_bytes: Size of all inputs.
    """

    job: int
    workflow: str = ""
    gpus: int = 0
    input_bytes: int = 0
    placement: str = ""


@frozen
class Found:
    """An agent is known, perhaps again."""

    card: PeerCard
    local: bool


@frozen
class AllFound:
    """Nobody else is expected in this round."""

    round: int


@frozen
class Answered:
    """An agent answered the ask of a round."""

    peer: PeerId
    round: int
    bid: Bid


@frozen
class Silent:
    """The ask of a round failed on its way."""

    peer: PeerId
    round: int
    why: str


@frozen
class Held:
    """The reservation stands."""

    peer: PeerId
    hold: Hold


@frozen
class Declined:
    """The reservation or the award failed for sure: the job does not run there."""

    peer: PeerId
    error: MeshError


@frozen
class Tick:
    """Time went on."""


Event = Found | AllFound | Answered | Silent | Held | Declined | Tick


@frozen
class Look:
    """Find out who is there; answered by `Found` and one `AllFound`."""

    round: int


@frozen
class Ask:
    """Ask an agent; answered by `Answered` or `Silent`."""

    peer: PeerId
    round: int


@frozen
class Reserve:
    """Reserve at an agent; answered by `Held` or `Declined`."""

    peer: PeerId


@frozen
class Award:
    """Bring the job to the agent that holds for it. `Declined` if that fails for sure."""

    peer: PeerId
    hold: Hold
    why: str


@frozen
class WakeAt:
    """Send `Tick` at this time."""

    at: float


@frozen
class Tell:
    """Tell whoever watches."""

    event: Asked | Waiting


@frozen
class GiveUp:
    """No agent will ever take the job."""

    error: MeshError


Questioning = Look | Ask | WakeAt
"""What a round of questions needs done."""

Effect = Look | Ask | Reserve | Award | WakeAt | Tell | GiveUp
