"""What a helper would ask for, in one folder or archive, without secrets.

Only what is listed here goes in; of settings only names that are known show their values.
"""

import asyncio
import io
import json
import os
import platform
import shlex
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import cast

from dstack_cli.checkup.finding import Finding
from dstack_cli.checkup.redaction import GONE, Redaction, is_secret_name, known_secrets
from dstack_cli.misused import Misused
from dstack_cli.names import listed
from dstack_mesh.card import PROTOCOL
from dstack_mesh.discovery.interfaces import leading_outside, multicast_interfaces, read_interfaces
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.home import Home
from dstack_mesh.ids import Address
from dstack_mesh.membership.known import Target
from dstack_mesh.user import user_home
from dstack_mesh.version import installed_version
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.greeter import GrpcGreeter, command_card

LOG_BYTES = 128 << 10
STATUS_SECONDS = 2.0
ARCHIVES = (".tar.gz", ".tgz", ".tar")
OTHER_ARCHIVES = (".zip", ".gz", ".bz2", ".xz", ".zst", ".7z")
FOLDER = "dstack-doctor"

SETTINGS = (
    *("home", "name", "listen", "seeds", "mdns", "gpus", "private", "idle", "max_jobs"),
    *("max_log", "keep_days", "keep_work", "process", "interruptible"),
)
"""Settings whose values may be shown."""

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
LIBRARIES = ("grpcio", "protobuf", "cryptography", "zeroconf", "psutil", "docker", "boto3")


def check_target(target: Path) -> None:
    """Whether a bundle can be written there; before all is looked at, which takes seconds.

    Raises:
        Refused: It exists.
        Misused: It is called as an archive of another kind.
    """
    if target.exists():
        raise Refused(f"{target} exists.", "It is not overwritten.", "Name another file.", "exists")
    if target.name.endswith(OTHER_ARCHIVES) and not target.name.endswith(ARCHIVES):
        what = f"A bundle is no {target.suffix} file."
        name = target.with_suffix("").with_suffix(ARCHIVES[0])
        hint = f"--bundle {shlex.quote(str(name))}"
        why = f"It is a folder, or one of {listed(ARCHIVES, 'or')}."
        raise Misused(what, why, hint, code="usage")


def write_bundle(
    home: Home,
    environ: Mapping[str, str],
    findings: Sequence[Finding],
    now: datetime,
    target: Path,
) -> list[str]:
    """Writes it, for the owner alone, and returns the names of its files.

    Raises:
        MeshError: As `check_target` does.
    """
    check_target(target)
    redaction = Redaction(known_secrets(home, environ, user_home()))
    texts = {
        name: redaction.of(text) for name, text in _contents(home, environ, findings, now).items()
    }
    if target.name.endswith(ARCHIVES):
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_archive(target, texts, now)
    else:
        target.mkdir(mode=0o700, parents=True)
        for name, text in texts.items():
            descriptor = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
    return sorted(texts)


def _contents(
    home: Home, environ: Mapping[str, str], findings: Sequence[Finding], now: datetime
) -> dict[str, str]:
    return {
        "findings.json": _json(
            [
                {"check": one.check, "grade": one.grade.value, "cause": one.cause}
                | {"message": one.message, "fix": one.fix}
                for one in findings
            ]
        ),
        "versions.json": _json(_versions(now)),
        "settings.json": _json(_settings(home, environ)),
        "interfaces.json": _json(_interfaces()),
        "agent.json": _json(asyncio.run(_agent(home))),
        "agent.log": _tail(home.state / "agent.log"),
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _versions(now: datetime) -> dict[str, object]:
    return {
        "made_at": now.isoformat(timespec="seconds"),
        "dstack": installed_version(),
        "protocol": PROTOCOL,
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libraries": {name: _version_of(name) for name in LIBRARIES},
    }


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _settings(home: Home, environ: Mapping[str, str]) -> dict[str, object]:
    """What is set, where; a value only of a setting that is known and is no secret."""
    shown = {f"DSTACK_{name.upper()}" for name in SETTINGS}
    return {
        "environment": {
            name: _shown(name, value) if name in shown or name.lower() in PROXIES else GONE
            for name, value in sorted(environ.items())
            if name.startswith(("DSTACK_", "AWS_", "DOCKER_")) or name.lower() in PROXIES
        },
        "config.yaml": _config(home),
    }


def _shown(name: str, value: str) -> str:
    """A value that may be shown; of a proxy without a person's name and password, whatever is in
    them."""
    person, at, place = value.rpartition("@")
    return f"{GONE}@{place}" if name.lower() in PROXIES and person and at else value


def _config(home: Home) -> object:
    import yaml

    try:
        content: object = yaml.safe_load(home.config.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as broken:
        return f"cannot be read: {type(broken).__name__}"
    if not isinstance(content, dict):
        return GONE
    return {
        str(name): value if name in SETTINGS and not is_secret_name(str(name)) else GONE
        for name, value in cast(dict[object, object], content).items()
    }


def _interfaces() -> list[dict[str, object]]:
    found = read_interfaces()
    outside = {one.name for one in leading_outside(found)}
    announced = {one.name for one in multicast_interfaces(found)}
    return [
        {
            "name": one.name,
            "up": one.up,
            "addresses": [str(address) for address in one.addresses],
            "networks": [str(network) for network in one.networks],
            "point_to_point": one.point_to_point,
            "leads_outside": one.name in outside,
            "announced_on": one.name in announced,
        }
        for one in found
    ]


async def _agent(home: Home) -> dict[str, object]:
    """The agent of this home, as it answers over its own socket."""
    if not home.agent_socket.exists():
        return {"runs": False}
    channels = Channels(home)
    card = command_card(home)
    target = Target(Address(f"unix:{home.agent_socket}"))
    try:
        answer = await GrpcGreeter(channels, lambda: card).hello(target, STATUS_SECONDS)
    except MeshError as failed:
        return {"runs": False, "trouble": str(failed)}
    finally:
        await channels.close()
    return {
        "runs": True,
        "id": answer.card.peer_id,
        "version": answer.card.version,
        "protocol": answer.card.protocol,
        "state": answer.state.value,
        "addresses": list(answer.card.addresses),
        "knows": [{"id": one.peer_id, "addresses": list(one.addresses)} for one in answer.known],
        "jobs": len(answer.running),
        "cpus": answer.machine.cpus,
        "memory_bytes": answer.machine.memory_bytes,
        "disk_free_bytes": answer.machine.disk_free_bytes,
        "gpus": [gpu.name for gpu in answer.machine.gpus],
        "executors": sorted(kind.value for kind in answer.machine.executors),
    }


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES))
            text = file.read(LOG_BYTES).decode(errors="replace")
    except OSError:
        return "There is none here; of a service: journalctl -u dstack-runner\n"
    # What is cut off at the start could be the middle of a secret.
    return text if len(text) < LOG_BYTES else text.partition("\n")[2]


def _write_archive(target: Path, texts: Mapping[str, str], now: datetime) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file, _opened(target.name)(file) as archive:
        for name, text in sorted(texts.items()):
            content = text.encode()
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size, member.mode, member.mtime = len(content), 0o600, int(now.timestamp())
            archive.addfile(member, io.BytesIO(content))


def _opened(name: str) -> Callable[[io.BufferedWriter], tarfile.TarFile]:
    if name.endswith(".tar"):
        return lambda file: tarfile.open(fileobj=file, mode="w")
    return lambda file: tarfile.open(fileobj=file, mode="w:gz")
