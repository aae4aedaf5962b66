"""Judges where agents say that they are: on an interface that others are not on, or on none."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from dstack_cli.checkup.finding import Finding, failed, passed
from dstack_cli.checkup.sights import Sights, Way
from dstack_mesh.discovery.interfaces import Interface, leading_outside, leads_nowhere
from dstack_mesh.ids import Address

CHECK = "interfaces"
LISTEN = "dstack-runner start --listen 0.0.0.0:7420"


def judge_whereabouts(sights: Sights) -> Sequence[Finding]:
    """This machine's networks, its agent on them, and agents announced where they are not."""
    found = [*_own_agent(sights), *misplaced(sights).values()]
    return found or [passed(CHECK, _networks(sights.interfaces))]


def _networks(interfaces: Iterable[Interface]) -> str:
    outside = leading_outside(interfaces)
    shown = [
        f"{one.name} {', '.join(map(str, one.addresses))}"
        + (" (VPN)" if one.point_to_point else "")
        for one in outside
    ]
    return "; ".join(shown) or "none leads to other machines"


def _own_agent(sights: Sights) -> list[Finding]:
    if sights.local is None or not sights.local.card.addresses:
        return []
    said = sights.local.card.addresses
    on = [one for one in sights.interfaces if _any_of(said, one)]
    outside = {one.name for one in leading_outside(sights.interfaces)}
    where = ", ".join(f"{_host(one)}" for one in said)
    if outside and on and not outside & {one.name for one in on}:
        names = ", ".join(one.name for one in on)
        kind = "a bridge for containers: it" if leads_nowhere(on[0].name) else "which"
        what = (
            f"the agent here listens only at {where} on {names}, {kind} leads to no other machine"
        )
        return [failed(CHECK, "wrong-interface", what, LISTEN)]
    if not on:
        what = f"the agent here says that it is at {where}, which no interface of this machine has"
        return [failed(CHECK, "wrong-interface", what, LISTEN)]
    return _apart(sights, on, where)


def _apart(sights: Sights, on: list[Interface], where: str) -> list[Finding]:
    """Whether all others are on networks that our agent does not listen on."""
    others = [one for ways in sights.answering.values() for one in ways]
    theirs = [
        one
        for one in leading_outside(sights.interfaces)
        if any(_reaches(one, way.host) for way in others)
    ]
    if not theirs or any(one in theirs for one in on) or not any(one.networks for one in on):
        return []
    what = (
        f"the agent here listens at {where} ({on[0].name}), and the other agents are on"
        f" {', '.join(f'{one.name} ({one.networks[0]})' for one in theirs)}: they do not reach it"
    )
    return [failed(CHECK, "wrong-interface", what, LISTEN)]


def misplaced(sights: Sights) -> dict[Address, Finding]:
    """Announced addresses at which nobody listens, because the agent listens elsewhere."""
    found: dict[Address, Finding] = {}
    by_name = {one.name: one for one in sights.interfaces}
    for way in sights.ways:
        if way.hello is not None or not way.heard_on or way.host in sights.own_hosts:
            continue
        foreign = [
            name
            for name in sorted(way.heard_on)
            if name in by_name and not _reaches(by_name[name], way.host)
        ]
        elsewhere = _same_port_elsewhere(sights, way)
        if foreign or elsewhere is not None:
            found[way.address] = _misplaced(sights, way, foreign, elsewhere)
    return found


def _same_port_elsewhere(sights: Sights, way: Way) -> Way | None:
    """The agent behind an announced address that refuses us, where it does answer."""
    port = way.address.rpartition(":")[2]
    answering = [one for ways in sights.answering.values() for one in ways]
    return next(
        (
            one
            for one in answering
            if one.address.rpartition(":")[2] == port
            and one.hello is not None
            and way.address not in one.hello.answer.card.addresses
            and not one.heard_on
        ),
        None,
    )


def _misplaced(sights: Sights, way: Way, foreign: list[str], elsewhere: Way | None) -> Finding:
    heard = ", ".join(foreign or sorted(way.heard_on))
    if elsewhere is not None and elsewhere.peer_id is not None:
        who = sights.named(elsewhere.peer_id)
        what = f"{who} is announced at {way.address} on {heard} and listens at {elsewhere.address}"
    else:
        what = (
            f"an agent is announced at {way.address} on {heard} and is {way.door.value} there:"
            " it listens on another interface, which leads nowhere from here"
        )
    return failed(CHECK, "wrong-interface", what, f"on that machine: {LISTEN}")


def _any_of(addresses: Iterable[Address], interface: Interface) -> bool:
    own = {str(one) for one in interface.addresses}
    return any(_host(one) in own for one in addresses)


def _host(address: Address) -> str:
    return address.rpartition(":")[0].strip("[]")


def _reaches(interface: Interface, host: str) -> bool:
    try:
        return interface.reaches(IPv4Address(host))
    except ValueError:
        return False
