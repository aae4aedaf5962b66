"""Ports of containers: led to from the laptop, and open on no address but the loopback there."""

import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.alone import alone
from support.docker_lab import DockerLab
from support.eventually import eventually
from support.lab import DSTACK, Peer, project

pytestmark = pytest.mark.docker

WORKFLOWS = """
workflows:
  - name: page
    image: {image}
    ports: [8000]
    env: [FIXED=a]
    commands:
      - echo "hello from $RUN_NAME" > index.html
      - echo "at http://$DSTACK_APP_HOST:8000/index.html"
      - busybox httpd -f -p $DSTACK_APP_HOST:8000 -h .
"""


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory, docker_lab: DockerLab, busybox: str
) -> Iterator[tuple[Peer, Path, DockerLab]]:
    folder = tmp_path_factory.mktemp("docker-apps")
    code = project(folder / "code", WORKFLOWS.format(image=busybox))
    with alone(folder, DOCKER_HOST=docker_lab.host) as peer:
        yield peer, code, docker_lab


def test_a_page_of_a_container_is_led_to_and_open_to_no_network(
    bench: tuple[Peer, Path, DockerLab], tmp_path: Path
) -> None:
    peer, code, lab = bench
    out = tmp_path / "out"
    with out.open("wb") as file:
        process = peer.popen(
            (*DSTACK, "run", "page", "--no-open"),
            cwd=code,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
        )
    try:
        link = re.compile(r"^docker: (http://127\.0\.0\.1:(\d+)/)", re.MULTILINE)
        eventually(lambda: link.search(out.read_text()) or process.poll(), within=60)
        found = link.search(out.read_text())
        assert found is not None, out.read_text()
        name = out.read_text().split()[0]
        with urllib.request.urlopen(found[1], timeout=20) as answer:
            assert answer.read().decode() == f"hello from {name}\n"
        eventually(lambda: f"at {found[1]}index.html\n" in out.read_text(), within=20)
        (container,) = lab.containers("run.dstack.job=0")
        bound = lab.docker("port", container).stdout.decode()
        assert re.fullmatch(r"8000/tcp -> 127\.0\.0\.1:\d+\n", bound), bound
        port = int(bound.rpartition(":")[2])
        others = socket.gethostbyname_ex(socket.gethostname())[2]
        for host in (each for each in others if not each.startswith("127.")):
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((host, port), timeout=2).close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
