"""Judges in what agents must agree: the time, the version, and that each has an id of its own."""

import re
from collections.abc import Sequence

from dstack_cli.checkup.finding import Finding, failed, passed, warned
from dstack_cli.checkup.sights import Sights, Way
from dstack_mesh.card import PROTOCOL
from dstack_mesh.discovery.twins import HINT, sentence
from dstack_mesh.ids import PeerId

CLOCK_SECONDS = 5.0
"""Clocks that differ by more than that are told; certificates stand minutes."""

SET_CLOCK = "sudo timedatectl set-ntp true"

_VERSION = re.compile(r"[0-9][0-9A-Za-z.+_-]*")


def judge_clocks(sights: Sights) -> Sequence[Finding]:
    """Whose clock is off, by majority: the largest group that agrees is right."""
    ahead = {
        peer_id: hello.ahead
        for peer_id, ways in sights.answering.items()
        if (hello := ways[0].hello) is not None and hello.ahead is not None
    }
    if not ahead:
        return []
    clocks: dict[PeerId | None, float] = {None: 0.0, **ahead}
    groups = {
        who: [other for other, at in clocks.items() if abs(at - here) <= CLOCK_SECONDS]
        for who, here in clocks.items()
    }
    most = max(len(group) for group in groups.values())
    right = [group for group in groups.values() if len(group) == most]
    if len({frozenset(group) for group in right}) > 1 and most < len(clocks):
        return [_undecided(sights, ahead)]
    agreed = right[0]
    middle = sorted(clocks[who] for who in agreed)[len(agreed) // 2]
    off = {who: at - middle for who, at in clocks.items() if who not in agreed}
    if not off:
        return [passed("clock", f"within {max(map(abs, ahead.values())):.2f} s of {_all(ahead)}")]
    return [_off(sights, who, by, len(agreed), len(clocks)) for who, by in off.items()]


def _all(ahead: dict[PeerId, float]) -> str:
    return "the other agent" if len(ahead) == 1 else f"all the other {len(ahead)} agents"


def _off(sights: Sights, who: PeerId | None, by: float, agreed: int, of: int) -> Finding:
    way = "ahead" if by > 0 else "behind"
    whose = "this machine's clock" if who is None else f"the clock of {sights.named(who)}"
    what = f"{whose} is {abs(by):.0f} s {way}: {agreed} of {of} machines agree on another time"
    fix = SET_CLOCK if who is None else f"on {sights.named(who)}: {SET_CLOCK}"
    return failed("clock", "clock-off", what, fix)


def _undecided(sights: Sights, ahead: dict[PeerId, float]) -> Finding:
    far = {who: by for who, by in ahead.items() if abs(by) > CLOCK_SECONDS}
    shown = ", ".join(f"{sights.named(who)} {by:+.0f} s" for who, by in sorted(far.items()))
    what = f"clocks differ from this machine's: {shown}; no majority tells whose is off"
    return failed("clock", "clock-off", what, f"{SET_CLOCK}   (on both)")


def judge_versions(sights: Sights) -> Sequence[Finding]:
    """Whether agents run what we run."""
    found: list[Finding] = []
    for peer_id, ways in sights.answering.items():
        if ways[0].hello is not None:
            card = ways[0].hello.answer.card
            named = sights.named(peer_id)
            found += _too_old(f"on {named}", named, card.protocol, sights.required)
            found += _version(named, card.version, card.protocol, sights.version)
    found += _too_old("here", "this machine", PROTOCOL, sights.required)
    if found or not sights.answering:
        return found
    return [passed("versions", f"all agents run {sights.version}, protocol {PROTOCOL}")]


def _too_old(where: str, name: str, protocol: int, required: int) -> list[Finding]:
    if protocol >= required:
        return []
    what = (
        f"{name} speaks protocol {protocol} and the mesh requires {required}: it gets and takes no"
        " new work"
    )
    fix = f"{where}: pip install -U dstack-mesh"
    return [failed("versions", "version-skew", what, fix)]


def _version(name: str, theirs: str, protocol: int, ours: str) -> list[Finding]:
    if theirs == ours and protocol == PROTOCOL:
        return []
    older = f"on {name}" if (protocol, _parts(theirs)) < (PROTOCOL, _parts(ours)) else "here"
    newest = max(theirs, ours, key=_parts)
    what = (
        f"{name} runs {theirs or 'an unknown version'} (protocol {protocol}), this machine {ours}"
        f" (protocol {PROTOCOL})"
    )
    # A version is what the other one says of itself, and the fix is pasted.
    pinned = f"=={newest}" if _VERSION.fullmatch(newest) else ""
    fix = f"{older}: pip install -U dstack-mesh{pinned}"
    grade = failed if abs(protocol - PROTOCOL) > 1 else warned
    return [grade("versions", "version-skew", what, fix)]


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split("."))


def judge_ids(sights: Sights) -> Sequence[Finding]:
    """Whether two machines answer to one id: a copied disk."""
    by_id: dict[PeerId, list[Way]] = {}
    for way in sights.ways:
        if way.hello is not None:
            by_id.setdefault(way.hello.answer.card.peer_id, []).append(way)
    found = [
        finding
        for peer_id, ways in by_id.items()
        for finding in (
            _copies_of_us(sights, ways) if peer_id == sights.own else _copies(sights, ways)
        )
    ]
    if not found:
        found = [failed("ids", "duplicate-id", sentence(one), HINT) for one in sights.twins]
    return found or [passed("ids", "every agent has one of its own")] if by_id else found


def _copies_of_us(sights: Sights, ways: list[Way]) -> list[Finding]:
    foreign = [way for way in ways if way.host not in sights.own_hosts]
    if not foreign:
        return []
    what = (
        f"another machine, at {foreign[0].host}, answers with this home's own peer id"
        f" {sights.own[:12]}: the home was copied"
    )
    return [failed("ids", "duplicate-id", what, HINT)]


def _copies(sights: Sights, ways: list[Way]) -> list[Finding]:
    """Different processes: each names addresses of its own, and not the one where we found the
    other."""
    said = {way.address: frozenset(way.hello.answer.card.addresses) for way in ways if way.hello}
    pairs = [
        (one, other)
        for one in said
        for other in said
        if one < other and not said[one] & said[other] and said[one] and said[other]
    ]
    if not pairs:
        return []
    one, other = pairs[0]
    peer_id = ways[0].peer_id
    assert peer_id is not None
    what = (
        f"two machines answer with the peer id {peer_id[:12]} ({sights.named(peer_id)}): one at"
        f" {one}, one at {other}: a disk was copied"
    )
    return [failed("ids", "duplicate-id", what, HINT)]
