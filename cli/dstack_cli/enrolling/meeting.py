"""The last step: the agent is dialled by its id, as every command will dial it."""

import asyncio
import json
import shlex
from collections.abc import Sequence
from typing import Any

from dstack_cli.enrolling.ssh import FAILED, Ssh
from dstack_mesh.card import HelloAnswer
from dstack_mesh.discovery import saved
from dstack_mesh.discovery.seeds import parse_seed
from dstack_mesh.faults import Broken, Invalid, MeshError, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import KnownAgent, standing_of
from dstack_mesh.trust.membership import Membership
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.greeter import command_card
from dstack_mesh.wire.membership import MembershipClient

HELLO_SECONDS = 3.0
TRIES = 4
BETWEEN_SECONDS = 0.5


@frozen
class Met:
    """An agent that answered, and where."""

    known: KnownAgent
    address: Address


async def meet(home: Home, ssh: Ssh, runner: str, root: str) -> Met:
    """Returns once it answered.

    Raises:
        Unreachable: Its port is not reached from here.
        Broken: It does not serve.
    """
    status = await _status(ssh, runner, root)
    peer_id = PeerId(status["id"])
    told = [Address(one) for one in status["addresses"]]
    candidates = _candidates(await ssh.host_name(), told)
    channels = Channels(home)
    try:
        for _ in range(TRIES):
            found = await _first(home, channels, peer_id, candidates)
            if found is not None:
                answer, address = found
                others = (one for one in told if one != address)
                standing = standing_of(answer.state)
                known = KnownAgent(answer.card, (address, *others), "saved", standing, answer)
                return Met(known, address)
            await asyncio.sleep(BETWEEN_SECONDS)
    finally:
        await channels.close()
    port = candidates[0].rpartition(":")[2] if candidates else "?"
    raise Unreachable(
        f"The agent of {ssh.target} runs, but this machine does not reach its port.",
        f"It was dialled at {', '.join(candidates) or 'no address'}.",
        f"Open port {port}/tcp there, as: ufw allow {port}/tcp   (an administrator)\n"
        "Jobs of others that do reach it run there already.",
        code="agent-not-reached",
    )


def remember(home: Home, membership: Membership, met: Met) -> None:
    """Later commands find it where it was met, also where multicast does not reach it."""
    card = met.known.card
    peer = saved.SavedPeer(card.peer_id, card.name, met.known.addresses)
    saved.remember(home.saved_peers, membership.mesh_id, [peer])


async def _status(ssh: Ssh, runner: str, root: str) -> dict[str, Any]:
    process = await ssh.start(shlex.join((runner, "status", "--json", "--home", root)))
    output, errors = await process.communicate()
    if process.returncode == 0:
        text = output.decode(errors="replace")
        return dict(json.loads(text[text.index("{") :]))
    if process.returncode == FAILED and not await ssh.alive():
        raise ssh.lost("asking the agent who it is")
    said = (output + errors).decode(errors="replace").strip().splitlines()[-4:]
    raise Broken(
        f"The agent of {ssh.target} does not say who it is.",
        "\n".join(said),
        code="agent-did-not-start",
    )


def _candidates(host: str, told: Sequence[Address]) -> tuple[Address, ...]:
    """Where it may be: as ssh reaches it, and as it says itself."""
    ports = dict.fromkeys(address.rpartition(":")[2] for address in told)
    named = f"[{host}]" if ":" in host else host
    found: list[Address] = []
    for port in ports:
        try:
            found.append(parse_seed(f"{named}:{port}"))
        except Invalid:
            continue  # an alias that only ssh understands
    return tuple(dict.fromkeys((*found, *told)))


async def _first(
    home: Home, channels: Channels, peer_id: PeerId, candidates: Sequence[Address]
) -> tuple[HelloAnswer, Address] | None:
    """Its answer at the first address in the given order at which it answers."""
    answers = await asyncio.gather(
        *(_hello(home, channels, peer_id, address) for address in candidates)
    )
    return next(
        ((answer, where) for answer, where in zip(answers, candidates, strict=True) if answer),
        None,
    )


async def _hello(
    home: Home, channels: Channels, peer_id: PeerId, address: Address
) -> HelloAnswer | None:
    client = MembershipClient(channels.to_peer(peer_id, address), address)
    try:
        return await client.hello(command_card(home), within=HELLO_SECONDS)
    except MeshError:
        return None
