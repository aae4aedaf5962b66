"""Whether an app answers: its link is worth nothing before."""

import asyncio
from contextlib import suppress

from dstack_cli.forwarding.links import Link
from dstack_cli.forwarding.local_port import LOOPBACK
from dstack_scheduler.app import first_page

ANSWER_SECONDS = 10.0


async def answers(link: Link) -> bool:
    """Whether the app behind a link answers a request; one that speaks no HTTP is not asked."""
    if not link.app.web:
        return True
    page = first_page(link.app, link.token)
    request = f"GET {page} HTTP/1.1\r\nHost: {LOOPBACK}:{link.local}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(LOOPBACK, link.local)
            try:
                writer.write(request.encode())
                return bool(await reader.read(1))
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False
