"""Proxies of the environment that would swallow what stays on this network."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from dstack_cli.checkup.finding import Finding, failed, passed, warned

METADATA = "169.254.169.254"
"""Where a rented machine asks for its credentials; through a proxy it would get the proxy's."""

NAMES = ("http_proxy", "https_proxy", "all_proxy")
MOST_NAMED = 6


def check_proxies(environ: Mapping[str, str], neighbours: Sequence[str]) -> Sequence[Finding]:
    """Whether they are set so that requests to this network, Docker or the cloud's own address
    would leave by them. Asks nobody.

    Args:
        neighbours: Hosts of this network, as agents.
    """
    given = {
        name: value for name, value in environ.items() if name.lower() in NAMES and value.strip()
    }
    if not given:
        return [passed("proxy", "none is set")]
    shown = ", ".join(f"{name}={_host(value)}" for name, value in sorted(given.items()))
    malformed = [name for name, value in given.items() if not _sound(value)]
    if malformed:
        what = f"{', '.join(malformed)} is no address of a proxy ({shown})"
        return [failed("proxy", "proxy-wrong", what, f"export {malformed[0]}=http://HOST:PORT")]
    exceptions = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    caught = [host for host in _local(environ, neighbours) if not _bypassed(host, exceptions)]
    if not caught:
        return [passed("proxy", f"{shown}; this network is excepted by no_proxy")]
    wanted = ",".join(dict.fromkeys((*filter(None, exceptions.split(",")), *caught)))
    return [
        warned(
            "proxy",
            "proxy-swallows",
            f"{shown}: it would also get requests to {', '.join(caught)}. Agents are not affected"
            " (our gRPC uses no proxy); jobs that speak HTTP to each other, Docker by TCP and"
            " requests to AWS are",
            f"export no_proxy={wanted} NO_PROXY={wanted}",
        )
    ]


def _local(environ: Mapping[str, str], neighbours: Sequence[str]) -> list[str]:
    docker = environ.get("DOCKER_HOST", "")
    engine = [urlsplit(docker).hostname or ""] if docker.startswith("tcp://") else []
    near = list(dict.fromkeys(neighbours))[:MOST_NAMED]
    return ["localhost", "127.0.0.1", METADATA, *engine, *near]


def _bypassed(host: str, exceptions: str) -> bool:
    """Whether the usual readings of no_proxy except this host: a name, its end, or a network."""
    for one in (text.strip().lstrip(".").lower() for text in exceptions.split(",")):
        if one in ("*", host) or (one and host.endswith(f".{one}")) or _within(host, one):
            return True
    return False


def _within(host: str, network: str) -> bool:
    try:
        return "/" in network and ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def _sound(value: str) -> bool:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _host(value: str) -> str:
    """The proxy without a person's name and password."""
    return value.rpartition("@")[2] if "@" in value else value.rpartition("://")[2]
