"""Runs that are shared by a bucket: pushed by one person, seen, read and pulled by another."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dstack_mesh.remotes.configured import Bucket
from support.alone import alone
from support.lab import Peer, join_mesh, make_peer, project, said
from support.s3_lab import S3Service, one_or_both

WORKFLOWS = """
workflows:
  - name: prepare
    provider: bash
    commands:
      - echo out of prepare
      - echo err of prepare >&2
      - mkdir -p data/deep data/nothing
      - head -c 300000 /dev/urandom > data/numbers
      - echo x > data/deep/x
      - ln -s deep/x data/link
    artifacts: [data]
  - name: train
    provider: bash
    deps: [":v1"]
    commands: [cat data/deep/x, "wc -c < data/numbers"]
"""


@dataclass(slots=True)
class Lab:
    """Ana, who ran and pushed; bea, who has the same remote and no agent; where the runs are."""

    service: S3Service
    place: Bucket
    ana: Peer
    bea: Peer
    code: Path
    run: str


def person(folder: Path, name: str, service: S3Service) -> Peer:
    return make_peer(folder, name, (), USER=name, DSTACK_MDNS="0", **service.environment)


def configured(peer: Peer, place: Bucket) -> Peer:
    peer.dstack("config", "lab", place.url, "--endpoint", place.endpoint, check=True)
    return peer


@pytest.fixture(scope="module", params=one_or_both("ceph"))
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    service: S3Service = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp(f"remotes-{service.name}")
    code = project(folder / "code", WORKFLOWS)
    place = Bucket(service.made().bucket, "team", service.endpoint)
    with alone(folder, DSTACK_MDNS="0", **service.environment) as ana:
        ran = ana.dstack("run", "prepare", "-t", "v1", cwd=code)
        assert ran.returncode == 0, said(ran)
        name = ana.json("ps")["items"][0]["run"]
        configured(ana, place)
        pushed = ana.dstack("push", "@", cwd=code)
        assert pushed.returncode == 0, said(pushed)
        assert f"{name} is in lab: 1 artifact" in pushed.stderr.decode()
        bea = configured(person(folder, "bea", service), place)
        yield Lab(service, place, ana, bea, code, name)


def test_somebody_else_sees_the_run_its_files_and_its_log(lab: Lab, tmp_path: Path) -> None:
    [item] = lab.bea.json("ps", "-a")["items"]
    assert (item["run"], item["status"], item["tag"]) == (lab.run, "done", "v1")
    assert item["owner"].startswith("ana@")
    files = {one["path"]: one for one in lab.bea.json("ls", ":v1", "-r", cwd=lab.code)["items"]}
    assert set(files) == {"data/numbers", "data/deep/x", "data/link", "data/nothing/"}
    assert files["data/numbers"]["size"] == 300_000
    assert files["data/numbers"]["copies"] == ["home", "lab"]
    logs = lab.bea.dstack("logs", lab.run)
    assert (logs.returncode, logs.stdout, logs.stderr) == (
        *(0, b"out of prepare\n"),
        b"err of prepare\n",
    ), said(logs)
    for verb in (("logs", "-f"), ("attach",), ("wait",)):
        ended = lab.bea.dstack(*verb, lab.run, timeout=20)
        assert ended.returncode == 0, said(ended)
    lab.bea.dstack("cp", lab.run, "data", str(tmp_path / "got"), check=True)
    lab.ana.dstack("cp", lab.run, "data", str(tmp_path / "had"), check=True)
    assert (tmp_path / "got/numbers").read_bytes() == (tmp_path / "had/numbers").read_bytes()
    assert (tmp_path / "got/link").read_text() == "x\n"


def test_a_second_push_sends_nothing(lab: Lab) -> None:
    [item] = lab.ana.json("push", lab.run)["items"]
    assert (item["sent"], item["tags"], item["remote"]) == (0, ["v1"], "lab")
    assert item["size"] > 300_000


def test_what_was_pulled_is_here_without_the_remote(
    lab: Lab, tmp_path: Path, free_port: int
) -> None:
    cleo = configured(person(tmp_path, "cleo", lab.service), lab.place)
    [item] = cleo.json("pull", ":v1", cwd=lab.code)["items"]
    assert item["run"] == lab.run and item["received"] == item["size"] > 300_000
    cleo.dstack("config", "delete", "lab", check=True)
    [shown] = cleo.json("ps", "-a")["items"]
    assert shown["run"] == lab.run
    # A collection leaves it alone: it is kept for its run.
    assert list((cleo.home / "chunks" / "kept").glob(f"*@{shown['id']}"))
    assert cleo.json("ls", ":v1", "-t", cwd=lab.code)["items"][0]["copies"] == ["home", "here"]
    cleo.dstack("cp", ":v1", ".", str(tmp_path / "got"), cwd=lab.code, check=True)
    assert (tmp_path / "got/numbers").stat().st_size == 300_000
    assert cleo.dstack("logs", lab.run).stdout == b"out of prepare\n"


def test_a_run_takes_its_input_from_the_remote(lab: Lab, tmp_path: Path) -> None:
    with alone(tmp_path, DSTACK_MDNS="0", **lab.service.environment) as dan:
        configured(dan, lab.place)
        ran = dan.dstack("run", "train", cwd=lab.code)
        assert ran.returncode == 0, said(ran)
        assert ran.stdout.split() == [b"x", b"300000"]


def test_export_writes_plain_files_into_a_folder_and_into_a_bucket(
    lab: Lab, tmp_path: Path
) -> None:
    lab.bea.dstack("export", lab.run, str(tmp_path / "out"), check=True)
    assert (tmp_path / "out/data/deep/x").read_text() == "x\n"
    assert (tmp_path / "out/data/link").readlink() == Path("deep/x")
    assert json.loads((tmp_path / "out/.dstack/run.json").read_text())["run"] == lab.run
    assert (tmp_path / "out/.dstack/logs/0/stdout").read_text() == "out of prepare\n"
    other = lab.service.made()
    target = f"s3://{other.bucket}/plain"
    told = lab.bea.dstack(
        *("export", lab.run, target, "--endpoint", lab.service.endpoint), check=True
    )
    assert "1 link left out" in told.stderr.decode()
    from dstack_mesh.remotes.s3 import S3Objects

    with lab.service.credentials():
        objects = S3Objects(Bucket(other.bucket, "plain", other.endpoint))
        sizes = {one.key: one.size_bytes for one in objects.listing("")}
        assert objects.get("data/numbers") == (tmp_path / "out/data/numbers").read_bytes()
    assert set(sizes) == {
        *("data/numbers", "data/deep/x", "data/nothing/", ".dstack/run.json"),
        *(f".dstack/logs/0/{name}" for name in ("stdout", "stderr", "frames")),
    }


def test_a_run_that_goes_on_is_not_pushed(lab: Lab) -> None:
    name = lab.ana.dstack("run", "bash", "-c", "sleep 60", "-dq", cwd=lab.code, check=True)
    run = name.stdout.decode().strip()
    try:
        refused = lab.ana.dstack("push", run, "--json")
        assert refused.returncode == 78
        assert json.loads(refused.stdout)["error"]["code"] == "run-goes-on"
    finally:
        lab.ana.dstack("stop", "-x", run, check=True)


def test_what_runs_remotely_is_pushed_by_itself(moto: S3Service, tmp_path: Path, lab: Lab) -> None:
    """Another machine takes it; what was detached is pushed by the next `dstack push`."""
    laptop, bea = (person(tmp_path, name, moto) for name in ("laptop", "bea"))
    host = person(tmp_path, "ws-1", moto)
    join_mesh(host, laptop)
    place = moto.made()
    with host.runner("--listen", "127.0.0.1:0", "--no-mdns") as _:
        port = host.json("agents")["items"][0]["addresses"][0]
        laptop = Peer(laptop.name, laptop.home, (), {**laptop.env, "DSTACK_SEEDS": port})
        for peer in (laptop, bea):
            configured(peer, place)
        ran = laptop.dstack("run", "prepare", "--remote", cwd=lab.code)
        assert ran.returncode == 0, said(ran)
        assert b"prepare on ws-1" in ran.stderr and b" is in lab: 1 artifact" in ran.stderr
        bea.dstack("cp", "@", "data", str(tmp_path / "got"), check=True)
        assert (tmp_path / "got/numbers").stat().st_size == 300_000
        left = laptop.dstack(
            *("run", "prepare", "--no-reuse", "--remote=lab", "-d"), cwd=lab.code, check=True
        )
        assert b"once it has ended, to lab: dstack push" in left.stderr
        laptop.dstack("wait", "@", check=True)
        pushed = laptop.json("push")["items"]
        assert [one["remote"] for one in pushed] == ["lab"]
        assert laptop.json("push")["items"] == []
    assert len(bea.json("ps", "-a")["items"]) == 2
