"""What runs on the host: wheels arrive, an environment is made of them."""

import hashlib
import io
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from dstack_cli.enrolling.repacking import OURS
from dstack_cli.enrolling.there import install, look
from dstack_cli.enrolling.there.places import Places
from dstack_cli.enrolling.wheelhouse import Wheel, make_wheels


def quiet(told: str) -> None:
    """Hears nothing."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Wheel, ...]:
    names = (OURS, "click", "psutil")
    folder = tmp_path_factory.mktemp("wheels")
    return make_wheels(folder, {name: metadata.distribution(name) for name in names})


def send(home: Path, wheels: tuple[Wheel, ...], sent: tuple[Wheel, ...]) -> dict[str, Any]:
    """One request, as it comes over ssh."""
    request = {
        "home": str(home),
        "sent": [{"name": one.name, "size": one.size_bytes, "sha256": one.sha256} for one in sent],
        "wanted": [one.name for one in wheels],
        "version": "0.1.0",
    }
    body = io.BytesIO(b"".join(one.path.read_bytes() for one in sent))
    return install.answer(request, body, quiet)


def seen(home: Path) -> dict[str, Any]:
    request = {"home": str(home), "listen": "", "usual_listen": "127.0.0.1:0"}
    return look.answer(request, io.BytesIO(), quiet)


def test_what_arrived_can_be_run(tmp_path: Path, wheels: tuple[Wheel, ...]) -> None:
    home = tmp_path / "a home"
    assert send(home, wheels, wheels)["fresh"]
    runner = Places(str(home)).runner
    ended = subprocess.run((str(runner), "--version"), capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("dstack-runner ")
    assert home.stat().st_mode & 0o077 == 0


def test_what_is_there_is_not_sent_nor_made_again(
    tmp_path: Path, wheels: tuple[Wheel, ...]
) -> None:
    first = send(tmp_path, wheels, wheels)
    assert seen(tmp_path)["wheels"] == {one.name: one.sha256 for one in wheels}
    assert send(tmp_path, wheels, ()) == first | {"fresh": False}


def test_what_a_power_cut_took_is_found_and_made_again(
    tmp_path: Path, wheels: tuple[Wheel, ...]
) -> None:
    send(tmp_path, wheels, wheels)
    places = Places(str(tmp_path))
    [torn] = places.current.glob("lib/*/site-packages/click/core.py")
    torn.write_bytes(b"")
    (places.wheels / wheels[0].name).write_bytes(b"")
    there = seen(tmp_path)["wheels"]
    missing = tuple(one for one in wheels if there.get(one.name) != one.sha256)
    assert [one.name for one in missing] == [wheels[0].name]
    assert send(tmp_path, wheels, missing)["fresh"]
    assert torn.read_bytes()


def test_a_stream_that_ends_early_leaves_the_environment_before(
    tmp_path: Path, wheels: tuple[Wheel, ...]
) -> None:
    old, new = wheels[:2], wheels
    send(tmp_path, old, old)
    before = Places(str(tmp_path)).current.resolve()
    request: dict[str, Any] = {
        "home": str(tmp_path),
        "sent": [{"name": new[2].name, "size": new[2].size_bytes, "sha256": new[2].sha256}],
        "wanted": [one.name for one in new],
        "version": "0.1.0",
    }
    half = new[2].path.read_bytes()[: new[2].size_bytes // 2]
    with pytest.raises(OSError, match="ended"):
        install.answer(request, io.BytesIO(half), quiet)
    assert Places(str(tmp_path)).current.resolve() == before
    assert not [one for one in Places(str(tmp_path)).wheels.iterdir() if one.name[0] == "."]


def test_bytes_that_were_changed_are_not_taken(tmp_path: Path, wheels: tuple[Wheel, ...]) -> None:
    wrong = bytes(wheels[1].size_bytes)
    assert hashlib.sha256(wrong).hexdigest() != wheels[1].sha256
    request: dict[str, Any] = {
        "home": str(tmp_path),
        "sent": [
            {"name": wheels[1].name, "size": wheels[1].size_bytes, "sha256": wheels[1].sha256}
        ],
        "wanted": [wheels[1].name],
        "version": "0.1.0",
    }
    with pytest.raises(OSError, match="changed"):
        install.answer(request, io.BytesIO(wrong), quiet)
    assert seen(tmp_path)["wheels"] == {}


def test_environments_of_before_stay_for_jobs_but_not_for_ever(
    tmp_path: Path, wheels: tuple[Wheel, ...]
) -> None:
    send(tmp_path, wheels, wheels)
    software = Places(str(tmp_path)).software
    for version in range(6):
        request = {"home": str(tmp_path), "sent": [], "wanted": [one.name for one in wheels]}
        install.answer(request | {"version": f"0.1.{version}"}, io.BytesIO(), quiet)
    environments = [one for one in software.iterdir() if (one / "pyvenv.cfg").exists()]
    assert len([one for one in environments if not one.is_symlink()]) == install.KEPT


def test_looking_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "nothing" / "here"
    facts = seen(home)
    assert (facts["cannot_write"], facts["mesh_id"], facts["serves"]) == ("", "", False)
    assert list(tmp_path.iterdir()) == []
