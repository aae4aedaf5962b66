"""Nodes in containers, of agents that share an engine: they meet at one port, and nowhere else."""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.docker_lab import DockerLab
from support.lab import DSTACK, Peer, join_mesh, make_peer, project

pytestmark = pytest.mark.docker

WORKFLOWS = """
workflows:
  - name: meet
    image: {image}
    nodes: 2
    resources: {{gpu: 1}}
    commands:
      - |
        mine="rank $NODE_RANK of $PET_NNODES"
        if [ "$NODE_RANK" = 0 ]; then
          echo "$mine" | busybox nc -l -p "$MASTER_PORT" >theirs
        else
          until echo "$mine" | busybox nc "$MASTER_ADDR" "$MASTER_PORT" >theirs && [ -s theirs ]
          do sleep 0.1; done
        fi
      - echo "$mine met $(cat theirs)"
      - sleep 1000
"""


@pytest.fixture
def laptop(tmp_path: Path, docker_lab: DockerLab, busybox: str) -> Iterator[Peer]:
    """One of two agents that have a card each, and one engine."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        places = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
    seeds = ",".join(places)
    first, second = (
        make_peer(tmp_path, name, DSTACK_MDNS="0", DSTACK_SEEDS=seeds, DOCKER_HOST=docker_lab.host)
        for name in ("ws-1", "ws-2")
    )
    join_mesh(first, second, address="127.0.0.1")
    project(tmp_path / "work", WORKFLOWS.format(image=busybox))
    card = "--gpu", "V100:16GB"
    with (
        first.runner("--listen", places[0], *card),
        second.runner("--listen", places[1], *card),
    ):
        yield first


def test_two_containers_of_two_agents_meet_at_the_masters_port_which_alone_is_open(
    laptop: Peer, docker_lab: DockerLab, tmp_path: Path
) -> None:
    following = laptop.popen(
        (*DSTACK, "run", "meet"), cwd=tmp_path / "work", stdout=subprocess.PIPE
    )
    assert following.stdout is not None
    try:
        said = {following.stdout.readline() for _ in range(2)}
        assert said == {b"rank 0 of 2 met rank 1 of 2\n", b"rank 1 of 2 met rank 0 of 2\n"}
        run = laptop.json("ps", "-a")["items"][0]
        assert {job["agent"] for job in run["jobs"]} == {"ws-1", "ws-2"}
        found = docker_lab.containers(f"run.dstack.run={run['id']}")
        inspected: list[dict[str, Any]] = json.loads(docker_lab.docker("inspect", *found).stdout)
        master, worker = sorted(inspected, key=lambda each: each["Name"])
    finally:
        laptop.dstack("stop", "-a", "@", check=True)
        following.wait(timeout=30)
        following.stdout.close()
    told = dict(each.split("=", 1) for each in worker["Config"]["Env"])
    place = {"HostIp": told["MASTER_ADDR"], "HostPort": told["MASTER_PORT"]}
    assert list(master["HostConfig"]["PortBindings"].values()) == [[place]]
    assert place["HostIp"] == worker["NetworkSettings"]["Networks"]["dstack-jobs"]["Gateway"]
    assert not worker["HostConfig"]["PortBindings"]
    assert "MASTER_ADDR=0.0.0.0" in master["Config"]["Env"]
    for each in (master, worker):
        assert each["HostConfig"]["NetworkMode"] == "dstack-jobs"
        assert each["HostConfig"]["CapDrop"] == ["ALL"]
