"""Whole agents, all in one process: what a question costs where nobody waits for a processor.

python bench/agents_in_one.py HOME:PORT...
"""

import asyncio
import sys

from dstack_agent.main import run_agent
from dstack_agent.settings import Settings, read_settings
from dstack_mesh.allocator import collect_rarely, keep_buffers


def settings_of(address: str) -> Settings:
    """What `dstack-runner start --no-mdns --gpu V100:16GB` would be given for an agent."""
    root, _, port = address.rpartition(":")
    flags = {"home": root, "listen": f"127.0.0.1:{port}", "mdns": False, "gpus": ("V100:16GB",)}
    return read_settings(flags)


async def main(addresses: list[str]) -> None:
    """Serves until SIGTERM, which the last agent hears for all."""
    agents = [asyncio.ensure_future(run_agent(settings_of(address))) for address in addresses]
    await asyncio.wait(agents, return_when=asyncio.FIRST_COMPLETED)


if __name__ == "__main__":
    keep_buffers()
    collect_rarely()
    asyncio.run(main(sys.argv[1:]))
