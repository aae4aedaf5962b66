"""What `dstack top` does: looks at the mesh, once or again and again."""

import asyncio
import os
from datetime import UTC, datetime

from dstack_cli.output.agents import in_order
from dstack_cli.output.forms import chosen
from dstack_cli.output.full_screen import FullScreen
from dstack_cli.output.terminal import Terminal
from dstack_cli.output.top import Seen, screen_lines, top_document
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_mesh.home import Home
from dstack_mesh.trust.membership import Membership

FOOT = "q quits"


def show_top(home: Home, once: bool, every_seconds: float, as_json: bool) -> None:
    """Shows it; on a terminal until somebody leaves."""
    terminal = Terminal.of_process()
    live = terminal.stdout and os.environ.get("TERM") != "dumb" and not (once or as_json)

    async def look() -> None:
        async with reaching(home, Private.IF_ALONE) as reach:
            if live:
                await _live(reach, every_seconds)
            else:
                seen = await _seen(reach)
                chosen(as_json).document(top_document(seen, terminal.width))

    carry_out(look())


async def _seen(reach: Reach) -> Seen:
    """What is to be seen now."""
    found, adverts = await reach.everybody()
    reach.check_heard(found)
    pictures = await reach.runs()
    agents, heard = in_order(found, adverts)
    membership = Membership.load(reach.home)
    mesh = membership.mesh_name if membership is not None else ""
    return Seen(datetime.now(UTC), mesh, agents, heard, pictures)


async def _live(reach: Reach, every_seconds: float) -> None:
    """Looks again and again, and draws what was seen last again when the window changes."""
    screen = FullScreen()
    with screen.open():
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(_look_again_and_again(reach, screen, every_seconds))
            await screen.over.wait()
            looking.cancel()


async def _look_again_and_again(reach: Reach, screen: FullScreen, every_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    screen.show(["Looking who is there …", "", FOOT])
    while True:
        began = loop.time()
        seen = await _seen(reach)
        until = began + every_seconds
        while True:
            screen.resized.clear()
            screen.show(screen_lines(seen, *screen.size(), FOOT))
            try:
                async with asyncio.timeout_at(until):
                    await screen.resized.wait()
            except TimeoutError:
                break
