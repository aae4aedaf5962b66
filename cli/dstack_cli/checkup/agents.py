"""Judges each agent: by which ways it was found, which lead to it, and what is in the way."""

import shlex
from collections.abc import Sequence

from dstack_cli.checkup.finding import Finding, failed, passed, warned
from dstack_cli.checkup.knock import Door
from dstack_cli.checkup.sights import Sights, Way
from dstack_cli.checkup.whereabouts import misplaced
from dstack_mesh.ids import PeerId

WORDS = {
    "mdns": "multicast",
    "seed": "a seed",
    "saved": "memory",
    "peer": "another agent's word",
    "local": "its socket",
}


def judge_agents(sights: Sights) -> Sequence[Finding]:
    """One finding for each agent, for each address that leads to nobody, and for our own agent."""
    if sights.membership is None:
        return [_own(sights)]
    found = [_reached(sights, peer_id, ways) for peer_id, ways in sights.answering.items()]
    unreached = _unreached(sights)
    if not unreached and all(way.hello is None for way in sights.ways):
        found.append(_nobody(sights))
    return [*found, *unreached, *_not_called(sights), _own(sights)]


def _reached(sights: Sights, peer_id: PeerId, ways: list[Way]) -> Finding:
    way = ways[0]
    assert way.hello is not None
    all_ways = [one for one in sights.ways if one.peer_id == peer_id]
    return passed(
        f"agent {sights.named(peer_id)}",
        f"answers at {way.address} in {way.hello.took * 1000:.0f} ms"
        + f"; found by {_sources(all_ways)}"
        + "".join(f"; {one.address}: {_tried(one)}" for one in all_ways if one.hello is None),
    )


def _sources(ways: list[Way]) -> str:
    by = {source for way in ways for source in way.found_by}
    interfaces = sorted({name for way in ways for name in way.heard_on})
    shown = [
        word + (f" ({', '.join(interfaces)})" if source == "mdns" and interfaces else "")
        for source, word in WORDS.items()
        if source in by
    ]
    missed = [WORDS[source] for source in ("mdns",) if source not in by]
    return ", ".join(shown) + (f", not by {missed[0]}" if missed else "")


def _tried(way: Way) -> str:
    return way.door.value if way.door is not Door.OPEN else way.trouble


def _unreached(sights: Sights) -> list[Finding]:
    """Addresses of agents that no address leads to: by the agent where it is known."""
    answering = sights.answering
    explained = misplaced(sights).keys()
    live = {one.host for ways in answering.values() for one in ways}
    silent: dict[str, list[Way]] = {}
    for way in sights.ways:
        ours = way.peer_id == sights.own or way.host in sights.own_hosts
        # An advert of an agent that ended, beside one that answers at another port.
        stale = way.peer_id is None and way.host in live and way.found_by == frozenset({"mdns"})
        known = way.hello is not None or way.peer_id in answering
        if not (ours or stale or known or way.address in explained):
            silent.setdefault(way.peer_id or way.address, []).append(way)
    return [_way_of(sights, ways) for ways in silent.values()]


def _way_of(sights: Sights, ways: list[Way]) -> Finding:
    way = min(ways, key=lambda one: list(Door).index(one.door))
    named = way.name or (sights.named(way.peer_id) if way.peer_id is not None else "")
    check = f"agent {named}" if named else f"address {way.address}"
    # What is pasted holds an address that others may have told.
    host, port = shlex.quote(way.host), shlex.quote(way.address.rpartition(":")[2])
    by = f"(found by {_sources(ways)})"
    match way.door:
        case Door.OPEN:
            return _no_hello(check, way, by)
        case Door.REFUSED:
            what = f"{way.address} refuses: the machine is there, and no agent listens {by}"
            fix = f"on that machine: dstack-runner start   (if it runs: sudo ufw allow {port}/tcp)"
            return warned(check, "port-refused", what, fix)
        case Door.DROPPED:
            what = f"{way.address} drops what is sent to it, a firewall there or in between {by}"
            return failed(check, "firewall", what, f"on that machine: sudo ufw allow {port}/tcp")
        case Door.FORBIDDEN:
            what = f"a firewall in between says that {way.address} is forbidden {by}"
            return failed(check, "firewall", what, f"on that machine: sudo ufw allow {port}/tcp")
        case Door.BLOCKED_HERE:
            what = f"this machine's own firewall drops what is sent to {way.address} {by}"
            fix = f"sudo iptables -I OUTPUT -p tcp --dport {port} -j ACCEPT"
            return failed(check, "firewall-here", what, fix)
        case Door.ABSENT:
            what = f"no machine answers at {way.address}: off, asleep or on another network {by}"
            return warned(check, "away", what, f"ping -c 3 {host}   (wake it, or: {_forget})")
        case Door.NO_WAY:
            what = f"no route leads to {way.address} {by}"
            return warned(check, "no-route", what, f"ip route get {host}")
        case Door.NO_NAME:
            what = f"the name in {way.address} is not known {by}"
            return failed(check, "no-name", what, f"getent hosts {host}   (use its address)")


_forget = "it is forgotten when another agent is reached"


def _no_hello(check: str, way: Way, by: str) -> Finding:
    what = (
        f"something answers at {way.address}, and not as an agent of this mesh: {way.trouble} {by}"
    )
    if way.code in ("certificate-expired", "certificate-not-yet-valid"):
        what = f"{way.address} is there; this home's certificate is no good"
        return warned(check, way.code, what, "see: mesh")
    if way.code in ("too-old", "protocol"):
        return failed(
            check, "version-skew", what, "pip install -U dstack-mesh   (on the older one)"
        )
    look = f"openssl s_client -connect {shlex.quote(way.address)}   (dstack mesh members)"
    return failed(check, way.code, what, look)


def _not_called(sights: Sights) -> list[Finding]:
    """Agents that our own agent reaches and that do not reach it: inbound is blocked."""
    if sights.local is None or not sights.local.card.addresses:
        return []
    deaf = [peer_id for peer_id, reached in sights.reached.items() if not reached]
    if not deaf:
        return []
    address = sights.local.card.addresses[0]
    port = address.rpartition(":")[2]
    names = ", ".join(sorted(map(sights.named, deaf)))
    what = f"the agent here reaches {names}, and is not reached from there at {address}"
    fix = (
        f"sudo ufw allow {port}/tcp   (or: sudo iptables -I INPUT -p tcp --dport {port} -j ACCEPT)"
    )
    return [failed("inbound", "firewall-inbound", what, fix)]


def _nobody(sights: Sights) -> Finding:
    heard = "and no agent of this mesh announces itself" if sights.mdns else "and no multicast"
    where = f" ({sights.strangers} of other meshes are heard)" if sights.strangers else ""
    # Only addresses of this machine itself come to this without being told one by one.
    seeds = [way.address for way in sights.ways if "seed" in way.found_by]
    seeded = f"no seed but this machine itself ({', '.join(seeds)})" if seeds else "no seed"
    return warned(
        "agents",
        "nobody",
        f"nobody is known: {seeded}, no memory, {heard}{where}",
        "on another machine: dstack-runner start; or here: export DSTACK_SEEDS=HOST:7420",
    )


def _own(sights: Sights) -> Finding:
    if sights.local is not None:
        where = ", ".join(sights.local.card.addresses)
        return passed("agent here", f"runs{f', reached at {where}' if where else ', private'}")
    if sights.local_trouble:
        what = f"something listens on its socket and does not answer: {sights.local_trouble}"
        return failed("agent here", "agent-silent", what, "dstack-runner status")
    return passed("agent here", "none runs; a run that needs it starts it")
