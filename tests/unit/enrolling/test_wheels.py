"""Wheels of what is installed."""

import csv
import io
import zipfile
from importlib import metadata
from pathlib import Path

from dstack_cli.enrolling.fitting import Platform
from dstack_cli.enrolling.repacking import (
    OUR_PACKAGES,
    OURS,
    digest_of,
    parts_of,
    tags_of,
    write_wheel,
)
from dstack_cli.enrolling.wheelhouse import closure, make_wheels, this_platform, unfit


def made(folder: Path, name: str) -> Path:
    distribution = metadata.distribution(name)
    path = folder / f"{name}.whl"
    write_wheel(path, distribution, parts_of(distribution))
    return path


def test_the_same_files_give_the_same_wheel(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    assert made(tmp_path / "a", "click").read_bytes() == made(tmp_path / "b", "click").read_bytes()


def test_a_wheel_has_every_file_and_a_record_of_each(tmp_path: Path) -> None:
    with zipfile.ZipFile(made(tmp_path, "psutil")) as wheel:
        assert wheel.testzip() is None
        names = wheel.namelist()
        [record] = [name for name in names if name.endswith(".dist-info/RECORD")]
        rows = list(csv.reader(io.StringIO(wheel.read(record).decode())))
        assert sorted(row[0] for row in rows) == sorted(names)
        sizes = {row[0]: row[2] for row in rows}
        assert all(sizes[one.filename] in ("", str(one.file_size)) for one in wheel.infolist())
    assert any(name.endswith(".so") for name in names)
    assert not any(".." in name or "__pycache__" in name for name in names)


def test_our_own_wheel_has_our_packages_also_from_a_checkout(tmp_path: Path) -> None:
    with zipfile.ZipFile(made(tmp_path, OURS)) as wheel:
        names = set(wheel.namelist())
    assert {f"{package}/__init__.py" for package in OUR_PACKAGES} <= names
    assert any(name.startswith("dstack_mesh/v1/") for name in names)
    assert any(name.endswith(".dist-info/entry_points.txt") for name in names)
    assert not any(name.endswith((".pyc", ".pth")) for name in names)


def test_the_closure_has_what_we_need_and_nothing_of_the_tests() -> None:
    needed = closure()
    assert {OURS, "grpcio", "cryptography", "cffi", "botocore"} <= set(needed)
    assert not {"pytest", "hypothesis", "pyright"} & set(needed)


def test_what_is_installed_here_runs_here_and_not_on_another_machine() -> None:
    here = this_platform()
    assert unfit(closure(), here, here) == ()
    other = Platform(here.python, "riscv64", here.glibc)
    assert "grpcio" in unfit(closure(), other, here)
    assert OURS not in unfit(closure(), other, here)


def test_a_wheel_is_made_once_and_again_when_its_content_changes(tmp_path: Path) -> None:
    wanted = {"click": metadata.distribution("click")}
    [first] = make_wheels(tmp_path, wanted)
    stamp = first.path.stat().st_mtime_ns
    assert make_wheels(tmp_path, wanted) == (first,)
    assert first.path.stat().st_mtime_ns == stamp
    click = wanted["click"]
    parts = parts_of(click)
    assert digest_of(click, parts) != digest_of(click, parts[1:])


def test_a_wheel_says_where_it_runs() -> None:
    assert tags_of(metadata.distribution("click")) == ("py3-none-any",)
