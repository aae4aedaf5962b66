"""Apps of jobs on another machine, through the ports that `dstack run` and `dstack app` forward."""

import base64
import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from support.eventually import eventually
from support.going_on import going_on
from support.holding import files_holding
from support.lab import Daemon, Peer, join_mesh, make_peer, project, said
from support.wheels import make_wheel

STAND_IN = Path(__file__).parents[1] / "support" / "stand_in.py"

WORKFLOWS = """
workflows:
  - name: web
    provider: bash
    ports: 2
    commands: [python stand_in.py $PORT_0 $PORT_1]
  - name: fixed
    provider: bash
    ports: ["{app}:{local}"]
    commands: ["python stand_in.py {app} {half}"]
  - name: lab
    provider: lab
    env: [PIP_NO_INDEX=1, "PIP_FIND_LINKS={wheels}", UV_NO_INDEX=1, "UV_FIND_LINKS={wheels}"]
"""

FAKE_LAB = """
import os, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
token = os.environ["JUPYTER_TOKEN"]

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if f"token={token}" in self.path else 403)
        self.end_headers()
        self.wfile.write(b"a notebook")

port = int(options["port"])
server = HTTPServer((options["ip"], port), Handler)
print(f"    http://localhost:{port}/lab?token={token}", file=sys.stderr, flush=True)
print(f"    http://localhost:{port}/lab/tree/a.ipynb?token=...", file=sys.stderr, flush=True)
server.serve_forever()
"""


@dataclass(frozen=True)
class Lab:
    """An agent, a laptop whose runs it takes, and somebody else of the mesh."""

    station: Peer
    laptop: Peer
    other: Peer
    daemon: Daemon
    code: Path
    taken: socket.socket
    """A port of the laptop's that somebody has."""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("apps")
    port, app, half = free_ports(3)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {"DSTACK_MDNS": "0", "DSTACK_SEEDS": f"127.0.0.1:{port}"}
        make_wheel(folder / "wheels", "jupyterlab", "4.0.0", __main__=FAKE_LAB)
        station = make_peer(folder, "station", (), USER="sue", **env)
        laptop = make_peer(folder, "laptop", (), USER="ana", **env)
        other = make_peer(folder, "other", (), USER="bob", **env)
        join_mesh(station, laptop, other, role="submitter")
        workflows = WORKFLOWS.format(
            app=app, half=half, local=taken.getsockname()[1], wheels=folder / "wheels"
        )
        code = project(folder / "code", workflows, stand_in_DOT_py=STAND_IN.read_text())
        with station.runner("--listen", f"127.0.0.1:{port}") as daemon:
            yield Lab(station, laptop, other, daemon, code, taken)


@dataclass
class Attached:
    """A `dstack run` or `dstack app` that goes on."""

    process: subprocess.Popen[bytes]
    out: Path

    def said(self) -> str:
        return self.out.read_text(errors="replace")

    def url(self, name: str) -> str:
        """Of an app, once it is told."""
        pattern = re.compile(rf"^{name}: (http://\S+)", re.MULTILINE)
        eventually(lambda: pattern.search(self.said()) is not None, within=20)
        found = pattern.search(self.said())
        assert found is not None
        return found[1]


@contextlib.contextmanager
def attached(peer: Peer, code: Path, *words: str) -> Generator[Attached]:
    with going_on(peer, code, *words) as (process, out):
        yield Attached(process, out)


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Attached]:
    with attached(lab.laptop, lab.code, "run", "web", "--remote") as running:
        running.url("bash1")
        yield running


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return bytes(answer.read())


def port_of(url: str) -> int:
    return int(url.split(":")[2].split("/")[0])


def test_pages_uploads_and_downloads_go_through(web: Attached) -> None:
    url = web.url("bash0")
    assert get(url + "x").startswith(b"hello from ")
    size = 24 << 20
    assert (
        hashlib.sha256(get(f"{url}big/{size}")).digest()
        == hashlib.sha256(bytes(range(256)) * (size // 256)).digest()
    )
    sent = os.urandom(8 << 20)
    request = urllib.request.Request(url, data=sent, method="POST")
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.read().decode() == hashlib.sha256(sent).hexdigest()


def test_a_hundred_connections_at_once_each_get_their_own(web: Attached) -> None:
    url = web.url("bash0")
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(get, [f"{url}n{number}" for number in range(100)]))
    assert [answer.rsplit(b"/", 1)[1] for answer in answers] == [
        f"n{number}".encode() for number in range(100)
    ]


def test_a_websocket_goes_both_ways(web: Attached) -> None:
    port = port_of(web.url("bash0"))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        key = base64.b64encode(os.urandom(16)).decode()
        connection.sendall(
            f"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        stream = connection.makefile("rb")
        assert b"101" in stream.readline()
        while stream.readline().strip():
            pass
        for number in range(50):
            body, mask = f"message {number}".encode(), os.urandom(4)
            masked = bytes(b ^ mask[i % 4] for i, b in enumerate(body))
            connection.sendall(struct.pack("BB", 129, 128 | len(body)) + mask + masked)
            head = stream.read(2)
            assert stream.read(head[1]) == body


def test_one_way_may_end_before_the_other(web: Attached) -> None:
    port = port_of(web.url("bash1"))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(bytes(1_000_000))
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile("rb").read() == b"1000000 bytes came"


def test_a_reader_that_is_slow_costs_a_window_and_delays_nobody(web: Attached, lab: Lab) -> None:
    url = web.url("bash0")
    ours = [psutil.Process(web.process.pid), psutil.Process(lab.daemon.pid)]
    before = [process.memory_info().rss for process in ours]
    with contextlib.ExitStack() as held:
        for _ in range(20):
            connection = held.enter_context(
                socket.create_connection(("127.0.0.1", port_of(url)), timeout=10)
            )
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(b"GET /big/1000000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        began = time.monotonic()
        for number in range(20):
            assert get(f"{url}quick{number}")
        assert time.monotonic() - began < 10
        grown = [p.memory_info().rss - was for p, was in zip(ours, before, strict=True)]
    print(f"20 slow readers of 1 GB each: grown by {grown}")
    assert max(grown) < 64 << 20


def test_links_in_the_log_work_here_and_the_stored_log_keeps_its_bytes(
    web: Attached, lab: Lab
) -> None:
    url = web.url("bash0")
    assert f"Serving at {url.rstrip('/')} and {url}page.\n" in web.said()
    name = web.said().split()[0]
    stored = lab.laptop.dstack("logs", name, cwd=lab.code, check=True).stdout.decode()
    assert re.search(r"Serving at http://127\.0\.0\.1:\d+ and http://localhost:\d+/page\.", stored)


def test_a_run_that_starts_again_leads_to_its_apps_again(lab: Lab) -> None:
    left = lab.laptop.dstack("run", "web", "--remote", "-d", "-q", cwd=lab.code, check=True)
    name = left.stdout.decode().strip()
    lab.laptop.dstack("stop", name, "-x", cwd=lab.code, check=True)
    with attached(lab.laptop, lab.code, "restart", name) as again:
        assert get(again.url("bash0") + "x").startswith(b"hello from ")


def test_nobody_else_gets_at_it(web: Attached, lab: Lab) -> None:
    name = web.said().split()[0]
    refused = lab.other.dstack("app", name, "--no-open", cwd=lab.code, timeout=20)
    assert refused.returncode != 0 and b"somebody else" in refused.stderr, said(refused)
    refused = lab.other.dstack("exec", name, "--", "id", cwd=lab.code, timeout=20)
    assert (refused.returncode, refused.stdout) == (125, b""), said(refused)
    assert b"somebody else" in refused.stderr, said(refused)


@pytest.fixture(scope="module")
def notebook(lab: Lab) -> Iterator[Attached]:
    with attached(lab.laptop, lab.code, "run", "lab", "--remote") as running:
        running.url("lab")
        yield running


def test_a_link_has_the_token_and_is_told_once_it_answers(notebook: Attached) -> None:
    url = notebook.url("lab")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/lab\?token=[0-9a-f]{32}", url)
    assert get(url) == b"a notebook"
    with pytest.raises(urllib.error.HTTPError):
        get(url.partition("?")[0])
    base, token = url.split("/lab?token=")
    assert f"    {url}\n" in notebook.said()
    assert f"    {base}/lab/tree/a.ipynb?token={token}\n" in notebook.said()


def test_a_token_is_nowhere_but_in_the_job_and_before_its_person(
    notebook: Attached, lab: Lab
) -> None:
    token = notebook.url("lab").partition("token=")[2]
    name = notebook.said().split()[0]
    for peer in (lab.laptop, lab.other, lab.station):
        stored = lab.laptop.dstack("logs", name, cwd=lab.code, check=True)
        assert token.encode() not in stored.stdout + stored.stderr
        assert b"token=" + b"*" * 32 in stored.stderr
        held = files_holding(peer.home, token.encode())
        assert held in ([], [notebook.out]), held
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            assert not any(token in word for word in process.cmdline())
    reader = lab.other.dstack("app", name, "--no-open", cwd=lab.code)
    assert token.encode() not in reader.stdout + reader.stderr


def test_app_leads_there_again_for_scripts_too(notebook: Attached, lab: Lab) -> None:
    name = notebook.said().split()[0]
    with attached(lab.laptop, lab.code, "app", name, "lab", "--json", "--no-open") as opened:
        eventually(lambda: "}" in opened.said(), within=20)
        told = json.loads(opened.said().splitlines()[0])
        assert (told["schema"], told["run"], told["app"]) == ("dstack.app/v1", name, "lab")
        assert get(told["url"]) == b"a notebook"
    (shown,) = lab.laptop.json("ps", name)["items"]
    assert shown["jobs"][0]["apps"] == ["lab"]
    wrong = lab.laptop.dstack("app", name, "train", cwd=lab.code)
    assert wrong.returncode == 66 and b"has no job of 'train'" in wrong.stderr, said(wrong)


def test_attach_leads_there_again(notebook: Attached, lab: Lab) -> None:
    name = notebook.said().split()[0]
    with attached(lab.laptop, lab.code, "attach", name, "--no-open") as again:
        assert get(again.url("lab")) == b"a notebook"
        again.process.send_signal(signal.SIGHUP)  # detaches: the run goes on
        assert again.process.wait(20) == 130
    assert get(notebook.url("lab")) == b"a notebook"


def test_a_port_that_was_named_and_is_taken_starts_nothing(lab: Lab) -> None:
    refused = lab.laptop.dstack("run", "fixed", "--remote", cwd=lab.code)
    assert refused.returncode == 125, said(refused)
    assert f"Port {lab.taken.getsockname()[1]} of this machine is in use".encode() in refused.stderr


def test_new_connections_find_the_way_again(web: Attached, lab: Lab) -> None:
    url = web.url("bash0")
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=20) as connection:
        connection.sendall(b"GET /big/1000000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(100)
        lab.daemon.kill()
        with contextlib.suppress(ConnectionError):
            while connection.recv(1 << 20):
                pass
    lab.daemon.start()
    assert get(url + "again").endswith(b"/again")
