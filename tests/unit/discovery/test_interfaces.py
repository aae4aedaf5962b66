"""Which interfaces lead to other machines."""

from ipaddress import IPv4Address

import pytest

from dstack_mesh.discovery.interfaces import (
    Interface,
    addresses_of,
    leading_outside,
    own_addresses,
    read_interfaces,
)


def interface(
    name: str,
    *addresses: str,
    up: bool = True,
    loopback: bool = False,
    bridged: bool = False,
) -> Interface:
    return Interface(name, up, loopback, bridged, tuple(map(IPv4Address, addresses)))


LO = interface("lo", "127.0.0.1", loopback=True)
ETH = interface("eth0", "192.168.1.7")


def names(*interfaces: Interface, alone: bool = False) -> list[str]:
    return [one.name for one in leading_outside(interfaces, loopback_if_alone=alone)]


CONTAINERS = (
    "docker0 docker_gwbridge br-0123456789ab virbr0 cni0 cni-podman0 flannel.1 cali12345 podman1 "
    "lxcbr0 lxdbr0 vmnet8 dummy0"
)


@pytest.mark.parametrize("name", CONTAINERS.split())
def test_a_bridge_of_containers_leads_nowhere(name: str) -> None:
    assert names(LO, interface(name, "172.17.0.1"), ETH) == ["eth0"]


@pytest.mark.parametrize("name", ["br0", "br-lan", "enp3s0", "wlp2s0", "bond0", "tailscale0"])
def test_a_network_of_people_is_kept(name: str) -> None:
    assert names(LO, interface(name, "10.0.0.5")) == [name]


def test_a_veth_on_a_docker_host_is_dropped_and_one_that_leads_out_is_kept() -> None:
    assert names(interface("veth1a2b3c4"), ETH) == ["eth0"]
    assert names(interface("veth1a2b3c4", "169.254.1.1", bridged=True), ETH) == ["eth0"]
    assert names(interface("veth-ws-1", "10.77.0.2")) == ["veth-ws-1"]


def test_what_is_down_or_has_no_address_is_dropped() -> None:
    assert names(interface("eth1", "10.0.0.1", up=False), interface("eth2"), ETH) == ["eth0"]


def test_loopback_is_offered_only_where_nothing_else_is() -> None:
    assert names(LO) == []
    assert names(LO, alone=True) == ["lo"]
    assert names(LO, ETH, alone=True) == ["eth0"]


def test_link_local_addresses_come_last_and_each_once() -> None:
    found = addresses_of([interface("a", "169.254.3.4", "10.0.0.1"), interface("b", "10.0.0.1")])
    assert [str(address) for address in found] == ["10.0.0.1", "169.254.3.4"]


def test_this_machines_interfaces_can_be_read() -> None:
    assert any(one.loopback and one.up for one in read_interfaces())
    assert all(address.endswith(":7420") for address in own_addresses(7420))
    assert own_addresses(7420)
