"""An invitation that somebody serves while a test looks at it."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Address
from dstack_mesh.trust.desk import DeskEvent
from dstack_mesh.trust.invite import ALPHABET, Code, State
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.wire.admission import Invitation, serve_invitation
from support.meshes import Mesh

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Served:
    """An invitation that is being served."""

    invitation: Invitation
    task: asyncio.Task[State]
    events: list[DeskEvent] = field(default_factory=list[DeskEvent])

    @property
    def code(self) -> str:
        return self.invitation.code

    @property
    def address(self) -> Address:
        return self.invitation.addresses[0]

    @property
    def wrong_code(self) -> str:
        """The same invitation, another secret."""
        last = self.code[-1]
        return self.code[:-1] + ALPHABET[(ALPHABET.index(last) + 1) % 32]


@asynccontextmanager
async def served(
    mesh: Mesh,
    lifetime: float = 60.0,
    role: Role = Role.RUNNER,
    seeds: tuple[Address, ...] = (),
    code: Code | None = None,
) -> AsyncGenerator[Served]:
    events: list[DeskEvent] = []
    made: asyncio.Future[Invitation] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(
            serve_invitation(
                mesh.root,
                role,
                lifetime,
                made.set_result,
                on_event=events.append,
                seeds=lambda: seeds,
                host="127.0.0.1",
                code=code,
            )
        )
        yield Served(await made, task, events)
        task.cancel()


async def fails_with(joining: "asyncio.Future[Membership] | object") -> MeshError:
    with pytest.raises(MeshError) as failed:
        await joining  # type: ignore[misc]
    return failed.value


def noted(mesh: Mesh, code: str) -> str:
    """What the inviter's home wrote down of an invitation."""
    return json.loads((mesh.root.keys / "invites" / f"{code[:4]}.json").read_bytes())["state"]
