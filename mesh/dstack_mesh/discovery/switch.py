"""Whether multicast may be used at all."""

from collections.abc import Mapping


def enabled(environ: Mapping[str, str]) -> bool:
    """Whether multicast may be used: `DSTACK_MDNS=0` turns it off."""
    return environ.get("DSTACK_MDNS", "1").strip().lower() not in {"0", "no", "off", "false"}
