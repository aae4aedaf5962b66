"""What this machine has, as jobs can get it: read anew, never remembered from registration."""

from dstack_agent.inventory.inventory import Inventory
from dstack_agent.inventory.source import GpuSource

__all__ = ["GpuSource", "Inventory"]
