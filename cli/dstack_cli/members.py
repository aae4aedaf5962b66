"""Shows who belongs to the mesh, as what, and since when."""

from collections.abc import Mapping

from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Json, Listing
from dstack_cli.output.runs import rfc3339
from dstack_cli.output.table import Column, Table
from dstack_cli.reach import Private, carry_out, reaching
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.trust.roster.book import read_picture
from dstack_mesh.trust.roster.picture import Belonging, Enrolled, Picture

SCHEMA = "dstack.members/v1"


def show_members(home: Home, as_json: bool) -> None:
    """Lists everybody whom the roster names, and agents that are known besides."""
    membership = Membership.require(home)

    async def work() -> tuple[KnownAgent, ...]:
        async with reaching(home, Private.NEVER) as reach:
            known = await reach.known()
            await reach.learn_of_members(known)
            return known

    agents = {one.card.peer_id: one for one in carry_out(work())}
    picture = read_picture(home, membership.mesh_id)
    items = [
        _own(picture, membership),
        *(
            _item(one, picture, agents)
            for one in sorted(picture.members.values(), key=lambda one: (one.name, one.peer_id))
            if one.peer_id != membership.peer_id
        ),
        *(
            {"id": peer_id, "name": one.card.name, "role": Role.RUNNER.value, "state": one.state}
            for peer_id, one in agents.items()
            if peer_id not in picture.members and peer_id != membership.peer_id
        ),
    ]
    output = chosen(as_json)
    if not as_json:
        output.talk(f'Mesh "{membership.mesh_name}" ({membership.mesh_id})')
        for forked in picture.forked:
            name = picture.called(forked)
            output.talk(f"{name} signed two statements with one number: a copied home, or worse.")
    output.listing(Listing(SCHEMA, items, _table(items)))


def _own(picture: Picture, membership: Membership) -> dict[str, Json]:
    own = picture.members.get(membership.peer_id)
    role = picture.role(membership.peer_id, membership.role)
    gone = own is not None and own.belonging is not Belonging.MEMBER
    fields: dict[str, Json] = {
        "id": membership.peer_id,
        "name": own.name if own else "",
        "role": role.value,
        "state": own.belonging.value if own and gone else "this home",
        "issues": picture.issues(membership.peer_id),
        "expires_at": rfc3339(membership.not_after),
    }
    return fields | (_admission(own, picture) if own else {})


def _item(one: Enrolled, picture: Picture, agents: Mapping[PeerId, KnownAgent]) -> dict[str, Json]:
    agent = agents.get(one.peer_id)
    member = one.belonging is Belonging.MEMBER
    fields: dict[str, Json] = {
        "id": one.peer_id,
        "name": one.name or (agent.card.name if agent else ""),
        "role": one.role.value,
        "state": (agent.state if agent else "member") if member else one.belonging.value,
        "issues": picture.issues(one.peer_id),
        "expires_at": one.expires_at and rfc3339(one.expires_at),
    }
    return fields | _admission(one, picture)


def _admission(one: Enrolled, picture: Picture) -> dict[str, Json]:
    return {
        "admitted_by": picture.called(one.admitted_by) if one.admitted_by else "",
        "admitted_through": one.through,
        "admitted_at": one.admitted_at and rfc3339(one.admitted_at),
    }


def _table(items: list[dict[str, Json]]) -> Table:
    columns = (
        Column("MEMBER"),
        Column("ROLE"),
        Column("STATE"),
        Column("ISSUES"),
        Column("ADMITTED BY"),
        Column("EXPIRES"),
        Column("ID", 1),
    )
    rows = tuple(
        (
            str(item["name"] or "this home"),
            str(item["role"]),
            str(item["state"]),
            "certificates" if item.get("issues") else "",
            str(item.get("admitted_by") or ""),
            str(item.get("expires_at") or "")[:10],
            str(item["id"]),
        )
        for item in items
    )
    return Table(columns, rows)
