"""Connections that come from another address of this machine."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from dstack_mesh.ids import Address


@asynccontextmanager
async def seen_as(source: str, target: Address) -> AsyncGenerator[Address]:
    """An address that leads to the target, which sees whoever calls it at `source`."""
    host, _, port = target.rpartition(":")
    going = set[asyncio.Task[None]]()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # whoever reads hears it as the end
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
        except OSError:  # the target ended
            writer.close()
            return
        for one in (carry(reader, back), carry(there, writer)):
            task = asyncio.create_task(one)
            going.add(task)
            task.add_done_callback(going.discard)

    async with await asyncio.start_server(joined, "127.0.0.1", 0) as server:
        yield Address(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        server.close()
        for task in list(going):
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)
