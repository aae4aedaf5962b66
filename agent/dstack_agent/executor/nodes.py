"""What the nodes of a gang are told of each other.

The master's agent names a free port of its own when it holds for the master, and the driver tells
every node. `MASTER_*` and `PET_*` are what `torchrun` and `torch.distributed` read.
"""

from collections.abc import Sequence

from dstack_agent.executor.free_ports import free_ports
from dstack_mesh.ids import Address, RunId
from dstack_scheduler.job import JobSpec, Node
from dstack_scheduler.names import job_id

LOOPBACK = "127.0.0.1"


def meeting_point(addresses: Sequence[Address]) -> str:
    """HOST:PORT where others reach a job that listens there from now on.

    Args:
        addresses: Of the agent; one that nobody dials has jobs of its own machine alone.
    """
    host = addresses[0].rpartition(":")[0] if addresses else LOOPBACK
    return f"{host}:{free_ports((0,))[0]}"


def node_names(spec: JobSpec, gpus: int) -> dict[str, str]:
    """Variables of a node; none for a job of its own."""
    node = spec.node
    if node is None:
        return {}
    host, _, port = node.master.rpartition(":")
    host = host.strip("[]")
    processes = str(max(1, gpus))
    names = {
        "NODE_RANK": str(node.rank),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "PET_NNODES": str(node.count),
        "PET_NODE_RANK": str(node.rank),
        "PET_NPROC_PER_NODE": processes,
        "PET_MASTER_ADDR": host,
        "PET_MASTER_PORT": port,
        "DSTACK_NODE_RANK": str(node.rank),
        "DSTACK_NODES_NUM": str(node.count),
        "DSTACK_MASTER_NODE_IP": host,
        "DSTACK_GPUS_PER_NODE": str(gpus),
    }
    return names | _of_worker(spec.key.run_id, spec.key.job, node, host, port)


def _of_worker(run_id: RunId, job: int, node: Node, host: str, port: str) -> dict[str, str]:
    """What early workflows read on every node but the master."""
    if node.rank == 0:
        return {}
    master = job_id(run_id, node.indexes(job)[0])
    return {
        "MASTER_ID": master,
        "MASTER_JOB_ID": master,
        "MASTER_HOSTNAME": host,
        "MASTER_JOB_HOSTNAME": host,
        "MASTER_JOB_HOST_NAME": host,
        "MASTER_PORT_0": port,
        "MASTER_JOB_PORT_0": port,
        f"MASTER_JOB_PORT_{port}": port,
    }
