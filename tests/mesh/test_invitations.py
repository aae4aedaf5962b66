"""What becomes of an invitation: used, expired, served by an agent, and who may make one."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from dstack_mesh.faults import Invalid, Missing, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.trust.desk import Greeted, Joined
from dstack_mesh.trust.invite import Expired, Used, make_code
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.wire.admission import Watched, serve_invitation
from dstack_mesh.wire.newcomer import join_mesh
from support.meshes import Mesh
from support.served_invitation import Served, fails_with, noted, served

pytestmark = pytest.mark.usefixtures("no_multicast")


async def test_a_used_code_admits_nobody_else(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    async with served(mesh) as invite:
        await join_mesh(Home(tmp_path / "ws"), invite.code, invite.address)
        await invite.task
        failed = await fails_with(join_mesh(Home(tmp_path / "late"), invite.code, invite.address))
    assert isinstance(failed, Unreachable)
    assert "used" in failed.why
    assert Membership.load(Home(tmp_path / "late")) is None


async def test_of_many_who_come_at_once_exactly_one_joins(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    homes = [Home(tmp_path / f"ws-{number}") for number in range(8)]

    async def attempt(home: Home, invite: Served) -> str:
        try:
            await join_mesh(home, invite.code, invite.address)
        except (Missing, Unreachable) as failed:
            return failed.code
        return "joined"

    async with served(mesh) as invite:
        ends = await asyncio.gather(*(attempt(home, invite) for home in homes))
    assert ends.count("joined") == 1
    assert set(ends) <= {"joined", "invite-used", "invite-unreachable", "unreachable"}
    assert sum(Membership.load(home) is not None for home in homes) == 1


async def test_an_invitation_expires_and_its_port_closes(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    async with served(mesh, lifetime=0.3) as invite:
        assert await invite.task == Expired()
        failed = await fails_with(join_mesh(Home(tmp_path / "ws"), invite.code, invite.address))
    assert isinstance(failed, Unreachable)
    assert "expired" in failed.why


async def test_another_invitations_listener_says_that_it_knows_no_such_one(
    tmp_path: Path,
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    async with served(mesh) as invite:
        failed = await fails_with(
            join_mesh(Home(tmp_path / "ws"), str(make_code()), invite.address)
        )
    assert failed.code == "invite-unknown"


@pytest.mark.parametrize("role", [Role.ROOT])
async def test_nobody_is_invited_as_root(tmp_path: Path, role: Role) -> None:
    mesh = Mesh.make(tmp_path / "root")
    failed = await fails_with(serve_invitation(mesh.root, role, 60, lambda _: None))
    assert isinstance(failed, Invalid)


async def test_a_home_without_the_root_key_cannot_invite(tmp_path: Path) -> None:
    home = Mesh.make(tmp_path / "root").admit(tmp_path / "ws")
    failed = await fails_with(serve_invitation(home, Role.RUNNER, 60, lambda _: None))
    assert failed.code == "cannot-invite"


DIES_BEFORE_SIGNING = """
import asyncio, os, signal, sys
from pathlib import Path
from dstack_mesh.home import Home
from dstack_mesh.trust.authority import Authority
from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.admission import serve_invitation

class Dies(Authority):
    def sign(self, request, role, now):
        os.kill(os.getpid(), signal.SIGKILL)

home = Home(Path(sys.argv[1]))
tell = lambda made: print(made.code, made.addresses[0], flush=True)
asyncio.run(serve_invitation(
    home, Role.RUNNER, 60, tell, host="127.0.0.1", authority=Dies(home)
))
"""


async def test_a_crash_after_used_was_written_loses_the_invitation_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    mesh, home = Mesh.make(tmp_path / "root"), Home(tmp_path / "ws")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        DIES_BEFORE_SIGNING,
        str(mesh.root.root),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    code, address = (await process.stdout.readline()).decode().split()
    failed = await fails_with(join_mesh(home, code, address))
    assert await process.wait() == -signal.SIGKILL
    assert isinstance(failed, Unreachable)
    assert Membership.load(home) is None
    assert noted(mesh, code) == "used"


async def all_of(events: AsyncGenerator[Watched]) -> list[Watched]:
    return [event async for event in events]


async def test_the_agent_of_a_home_serves_invitations_for_its_owner(tmp_path: Path) -> None:
    from dstack_agent.servicers.invitation import InvitationServicer
    from dstack_mesh.v1 import admission_pb2_grpc
    from dstack_mesh.wire.admission import ask_invitation, watch_invitation
    from dstack_mesh.wire.channels import Channels
    from dstack_mesh.wire.server import listen_local, make_server

    mesh, home = Mesh.make(tmp_path / "root"), Home(tmp_path / "ws")
    server, channels = make_server(), Channels(mesh.root)
    servicer = InvitationServicer(mesh.root, lambda: (Address("10.0.0.1:1"),), "127.0.0.1")
    admission_pb2_grpc.add_InvitationServiceServicer_to_server(servicer, server)
    listener = listen_local(server, mesh.root.agent_socket)
    await server.start()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(servicer.run())
        channel = channels.to_local(mesh.root.agent_socket)
        invitation = await ask_invitation(channel, Role.RUNNER, 60)
        with pytest.raises(Invalid):
            await ask_invitation(channel, Role.ROOT, 60)
        shown: list[object] = []

        def confirm(words: object) -> bool:
            shown.append(words)
            return True

        watched = tasks.create_task(all_of(watch_invitation(channel, invitation.code)))
        joined = await join_mesh(home, invitation.code, invitation.addresses[0], confirm, name="ws")
        greeted, told, over = await watched
        assert greeted == Greeted(shown[0])  # type: ignore[arg-type]
        assert (told, over) == (Joined(joined.peer_id, "ws"), Used(PeerId("")))
        with pytest.raises(Missing):
            await all_of(watch_invitation(channel, invitation.code))
        running.cancel()
    await channels.close()
    await server.stop(0)
    listener.close()
    assert joined.seeds == (Address("10.0.0.1:1"),)


def test_the_secret_is_nowhere_in_the_inviters_home(tmp_path: Path) -> None:
    async def story() -> str:
        async with served(Mesh.make(tmp_path / "root")) as invite:
            await join_mesh(Home(tmp_path / "ws"), invite.code, invite.address)
            return invite.code.replace("-", "")[4:]

    secret = asyncio.run(story())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert secret.encode() not in path.read_bytes()
