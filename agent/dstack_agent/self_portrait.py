"""What the agent says of itself: its card, and its machine as of a moment ago."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

from dstack_agent.inventory import Inventory
from dstack_agent.ledger import Ledger
from dstack_mesh.card import PeerCard
from dstack_mesh.discovery.interfaces import own_addresses
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Address, MeshId, PeerId
from dstack_mesh.machine import Load, Machine
from dstack_scheduler.fit import occupied

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""How old the machine and the addresses of an answer may be."""


@dataclass(slots=True)
class SelfPortrait:
    """Kept fresh by `run`; answering costs no look at the hardware.

    Attributes:
        port: Where members reach us; None for a private agent.
        listens_on: The interface; an unspecified address is all of them.
        roster: Digest of what is known of the mesh's members.
        measure: What of the machine is used, given its processors; called in a thread.
    """

    peer_id: PeerId
    mesh_id: MeshId
    name: str
    version: str
    inventory: Inventory
    ledger: Ledger
    port: int | None = None
    listens_on: str = "0.0.0.0"
    roster: Callable[[], str] = str
    measure: Callable[[int], Load | None] = lambda cpus: None
    _machine: Machine | None = None
    _load: Load | None = None
    _addresses: tuple[Address, ...] = field(default=())

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Looks now. A look that fails leaves what was seen before."""
        try:
            await asyncio.to_thread(self._look_at_machine)
            if self.port is not None:
                self._addresses = await asyncio.to_thread(reached_at, self.listens_on, self.port)
        except (OSError, MeshError) as error:  # of the machine, or of the ledger
            log.warning("the machine could not be read: %s", error)

    def _look_at_machine(self) -> None:
        self._machine = self.inventory.read()
        self._load = self.measure(self._machine.cpus)

    def card(self) -> PeerCard:
        """Who we are and where."""
        return PeerCard(
            self.peer_id,
            self.mesh_id,
            self.name,
            self._addresses,
            self.version,
            agent=True,
            roster=self.roster(),
        )

    def addresses(self) -> tuple[Address, ...]:
        """Where members reach us now."""
        return self._addresses

    @property
    def host(self) -> str:
        """Under which other machines reach this one; our own name where nobody does."""
        return self._addresses[0].rpartition(":")[0] if self._addresses else self.name

    def load(self) -> Load | None:
        """What of the machine was used when it was looked at; None before that."""
        return self._load

    def machine(self) -> Machine:
        """What the machine has and who has it."""
        seen = self._machine or self.inventory.read()
        return occupied(seen, self.ledger.taken())


def reached_at(host: str, port: int) -> tuple[Address, ...]:
    """Where others dial an agent that listens on an interface, or on all of them."""
    try:
        everywhere = ip_address(host).is_unspecified
    except ValueError:  # a name
        everywhere = False
    if everywhere:
        return own_addresses(port)
    return (Address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"),)
