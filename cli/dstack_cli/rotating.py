"""Gives this home a new key."""

from datetime import UTC, datetime

from dstack_cli import embedded
from dstack_cli.governing import Seat, seated
from dstack_cli.joining import membership_shape
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Document
from dstack_cli.reach import carry_out
from dstack_mesh.faults import MeshError, Refused, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.trust.membership import Membership, Role, holds_root


def rotate_key(home: Home, at_once: bool, as_json: bool) -> None:
    """Takes a new key; the old one is revoked after a day, or at once."""

    async def work() -> Membership:
        from dstack_mesh.wire.rotation import next_key, take_key

        async with seated(home) as seat:
            _check_idle(seat)
            key = next_key(home)
            certificate = await _admitted(seat, at_once)
            changed = take_key(home, seat.membership, key, certificate)
            if holds_root(home):
                await seat.tell()
            return changed

    changed = carry_out(work())
    output = chosen(as_json)
    old = "was revoked" if at_once else "is revoked in 24 h"
    said = f"This home has a new key and is {changed.peer_id} now; the old one {old}."
    output.document(Document(membership_shape(changed), said))
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


async def _admitted(seat: Seat, at_once: bool) -> bytes:
    from dstack_mesh.trust.authority import request_of
    from dstack_mesh.wire.caller import Member
    from dstack_mesh.wire.renewal import signing
    from dstack_mesh.wire.rotation import ask_to_replace, next_key, replace_key

    home, key = seat.home, next_key(seat.home)
    if holds_root(home):
        who = Member(seat.membership.peer_id, Role.ROOT)
        now = datetime.now(UTC)
        return await replace_key(home, seat.keeper, who, request_of(key), at_once, now)
    failed: MeshError | None = None
    for agent in signing(seat.keeper.picture, seat.agents):
        try:
            channel = seat.channels.to_peer(agent.card.peer_id, agent.addresses[0])
            return await ask_to_replace(channel, agent.card.name, key, at_once)
        except MeshError as one:
            failed = one
    raise failed or Unreachable(
        "Nobody who may sign certificates answers.",
        "The root's agent does, and those of the admins that it invited.",
        "Start one of them, then again.",
        code="nobody-signs",
    )
