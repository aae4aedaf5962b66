"""Joining a mesh by a code, over real TLS on loopback."""

import asyncio
import json
import os
import signal
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from dstack_mesh.faults import Fault, Forbidden, Invalid, MeshError, Missing, Refused, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.trust.desk import DeskEvent, Greeted, Joined, TriedWrong
from dstack_mesh.trust.invite import ALPHABET, Burned, Code, Expired, State, Used, make_code
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.trust.roster.book import read_picture
from dstack_mesh.trust.roster.statement import Revoke
from dstack_mesh.v1 import admission_pb2, admission_pb2_grpc
from dstack_mesh.wire.admission import LISTENER_NAME, Invitation, Watched, serve_invitation
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.newcomer import join_mesh
from dstack_mesh.wire.roster import open_book, scribe_of
from support.meshes import Mesh, OffClock, member
from support.relay import relay
from support.seen_as import seen_as

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_multicast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSTACK_MDNS", "0")


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


async def test_the_right_code_makes_a_member(tmp_path: Path) -> None:
    mesh, home = Mesh.make(tmp_path / "root"), Home(tmp_path / "ws")
    shown: list[object] = []

    def confirm(words: object) -> bool:
        shown.append(words)
        return True

    seeds = (Address("10.0.0.1:7420"),)
    async with served(mesh, role=Role.SUBMITTER, seeds=seeds) as invite:
        joined = await join_mesh(home, invite.code.lower(), invite.address, confirm, name="ws")
        assert await invite.task == Used(joined.peer_id)
    assert Membership.load(home) == joined
    assert (joined.mesh_id, joined.mesh_name) == (mesh.membership.mesh_id, "lab")
    assert (joined.role, joined.seeds) == (Role.SUBMITTER, seeds)
    assert joined.discovery_key == mesh.membership.discovery_key
    assert invite.events == [Greeted(shown[0]), Joined(joined.peer_id, "ws")]  # type: ignore[arg-type]
    assert not (home.keys / "root-key.pem").exists()


async def test_whoever_joins_is_in_the_roster_of_both_sides_under_a_name_of_its_own(
    tmp_path: Path,
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    homes = [Home(tmp_path / name) for name in ("one", "two")]
    codes: list[str] = []
    for home in homes:
        async with served(mesh, role=Role.READER) as invite:
            await join_mesh(home, invite.code, invite.address, name="ws 1")
            codes.append(invite.code[:4])
    theirs = read_picture(homes[1], mesh.membership.mesh_id)
    assert theirs == read_picture(mesh.root, mesh.membership.mesh_id)
    members = [theirs.members[member(home).peer_id] for home in homes]
    assert [one.name for one in members] == ["ws1", "ws1-2"]
    assert {one.role for one in members} == {Role.READER}
    assert {one.admitted_by for one in members} == {mesh.membership.mesh_id}
    assert [one.through for one in members] == codes
    difference = (members[1].expires_at or EPOCH) - member(homes[1]).not_after
    assert abs(difference) < timedelta(seconds=5)


async def test_a_revoked_key_cannot_join_again_and_the_invitation_lives(tmp_path: Path) -> None:
    mesh, home = Mesh.make(tmp_path / "root"), Home(tmp_path / "ws")
    async with served(mesh) as invite:
        joined = await join_mesh(home, invite.code, invite.address)
    scribe = scribe_of(mesh.root, mesh.membership)
    revocation = Revoke(joined.peer_id)
    open_book(mesh.root, joined.mesh_id).issue(
        lambda roster: scribe.write(roster, [revocation], datetime.now(UTC))
    )
    async with served(mesh) as invite:
        failed = await fails_with(join_mesh(home, invite.code, invite.address))
        assert (failed.fault, failed.code) == (Fault.REFUSED, "revoked")
        await join_mesh(Home(tmp_path / "other"), invite.code, invite.address)


async def test_a_member_that_joined_is_believed_by_others(tmp_path: Path) -> None:
    from dstack_mesh.wire.channels import Channels
    from dstack_mesh.wire.membership import MembershipClient
    from support.mesh_agent import mesh_agent
    from support.meshes import card_of

    mesh, home = Mesh.make(tmp_path / "root"), Home(tmp_path / "laptop")
    async with served(mesh) as invite:
        await join_mesh(home, invite.code, invite.address)
    async with mesh_agent(mesh.root, "ws-1") as agent:
        channels = Channels(home)
        client = MembershipClient(channels.to_unknown(agent.address), "ws-1")
        assert (await client.hello(card_of(home, "laptop"))).card.name == "ws-1"
        await channels.close()


async def test_a_wrong_code_is_told_on_both_sides_and_the_right_one_still_works(
    tmp_path: Path,
) -> None:
    mesh, home = Mesh.make(tmp_path / "root"), Home(tmp_path / "ws")
    async with served(mesh) as invite:
        failed = await fails_with(join_mesh(home, invite.wrong_code, invite.address))
        assert (failed.fault, failed.code) == (Fault.FORBIDDEN, "wrong-code")
        assert invite.events[-1] == TriedWrong(4, "127.0.0.1")
        await join_mesh(home, invite.code, invite.address)


async def test_five_wrong_codes_shut_their_address_out_and_nobody_else(tmp_path: Path) -> None:
    mesh, home = Mesh.make(tmp_path / "root"), Home(tmp_path / "ws")
    async with served(mesh) as invite, seen_as("127.0.0.2", invite.address) as elsewhere:
        for left in (4, 3, 2, 1, 0):
            failed = await fails_with(join_mesh(home, invite.wrong_code, invite.address))
            assert (failed.fault, failed.code) == (Fault.FORBIDDEN, "wrong-code")
            assert invite.events[-1] == TriedWrong(left, "127.0.0.1")
        for code in (invite.wrong_code, invite.code):
            failed = await fails_with(join_mesh(home, code, invite.address))
            assert (failed.fault, failed.code) == (Fault.FORBIDDEN, "too-many-tries")
        assert Membership.load(home) is None
        await join_mesh(home, invite.code, elsewhere)
        assert isinstance(await invite.task, Used)


async def test_an_address_that_greets_without_end_neither_pushes_out_nor_silences_others(
    tmp_path: Path,
) -> None:
    mesh, home = Mesh.make(tmp_path / "root"), Home(tmp_path / "ws")
    loop = asyncio.get_running_loop()

    def confirm(words: object) -> bool:
        # While a person compares the words, somebody else fills whatever can be filled.
        flood = greets(invite.code, invite.address, 100)
        refusals = asyncio.run_coroutine_threadsafe(flood, loop).result(20)
        return set(refusals) == {"too-many-greetings"}

    async with served(mesh) as invite, seen_as("127.0.0.2", invite.address) as elsewhere:
        await greets(invite.code, invite.address, 100)
        await join_mesh(home, invite.code, elsewhere, confirm)
        assert isinstance(await invite.task, Used)
        assert len(invite.events) < 30


async def greets(code: str, address: Address, count: int) -> list[str]:
    """Somebody who does not know the code greets so often; codes of what was refused."""
    refused: list[str] = []
    host, _, port = address.rpartition(":")
    pinned = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    credentials = grpc.ssl_channel_credentials(pinned.encode())
    options = [("grpc.ssl_target_name_override", LISTENER_NAME)]
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        stub = admission_pb2_grpc.AdmissionServiceStub(channel)
        for _ in range(count):
            request = admission_pb2.GreetRequest(
                invite_id=code[:4], joiner_key=b"k" * 91, joiner_nonce=os.urandom(32)
            )
            try:
                with translated("the listener"):
                    await stub.Greet(request, timeout=5)
            except MeshError as error:
                refused.append(error.code)
    return refused


async def test_wrong_codes_from_five_addresses_burn_an_invitation(tmp_path: Path) -> None:
    mesh, home = Mesh.make(tmp_path / "root"), Home(tmp_path / "ws")
    async with served(mesh) as invite:
        for number in range(2, 7):
            async with seen_as(f"127.0.0.{number}", invite.address) as elsewhere:
                for _ in range(5):
                    failed = await fails_with(join_mesh(home, invite.wrong_code, elsewhere))
                    assert failed.code == "wrong-code"
        assert await invite.task == Burned()
        assert isinstance(
            await fails_with(join_mesh(home, invite.code, invite.address)), Unreachable
        )
    assert Membership.load(home) is None
    assert noted(mesh, invite.code) == "burned"


def noted(mesh: Mesh, code: str) -> str:
    """What the inviter's home wrote down of an invitation."""
    return json.loads((mesh.root.keys / "invites" / f"{code[:4]}.json").read_bytes())["state"]


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


async def test_whoever_stands_between_gets_nothing_and_nobody_joins(tmp_path: Path) -> None:
    mesh, home = Mesh.make(tmp_path / "root"), Home(tmp_path / "ws")
    async with served(mesh) as invite, relay(invite.address) as between:
        failed = await fails_with(join_mesh(home, invite.code, between.address))
        assert isinstance(failed, Forbidden)
        assert between.greeted == 1
        assert between.proofs == [b""]
        assert Membership.load(home) is None
        # The same without anybody in between.
        await join_mesh(home, invite.code, invite.address)


async def test_words_that_a_person_does_not_accept_stop_it_before_any_proof(
    tmp_path: Path,
) -> None:
    mesh, home = Mesh.make(tmp_path / "root"), Home(tmp_path / "ws")
    async with served(mesh) as invite:
        failed = await fails_with(join_mesh(home, invite.code, invite.address, lambda words: False))
        assert failed.code == "words-differ"
        assert not any(isinstance(event, Joined) for event in invite.events)
        await join_mesh(home, invite.code, invite.address)


async def test_a_member_of_another_mesh_is_refused_and_the_invitation_lives(
    tmp_path: Path,
) -> None:
    mesh, other = Mesh.make(tmp_path / "root"), Mesh.make(tmp_path / "other", "other-lab")
    async with served(mesh) as invite:
        failed = await fails_with(join_mesh(other.root, invite.code, invite.address))
        assert isinstance(failed, Refused)
        assert (failed.code, "other-lab" in failed.what) == ("already-a-member", True)
        await join_mesh(Home(tmp_path / "ws"), invite.code, invite.address)


async def test_a_clock_that_is_far_off_is_told(tmp_path: Path) -> None:
    mesh, home = Mesh.make(tmp_path / "root"), Home(tmp_path / "ws")
    async with served(mesh) as invite:
        slow = OffClock(-timedelta(days=2))
        failed = await fails_with(join_mesh(home, invite.code, invite.address, clock=slow))
    assert failed.code == "certificate-not-yet-valid"
    assert Membership.load(home) is None


@pytest.mark.parametrize("code", ["", "7K3V", "XXXX-XXXX-XXXX-XXXX-XXXX", "7K3V-Q2MX-9T4B-HC6!"])
async def test_what_is_no_code_is_refused_before_anything_is_sent(
    tmp_path: Path, code: str
) -> None:
    failed = await fails_with(join_mesh(Home(tmp_path), code, "127.0.0.1:1"))
    assert isinstance(failed, Invalid)


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
