"""The part of an agent that finds others and is found: a server, Hello and the roll.

In a process of its own it prints whom it knows, as one line of JSON for each change:
`python -m support.mesh_agent HOME NAME [--port N] [--seed HOST:PORT] [--no-mdns]`, with a clock
that is off by `--clock-off SECONDS`, or as `--version V` with `--protocol N`.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import grpc

from dstack_agent.members import Members
from dstack_agent.servicers.membership import Answers, MembershipServicer
from dstack_agent.servicers.registration import add_roster
from dstack_mesh.card import PROTOCOL, PeerCard
from dstack_mesh.clock import Clock, SystemClock
from dstack_mesh.discovery.interfaces import own_addresses
from dstack_mesh.home import Home
from dstack_mesh.ids import Address
from dstack_mesh.machine import AgentState, Machine
from dstack_mesh.membership.roll import RollCall
from dstack_mesh.v1 import membership_pb2_grpc
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.greeter import open_roll_call, open_vigil
from dstack_mesh.wire.server import add_standard_services, listen_local, listen_tcp, make_server
from support.meshes import OffClock, card_of, member

MACHINE = Machine(cpus=4, memory_bytes=8 << 30, memory_free_bytes=4 << 30, disk_free_bytes=9 << 30)


@dataclass(slots=True)
class MeshAgent:
    """A running one."""

    home: Home
    card: PeerCard
    port: int
    roll: RollCall
    server: grpc.aio.Server
    members: Members

    @property
    def address(self) -> Address:
        return Address(f"127.0.0.1:{self.port}")

    def sees(self) -> dict[str, str]:
        """Names and states of those that it knows."""
        return {agent.card.name: agent.state for agent in self.roll.agents()}


@asynccontextmanager
async def mesh_agent(
    home: Home,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    seeds: tuple[str, ...] = (),
    mdns: bool = False,
    local: bool = False,
    clock: Clock | None = None,
    version: str = "0.1.0",
    protocol: int = PROTOCOL,
    serve: Callable[[grpc.aio.Server], None] = lambda server: None,
) -> AsyncGenerator[MeshAgent]:
    """Runs one within the block; `serve` adds services of the test's own."""
    members = Members(home, member(home))
    server = make_server(standings=members.standings)
    channels = Channels(home, members.picture)
    port = listen_tcp(server, member(home), host, port)
    addresses = own_addresses(port) if host == "0.0.0.0" else (f"{host}:{port}",)
    still = replace(card_of(home, name, tuple(addresses)), version=version, protocol=protocol)

    def card() -> PeerCard:
        return replace(still, roster=members.digest())

    vigil = open_vigil(channels, card, lambda: AgentState.ALIVE, SystemClock())
    roll = open_roll_call(
        home, channels, {}, seeds=seeds, card=card, port=port, mdns=mdns, vigil=vigil
    )
    answers = Answers(
        card=card,
        state=lambda: AgentState.ALIVE,
        machine=lambda: MACHINE,
        running=lambda: (),
        known=roll.hints,
        heard=roll.heard,
        vigil=vigil,
    )
    servicer = MembershipServicer(answers, clock or SystemClock())
    membership_pb2_grpc.add_MembershipServiceServicer_to_server(servicer, server)
    add_standard_services(server)
    assert members.keeper is not None
    add_roster(server, home, members.keeper, SystemClock())
    serve(server)
    listener = listen_local(server, home.agent_socket) if local else None
    await server.start()
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(roll.run()),
            tasks.create_task(members.run(channels, roll.agents, SystemClock())),
        ]
        try:
            yield MeshAgent(home, still, port, roll, server, members)
        finally:
            for each in running:
                each.cancel()
            await server.stop(0)
            await channels.close()
            if listener is not None:
                listener.close()


async def _print_changes(arguments: argparse.Namespace) -> None:
    async with mesh_agent(
        Home(arguments.home),
        arguments.name,
        host="0.0.0.0",
        port=arguments.port,
        seeds=tuple(arguments.seed),
        mdns=not arguments.no_mdns,
        clock=OffClock(timedelta(seconds=arguments.clock_off)),
        version=arguments.version,
        protocol=arguments.protocol,
    ) as agent:
        before: str | None = None
        while True:
            agents = [
                {"name": one.card.name, "state": one.state, "found_by": one.found_by}
                | {"addresses": one.addresses}
                for one in agent.roll.agents()
            ]
            now = json.dumps({"agents": agents})
            if now != before:
                before = now
                print(now, flush=True)
            await asyncio.sleep(0.02)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("name")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", action="append", default=[])
    parser.add_argument("--no-mdns", action="store_true")
    parser.add_argument("--clock-off", type=float, default=0.0)
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--protocol", type=int, default=PROTOCOL)
    asyncio.run(_print_changes(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(_main())
