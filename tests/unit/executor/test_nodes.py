"""What the nodes of a gang are told of each other."""

import socket
from dataclasses import replace

from dstack_agent.executor.nodes import meeting_point, node_names
from dstack_mesh.ids import Address, RunId
from dstack_scheduler.job import JobSpec, Node
from dstack_scheduler.names import job_id
from dstack_scheduler.submission import with_attempt
from support.submissions import planned, submission


def spec(node: Node | None, job: int = 0) -> JobSpec:
    driven = with_attempt(submission(planned(0, "true")).jobs[0], 1)
    return replace(driven.spec, key=replace(driven.spec.key, job=job), node=node)


def test_a_job_of_its_own_is_told_nothing() -> None:
    assert node_names(spec(None), 0) == {}


def test_the_master_and_its_nodes_know_the_same_place() -> None:
    master = node_names(spec(Node(0, 2, "10.0.0.7:29500"), 4), 0)
    worker = node_names(spec(Node(1, 2, "10.0.0.7:29500"), 5), 8)

    assert master["MASTER_ADDR"] == worker["PET_MASTER_ADDR"] == "10.0.0.7"
    assert master["PET_MASTER_PORT"] == worker["MASTER_PORT"] == "29500"
    assert (master["NODE_RANK"], worker["PET_NODE_RANK"]) == ("0", "1")
    assert (master["PET_NPROC_PER_NODE"], worker["PET_NPROC_PER_NODE"]) == ("1", "8")
    assert "MASTER_ID" not in master


def test_a_worker_finds_its_master_under_the_early_names() -> None:
    worker = node_names(spec(Node(1, 2, "[fe80::1]:29500"), 5), 0)

    run_id = RunId(f"{1:026d}")
    assert worker["MASTER_ID"] == worker["MASTER_JOB_ID"] == job_id(run_id, 4)
    assert worker["MASTER_JOB_HOST_NAME"] == worker["MASTER_HOSTNAME"] == "fe80::1"
    assert worker["MASTER_JOB_PORT_0"] == worker["MASTER_JOB_PORT_29500"] == "29500"


def test_a_meeting_point_is_a_port_that_can_be_had() -> None:
    for addresses in ((), (Address("127.0.0.1:7420"),)):
        host, _, port = meeting_point(addresses).rpartition(":")
        with socket.create_server((host, int(port))):
            pass
