"""How well we are ourselves (Lifeguard, local health): who is slow takes the silence of others for
its own."""


class Health:
    """Zero is well; each point makes us wait once more as long, before we probe and suspect.

    Args:
        worst: Bound on points.
    """

    def __init__(self, worst: int) -> None:
        self._worst = worst
        self.points = 0

    @property
    def slowness(self) -> int:
        """By how much every pause and every patience is multiplied."""
        return 1 + self.points

    def worsen(self, points: int = 1) -> None:
        """A probe failed and nobody says it was not us, or others had to suspect us."""
        self.points = min(self.points + points, self._worst)

    def recover(self) -> None:
        """A probe was answered in time."""
        self.points = max(self.points - 1, 0)
