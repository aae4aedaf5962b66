"""Times and sizes in words."""

from datetime import UTC, datetime, timedelta

_STEPS: tuple[tuple[int, str, str], ...] = (
    (60, "{} sec ago", "{} sec ago"),
    (60, "1 min ago", "{} mins ago"),
    (24, "1 hour ago", "{} hours ago"),
    (7, "yesterday", "{} days ago"),
)


def rfc3339(at: datetime) -> str:
    """A time for scripts, in UTC."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ago(then: datetime, now: datetime) -> str:
    """How long ago, as "now", "20 sec ago", "1 min ago", "3 mins ago", "yesterday"."""
    count = int((now - then) / timedelta(seconds=1))
    if count <= 0:
        return "now"
    for size, one, many in _STEPS:
        if count < size:
            return one.format(count) if count == 1 else many.format(count)
        count //= size
    return _long_ago((now - then).days)


def _long_ago(days: int) -> str:
    for size, word in ((365, "year"), (30, "month"), (7, "week")):
        if days >= size:
            count = days // size
            return f"1 {word} ago" if count == 1 else f"{count} {word}s ago"
    return f"{days} days ago"


def duration(seconds: float) -> str:
    """How long, as "0.4s", "12s", "4m11s", "1h04m", "3d02h"."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def size(size_bytes: int) -> str:
    """A size in decimal units, as "812 B", "3.1 MB", "41 GB"."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    amount = float(size_bytes)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        amount /= 1000
        if amount < 999.5 or unit == "PB":
            return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:.0f} {unit}"
    raise AssertionError(size_bytes)


def memory(size_bytes: int) -> str:
    """Memory in binary units, as tables of machines have it: "62GiB", "0.5GiB"."""
    amount = size_bytes / 2**30
    return f"{amount:.0f}GiB" if amount >= 9.95 else f"{amount:.1f}GiB".replace(".0G", "G")


def used_memory(size_bytes: int) -> str:
    """Memory that a job uses, in the units of machines: "312MiB", "1.9GiB"."""
    return memory(size_bytes) if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f}MiB"


def count(number: int, word: str) -> str:
    """A number of things: "1 file", "3 files"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
