"""What stands in the way on a host."""

from dataclasses import replace

from dstack_cli.enrolling import judging
from dstack_cli.enrolling.facts import Facts
from dstack_cli.enrolling.pythons import HostPython, Looked
from dstack_cli.enrolling.target import Target
from dstack_mesh.ids import MeshId, PeerId

MESH = MeshId("m" * 32)
LISTEN = "0.0.0.0:7420"
NEEDED = 200 * 10**6

WELL = Facts(
    user="mara",
    root="/home/mara/.local/share/dstack",
    host="ws-3",
    system="Ubuntu 24.04",
    clock_ahead_seconds=0.4,
    disk_free_bytes=10**12,
    cannot_write="",
    other="",
    socket_bytes=50,
    port_trouble="",
    serves=False,
    mesh_id=MeshId(""),
    mesh_name="",
    peer_id=PeerId(""),
    not_after=None,
    name="",
    listen="",
    kept="",
    user_manager=True,
    docker="yes",
    driver="580.82",
    wheels={},
    path="/usr/bin",
)


def codes(facts: Facts) -> list[str]:
    return [one.code for one in judging.of_facts(facts, MESH, LISTEN, NEEDED)]


def test_a_host_that_is_well_has_no_problem_and_no_note() -> None:
    assert codes(WELL) == []
    assert judging.notes(WELL) == []


def test_a_member_of_our_mesh_is_no_problem_and_one_of_another_is() -> None:
    assert codes(replace(WELL, mesh_id=MESH, serves=True, kept="systemd")) == []
    assert codes(replace(WELL, mesh_id=MeshId("x" * 32))) == ["host-in-other-mesh"]


def test_each_trouble_has_its_code() -> None:
    assert codes(replace(WELL, disk_free_bytes=10**6)) == ["host-disk-full"]
    assert codes(replace(WELL, clock_ahead_seconds=-3600)) == ["host-clock-off"]
    assert codes(replace(WELL, cannot_write="/home/mara")) == ["host-not-writable"]
    assert codes(replace(WELL, other="Documents")) == ["host-folder-taken"]
    assert codes(replace(WELL, socket_bytes=108)) == ["path-too-long"]
    assert codes(replace(WELL, port_trouble="in use")) == ["host-port-taken"]


def test_all_troubles_are_told_at_once_each_with_its_fix() -> None:
    facts = replace(WELL, disk_free_bytes=1, port_trouble="in use", clock_ahead_seconds=9000)
    problems = judging.of_facts(facts, MESH, LISTEN, NEEDED)
    told = judging.trouble(Target("ws-3"), problems)
    assert told.code == "host-not-ready"
    assert all(one.message in told.why and one.fix in told.hint for one in problems)
    assert "2h30m" in told.why


def test_one_trouble_keeps_its_own_code() -> None:
    [problem] = judging.of_facts(replace(WELL, disk_free_bytes=1), MESH, LISTEN, NEEDED)
    assert judging.trouble(Target("ws-3"), [problem]).code == "host-disk-full"


def test_docker_that_may_not_be_used_is_worth_knowing_and_stands_in_nobodys_way() -> None:
    facts = replace(WELL, docker="group")
    assert codes(facts) == []
    assert "usermod -aG docker mara" in judging.notes(facts)[0]


def test_without_linux_or_a_python_nothing_runs() -> None:
    old = HostPython((3, 9), "cpython", "x86_64", "glibc-2.31", "/usr/bin/python3.9")
    good = HostPython((3, 12), "cpython", "x86_64", "glibc-2.31", "/usr/bin/python3.12")
    assert [one.code for one in judging.of_system(Looked("Darwin", "arm64", (good,)))] == [
        "not-linux"
    ]
    [problem] = judging.of_system(Looked("Linux", "x86_64", (old,)))
    assert problem.code == "no-python-there" and "/usr/bin/python3.9 (3.9)" in problem.message
    assert judging.of_system(Looked("Linux", "x86_64", (old, good))) == []


def test_a_daemon_that_we_did_not_start_is_told_apart() -> None:
    assert replace(WELL, serves=True, mesh_id=MESH).foreign
    assert not replace(WELL, serves=True, mesh_id=MESH, kept="detached").foreign
    assert not replace(WELL, serves=True).foreign  # a private one gives way
