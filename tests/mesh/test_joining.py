"""Joining a mesh by a code, over real TLS on loopback."""

import asyncio
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from dstack_mesh.faults import Fault, Forbidden, Invalid, MeshError, Refused, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.ids import Address
from dstack_mesh.trust.desk import Greeted, Joined, TriedWrong
from dstack_mesh.trust.invite import Burned, Used
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.trust.roster.book import read_picture
from dstack_mesh.trust.roster.statement import Revoke
from dstack_mesh.v1 import admission_pb2, admission_pb2_grpc
from dstack_mesh.wire.admission import LISTENER_NAME
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.newcomer import join_mesh
from dstack_mesh.wire.roster import open_book, scribe_of
from support.meshes import Mesh, OffClock, member
from support.relay import relay
from support.seen_as import seen_as
from support.served_invitation import EPOCH, fails_with, noted, served

pytestmark = pytest.mark.usefixtures("no_multicast")


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
