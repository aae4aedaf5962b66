"""What control groups leave of a machine's processors and memory.

Limits nest: each group on the way from this process up to the root may set one, and the smallest
holds. Both versions are read, and hybrids of them. Where a group is seen depends on namespaces, so
the mounts are asked (`/proc/self/mountinfo`), not assumed.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dstack_mesh.frozen import frozen

_UNLIMITED = 2**60
"""Version 1 says "no limit" as the largest number of pages."""


@frozen
class Limits:
    """None where nothing is limited. `memory_left_bytes` counts what the group uses by now."""

    cpus: float | None = None
    memory_bytes: int | None = None
    memory_left_bytes: int | None = None


@frozen
class Mount:
    """A mounted hierarchy of groups: what of it is mounted (`root`) and where (`point`)."""

    root: str
    point: Path
    version: int
    controllers: frozenset[str]


GroupFolder = tuple[Path, int, frozenset[str]]
"""A group's folder, the version of its hierarchy, and the controllers that this has."""


def read_limits(proc: Path = Path("/proc/self"), system: Path = Path("/")) -> Limits:
    """The limits that hold for this process; no limits where there are no control groups.

    Args:
        proc: The process's folder in /proc.
        system: What mount points are relative to; another than / in tests only.
    """
    groups = parse_groups(_text(proc / "cgroup"))
    mounts = parse_mounts(_text(proc / "mountinfo"))
    cpus: list[float] = []
    memories: list[tuple[int, int]] = []
    for folder, version, controllers in _folders(groups, mounts, system):
        if "cpu" in controllers and (cpu := _cpus(folder, version)) is not None:
            cpus.append(cpu)
        if "memory" in controllers and (memory := _memory(folder, version)) is not None:
            memories.append(memory)
    return Limits(
        cpus=min(cpus, default=None),
        memory_bytes=min((limit for limit, _ in memories), default=None),
        memory_left_bytes=min((max(0, limit - used) for limit, used in memories), default=None),
    )


def group_folders(
    container: str, proc: Path = Path("/proc/self"), system: Path = Path("/")
) -> Iterator[GroupFolder]:
    """The folders of a container's group, of version 2 or one for each controller.

    Both ways in which engines name them are tried; a rootless engine keeps them elsewhere.
    """
    for mount in parse_mounts(_text(proc / "mountinfo")):
        top = system / mount.point.relative_to("/")
        for group in (f"system.slice/docker-{container}.scope", f"docker/{container}"):
            if (top / group).is_dir():
                yield top / group, mount.version, mount.controllers


def number_in(path: Path, name: str = "") -> int | None:
    """The number that a file holds, or the one after a name; None if there is none."""
    if not name:
        return _number(path)
    text = _text(path)
    return _field(text, name) if f"{name} " in text else None


def used_memory(folder: Path, version: int) -> int | None:
    """What a group uses; cached files do not count, they are given back."""
    used_name, cache_name = (
        ("memory.current", "inactive_file")
        if version == 2
        else ("memory.usage_in_bytes", "total_inactive_file")
    )
    used = _number(folder / used_name)
    if used is None:
        return None
    return max(0, used - _field(_text(folder / "memory.stat"), cache_name))


def parse_groups(text: str) -> dict[str, str]:
    """The group of each controller, from /proc/PID/cgroup; "" is version 2."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number.isdigit() and path.startswith("/"):
            groups.update(dict.fromkeys(names.split(","), path))
    return groups


def parse_mounts(text: str) -> list[Mount]:
    """The mounted hierarchies, from /proc/PID/mountinfo."""
    mounts: list[Mount] = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        root, point = _unescaped(fields[3]), Path(_unescaped(fields[4]))
        if kinds[0] == "cgroup2":
            mounts.append(Mount(root, point, 2, frozenset({"cpu", "memory"})))
        elif kinds[0] == "cgroup":
            mounts.append(Mount(root, point, 1, frozenset(kinds[2].split(","))))
    return mounts


def parse_cpu_max(text: str) -> float | None:
    """Processors of version 2's cpu.max: "150000 100000" is 1.5, "max 100000" is no limit."""
    quota, _, period = text.strip().partition(" ")
    if not quota.isdigit() or not (period.isdigit() and int(period)):
        return None
    return int(quota) / int(period)


def _folders(groups: dict[str, str], mounts: list[Mount], system: Path) -> Iterator[GroupFolder]:
    """Each group's folder from the process's own up to the root of what is mounted."""
    for mount in mounts:
        group = groups.get("") if mount.version == 2 else _group_of(groups, mount)
        if group is None:
            continue
        below = _relative(group, mount.root)
        top = system / mount.point.relative_to("/")
        for part in (below, *below.parents):
            yield top / part, mount.version, mount.controllers


def _group_of(groups: dict[str, str], mount: Mount) -> str | None:
    found = (groups[name] for name in sorted(mount.controllers) if name in groups)
    return next(found, None)


def _relative(group: str, root: str) -> PurePosixPath:
    """The group below a mount; its top where namespaces hide the way ("/../.." or another root)."""
    path = PurePosixPath(group)
    if ".." in path.parts or not path.is_relative_to(root):
        return PurePosixPath()
    return path.relative_to(root)


def _cpus(folder: Path, version: int) -> float | None:
    if version == 2:
        return parse_cpu_max(_text(folder / "cpu.max"))
    quota = _number(folder / "cpu.cfs_quota_us")
    period = _number(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None


def _memory(folder: Path, version: int) -> tuple[int, int] | None:
    """The limit and what is used of it."""
    limit = _number(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
    if limit is None or limit >= _UNLIMITED:
        return None
    return limit, used_memory(folder, version) or 0


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.removeprefix("-").isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _unescaped(field: str) -> str:
    """A path of mountinfo: blanks are written as \\040."""
    return field.replace("\\040", " ")
