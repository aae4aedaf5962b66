"""Homes that join by an invitation, on loopback."""

import asyncio
from pathlib import Path

from dstack_mesh.home import Home
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.wire.admission import Invitation, serve_invitation
from dstack_mesh.wire.newcomer import join_mesh


async def admin_of(root: Home, folder: Path, name: str = "ws") -> Home:
    """A home whose member is an admin."""
    home = Home(folder)
    await invited(root, home, Role.ADMIN, name)
    return home


async def invited(by: Home, home: Home, role: Role, name: str = "ws") -> Membership:
    """The home joins by an invitation that another home serves."""
    made: asyncio.Future[Invitation] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(serve_invitation(by, role, 60, made.set_result, host="127.0.0.1"))
        # Ends if it is refused before anybody can join.
        await asyncio.wait([task, made], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        joined = await join_mesh(home, made.result().code, made.result().addresses[0], name=name)
    return joined
