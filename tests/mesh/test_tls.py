"""Who gets past the handshake, and who answers: real keys, real gRPC, loopback."""

import ssl
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.faults import Fault, Forbidden, MeshError, Refused, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.identity import private_pem, read_private_key
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.trust.authority import sign_leaf, to_pem
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.membership import MembershipClient
from dstack_mesh.wire.server import listen_local, listen_tcp, make_server
from support.mesh_agent import MeshAgent, mesh_agent
from support.meshes import Mesh, card_of, member


@asynccontextmanager
async def channels_of(home: Home) -> AsyncGenerator[Channels]:
    channels = Channels(home)
    try:
        yield channels
    finally:
        await channels.close()


@asynccontextmanager
async def raw_channel(
    agent: MeshAgent, key: bytes | None, chain: bytes | None
) -> AsyncGenerator[grpc.aio.Channel]:
    """A channel with any certificate, which believes the agent's mesh."""
    root = member(agent.home).root_path.read_bytes()
    credentials = grpc.ssl_channel_credentials(root, key, chain)
    options = [("grpc.ssl_target_name_override", "mesh")]
    async with grpc.aio.secure_channel(agent.address, credentials, options=options) as channel:
        yield channel


async def hello(channel: grpc.aio.Channel, home: Home) -> str:
    answer = await MembershipClient(channel, "ws-1").hello(card_of(home, "laptop", agent=False))
    return answer.card.name


async def test_members_reach_each_other_by_id_at_first_contact_and_by_socket(
    tmp_path: Path,
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    laptop, home = mesh.admit(tmp_path / "laptop"), mesh.admit(tmp_path / "ws-1")
    async with mesh_agent(home, "ws-1", local=True) as agent, channels_of(laptop) as channels:
        peer_id = agent.card.peer_id
        assert await hello(channels.to_peer(peer_id, agent.address), laptop) == "ws-1"
        assert await hello(channels.to_unknown(agent.address), laptop) == "ws-1"
        assert await hello(channels.to_local(home.agent_socket), laptop) == "ws-1"
        assert channels.to_unknown(agent.address) is channels.to_unknown(agent.address)
        assert stat.S_IMODE(home.agent_socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(home.sockets.stat().st_mode) == 0o700


async def test_an_address_never_changes_who_is_talked_to(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    laptop, home = mesh.admit(tmp_path / "laptop"), mesh.admit(tmp_path / "ws-1")
    async with mesh_agent(home, "ws-1") as agent, channels_of(laptop) as channels:
        somebody_else = PeerId("a" * 32)
        with pytest.raises(Unreachable) as refused:
            await hello(channels.to_peer(somebody_else, agent.address), laptop)
        assert refused.value.code == "not-that-peer"
        with pytest.raises(Forbidden):
            channels.to_peer(somebody_else, Address(f"unix:{home.agent_socket}"))


def _other_ca(mesh: Mesh, folder: Path) -> tuple[bytes, bytes]:
    home = Mesh.make(folder / "other").admit(folder / "stranger")
    known = member(home)
    return known.key_path.read_bytes(), known.certificate_path.read_bytes()


def _dated(born: timedelta, life: timedelta) -> Callable[[Mesh, Path], tuple[bytes, bytes]]:
    def make(mesh: Mesh, folder: Path) -> tuple[bytes, bytes]:
        home = mesh.admit(folder / "dated", datetime.now(UTC) + born, life)
        known = member(home)
        return known.key_path.read_bytes(), known.certificate_path.read_bytes()

    return make


def _signed_by_a_leaf(mesh: Mesh, folder: Path) -> tuple[bytes, bytes]:
    known = member(mesh.admit(folder / "leaf"))
    from cryptography import x509

    leaf = x509.load_pem_x509_certificate(known.certificate_path.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    signer = read_private_key(known.key_path)
    forged = sign_leaf(signer, leaf, key.public_key(), datetime.now(UTC))
    return private_pem(key), to_pem(forged) + to_pem(leaf)


STRANGERS: dict[str, Callable[[Mesh, Path], tuple[bytes | None, bytes | None]]] = {
    "no certificate": lambda mesh, folder: (None, None),
    "another mesh's": _other_ca,
    "expired": _dated(timedelta(days=-9), timedelta(days=1)),
    "not yet valid": _dated(timedelta(days=9), timedelta(days=1)),
    "signed by a leaf": _signed_by_a_leaf,
}


@pytest.mark.parametrize("kind", STRANGERS)
async def test_a_stranger_does_not_get_past_the_handshake(kind: str, tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    home = mesh.admit(tmp_path / "ws-1")
    key, chain = STRANGERS[kind](mesh, tmp_path)
    async with mesh_agent(home, "ws-1") as agent, raw_channel(agent, key, chain) as channel:
        with pytest.raises(Unreachable):
            await hello(channel, home)


async def test_the_same_call_with_a_good_certificate_succeeds(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    home, known = mesh.admit(tmp_path / "ws-1"), member(mesh.admit(tmp_path / "laptop"))
    key, chain = known.key_path.read_bytes(), known.certificate_path.read_bytes()
    async with mesh_agent(home, "ws-1") as agent, raw_channel(agent, key, chain) as channel:
        assert await hello(channel, home) == "ws-1"


async def test_a_plaintext_caller_is_not_answered(tmp_path: Path) -> None:
    home = Mesh.make(tmp_path / "root").admit(tmp_path / "ws-1")
    async with (
        mesh_agent(home, "ws-1") as agent,
        grpc.aio.insecure_channel(agent.address) as channel,
    ):
        with pytest.raises(Unreachable):
            await hello(channel, home)


async def test_a_member_with_an_old_tls_is_refused_in_words(tmp_path: Path) -> None:
    from support.old_tls import call_with_tls_1_2

    mesh = Mesh.make(tmp_path / "root")
    home, laptop = mesh.admit(tmp_path / "ws-1"), member(mesh.admit(tmp_path / "laptop"))
    async with mesh_agent(home, "ws-1") as agent:
        status, message = await call_with_tls_1_2("127.0.0.1", agent.port, laptop)
    assert status == grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert "old TLS" in message


async def test_a_stranger_learns_an_id_and_no_name(tmp_path: Path) -> None:
    home = Mesh.make(tmp_path / "root", name="planted-lab").admit(tmp_path / "planted-ws")
    async with mesh_agent(home, "planted-ws") as agent:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        import asyncio

        _, writer = await asyncio.open_connection("127.0.0.1", agent.port, ssl=context)
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
    assert agent.card.peer_id.encode() in leaf
    assert b"planted" not in leaf


async def test_a_member_of_the_mesh_by_tls_who_names_another_is_refused(tmp_path: Path) -> None:
    mesh, other = Mesh.make(tmp_path / "root"), Mesh.make(tmp_path / "other")
    home, laptop = mesh.admit(tmp_path / "ws-1"), mesh.admit(tmp_path / "laptop")
    async with mesh_agent(home, "ws-1") as agent, channels_of(laptop) as channels:
        with pytest.raises(Refused) as refused:
            await hello(channels.to_unknown(agent.address), other.root)
        assert refused.value.code == "other-mesh"


async def test_an_invitation_is_refused_to_members_over_the_network(tmp_path: Path) -> None:
    from dstack_agent.servicers.invitation import InvitationServicer
    from dstack_mesh.trust.membership import Role
    from dstack_mesh.v1 import admission_pb2_grpc
    from dstack_mesh.wire.admission import ask_invitation

    mesh = Mesh.make(tmp_path / "root")
    laptop = mesh.admit(tmp_path / "laptop")
    server = make_server()
    servicer = InvitationServicer(mesh.root, lambda: ())
    admission_pb2_grpc.add_InvitationServiceServicer_to_server(servicer, server)
    port = listen_tcp(server, member(mesh.root), "127.0.0.1", 0)
    await server.start()
    async with channels_of(laptop) as channels:
        with pytest.raises(MeshError) as refused:
            await ask_invitation(channels.to_unknown(Address(f"127.0.0.1:{port}")), Role.RUNNER, 60)
    await server.stop(0)
    assert refused.value.fault is Fault.FORBIDDEN


async def test_health_and_reflection_are_served_to_members(tmp_path: Path) -> None:
    from typing import Any

    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    mesh = Mesh.make(tmp_path / "root")
    laptop, home = mesh.admit(tmp_path / "laptop"), mesh.admit(tmp_path / "ws-1")
    async with mesh_agent(home, "ws-1") as agent, channels_of(laptop) as channels:
        channel = channels.to_unknown(agent.address)
        untyped: Any = channel
        health: Any = health_pb2_grpc.HealthStub(untyped)
        state = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert state.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(untyped)
        call = reflection.ServerReflectionInfo(timeout=5)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await call.done_writing()
        (answer,) = [one async for one in call]
        names = {one.name for one in answer.list_services_response.service}
        assert "dstack_mesh.v1.AuctionService" in names


async def test_a_port_that_is_taken_is_told_with_a_way_out(tmp_path: Path) -> None:
    home = Mesh.make(tmp_path / "root").admit(tmp_path / "ws-1")
    async with mesh_agent(home, "ws-1") as agent:
        with pytest.raises(Refused) as refused:
            listen_tcp(make_server(), member(home), "127.0.0.1", agent.port)
    assert refused.value.code == "port-taken"
    assert str(agent.port) in refused.value.what
    assert "--listen" in refused.value.hint


async def test_an_address_of_another_machine_is_told_as_such(tmp_path: Path) -> None:
    home = Mesh.make(tmp_path / "root").admit(tmp_path / "ws-1")
    with pytest.raises(Refused) as refused:
        listen_tcp(make_server(), member(home), "192.0.2.77", 0)
    assert refused.value.code == "no-such-address"


async def test_a_certificate_outside_its_time_is_told_before_anything_listens(
    tmp_path: Path,
) -> None:
    born = datetime.now(UTC) - timedelta(days=9)
    home = Mesh.make(tmp_path / "root").admit(tmp_path / "ws-1", born, timedelta(days=1))
    with pytest.raises(Refused) as refused:
        listen_tcp(make_server(), member(home), "127.0.0.1", 0)
    assert refused.value.code == "certificate-expired"
    with pytest.raises(Refused):
        Channels(home).to_unknown(Address("127.0.0.1:1"))


async def test_one_home_has_one_agent_and_a_dead_ones_socket_is_replaced(tmp_path: Path) -> None:
    home = Mesh.make(tmp_path / "root").admit(tmp_path / "ws-1")
    first = make_server()
    listener = listen_local(first, home.agent_socket)
    await first.start()
    with pytest.raises(Refused) as refused:
        listen_local(make_server(), home.agent_socket)
    assert refused.value.code == "already-running"
    await first.stop(0)
    listener.close()
    home.agent_socket.touch()  # as if it had been killed
    second = make_server()
    again = listen_local(second, home.agent_socket)
    await second.start()
    await second.stop(0)
    again.close()
    assert not home.agent_socket.exists()


async def test_a_home_whose_path_is_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        listen_local(make_server(), tmp_path / ("x" * 120) / "agent.sock")
    assert refused.value.code == "path-too-long"
