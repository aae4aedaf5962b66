"""Faults of this machine, and what doctor does whatever it finds."""

import json
import os
import socket
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.doctored import SLOWEST_SECONDS, doctor
from support.lab import DSTACK, Peer, make_peer
from support.meshes import Mesh
from support.person import PERSON, as_person, give, persons_folder

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can plant this")


@needs_root
def test_a_card_without_its_driver_is_told(tmp_path: Path) -> None:
    card = tmp_path / "devices" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030000\n")
    peer = make_peer(tmp_path, "home")
    peer.prefix = in_mounts(f"mount --bind {tmp_path}/devices /sys/bus/pci/devices")
    seen = doctor(peer, "gpu")
    assert seen.of("gpu") == [("fail", "no-driver")]
    assert "0000:01:00.0" in seen.said("gpu")


def in_mounts(*commands: str) -> tuple[str, ...]:
    """What a command line begins with to see other mounts than everybody."""
    script = "; ".join(("set -e", *commands, 'exec "$@"'))
    return ("unshare", "--mount", "sh", "-c", script, "sh")


# 6. The disk.


@needs_root
@pytest.mark.parametrize(
    ("options", "check", "cause"),
    [
        ("size=20m", "disk", "disk-full"),
        ("size=4g,nr_inodes=300", "disk", "inodes-full"),
        ("size=20m", "temporary files", "disk-full"),
        ("size=4g,nr_inodes=300", "temporary files", "inodes-full"),
    ],
)
def test_a_full_disk_is_told_in_bytes_and_files(
    tmp_path: Path, options: str, check: str, cause: str
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    peer = make_peer(tmp_path, "home", DSTACK_MDNS="0")
    if check == "disk":
        peer.env = {**peer.env, "DSTACK_HOME": str(small / "home")}
    else:
        peer.env = {**peer.env, "TMPDIR": str(small)}
    peer.prefix = in_mounts(f"mount -t tmpfs -o {options} tmpfs {small}")
    seen = doctor(peer, "machine")
    assert seen.of(check) == [("fail", cause)]
    assert str(small) in seen.said(check) and str(small) in seen.fix(check)


# 7. Docker's group.


@needs_root
@pytest.mark.parametrize(("owner", "said"), [(0, "root alone"), (PERSON + 1, "docker-less")])
def test_a_docker_that_the_person_may_not_use_is_told(owner: int, said: str) -> None:
    with persons_folder() as folder, socket.socket(socket.AF_UNIX) as engine:
        path = folder / "docker.sock"
        engine.bind(str(path))
        engine.listen()
        os.chown(path, 0, owner)
        path.chmod(0o660 if owner else 0o600)
        peer = make_peer(folder, "home", DOCKER_HOST=f"unix://{path}", HOME=str(folder))
        peer.prefix = as_person()
        give(peer.home)
        seen = doctor(peer, "docker")
        assert seen.of("docker") == [("fail", "docker-group")]
        assert "usermod -aG docker" in seen.fix("docker")
        assert str(path) in seen.said("docker")


# 8. Certificates.


@pytest.mark.parametrize(
    ("born", "life", "grade", "cause"),
    [
        (timedelta(days=-3), timedelta(days=1), "fail", "certificate-expired"),
        (timedelta(days=-1), timedelta(days=3), "warn", "certificate-soon"),
        (timedelta(days=3), timedelta(days=9), "fail", "clock-off"),
    ],
    ids=["expired", "soon", "not yet"],
)
def test_an_old_certificate_is_told(
    tmp_path: Path, born: timedelta, life: timedelta, grade: str, cause: str
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    mesh.admit(tmp_path / "m", datetime.now(UTC) + born, life)
    seen = doctor(Peer("m", tmp_path / "m", env={"DSTACK_MDNS": "0"}), "network")
    assert seen.of("mesh") == [(grade, cause)]


@needs_root
@pytest.mark.parametrize(
    ("env", "cause"),
    [
        ({"AWS_ACCESS_KEY_ID": "AKIA0123456789ABCDEF"}, "credentials-incomplete"),
        ({"AWS_PROFILE": "no-such"}, "no-profile"),
        ({"AWS_PROFILE": "sso"}, "session-expired"),
    ],
)
def test_wrong_cloud_credentials_are_told_and_nobody_is_asked(
    tmp_path: Path, env: dict[str, str], cause: str
) -> None:
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    (tmp_path / ".aws" / "config").write_text(
        "[profile sso]\nsso_session = lab\n[sso-session lab]\nsso_start_url = https://lab.example\n"
    )
    signed: dict[str, Any] = {"startUrl": "https://lab.example", "accessToken": "x"}
    (cache / "a.json").write_text(json.dumps({**signed, "expiresAt": "2020-01-01T00:00:00Z"}))
    peer = make_peer(tmp_path, "home")
    peer.env = {**env, "HOME": str(tmp_path)}
    # In a network namespace of its own there is nobody to ask.
    peer.prefix = ("unshare", "--net")
    seen = doctor(peer, "cloud")
    assert seen.of("cloud") == [("fail", cause)]


# All of it.


def test_doctor_says_what_it_waits_for_and_never_hangs_on_one_check(tmp_path: Path) -> None:
    peer = make_peer(tmp_path, "home", DSTACK_MDNS="0")
    with socket.socket(socket.AF_UNIX) as engine:
        path = tmp_path / "docker.sock"
        engine.bind(str(path))
        engine.listen()  # accepts, and never answers
        peer.env = {**peer.env, "DOCKER_HOST": f"unix://{path}"}
        began = time.monotonic()
        ended = peer.dstack("doctor", "docker", "--json")
        took = time.monotonic() - began
    assert ended.returncode == 1
    assert b"looking at: docker" in ended.stderr
    assert json.loads(ended.stdout)["items"][0]["cause"] == "docker-silent"
    assert took < SLOWEST_SECONDS


def test_an_unknown_topic_is_a_mistake_of_usage(tmp_path: Path) -> None:
    assert make_peer(tmp_path, "home").dstack("doctor", "weather").returncode == 2
    assert DSTACK[0] == sys.executable
