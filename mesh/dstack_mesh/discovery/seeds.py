"""Addresses that a person wrote down, for networks that multicast does not cross."""

import re
from collections.abc import Iterable, Mapping
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path

from dstack_mesh.faults import Invalid
from dstack_mesh.ids import Address

MOST_SEEDS = 64

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")


def parse_seed(text: str) -> Address:
    """The address in "HOST:PORT" or "[V6]:PORT". Raises Invalid with what is wrong."""
    if "//" in text:
        raise _wrong(text, "It has no scheme and no path, only a host and a port.")
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host:
        raise _wrong(text, "The port is missing.")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise _wrong(text, f"{port!r} is not a port; 1 to 65535 are.")
    if host.startswith("[") and host.endswith("]"):
        try:
            return Address(f"[{IPv6Address(host[1:-1])}]:{int(port)}")
        except AddressValueError:
            raise _wrong(text, f"{host!r} is not an IPv6 address.") from None
    if ":" in host:
        raise _wrong(text, "An IPv6 address stands in brackets: [fd00::1]:7420.")
    if not _HOST.fullmatch(host):
        raise _wrong(text, f"{host!r} is not a host.")
    return Address(f"{host}:{int(port)}")


def parse_seeds(texts: Iterable[str]) -> tuple[Address, ...]:
    """Each once, in order; an element may hold several, by commas or spaces. Raises Invalid."""
    parts = (part for text in texts for part in re.split(r"[,\s]+", text) if part)
    seeds = tuple(dict.fromkeys(map(parse_seed, parts)))
    if len(seeds) > MOST_SEEDS:
        raise Invalid("There are too many seeds.", f"{len(seeds)}; {MOST_SEEDS} are plenty.")
    return seeds


def all_seeds(
    flags: Iterable[str], environ: Mapping[str, str], config: Path
) -> tuple[Address, ...]:
    """Seeds of flags, `DSTACK_SEEDS` and `seeds:` of the home's config.yaml, in this order."""
    named = (
        ("--seed", flags),
        ("DSTACK_SEEDS", [environ.get("DSTACK_SEEDS", "")]),
        (str(config), _of_config(config)),
    )
    found: list[Address] = []
    for source, texts in named:
        try:
            found += parse_seeds(texts)
        except Invalid as wrong:
            why = f"{source} says so. {wrong.why}"
            raise Invalid(wrong.what, why, wrong.hint, wrong.code) from wrong
    return tuple(dict.fromkeys(found))


def _of_config(path: Path) -> list[str]:
    if not path.exists():
        return []
    import yaml  # most homes have no config.yaml

    try:
        content: object = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        raise Invalid("The configuration cannot be read.", f"{path}: {broken}") from broken
    seeds: object = content.get("seeds") if isinstance(content, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if seeds is None:
        return []
    if isinstance(seeds, str):
        return [seeds]
    if isinstance(seeds, list) and all(isinstance(one, str) for one in seeds):  # pyright: ignore[reportUnknownVariableType]
        return list[str](seeds)  # pyright: ignore[reportUnknownArgumentType]
    raise Invalid(
        "`seeds` in the configuration is not a list of addresses.",
        f"{path} says {seeds!r}.",
        "Write it as `seeds: [ws-1:7420, 10.0.0.7:7420]`.",
    )


def _wrong(text: str, why: str) -> Invalid:
    return Invalid(
        f"{text!r} is not an address.", why, "Write HOST:PORT, as ws-1:7420.", code="bad-address"
    )
