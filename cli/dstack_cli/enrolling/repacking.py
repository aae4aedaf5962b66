"""Makes a wheel again of a distribution that is installed: its files are all here.

The same files give the same bytes, so a wheel is named by what is in it. Our own distribution may
be installed from a checkout (`pip install -e`): then its packages are taken from there.
"""

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path, PurePosixPath

from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen

OURS = "dstack-mesh"
OUR_PACKAGES = ("dstack_agent", "dstack_cli", "dstack_mesh", "dstack_scheduler")

NOT_CARRIED = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"})
"""Files of `.dist-info` that tell how it came here."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file: the oldest that a zip can say."""


@frozen
class Part:
    """One file of a wheel, and where it is now."""

    name: str
    path: Path


def spelled(name: str) -> str:
    """A distribution's name in the one spelling that compares."""
    return re.sub(r"[-_.]+", "-", name).lower()


def tags_of(distribution: metadata.Distribution) -> tuple[str, ...]:
    """Where it runs, as `cp311-cp311-manylinux_2_17_x86_64`; one for each way to say it."""
    lines = (distribution.read_text("WHEEL") or "").splitlines()
    return tuple(line.partition(":")[2].strip() for line in lines if line.startswith("Tag:"))


def parts_of(distribution: metadata.Distribution) -> tuple[Part, ...]:
    """Its files, sorted by their names in a wheel.

    Raises:
        Refused: It is installed in a way that keeps its files elsewhere.
    """
    name = spelled(distribution.name)
    found = list(_installed(distribution))
    if not any(part.name.endswith((".py", ".so")) for part in found):
        if name != OURS:
            raise Refused(
                f"{name} is installed here from a checkout, so it cannot be carried to a host.",
                "Only dstack-mesh itself may be.",
                f"pip install {name}=={distribution.version}",
                code="not-carriable",
            )
        found += _of_a_checkout()
    return tuple(sorted(set(found), key=lambda part: part.name))


def digest_of(distribution: metadata.Distribution, parts: tuple[Part, ...]) -> str:
    """A hash that changes with any file, without reading those that the installer has hashed."""
    told = hashlib.sha256()
    known = {
        str(file): file.hash.value
        for file in distribution.files or ()
        if file.hash is not None and file.hash.mode == "sha256"
    }
    for part in parts:
        content = known.get(part.name) or _hash(part.path.read_bytes())
        told.update(f"{part.name}\0{content}\n".encode())
    return told.hexdigest()[:16]


def write_wheel(path: Path, distribution: metadata.Distribution, parts: tuple[Part, ...]) -> None:
    """Writes the wheel, wholly or not at all."""
    draft = path.with_name(f".{path.name}")
    record: list[str] = []
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as wheel:
        for part in parts:
            content = part.path.read_bytes()
            wheel.writestr(_entry(part), content)
            record.append(f"{part.name},sha256={_hash(content)},{len(content)}")
        folder = next(part.name for part in parts if part.name.endswith(".dist-info/METADATA"))
        name = str(PurePosixPath(folder).parent / "RECORD")
        lines = "\n".join([*record, f"{name},,", ""])
        wheel.writestr(zipfile.ZipInfo(name, EPOCH), lines, zipfile.ZIP_DEFLATED)
    draft.replace(path)


def _installed(distribution: metadata.Distribution) -> Iterator[Part]:
    for file in distribution.files or ():
        name = str(file)
        if file.suffix in (".pyc", ".pth") or "__pycache__" in file.parts:
            continue
        if ".." in file.parts or file.is_absolute():
            # Commands that the installer made; a host makes its own.
            continue
        if file.parent.suffix == ".dist-info" and file.name in NOT_CARRIED:
            continue
        path = Path(str(distribution.locate_file(file)))
        if path.is_file():
            yield Part(name, path)


def _of_a_checkout() -> Iterator[Part]:
    for name in OUR_PACKAGES:
        located = import_module(name).__file__
        assert located is not None
        folder = Path(located).parent
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield Part(f"{name}/{path.relative_to(folder).as_posix()}", path)


def _entry(part: Part) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(part.name, EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    runs = part.path.stat().st_mode & 0o100
    entry.external_attr = (0o100755 if runs else 0o100644) << 16
    return entry


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
