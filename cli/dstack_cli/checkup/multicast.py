"""Judges multicast: sent and not heard, or nobody announces."""

import shlex
from collections.abc import Sequence
from ipaddress import IPv4Address

from dstack_cli.checkup.finding import Finding, failed, passed, warned
from dstack_cli.checkup.sights import Sights, Way
from dstack_cli.output.words import count
from dstack_mesh.discovery.ear import Earshot
from dstack_mesh.discovery.interfaces import Interface, leading_outside, multicast_interfaces

CHECK = "mdns"
GROUP = "224.0.0.251"

ALLOW = (
    f"sudo iptables -I INPUT -d {GROUP} -p udp --dport 5353 -j ACCEPT && "
    f"sudo iptables -I OUTPUT -d {GROUP} -p udp --dport 5353 -j ACCEPT"
)


def judge_multicast(sights: Sights) -> Sequence[Finding]:
    """One finding for each network that could carry it."""
    if not sights.mdns:
        what = "turned off by DSTACK_MDNS=0: agents are found by seeds only"
        return [warned(CHECK, "mdns-off", what, "unset DSTACK_MDNS")]
    on = {one.name: one for one in multicast_interfaces(sights.interfaces)}
    if not on:
        return [_nowhere(sights)]
    return [_of_interface(sights, on[one.interface], one) for one in sights.earshots]


def _nowhere(sights: Sights) -> Finding:
    fix = "connect a network, or name an agent: export DSTACK_SEEDS=HOST:7420"
    tunnels = [one.name for one in leading_outside(sights.interfaces)]
    if tunnels:
        what = f"the only way out is {', '.join(tunnels)}, a VPN: no multicast reaches others there"
        return warned(CHECK, "vpn-only", what, fix)
    return warned(CHECK, "no-network", "no network leads to other machines", fix)


def _of_interface(sights: Sights, interface: Interface, earshot: Earshot) -> Finding:
    name = interface.name
    if earshot.refused:
        what = f"{name}: this machine does not send to {GROUP}: {earshot.refused} (its firewall)"
        return failed(CHECK, "mdns-blocked", what, ALLOW)
    if not earshot.own:
        what = f"{name}: sent to {GROUP}, and not even this machine hears it: its firewall drops it"
        return failed(CHECK, "mdns-blocked", what, ALLOW)
    heard = {way.peer_id for way in sights.ways if name in way.heard_on and way.hello is not None}
    unheard = _unheard(sights, interface)
    blocked = [way for way in unheard if way.announces]
    if blocked:
        return _blocked(sights, name, blocked)
    if unheard and not heard:
        return _silent(sights, name, earshot, unheard)
    agents = f"{count(len(heard - {None}), 'agent')} of this mesh heard"
    others = f", {count(len(earshot.others), 'other machine')} heard" if earshot.others else ""
    if heard:
        return passed(CHECK, f"{name} ({interface.addresses[0]}): {agents}{others}")
    return passed(
        CHECK,
        f"{name} ({interface.addresses[0]}): sent; nobody of this mesh announces itself here"
        + (others or ", and nothing else was heard"),
    )


def _unheard(sights: Sights, interface: Interface) -> list[Way]:
    """Agents on this network that answer and were not heard there."""
    heard = {way.peer_id for way in sights.ways if interface.name in way.heard_on}
    return [
        ways[0]
        for peer_id, all_ways in sights.answering.items()
        if peer_id not in heard and (ways := [one for one in all_ways if _near(interface, one)])
    ]


def _near(interface: Interface, way: Way) -> bool:
    try:
        return interface.reaches(IPv4Address(way.host))
    except ValueError:
        return False


def _blocked(sights: Sights, name: str, ways: list[Way]) -> Finding:
    who = ", ".join(f"{_named(sights, way)} ({way.host})" for way in ways[:3])
    what = (
        f"{name}: sent and not heard. {who} announces itself (asked directly, it says so), and no"
        " multicast of it arrives: the network, or a firewall on one side, drops it"
    )
    return failed(CHECK, "mdns-blocked", what, _seed(ways[0]))


def _silent(sights: Sights, name: str, earshot: Earshot, ways: list[Way]) -> Finding:
    who = ", ".join(f"{_named(sights, way)} ({way.host})" for way in ways[:3])
    rest = "others are heard" if earshot.others else "nobody else is heard either"
    what = (
        f"{name}: {who} is on this network, answers, and was not heard ({rest}): it runs with"
        " --no-mdns, or UDP 5353 is dropped"
    )
    return warned(CHECK, "mdns-silent", what, _seed(ways[0]))


def _named(sights: Sights, way: Way) -> str:
    return sights.named(way.peer_id) if way.peer_id is not None else way.host


def _seed(way: Way) -> str:
    address = shlex.quote(way.address)
    return f"export DSTACK_SEEDS={address}   (or in config.yaml: seeds: [{address}])"
