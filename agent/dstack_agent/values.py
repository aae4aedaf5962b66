"""Values of settings as they were written, and what is wrong with one in words."""

import math
import re
from collections.abc import Sequence
from typing import cast

from dstack_scheduler.gpus import DeclaredGpu, parse_declared

SMALLEST_LOG_BYTES = 64 << 10

_UNITS = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def as_texts(value: object) -> list[str]:
    """The elements of a list, or of a text with commas."""
    if isinstance(value, str):
        return [part for part in (part.strip() for part in value.split(",")) if part]
    if isinstance(value, Sequence):
        return [str(part) for part in cast(Sequence[object], value)]
    raise ValueError("It must be a list")


def as_address(value: object) -> tuple[str, int]:
    text = str(value).strip()
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("It must be HOST:PORT, as 0.0.0.0:7420 or [::]:7420")
    if not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise ValueError(f'"{port}" is not a port; 0 (any free one) to 65535 are')
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host:
        raise ValueError("An IPv6 address stands in brackets, as [::]:7420")
    return host, int(port)


def as_switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    match str(value).strip().lower():
        case "1" | "true" | "on" | "yes":
            return True
        case "0" | "false" | "off" | "no":
            return False
        case _:
            raise ValueError("It is 1 (on) or 0 (off)")


def as_seconds(value: object) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        raise ValueError("It must be a number of seconds, as 600") from None
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError("It must be a number of seconds from 0 on")
    return seconds


def as_size(value: object) -> int:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?) ?(kib|mib|gib|tib)", str(value).strip().lower())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < SMALLEST_LOG_BYTES:
        raise ValueError("It must be a size from 64KiB on, as 512MiB or 4GiB")
    return size


def as_registry(value: object) -> str:
    text = str(value).strip().rstrip("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*(:\d{1,5})?(/[a-z0-9._-]+)*", text):
        raise ValueError("It must be a registry, and perhaps a path there, as registry.lab/tools")
    return text


def as_days(value: object) -> float:
    try:
        days = float(str(value))
    except ValueError:
        raise ValueError("It must be a number of days, as 30") from None
    if not (math.isfinite(days) and days > 0):
        raise ValueError("It must be a number of days above 0")
    return days


def as_count(value: object) -> int | None:
    text = str(value).strip()
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10_000):
        raise ValueError("It must be a whole number from 1 to 10000")
    return int(text)


def as_name(value: object) -> str:
    name = str(value).strip()
    if not name or len(name) > 63 or not name.isprintable() or any(map(str.isspace, name)):
        raise ValueError("A name has 1 to 63 characters and no blanks")
    return name


def as_gpus(value: object) -> tuple[DeclaredGpu, ...]:
    return tuple(parse_declared(text) for text in as_texts(value))
