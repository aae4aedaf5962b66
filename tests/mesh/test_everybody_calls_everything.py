"""Every method, called by everybody: members of each role, the owner, and who must not get in.

`TABLE` says who may what, once more and by hand: a slip in the rights is a difference here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from dstack_mesh.home import Home
from dstack_mesh.ids import Address
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.statement import Admit, Revoke
from dstack_mesh.wire.admission import Invitation, serve_invitation
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.rights import RIGHTS
from dstack_mesh.wire.roster import open_keeper
from dstack_mesh.wire.server import listen_local, listen_tcp, make_server
from dstack_mesh.wire.standings import Standings
from support.agent_process import agent_process
from support.every_method import METHODS, Recorder, call, short
from support.intruders import INTRUDERS, MISTAKES
from support.meshes import Mesh, member
from support.saying import say

COLUMNS = ("reader", "submitter", "runner", "admin", "root", "owner")
TABLE = """
                                        reader submitter runner admin root owner
AdmissionService/Greet                    -        -       -      -    -     -
AdmissionService/Join                     -        -       -      -    -     -
AuctionService/Ask                        -        x       x      x    x     x
AuctionService/Commit                     -        x       x      x    x     x
AuctionService/Release                    -        x       x      x    x     x
AuctionService/Reserve                    -        x       x      x    x     x
EvidenceService/Tell                      x        x       x      x    x     x
EvidenceService/Vouch                     -        x       x      x    x     x
Health/Check                              x        x       x      x    x     x
Health/List                               x        x       x      x    x     x
Health/Watch                              x        x       x      x    x     x
InvitationService/Invite                  -        -       -      -    -     x
InvitationService/Watch                   -        -       -      -    -     x
MembershipService/Compare                 -        x       x      x    x     x
MembershipService/Hello                   x        x       x      x    x     x
MembershipService/Probe                   -        x       x      x    x     x
MembershipService/ProbeFor                -        x       x      x    x     x
OwnerService/Drain                        -        -       -      -    -     x
OwnerService/Pause                        -        -       -      -    -     x
OwnerService/Resume                       -        -       -      -    -     x
OwnerService/Show                         -        -       -      -    -     x
RecordService/Agents                      x        x       x      x    x     x
RecordService/Exchange                    x        x       x      x    x     x
RecordService/Push                        -        -       x      x    x     x
RecordService/Tails                       x        x       x      x    x     x
RosterService/Exchange                    x        x       x      x    x     x
RosterService/Renew                       x        x       x      x    x     x
RunService/Attach                         x        x       x      x    x     x
RunService/Drive                          -        x       x      x    x     x
RunService/List                           x        x       x      x    x     x
RunService/Reload                         -        x       x      x    x     x
RunService/Remove                         -        x       x      x    x     x
RunService/Stop                           -        x       x      x    x     x
RunService/Tag                            -        x       x      x    x     x
ServerReflection/ServerReflectionInfo     x        x       x      x    x     x
TransferService/Fetch                     x        x       x      x    x     x
TransferService/Manifest                  x        x       x      x    x     x
TransferService/Missing                   x        x       x      x    x     x
TransferService/Push                      -        x       x      x    x     x
TunnelService/Apps                        -        x       x      x    x     x
TunnelService/Carry                       -        x       x      x    x     x
TunnelService/Exec                        -        x       x      x    x     x
TransferService/Take                      -        -       x      x    x     x
"""

ABSENT = {"AdmissionService/Greet", "AdmissionService/Join"}
"""From an agent: joining is the listener's of an invitation."""

NOT_SERVED = ABSENT | {"Health/List"}
"""By an agent: the library's health has an empty place there."""

MEMBERS_ONLY = {"RosterService/Renew"}
"""The guard lets the owner pass; the servicer says that she has no certificate to renew."""

OUTSIDERS = ("plaintext", "no certificate", *INTRUDERS, *MISTAKES)
INSIDERS = (*COLUMNS, "revoked", "made a reader", "no secret")
"""The last has the owner's socket, and not the secret of her home: a walled job."""


def allowed() -> dict[str, frozenset[str]]:
    """Who may call what, by the table."""
    _, *rows = (line.split() for line in TABLE.splitlines() if line)
    return {
        name: frozenset(who for who, mark in zip(COLUMNS, marks, strict=True) if mark == "x")
        for name, *marks in rows
    }


@dataclass(frozen=True, slots=True)
class Gate:
    """Where everybody calls."""

    mesh: Mesh
    folder: Path
    port: int

    @property
    def address(self) -> Address:
        return Address(f"127.0.0.1:{self.port}")


def found(folder: Path) -> Mesh:
    """A mesh whose roster knows one member that was revoked, and one that is a reader now."""
    mesh = Mesh.founded(folder / "root")
    for role in Role:
        mesh.admit(folder / role.value, role=role)
    revoked = member(mesh.admit(folder / "revoked", role=Role.ROOT)).peer_id
    demoted = member(mesh.admit(folder / "made a reader", role=Role.RUNNER)).peer_id
    say(mesh, Admit(revoked, Role.RUNNER, "revoked", "test"), Revoke(revoked))
    say(mesh, Admit(demoted, Role.READER, "demoted", "test"))
    return mesh


@asynccontextmanager
async def channel_of(who: str, gate: Gate, number: int) -> AsyncGenerator[grpc.aio.Channel]:
    """A connection of its own."""
    options: list[tuple[str, str | int]] = [
        ("grpc.ssl_target_name_override", "mesh"),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    if who == "plaintext":
        opened = grpc.aio.insecure_channel(gate.address, options=options)
    elif who == "owner":
        channels = Channels(gate.mesh.root)
        yield channels.to_local(gate.mesh.root.agent_socket)
        await channels.close()
        return
    elif who == "no secret":
        local = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
        opened = grpc.aio.secure_channel(f"unix:{gate.mesh.root.agent_socket}", local)
    else:
        key, chain = shown(who, gate, number)
        root = gate.mesh.membership.root_path.read_bytes()
        credentials = grpc.ssl_channel_credentials(root, key, chain)
        opened = grpc.aio.secure_channel(gate.address, credentials, options=options)
    async with opened as channel:
        yield channel


def shown(who: str, gate: Gate, number: int) -> tuple[bytes | None, bytes | None]:
    if who == "no certificate":
        return None, None
    if who in INTRUDERS | MISTAKES:
        return (INTRUDERS | MISTAKES)[who](gate.mesh, gate.folder / f"{who} {number}")
    known = member(Home(gate.folder / who))
    return known.key_path.read_bytes(), known.certificate_path.read_bytes()


async def outcomes(who: str, gate: Gate) -> dict[str, str]:
    """What comes of each method; whoever is not let in tries anew for each."""
    seen: dict[str, str] = {}
    if who in OUTSIDERS:
        for number, name in enumerate(METHODS):
            async with channel_of(who, gate, number) as channel:
                seen[short(name)] = (await call(channel, name)).outcome
        return seen
    async with channel_of(who, gate, 0) as channel:
        for name in METHODS:
            seen[short(name)] = (await call(channel, name)).outcome
    return seen


def expected(who: str, served: set[str]) -> dict[str, str]:
    """By the table."""
    if who in OUTSIDERS:
        return dict.fromkeys(allowed(), "no-member" if who in MISTAKES else "no handshake")
    column = "reader" if who == "made a reader" else who
    refusal = "revoked" if who == "revoked" else "no-right"
    if who == "no secret":
        return {name: _of_no_secret(name, served) for name in allowed()}
    ours = {name: "passed" if column in may else refusal for name, may in allowed().items()}
    return {name: one if name in served else "not served" for name, one in ours.items()}


def _of_no_secret(name: str, served: set[str]) -> str:
    """Who proves nothing hears whether the agent is well; joining begins with proving nothing."""
    if name not in served:
        return "not served"
    return "passed" if name.startswith(("Health/", "AdmissionService/")) else "no-right"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Generator[Gate]:
    """An installed agent, as a process."""
    folder = tmp_path_factory.mktemp("gate")
    mesh = found(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with agent_process(mesh.root.root, "--listen", f"127.0.0.1:{port}", "--no-mdns"):
        yield Gate(mesh, folder, port)


def test_the_table_has_every_method_once_and_no_other() -> None:
    rows = [line.split()[0] for line in TABLE.splitlines()[2:]]
    assert sorted(rows) == sorted(map(short, METHODS))
    assert sorted(METHODS) == sorted(RIGHTS)


@pytest.mark.parametrize("who", OUTSIDERS)
async def test_whoever_is_no_member_gets_nothing_by_any_call(who: str, agent: Gate) -> None:
    assert await outcomes(who, agent) == {
        name: "not served" if who in MISTAKES and name in ABSENT else one
        for name, one in expected(who, set()).items()
    }


@pytest.mark.parametrize("who", INSIDERS)
async def test_everybody_may_what_the_table_says_and_nothing_else(who: str, agent: Gate) -> None:
    served = allowed().keys() - NOT_SERVED
    right = expected(who, served)
    if who == "owner":
        right |= dict.fromkeys(MEMBERS_ONLY, "no-right")
    seen = await outcomes(who, agent)
    # What is not written is not served, whoever asks; the guard's word is the other test's.
    assert {name: one for name, one in seen.items() if name in served} == {
        name: one for name, one in right.items() if name in served
    }
    assert {seen[name] for name in NOT_SERVED} <= {"not served", "no-right", "revoked"}


@asynccontextmanager
async def recording(folder: Path) -> AsyncGenerator[tuple[Gate, Recorder]]:
    """A server like an agent's whose methods only remember that they were reached."""
    mesh, recorder = found(folder), Recorder()
    keeper = open_keeper(mesh.root, mesh.membership)
    server = make_server(standings=Standings(lambda: keeper.picture))
    recorder.add_to(server)
    mesh.root.prepare()
    listener = listen_local(server, mesh.root.agent_socket)
    port = listen_tcp(server, member(mesh.root), "127.0.0.1", 0)
    await server.start()
    try:
        yield Gate(mesh, folder, port), recorder
    finally:
        await server.stop(0)
        listener.close()


async def test_nothing_of_a_refused_call_reaches_a_servicer(tmp_path: Path) -> None:
    everything = set(allowed())
    async with recording(tmp_path) as (gate, recorder):
        for who in (*INSIDERS, *OUTSIDERS):
            recorder.reached.clear()
            right = expected(who, everything)
            assert await outcomes(who, gate) == right, who
            passed = sorted(name for name, one in right.items() if one == "passed")
            assert sorted(map(short, recorder.reached)) == passed, who


async def test_a_right_that_is_too_wide_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = next(name for name in RIGHTS if name.endswith("RunService/Stop"))
    attach = next(name for name in RIGHTS if name.endswith("RunService/Attach"))
    monkeypatch.setitem(RIGHTS, stop, RIGHTS[attach])
    async with recording(tmp_path) as (gate, recorder):
        seen, right = await outcomes("reader", gate), expected("reader", set(allowed()))
    assert {name for name in right if seen[name] != right[name]} == {"RunService/Stop"}
    assert stop in recorder.reached


@pytest.mark.parametrize("who", ["plaintext", "no certificate", "of another mesh", "root"])
async def test_the_listener_of_an_invitation_serves_joining_and_nothing_else(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSTACK_MDNS", "0")
    mesh = found(tmp_path)
    made: asyncio.Future[Invitation] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(
            serve_invitation(mesh.root, Role.READER, 60, made.set_result, host="127.0.0.1")
        )
        port = int((await made).addresses[0].rpartition(":")[2])
        seen: dict[str, str] = {}
        for number, name in enumerate(METHODS):
            async with stranger_at(who, Gate(mesh, tmp_path, port), number) as channel:
                seen[short(name)] = (await call(channel, name)).outcome
        serving.cancel()
    joining = {"AdmissionService/Greet", "AdmissionService/Join"}
    if who == "plaintext":
        assert set(seen.values()) == {"no handshake"}
    else:
        assert {name for name, one in seen.items() if one == "passed"} == joining
        assert {one for name, one in seen.items() if name not in joining} == {"not served"}


@asynccontextmanager
async def stranger_at(who: str, gate: Gate, number: int) -> AsyncGenerator[grpc.aio.Channel]:
    """A connection to the listener, which is believed."""
    if who == "plaintext":
        async with channel_of(who, gate, number) as channel:
            yield channel
        return
    leaf = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", gate.port))
    key, chain = shown(who, gate, number)
    credentials = grpc.ssl_channel_credentials(leaf.encode(), key, chain)
    options = [("grpc.ssl_target_name_override", "mesh-join")]
    async with grpc.aio.secure_channel(gate.address, credentials, options=options) as channel:
        yield channel
