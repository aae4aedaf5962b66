"""Several machines on one: network namespaces on a bridge, which multicast crosses.

The bridge lives in a namespace of its own: in the machine's, the firewall rules that Docker makes
would drop what crosses it.

    with lan(["laptop", "ws-1"]) as net:
        net["laptop"].popen([...])

Everything that is made carries this process's id in its name and is removed by that name; what a
killed test process left behind is removed by the next one. Needs root; `missing` says why not.
"""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PREFIX = f"dsm{os.getpid()}"
_counter_lock = threading.Lock()
_made = 0


def missing() -> str:
    """What stands in the way of namespaces here; empty if nothing does."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [tool for tool in ("ip", "iptables") if shutil.which(tool) is None]
    if absent:
        return f"network namespaces need {' and '.join(absent)}"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True)
    return "" if probe.returncode == 0 else "this kernel makes no network namespaces"


@dataclass(slots=True)
class Host:
    """A machine of the network.

    Attributes:
        name: What the test calls it.
        namespace: Its network namespace.
        address: Its address on the bridge.
        switch: The namespace of the bridge.
        link: The bridge's end of its cable.
    """

    name: str
    namespace: str
    address: str
    switch: str
    link: str
    started: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    @property
    def prefix(self) -> tuple[str, ...]:
        """Put before a command, it runs there."""
        return ("ip", "netns", "exec", self.namespace)

    def run(self, *command: str) -> str:
        """Runs a command there to its end and returns what it printed."""
        return _run(*self.prefix, *command)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Starts a process there; it is killed with the network if it still runs then."""
        process: Any = subprocess.Popen([*self.prefix, *command], **options)
        self.started.append(process)
        return process

    def move(self, number: int) -> str:
        """Gives it another address on the bridge and returns it, like a new DHCP lease."""
        self.run("ip", "address", "flush", "dev", "eth0")
        self.address = f"{self.address.rpartition('.')[0]}.{number}"
        _give_address(self)
        return self.address

    def cut(self) -> None:
        """Pulls the cable."""
        _run("ip", "-n", self.switch, "link", "set", self.link, "down")

    def mend(self) -> None:
        """Puts the cable back."""
        _run("ip", "-n", self.switch, "link", "set", self.link, "up")

    def drop_multicast(self) -> None:
        """Its own firewall does: nothing to or from a group address gets through."""
        for chain in ("INPUT", "OUTPUT"):
            self.run("iptables", "-A", chain, "-d", "224.0.0.0/4", "-j", "DROP")

    def lose_multicast(self) -> None:
        """As many Wi-Fi guest networks do: what others send to a group does not arrive."""
        port = ("dev", self.link, "mcast_flood", "off")
        _run("bridge", "-n", self.switch, "link", "set", *port)

    def add(self, name: str, kind: str, address: str) -> None:
        """Another interface, of a kind that `ip link` knows, with an address as 10.9.0.1/24."""
        self.run("ip", "link", "add", name, "type", *kind.split())
        self.run("ip", "address", "add", address, "brd", "+", "dev", name)
        self.run("ip", "link", "set", name, "up")

    def cable(self, other: "Host", name: str, network: str) -> tuple[str, str]:
        """A second cable straight to another machine; the addresses on both ends. `network` as
        "10.9.0"."""
        ends = (f"{network}.1", f"{network}.2")
        self.run(
            *("ip", "link", "add", name, "type", "veth"),
            *("peer", "name", name, "netns", other.namespace),
        )
        for host, address in zip((self, other), ends, strict=True):
            host.run("ip", "address", "add", f"{address}/24", "brd", "+", "dev", name)
            host.run("ip", "link", "set", name, "up")
        return ends

    def drop_from(self, other: "Host") -> None:
        """A one-way cut: what the other sends does not arrive."""
        self.run("iptables", "-A", "INPUT", "-s", other.address, "-j", "DROP")

    def flush(self) -> None:
        """Takes all dropping back."""
        self.run("iptables", "-F")


@contextmanager
def lan(names: Sequence[str]) -> Generator[dict[str, Host]]:
    """Machines with these names on one bridge, by name. At most 250."""
    global _made
    with _counter_lock:
        _made += 1
        number = _made
    _sweep()
    switch = f"{PREFIX}n{number}switch"
    hosts: dict[str, Host] = {}
    try:
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
        _run("ip", "-n", switch, "link", "set", "lan", "up")
        for index, name in enumerate(names):
            hosts[name] = _add_host(switch, number, index, name)
        yield hosts
    finally:
        for host in hosts.values():
            for process in host.started:
                if process.poll() is None:
                    process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()
        _remove(f"{PREFIX}n{number}")


def _add_host(switch: str, number: int, index: int, name: str) -> Host:
    namespace = f"{PREFIX}n{number}x{index}"
    link = f"port{index}"
    address = f"10.{77 + number % 100}.0.{index + 2}"
    _run("ip", "netns", "add", namespace)
    cable = ("type", "veth", "peer", "name", "eth0", "netns", namespace)
    _run("ip", "-n", switch, "link", "add", link, *cable)
    _run("ip", "-n", switch, "link", "set", link, "master", "lan", "up")
    host = Host(name, namespace, address, switch, link)
    host.run("ip", "link", "set", "lo", "up")
    host.run("ip", "link", "set", "eth0", "up")
    _give_address(host)
    return host


def _give_address(host: Host) -> None:
    host.run("ip", "address", "add", f"{host.address}/24", "brd", "+", "dev", "eth0")
    host.run("ip", "route", "replace", "default", "dev", "eth0")


def _remove(prefix: str) -> None:
    # Bridge and cables go with their namespaces.
    for name in _namespaces():
        if name == f"{prefix}switch" or name.startswith(f"{prefix}x"):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _sweep() -> None:
    """Removes what test processes left behind that were killed."""
    for name in _namespaces():
        made_by = re.match(r"dsm(\d+)n\d", name)
        if made_by is not None and not Path("/proc", made_by[1]).exists():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _namespaces() -> list[str]:
    folder = Path("/run/netns")
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def _run(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {ended.stderr.strip()}")
    return ended.stdout
