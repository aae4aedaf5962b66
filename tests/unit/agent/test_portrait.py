"""What an agent says of itself while something is wrong."""

from pathlib import Path

import pytest

from dstack_agent.inventory import Inventory
from dstack_agent.inventory.cpu_memory import CpuMemory
from dstack_agent.ledger import Ledger
from dstack_agent.self_portrait import SelfPortrait
from dstack_mesh.faults import Busy, MeshError
from dstack_mesh.ids import MeshId, PeerId
from support.machines import SetClock


@pytest.mark.parametrize("trouble", [OSError("no"), Busy("ledger.db is in use.")])
async def test_a_look_that_fails_leaves_what_was_seen(tmp_path: Path, trouble: Exception) -> None:
    clock, fails = SetClock(), False

    def cpu_memory() -> CpuMemory:
        if fails:
            raise trouble
        return CpuMemory(4, 8, 6)

    ledger = Ledger(tmp_path / "ledger.db", clock)
    inventory = Inventory(tmp_path, clock, cpu_memory=cpu_memory)
    portrait = SelfPortrait(PeerId("a" * 32), MeshId(""), "ws-1", "0", inventory, ledger)
    await portrait.look()
    fails, clock.time = True, clock.time + 60
    with pytest.raises((OSError, MeshError)):
        inventory.read()
    await portrait.look()
    assert portrait.machine().cpus == 4
    ledger.close()
