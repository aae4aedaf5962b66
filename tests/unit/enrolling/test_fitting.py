"""Which wheels run on a host, and which Python of it runs them."""

import pytest

from dstack_cli.enrolling.fitting import Platform, fits, glibc_of
from dstack_cli.enrolling.pythons import BEGIN, HostPython, choose, parse_looked

HERE = Platform((3, 11), "x86_64", (2, 36))
ARM = Platform((3, 11), "aarch64", (2, 36))
OLD = Platform((3, 11), "x86_64", (2, 31))
NEWER = Platform((3, 13), "x86_64", (2, 39))
MUSL = Platform((3, 11), "x86_64", None)


@pytest.mark.parametrize(
    ("tag", "there", "runs"),
    [
        ("py3-none-any", MUSL, True),
        ("py2.py3-none-any", NEWER, True),
        ("cp311-cp311-manylinux_2_17_x86_64", HERE, True),
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", HERE, True),
        ("cp311-cp311-manylinux_2_17_x86_64", NEWER, False),
        ("cp39-abi3-manylinux_2_34_x86_64", NEWER, True),
        ("cp39-abi3-manylinux_2_34_x86_64", OLD, False),
        ("cp313-abi3-manylinux_2_17_x86_64", HERE, False),
        ("cp311-cp311-manylinux2014_x86_64", ARM, False),
        ("cp311-cp311-manylinux1_x86_64", OLD, True),
        ("cp311-cp311-manylinux_2_17_x86_64", MUSL, False),
        ("cp311-cp311-musllinux_1_2_x86_64", HERE, False),
        ("cp311-cp311-linux_x86_64", HERE, True),
        ("cp311-cp311-linux_x86_64", OLD, False),
        ("cp311-cp311-macosx_11_0_arm64", HERE, False),
        ("cp311-none-any", NEWER, False),
    ],
)
def test_a_wheel_runs_where_its_tag_says(tag: str, there: Platform, runs: bool) -> None:
    assert fits([tag], there, HERE) is runs


def test_one_tag_of_several_is_enough_and_none_is_not() -> None:
    assert fits(["py2-none-any", "py3-none-any"], HERE, HERE)
    assert not fits([], HERE, HERE)


def test_what_was_built_here_needs_our_c_library() -> None:
    mac = Platform((3, 11), "arm64", None)
    assert not fits(["cp311-cp311-linux_x86_64"], HERE, mac)


def test_the_version_of_glibc_is_read() -> None:
    assert glibc_of("glibc-2.36") == (2, 36)
    assert glibc_of("-") is None


def python(minor: int, implementation: str = "cpython", path: str = "") -> HostPython:
    return HostPython(
        (3, minor), implementation, "x86_64", "glibc-2.36", path or f"/usr/bin/python3.{minor}"
    )


def test_the_python_that_takes_our_wheels_is_preferred_then_the_newest() -> None:
    assert choose([python(14), python(11), python(12)], (3, 11)) == python(11)
    assert choose([python(12), python(13), python(9)], (3, 11)) == python(13)
    assert choose([python(9), python(12, "pypy"), python(15)], (3, 11)) is None


def test_the_shells_answer_is_read_whatever_stands_around_it() -> None:
    line = "python 3 11 cpython x86_64 glibc-2.36 /opt/my python/bin/python3.11"
    looked = parse_looked(f"Welcome!\n{BEGIN}\nsystem Linux x86_64\n{line}\n{line}\nnoise\nend\n")
    assert looked is not None
    assert (looked.system, looked.machine) == ("Linux", "x86_64")
    assert looked.pythons == (python(11, path="/opt/my python/bin/python3.11"),)


@pytest.mark.parametrize("output", ["", "This account is for sftp only.\n", f"{BEGIN}\nsystem Li"])
def test_an_answer_that_was_cut_is_none(output: str) -> None:
    assert parse_looked(output) is None
