"""Who listens on a port: the job, or somebody else."""

import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from dstack_agent.executor.listening import (
    Listener,
    Spot,
    answering,
    is_taken,
    own_spot,
    parse_table,
)

TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0
   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0
"""
TABLE6 = """  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:1F91 0:0 0A 0:0 0:0 0 0 0 9 1
   1: 0000000000000000FFFF00000100007F:1F92 0:0 0A 0:0 0:0 0 0 0 8 1
"""

LISTENS = """
import socket, sys, time
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
time.sleep(60)
"""


def test_the_kernels_table_is_read() -> None:
    assert list(parse_table(TABLE)) == [
        Listener("127.0.0.1", 8080, 4711),
        Listener("0.0.0.0", 22, 4713),
    ]
    assert [(each.host, each.port, each.inode) for each in parse_table(TABLE6)] == [
        ("::1", 8081, 9),
        ("127.0.0.1", 8082, 8),
    ]


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        ([("0.0.0.0", 1), ("127.0.0.1", 2)], ("127.0.0.1", {2})),
        ([("0.0.0.0", 1)], ("127.0.0.1", {1})),
        ([("::", 3)], ("::1", {3})),
        ([("::1", 4), ("10.0.0.7", 5)], ("::1", {4})),
        ([("10.0.0.7", 5)], None),
        ([("127.0.0.1", 6), ("127.0.0.1", 7)], ("127.0.0.1", {6, 7})),
    ],
)
def test_the_most_particular_socket_gets_a_connection(
    bound: list[tuple[str, int]], expected: tuple[str, set[int]] | None
) -> None:
    found = [Listener(host, 8000, inode) for host, inode in bound]
    assert answering(8000, found) == expected
    assert answering(8001, found) is None


@contextmanager
def listening(host: str = "127.0.0.1") -> Generator[int]:
    """A process below this one that listens."""
    with subprocess.Popen((sys.executable, "-c", LISTENS, host), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def test_a_port_is_reached_that_a_process_of_the_job_listens_on() -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with listening(host) as port:
            assert own_spot(os.getpid(), port) == Spot("127.0.0.1", port)
            assert is_taken(port)


def test_a_port_of_somebody_else_is_not_reached() -> None:
    with listening() as port, subprocess.Popen(("sleep", "60")) as other:
        try:
            assert own_spot(other.pid, port) is None
        finally:
            other.kill()


def test_somebody_in_front_of_the_job_is_not_reached_either() -> None:
    with listening("0.0.0.0") as port, subprocess.Popen(("sleep", "60")) as job:
        try:
            assert own_spot(job.pid, port) is None
            # Were it the other way round: the one in front is ours, and it is the one that counts.
            with socket.socket() as front:
                front.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                assert own_spot(os.getpid(), port) == Spot("127.0.0.1", port)
        finally:
            job.kill()
