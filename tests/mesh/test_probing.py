"""Agents on loopback that keep watch over each other, over real TLS."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import Change
from dstack_mesh.membership.rumour import Condition, Message, Rumour
from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.prober import GrpcProber
from support.eventually import eventually_async
from support.mesh_agent import MeshAgent, mesh_agent
from support.meshes import Mesh, member

NOBODY = Address("127.0.0.1:9")


def word_of(agent: MeshAgent, incarnation: int = 1) -> Rumour:
    return Rumour(agent.card.peer_id, incarnation, Condition.ALIVE, addresses=(agent.address,))


async def believes(agent: MeshAgent, name: str, state: str, within: float = 10) -> None:
    async def look() -> bool:
        return agent.sees().get(name) == state

    await eventually_async(look, within=within)


async def test_one_that_answers_is_alive_and_one_that_ended_is_gone(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    homes = [mesh.admit(tmp_path / name) for name in ("a", "b", "c")]
    async with (
        mesh_agent(homes[0], "a") as a,
        mesh_agent(homes[1], "b", seeds=(a.address,)) as b,
    ):
        async with mesh_agent(homes[2], "c", seeds=(a.address,)) as c:
            for other in (b, c):
                await believes(a, other.card.name, "alive")
        await believes(a, "c", "gone", within=15)
        assert a.sees()["b"] == "alive"


async def test_who_listens_is_told_of_every_change(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    told: list[Change] = []
    async with mesh_agent(mesh.admit(tmp_path / "a"), "a") as a:
        a.roll.listen(told.append)
        async with mesh_agent(mesh.admit(tmp_path / "b"), "b", seeds=(a.address,)) as b:
            await believes(a, "b", "alive")
            await b.roll.leave()
            await believes(a, "b", "left", within=1)
    assert [(one.name, one.before, one.now) for one in told] == [
        ("b", None, "alive"),
        ("b", "alive", "left"),
    ]


async def test_what_a_peer_says_in_the_name_of_another_is_said_of_itself(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    liar = mesh.admit(tmp_path / "liar")
    prober = GrpcProber(Channels(liar))
    async with (
        mesh_agent(mesh.admit(tmp_path / "a"), "a") as a,
        mesh_agent(mesh.admit(tmp_path / "b"), "b", seeds=(a.address,)) as b,
    ):
        await believes(a, "b", "alive")
        gone = replace(word_of(b, 2**50), condition=Condition.LEFT)
        # Its own line in another's name, and the same as hearsay: neither buries b.
        reply = await prober.probe(a.card.peer_id, (a.address,), Message(gone, (gone,)), 2.0)
        assert reply.word.peer_id == a.card.peer_id
        await believes(b, "a", "alive")
        await believes(a, "b", "alive")
    await prober.close()


async def test_a_peer_is_reached_at_whichever_address_works(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    home = mesh.admit(tmp_path / "b")
    prober = GrpcProber(Channels(home))
    message = Message(Rumour(member(home).peer_id, 1, Condition.ALIVE))
    async with mesh_agent(mesh.admit(tmp_path / "a"), "a") as a:
        addresses = (NOBODY, Address("192.0.2.1:7420"), a.address)
        await prober.probe(a.card.peer_id, addresses, message, 2.0)
        assert prober.reached_at(a.card.peer_id) == a.address
        with pytest.raises(MeshError):
            await prober.probe(PeerId("x" * 32), (a.address,), message, 2.0)
    with pytest.raises(MeshError):
        await prober.probe(a.card.peer_id, addresses, message, 0.5)
    assert prober.reached_at(a.card.peer_id) is None
    await prober.close()


async def test_a_call_whose_connection_another_call_gave_up_fails_and_is_not_lost(
    tmp_path: Path,
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    home = mesh.admit(tmp_path / "b")
    prober = GrpcProber(Channels(home))
    message = Message(Rumour(member(home).peer_id, 1, Condition.ALIVE))
    async with mesh_agent(mesh.admit(tmp_path / "a"), "a") as a:
        await prober.probe(a.card.peer_id, (a.address,), message, 2.0)
        await a.server.stop(0)

        async def fails() -> bool:
            with pytest.raises(MeshError):
                await prober.probe(a.card.peer_id, (a.address,), message, 1.0)
            return True

        async def gives_up() -> bool:
            await prober.forget(a.card.peer_id)
            return True

        assert all(await asyncio.gather(fails(), fails(), gives_up(), fails()))
    await prober.close()


async def test_a_reader_is_no_agent(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    home = mesh.admit(tmp_path / "reader", role=Role.READER)
    prober = GrpcProber(Channels(home))
    message = Message(Rumour(member(home).peer_id, 1, Condition.ALIVE))
    async with mesh_agent(mesh.admit(tmp_path / "a"), "a") as a:
        with pytest.raises(MeshError) as refused:
            await prober.probe(a.card.peer_id, (a.address,), message, 2.0)
        assert refused.value.code == "no-right"
        assert a.sees() == {}
    await prober.close()
