"""Where cards come from. Real drivers and declarations for tests stand behind the same port."""

from typing import Protocol

from dstack_mesh.machine import Gpu


class GpuSource(Protocol):
    """Finds cards.

    A source never raises: a driver that is missing or broken means fewer cards. Uuids are unique
    and stay the same for as long as the card is there.
    """

    def cards(self) -> tuple[Gpu, ...]:
        """The cards of this moment; `holder` names a stranger's process that uses one."""
        ...
