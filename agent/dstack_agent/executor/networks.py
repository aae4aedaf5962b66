"""The networks of containers: out to the world, and not to each other nor to a cloud's metadata.

Everything here blocks: call it in a thread.
"""

import logging
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

log = logging.getLogger(__name__)

JOBS = "dstack-jobs"
"""A bridge whose containers do not reach each other."""

NO_NETWORK = "none"
"""What an engine calls it that a container has no network."""

NO_METADATA = "dstack-no-metadata"
"""A bridge that leads nowhere, over the addresses at which clouds hand out credentials."""

_METADATA = "169.254.169.254"
_METADATA_NETWORK = "169.254.169.0/24"
_METADATA_GATEWAY = "169.254.169.1"
_BRIDGE = "com.docker.network.bridge"
_ALONE = {f"{_BRIDGE}.enable_icc": "false"}
_RESOLVERS = Path("/etc/resolv.conf")
_MAKING = Lock()


class Networks(Protocol):
    """What we use of the SDK's `APIClient`, whose own types are incomplete."""

    def networks(self, names: list[str]) -> list[dict[str, Any]]: ...
    def create_network(self, name: str, **options: Any) -> dict[str, Any]: ...
    def remove_network(self, net_id: str) -> None: ...
    def connect_container_to_network(self, container: str, net_id: str) -> None: ...


def network_of(engine: Networks) -> str:
    """The network for a job: never the host's own; none where the engine has no bridge at all."""
    if not engine.networks(names=["bridge"]):
        return NO_NETWORK
    return JOBS if _made(engine, JOBS, driver="bridge", options=_ALONE) else "bridge"


def gateway_of(engine: Networks, network: str) -> str:
    """The machine's own address in a network; empty for one that has none."""
    found = [each for each in engine.networks(names=[network]) if each["Name"] == network]
    pools = [pool for each in found for pool in each["IPAM"]["Config"] or ()]
    return next((str(pool["Gateway"]) for pool in pools if "Gateway" in pool), "")


def shut_metadata(engine: Networks, container: str) -> None:
    """Leads a container's way to a cloud's metadata nowhere; without any rule on the host.

    Where names are resolved at such an address nothing is done: jobs could resolve none any more.
    """
    from docker.errors import APIError
    from docker.types import IPAMConfig, IPAMPool

    if "169.254.169." in _resolvers():
        return
    pool = IPAMPool(
        subnet=_METADATA_NETWORK, gateway=_METADATA_GATEWAY, aux_addresses={"cloud": _METADATA}
    )
    options = _ALONE | {f"{_BRIDGE}.inhibit_ipv4": "true"}
    ipam = IPAMConfig(pool_configs=[pool])
    if not _made(engine, NO_METADATA, driver="bridge", options=options, internal=True, ipam=ipam):
        return
    try:
        engine.connect_container_to_network(container, NO_METADATA)
    except APIError as error:
        log.warning("a container keeps its way to the cloud's metadata: %s", error)


def _made(engine: Networks, name: str, **options: Any) -> bool:
    """Whether there is a network of this name, which is made if it is not there."""
    from docker.errors import APIError

    with _MAKING:
        found = _named(engine, name)
        if not found:
            labels = {"run.dstack.network": name}
            try:
                engine.create_network(name, check_duplicate=True, labels=labels, **options)
            except APIError as error:
                if not _named(engine, name):  # or another agent of this engine was faster
                    log.warning("the network %s cannot be made: %s", name, error)
                    return False
            found = _named(engine, name)
        # An engine takes a name twice if two ask at once, and then starts no container by it.
        for twin in found[1:]:
            with suppress(APIError):  # another agent removes it too
                engine.remove_network(twin)
    return True


def _named(engine: Networks, name: str) -> list[str]:
    """The ids of the networks of this name, the one that was made first before others."""
    found = [each for each in engine.networks(names=[name]) if each["Name"] == name]
    return [each["Id"] for each in sorted(found, key=lambda one: (one["Created"], one["Id"]))]


def _resolvers() -> str:
    try:
        return _RESOLVERS.read_text(errors="replace")
    except OSError:
        return ""
