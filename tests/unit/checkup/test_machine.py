"""Checks of this machine that need no machine."""

import ctypes
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dstack_agent.settings import TABLE
from dstack_cli.checkup.bundle import SETTINGS
from dstack_cli.checkup.cloud import check_cloud
from dstack_cli.checkup.docker import check_docker
from dstack_cli.checkup.finding import Grade
from dstack_cli.checkup.gpu import Cards, check_gpus, seen
from dstack_cli.checkup.knock import Door, knock
from dstack_cli.checkup.machine import check_home
from dstack_cli.checkup.proxies import check_proxies
from dstack_cli.checkup.table import TOPICS
from dstack_cli.commands.doctor import TOPICS as OFFERED
from dstack_mesh.home import Home

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID, SECRET = "AKIA0123456789ABCDEF", "s" * 40


class Library:
    """A driver's library."""

    def __init__(self, code: int, cards: int = 0) -> None:
        self._code, self._cards = code, cards

    def nvmlInit_v2(self) -> int:
        return self._code

    def nvmlDeviceGetCount_v2(self, count: Any) -> None:
        ctypes.cast(count, ctypes.POINTER(ctypes.c_uint))[0] = self._cards

    def nvmlShutdown(self) -> None: ...


def absent() -> Library:
    raise OSError("libnvidia-ml.so.1: cannot open shared object file")


def cards(on_bus: int = 1, module: bool = True, nouveau: bool = False) -> Cards:
    return Cards(tuple(f"0000:0{at}:00.0" for at in range(on_bus)), (), module, nouveau)


@pytest.mark.parametrize(
    ("there", "load", "cause"),
    [
        (cards(0), absent, ""),
        (cards(0), lambda: Library(9), ""),
        (cards(1), lambda: Library(0, 1), ""),
        (cards(1, module=False), absent, "no-driver"),
        (cards(1, module=False, nouveau=True), absent, "no-driver"),
        (cards(1, module=False), lambda: Library(9), "no-driver"),
        (cards(1), absent, "no-driver-library"),
        (cards(1), lambda: Library(18), "driver-changed"),
        (cards(1), lambda: Library(999), "driver-silent"),
        (cards(2), lambda: Library(0, 1), "card-lost"),
    ],
)
def test_what_is_wrong_with_a_driver_is_told_apart(there: Cards, load: Any, cause: str) -> None:
    (found,) = check_gpus(there, load)
    assert found.cause == cause
    assert (found.grade is Grade.FAIL) == bool(cause)


def test_only_nvidias_display_devices_are_cards(tmp_path: Path) -> None:
    kinds = {"a": ("0x10de", "0x030200"), "b": ("0x10de", "0x040300"), "c": ("0x1002", "0x030000")}
    for name, (vendor, kind) in kinds.items():
        device = tmp_path / "sys/bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert seen(tmp_path).on_bus == ("a",)
    assert not seen(tmp_path / "empty").any


PROXY = {"https_proxy": "http://proxy.example:3128"}


@pytest.mark.parametrize(
    ("environ", "cause"),
    [
        ({}, ""),
        ({"no_proxy": "*"}, ""),
        (PROXY, "proxy-swallows"),
        ({"ALL_PROXY": "socks5://proxy.example:1080"}, "proxy-swallows"),
        ({**PROXY, "no_proxy": "localhost,127.0.0.1,169.254.169.254"}, "proxy-swallows"),
        ({**PROXY, "no_proxy": "localhost,127.0.0.0/8,169.254.169.254,10.0.0.0/8"}, ""),
        ({**PROXY, "NO_PROXY": "*"}, ""),
        ({"http_proxy": "http://"}, "proxy-wrong"),
        ({"http_proxy": "http://host:port"}, "proxy-wrong"),
    ],
)
def test_a_proxy_is_trouble_only_where_it_swallows_this_network(
    environ: Mapping[str, str], cause: str
) -> None:
    (found,) = check_proxies(environ, ["10.0.0.2"])
    assert found.cause == cause


def test_the_fix_of_a_proxy_keeps_what_was_excepted_and_is_enough() -> None:
    (found,) = check_proxies({**PROXY, "no_proxy": "intra.example"}, ["10.0.0.2"])
    exceptions = found.fix.split()[1].removeprefix("no_proxy=")
    assert exceptions.startswith("intra.example,")
    (again,) = check_proxies({**PROXY, "no_proxy": exceptions}, ["10.0.0.2"])
    assert again.grade is Grade.PASS


@pytest.mark.parametrize("host", ["/var/run/docker.sock", "unix://", "ana:secret@box"])
def test_what_is_no_address_of_an_engine_is_told_without_showing_it(host: str) -> None:
    (found,) = check_docker({"DOCKER_HOST": host}, cards=False)
    assert found.cause == "docker-address"
    assert "secret" not in found.message + found.fix


def test_a_home_that_cannot_be_used_is_told_with_a_fix_that_helps(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (found,) = check_home(Home(tmp_path / "file"))
    assert (found.cause, found.fix) == ("home-not-writable", "set DSTACK_HOME to a folder of yours")
    (fine,) = check_home(Home(tmp_path / "home"))
    assert fine.grade is Grade.PASS
    assert not list((tmp_path / "home").glob(".probe-*"))


@pytest.mark.parametrize("address", ["my..host:7420", f"{'a' * 70}.example:1", "x:y"])
async def test_what_cannot_even_be_asked_is_no_name(address: str) -> None:
    assert await knock(address) is Door.NO_NAME


def told(tmp_path: Path, environ: Mapping[str, str]) -> str:
    return " ".join(one.cause for one in check_cloud(environ, tmp_path, NOW))


KEYS = {"AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET}


@pytest.mark.parametrize(
    ("environ", "cause"),
    [
        ({}, ""),
        ({**KEYS, "AWS_REGION": "eu-north-1"}, ""),
        (KEYS, "no-region"),
        ({"AWS_SECRET_ACCESS_KEY": SECRET}, "credentials-incomplete"),
        ({"AWS_SESSION_TOKEN": "t"}, "credentials-incomplete"),
        ({**KEYS, "AWS_ACCESS_KEY_ID": f"ASIA{ID[4:]}"}, "credentials-incomplete"),
        ({**KEYS, "AWS_ACCESS_KEY_ID": f'"{ID}"'}, "credentials-broken"),
        ({**KEYS, "AWS_PROFILE": "lab"}, "credentials-conflict"),
        ({"AWS_PROFILE": "nowhere"}, "no-profile"),
        ({"AWS_CONFIG_FILE": "~no-such-person/config"}, "credentials-broken"),
        ({**KEYS, "AWS_CREDENTIAL_EXPIRATION": "2025-12-31T23:00:00Z"}, "session-expired"),
        ({**KEYS, "AWS_CREDENTIAL_EXPIRATION": "2026-01-01T00:10:00+00:00"}, "session-soon"),
    ],
)
def test_credentials_of_the_environment(
    tmp_path: Path, environ: Mapping[str, str], cause: str
) -> None:
    assert told(tmp_path, environ) == cause


@pytest.mark.parametrize(
    ("credentials", "config", "cause"),
    [
        (f"[default]\naws_access_key_id = {ID}\n", "", "credentials-incomplete"),
        ("aws_access_key_id = x\n", "", "credentials-broken"),
        (f"[default]\naws_access_key_id={ID}\naws_secret_access_key={SECRET}", "", "no-region"),
        (
            f"[default]\naws_access_key_id={ID}\naws_secret_access_key={SECRET}",
            "[default]\nregion=eu-north-1",
            "",
        ),
        (
            f"[default]\naws_access_key_id={ID}\naws_secret_access_key={SECRET}\n"
            "aws_session_expiration=2025-12-01T00:00:00+00:00",
            "",
            "session-expired",
        ),
        ("", "[default]\nsso_session=gone", "credentials-incomplete"),
        ("", "[default]\nsso_start_url=https://x.example", "session-expired"),
    ],
)
def test_credentials_of_files(tmp_path: Path, credentials: str, config: str, cause: str) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(credentials)
    (tmp_path / ".aws" / "config").write_text(config)
    assert told(tmp_path, {}) == cause


def test_a_valid_sign_on_is_fine_and_no_key_is_ever_shown(tmp_path: Path) -> None:
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    until = (NOW + timedelta(hours=8)).isoformat()
    signed = {"startUrl": "https://x.example", "accessToken": SECRET, "expiresAt": until}
    (cache / "a.json").write_text(json.dumps(signed))
    text = "[profile lab]\nsso_start_url=https://x.example\nregion=eu-north-1"
    (tmp_path / ".aws" / "config").write_text(text)
    (found,) = check_cloud({"AWS_PROFILE": "lab"}, tmp_path, NOW)
    assert found.grade is Grade.PASS
    (tmp_path / ".aws" / "credentials").write_text(f"{SECRET}\n[x")
    (found,) = check_cloud({}, tmp_path, NOW)
    assert found.cause == "credentials-broken" and SECRET not in found.message


def test_the_topics_offered_are_those_of_the_checks() -> None:
    assert set(OFFERED) == set(TOPICS)


def test_a_bundle_shows_only_settings_that_exist() -> None:
    assert set(SETTINGS) <= {one.name for one in TABLE}
