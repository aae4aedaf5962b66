"""A home takes a new key at one agent, step by step, and may be killed in between.

As a process of its own: `python -m support.rotating HOME PEER ADDRESS STEP [now]` kills itself
after that step.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from dstack_mesh.card import PeerCard
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.renewal import say_switched
from dstack_mesh.wire.roster import RosterClient, open_keeper
from dstack_mesh.wire.rotation import ask_to_replace, next_keys, take_keys, unsaid
from support.meshes import member

STEPS = ("drafted", "admitted", "switched", "said")


async def rotate(
    home: Home,
    peer: PeerId,
    address: Address,
    at_once: bool = False,
    after: Callable[[str], None] = lambda step: None,
) -> None:
    """What `dstack mesh rotate` does, at the agent that is named."""
    if await asyncio.to_thread(unsaid, home) is None:
        keys = await asyncio.to_thread(next_keys, home)
        after("drafted")
        channels = Channels(home)
        await exchange(home, channels, peer, address)
        granted = await ask_to_replace(channels.to_peer(peer, address), "root", keys)
        await channels.close()
        after("admitted")
        take_keys(home, member(home), keys, granted, at_once)
    after("switched")
    waiting, channels = unsaid(home), Channels(home)
    assert waiting is not None
    keeper = await exchange(home, channels, peer, address)
    card = PeerCard(peer, member(home).mesh_id, "root", (address,), "0.1.0", True)
    known = KnownAgent(card, (address,), "seed", "alive", None)
    await say_switched(home, keeper, channels, [known], waiting, datetime.now(UTC))
    await exchange(home, channels, peer, address)
    await channels.close()
    after("said")


async def exchange(home: Home, channels: Channels, peer: PeerId, address: Address) -> Keeper:
    """The home's roster, brought together with the agent's."""
    keeper = open_keeper(home, member(home))
    await RosterClient(channels.to_peer(peer, address), "root").exchange(keeper)
    return keeper


def _main(home: str, peer: str, address: str, step: str, at_once: str = "") -> None:
    def after(done: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(rotate(Home(Path(home)), PeerId(peer), Address(address), bool(at_once), after))


if __name__ == "__main__":
    _main(*sys.argv[1:])
