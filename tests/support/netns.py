"""Several machines on one: network namespaces on a bridge, which multicast crosses.

    with lan(["laptop", "ws-1"]) as net:
        net["laptop"].popen([...])

Everything that is made carries this process's id in its name and is removed by that name, also what
an earlier process with the same id left behind. Needs root; `missing` says what is not there.
"""

import os
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
        link: The bridge's end of its cable.
    """

    name: str
    namespace: str
    address: str
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
        process = subprocess.Popen([*self.prefix, *command], **options)
        self.started.append(process)
        return process

    def cut(self) -> None:
        """Pulls the cable."""
        _run("ip", "link", "set", self.link, "down")

    def mend(self) -> None:
        """Puts the cable back."""
        _run("ip", "link", "set", self.link, "up")

    def drop_multicast(self) -> None:
        """As many Wi-Fi guest networks do: nothing to or from a group address gets through."""
        for chain in ("INPUT", "OUTPUT"):
            self.run("iptables", "-A", chain, "-d", "224.0.0.0/4", "-j", "DROP")

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
    bridge = f"{PREFIX}b{number}"
    hosts: dict[str, Host] = {}
    try:
        _run("ip", "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
        _run("ip", "link", "set", bridge, "up")
        for index, name in enumerate(names):
            hosts[name] = _add_host(bridge, number, index, name)
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
            subprocess.run(["ip", "link", "delete", host.link], check=False, capture_output=True)
        _remove(f"{PREFIX}n{number}x", bridge)


def _add_host(bridge: str, number: int, index: int, name: str) -> Host:
    namespace = f"{PREFIX}n{number}x{index}"
    outer = f"v{os.getpid() % 100000}x{number % 100}x{index}"
    address = f"10.{77 + number % 100}.0.{index + 2}"
    _run("ip", "netns", "add", namespace)
    _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    _run("ip", "link", "set", outer, "master", bridge, "up")
    host = Host(name, namespace, address, outer)
    host.run("ip", "link", "set", "lo", "up")
    host.run("ip", "address", "add", f"{address}/24", "brd", "+", "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "up")
    host.run("ip", "route", "add", "default", "dev", "eth0")
    return host


def _remove(namespaces: str, bridge: str) -> None:
    for path in sorted(Path("/run/netns").glob(f"{namespaces}*")):
        subprocess.run(["ip", "netns", "delete", path.name], check=False, capture_output=True)
    subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)


def _run(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {ended.stderr.strip()}")
    return ended.stdout
