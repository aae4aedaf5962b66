"""Gives this home a new key."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dstack_cli import embedded
from dstack_cli.governing import Seat, seated
from dstack_cli.joining import membership_shape
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Document
from dstack_cli.reach import carry_out
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.home import Home
from dstack_mesh.trust.membership import Membership, Role, holds_root

if TYPE_CHECKING:
    from dstack_mesh.trust.renewing import Granted
    from dstack_mesh.wire.rotation import NextKeys, Unsaid


def rotate_key(home: Home, at_once: bool, as_json: bool) -> None:
    """Takes a new key; the old one is revoked after a day, or at once.

    One that was cut off before whoever admitted the key knew that it is here is ended first, and
    no other key taken.
    """

    async def work() -> tuple[Membership, bool, MeshError | None]:
        from dstack_mesh.wire.rotation import unsaid

        if await asyncio.to_thread(unsaid, home) is None:
            async with seated(home) as seat:
                _check_idle(seat)
                await _switch(seat, at_once)
        waiting = await asyncio.to_thread(unsaid, home)
        if waiting is None:  # an agent that was started meanwhile said it
            return Membership.require(home), at_once, None
        waiting = replace(waiting, at_once=at_once or waiting.at_once)
        # From here on it speaks with the new key.
        async with seated(home) as seat:
            return seat.membership, waiting.at_once, await _say(seat, waiting)

    changed, revoking, failed = carry_out(work())
    output, overlap = chosen(as_json), "is revoked in 24 h"
    old = "was revoked" if revoking and failed is None else overlap
    said = f"This home has a new key and is {changed.peer_id} now; the old one {old}."
    state = "unsaid" if failed is not None else "revoked" if revoking else "overlapping"
    output.document(Document(membership_shape(changed) | {"old_key": state}, said))
    if failed is not None:
        output.talk(f"Whoever admitted the key was not told that it is here: {failed}")
        output.talk("Until then the old one counts as before. Again: dstack mesh rotate")
    if embedded.answers(home):
        output.talk("An agent of this home still uses the old key: restart it.")


def _check_idle(seat: Seat) -> None:
    ours = [one for one in seat.agents if one.local and one.answer is not None]
    if any(one.answer.running for one in ours if one.answer is not None):
        raise Refused(
            "Jobs run on this machine.",
            "Others know them by the id that this home has now.",
            "Let them end first: `dstack-runner drain`, then again.",
            code="jobs-running",
        )


async def _switch(seat: Seat, at_once: bool) -> None:
    from dstack_mesh.wire.rotation import next_keys, take_keys

    keys = await asyncio.to_thread(next_keys, seat.home)
    granted = await _admitted(seat, keys)
    await asyncio.to_thread(take_keys, seat.home, seat.membership, keys, granted, at_once)


async def _admitted(seat: Seat, keys: "NextKeys") -> "Granted":
    from dstack_mesh.wire.caller import Member
    from dstack_mesh.wire.renewal import nobody_signs, signing
    from dstack_mesh.wire.rotation import ask_to_replace, replace_key

    home = seat.home
    if holds_root(home):
        who = Member(seat.membership.peer_id, Role.ROOT)
        return await replace_key(home, seat.keeper, who, keys.request(), datetime.now(UTC))
    failed: MeshError | None = None
    for agent in signing(seat.keeper.picture, seat.agents):
        try:
            channel = seat.channels.to_peer(agent.card.peer_id, agent.addresses[0])
            return await ask_to_replace(channel, agent.card.name, keys)
        except MeshError as one:
            failed = failed or one
    raise failed or nobody_signs()


async def _say(seat: Seat, waiting: "Unsaid") -> MeshError | None:
    """Why nobody could be told that this home has its key; None if that was done."""
    from dstack_mesh.wire.renewal import say_switched

    try:
        await say_switched(
            seat.home, seat.keeper, seat.channels, seat.agents, waiting, datetime.now(UTC)
        )
    except MeshError as failed:
        return failed
    await seat.tell()
    return None
