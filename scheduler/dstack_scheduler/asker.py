"""Who asks an agent to take a job."""

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId


@frozen
class Asker:
    """Whoever asks, as the connection proved it.

    Attributes:
        peer_id: Empty for the machine's owner, who asks over the Unix socket.
        role: The word of the member's role; empty for the owner.
        name: What members call the peer; empty where that is not known.
        behind: For whom the peer says that it drives a run; None where it says nobody. That only
            narrows: what is asked must be right for both.
    """

    peer_id: PeerId = PeerId("")
    role: str = ""
    name: str = ""
    behind: "Asker | None" = None

    @property
    def is_owner(self) -> bool:
        return not self.peer_id

    def __str__(self) -> str:
        who = self.name or self.peer_id[:8]
        return f"{who} ({self.role})" if self.role else who


OWNER = Asker()
"""The person whose machine it is."""
