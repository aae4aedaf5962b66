"""A peer that calls one method as fast as it can, as a process of its own: `flood` starts it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import grpc

from dstack_mesh.home import Home
from support.meshes import member

AT_ONCE = 64


async def flood(home: Home, port: int, method: str, seconds: float) -> Counter[str]:
    """Calls from another process; how many calls ended with which status."""
    arguments = (str(home.root), str(port), method, str(seconds))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.flooder",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path), "GRPC_VERBOSITY": "NONE"},
    )
    said, _ = await process.communicate()
    return Counter(json.loads(said))


async def call_on_and_on(home: Home, port: int, method: str, seconds: float) -> Counter[str]:
    """What the process does."""
    known = member(home)
    credentials = grpc.ssl_channel_credentials(
        known.root_path.read_bytes(),
        known.key_path.read_bytes(),
        known.certificate_path.read_bytes(),
    )
    ended: Counter[str] = Counter()
    options = [("grpc.ssl_target_name_override", "mesh")]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as made:
        channel: Any = made
        ask = channel.unary_unary(method)
        until = time.monotonic() + seconds

        async def one_after_another() -> None:
            while time.monotonic() < until:
                try:
                    await ask(b"", timeout=30)
                    ended["OK"] += 1
                except grpc.aio.AioRpcError as refused:
                    ended[refused.code().name] += 1

        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    return ended


if __name__ == "__main__":
    folder, port, method, seconds = sys.argv[1:]
    work = call_on_and_on(Home.of_environment(folder), int(port), method, float(seconds))
    print(json.dumps(asyncio.run(work)))
