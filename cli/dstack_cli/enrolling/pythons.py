"""Which Python of the host runs the agent: 3.11 or newer, of the host's own or of its user."""

from collections.abc import Sequence

from dstack_mesh.frozen import frozen

OLDEST = (3, 11)
NEWEST = (3, 14)

BEGIN = "--dstack--"
"""Before it stands what the host's start-up files print."""

LOOK = f"""\
echo '{BEGIN}'
echo "system $(uname -s) $(uname -m)"
for python in python3.14 python3.13 python3.12 python3.11 python3 \
    "$HOME"/.pyenv/versions/*/bin/python3 "$HOME"/.local/share/uv/python/*/bin/python3 \
    "$HOME"/.local/bin/python3.1[1-4] "$HOME"/*conda*/bin/python3 /opt/*conda*/bin/python3 \
    /usr/local/bin/python3.1[1-4] /opt/python*/bin/python3; do
  found=$(command -v "$python" 2>/dev/null) || continue
  "$found" -I -c 'import os, sys, platform
print("python", sys.version_info[0], sys.version_info[1], sys.implementation.name,
      platform.machine(), "-".join(platform.libc_ver()) or "-", os.path.realpath(
      getattr(sys, "_base_executable", sys.executable) or sys.executable))' 2>/dev/null
done
echo end
"""
"""For the host's `sh`, which is there where no Python is."""


@frozen
class HostPython:
    """A Python that was found.

    Attributes:
        libc: As "glibc-2.36"; "-" where it is another one.
    """

    version: tuple[int, int]
    implementation: str
    machine: str
    libc: str
    path: str

    @property
    def usable(self) -> bool:
        return self.implementation == "cpython" and OLDEST <= self.version <= NEWEST

    @property
    def told(self) -> str:
        """Its version, as people say it."""
        return f"{self.version[0]}.{self.version[1]}"


@frozen
class Looked:
    """What the host's shell found."""

    system: str
    machine: str
    pythons: tuple[HostPython, ...]


def parse_looked(output: str) -> Looked | None:
    """What `LOOK` printed; None if it was cut or another program answered."""
    _, begun, rest = output.partition(f"{BEGIN}\n")
    lines = rest.splitlines()
    if not begun or not lines or lines[-1].strip() != "end":
        return None
    system, machine = (*lines[0].split()[1:3], "?", "?")[:2]
    found = [_python(line) for line in lines[1:-1] if line.startswith("python ")]
    once = {one.path: one for one in found if one is not None}
    return Looked(system, machine, tuple(once.values()))


def choose(pythons: Sequence[HostPython], like: tuple[int, int]) -> HostPython | None:
    """The one that takes what this machine has installed as it is; else the newest usable one."""
    usable = [one for one in pythons if one.usable]
    same = [one for one in usable if one.version == like]
    newest = sorted(usable, key=lambda one: one.version, reverse=True)
    return next(iter((*same, *newest)), None)


def _python(line: str) -> HostPython | None:
    words = line.split(maxsplit=6)
    if len(words) != 7 or not (words[1].isdigit() and words[2].isdigit()):
        return None
    _, major, minor, implementation, machine, libc, path = words
    return HostPython((int(major), int(minor)), implementation, machine, libc, path)
