"""What a person is asked and told by `dstack agents add` and `remove`."""

from typing import TYPE_CHECKING

from dstack_cli.consent import must_agree
from dstack_cli.enrolling import added
from dstack_cli.enrolling.adding import Done, Wish, add, require_inviter
from dstack_cli.enrolling.removing import Removed, remove
from dstack_cli.enrolling.steps import showing_steps
from dstack_cli.names import Named, close_to, find, listed
from dstack_cli.output.agents import agent_item, gpus_text
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Document
from dstack_cli.output.words import count, memory, size
from dstack_cli.reach import carry_out
from dstack_mesh.faults import Missing
from dstack_mesh.home import Home
from dstack_mesh.trust.membership import Membership
from dstack_mesh.trust.roster.book import read_picture

if TYPE_CHECKING:
    from dstack_cli.output.port import Json

ADDED_SCHEMA = "dstack.added/v1"
REMOVED_SCHEMA = "dstack.removed/v1"


def add_here(home: Home, wish: Wish, yes: bool, as_json: bool) -> None:
    """Adds a host and says what it offers."""
    membership = _mesh(home, wish, yes)

    async def work() -> Done:
        async with showing_steps() as steps:
            return await add(home, membership, wish, steps)

    done = carry_out(work())
    fields: dict[str, Json] = {
        "schema": ADDED_SCHEMA,
        **agent_item(done.met.known),
        "kept": done.kept,
        "survives_restart": done.stays,
        "words": list(done.words),
        "notes": list(done.notes),
    }
    output = chosen(as_json)
    output.document(Document(fields, _offers(done), done.met.known.card.name))
    if not as_json:
        for line in done.notes:
            output.talk(line)
        name = done.met.known.card.name
        output.talk(f"Next: dstack run --remote={name} bash -c hostname   ·   dstack agents")


def remove_here(home: Home, name: str, purge: bool, yes: bool, as_json: bool) -> None:
    """Removes a host that was added from here; its data too, if that is agreed to."""
    host = _added_from_here(home, name)
    question = f"Remove {host.name} with all its data: keys, logs, artifacts?"
    if purge and not must_agree(question, yes, f"dstack agents remove {name} --purge -y"):
        chosen().talk("Nothing was removed.")
        return

    async def work() -> Removed:
        async with showing_steps() as steps:
            return await remove(host, purge, steps)

    removed = carry_out(work())
    added.forget(home, host)
    kept = "its data is gone" if removed.purged else f"its data stays in {removed.root}"
    fields: dict[str, Json] = {
        "schema": REMOVED_SCHEMA,
        "agent": host.name,
        "id": host.peer_id,
        "purged": removed.purged,
    }
    output = chosen(as_json)
    output.document(Document(fields, f"Removed {host.name}; {kept}.", host.name))
    if not as_json:
        output.talk(
            "It is a member still, until its certificate expires. To shut its key out: "
            f"dstack mesh revoke {host.name}"
        )


def _added_from_here(home: Home, name: str) -> added.Added:
    hosts = added.recall(home)
    names = [one.name for one in hosts]
    try:
        named = find(name, [Named(one.name, one.peer_id) for one in hosts], "added host")
    except Missing as missing:
        what = f"No host {name!r} was added from this home."
        if _is_member(home, name):
            raise Missing(
                what,
                f"{name} is a member, and joined by itself or was added from another home.",
                f"dstack mesh revoke {name}   (shuts it out for ever; its software stays)",
            ) from missing
        why = f"Added were: {listed(names)}." if names else "None was."
        raise Missing(what, why, close_to(name, names) or "dstack agents add HOST") from missing
    return next(one for one in hosts if one.peer_id == named.id)


def _is_member(home: Home, name: str) -> bool:
    """Whether that is another member, not this home itself."""
    membership = Membership.load(home)
    if membership is None:
        return False
    members = read_picture(home, membership.mesh_id).members.values()
    others = [one for one in members if one.peer_id != membership.peer_id]
    return any(one.name == name or one.peer_id.startswith(name) for one in others)


def _mesh(home: Home, wish: Wish, yes: bool) -> Membership | None:
    """The mesh to add to; None where this home has none and one is to be made."""
    target = wish.dialing.target
    question = f"This home has no mesh yet. Make one and add {target} to it?"
    if Membership.load(home) is None and must_agree(
        question, yes, f"dstack agents add {target} -y"
    ):
        return None
    return require_inviter(home)


def _offers(done: Done) -> str:
    """What it offers, as one line."""
    answer = done.met.known.answer
    assert answer is not None
    machine = answer.machine
    said = [count(machine.cpus, "CPU"), memory(machine.memory_bytes)]
    said += gpus_text(machine.gpus).splitlines() or ["no GPU"]
    said.append(f"{size(machine.disk_free_bytes)} free")
    name, mesh = done.met.known.card.name, done.membership.mesh_name
    return f'{name} is an agent of "{mesh}": {", ".join(said)}'
