"""Which containers of an engine are removed: ours, of jobs that ended, and no others."""

import json
import socketserver
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from dstack_agent.executor.container import AGENT_LABEL, FOLDER_LABEL
from dstack_agent.executor.leftovers import remove_leftovers
from dstack_agent.jobs.places import folder_of
from dstack_agent.tidying import tidy_containers
from dstack_mesh.ids import RunId
from dstack_scheduler.job import JobKey

ENDED, RUNNING = JobKey(RunId("0" * 26), 0, 1), JobKey(RunId("1" * 26), 0, 1)


class _Engine(socketserver.ThreadingUnixStreamServer):
    """Containers by id with their labels; ids in `stuck` cannot be removed."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Answers)
        self.containers: dict[str, dict[str, str]] = {}
        self.stuck: set[str] = set()


class _Answers(BaseHTTPRequestHandler):
    server: _Engine  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        assert asked["all"] == ["1"]
        wanted = [one.split("=", 1) for one in json.loads(asked["filters"][0])["label"]]
        found = [
            {"Id": name, "Labels": labels}
            for name, labels in self.server.containers.items()
            if all(labels.get(label) == value for label, value in wanted)
        ]
        self._answer(200, found)

    def do_DELETE(self) -> None:
        address = urlsplit(self.path)
        name = address.path.rpartition("/")[2]
        if name in self.server.stuck:
            self._answer(500, {"message": "device or resource busy"})
            return
        assert parse_qs(address.query) == {"force": ["1"], "v": ["1"]}
        del self.server.containers[name]
        self._answer(204, None)

    def _answer(self, status: int, body: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"" if body is None else json.dumps(body).encode())

    def address_string(self) -> str:
        return "a socket"

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def engine_at(path: Path) -> Generator[_Engine]:
    with _Engine(path) as engine:
        serving = threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield engine
        finally:
            engine.shutdown()
            serving.join()


def of(agent: str, folder: Path) -> dict[str, str]:
    return {AGENT_LABEL: agent, FOLDER_LABEL: str(folder)}


async def test_only_ours_of_jobs_that_ended_go(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    with engine_at(tmp_path / "engine.sock") as engine:
        engine.containers |= {
            "left": of("us", folder_of(jobs, ENDED)),
            "runs": of("us", folder_of(jobs, RUNNING)),
            "theirs": of("them", folder_of(jobs, ENDED)),
            "of-another-home": of("us", folder_of(tmp_path / "other", ENDED)),
            "no-job": of("us", jobs / "notes"),
            "nobody-s": {},
        }
        await tidy_containers(tmp_path / "engine.sock", "us", jobs, lambda: {ENDED})()
        assert set(engine.containers) == {"runs", "theirs", "of-another-home", "no-job", "nobody-s"}


def test_one_that_cannot_be_removed_keeps_no_other_and_goes_later(tmp_path: Path) -> None:
    with engine_at(tmp_path / "engine.sock") as engine:
        engine.containers |= {name: of("us", tmp_path / name) for name in ("a", "b", "c")}
        engine.stuck.add("a")
        assert remove_leftovers(tmp_path / "engine.sock", "us", lambda folder: True) == 2
        assert set(engine.containers) == {"a"}
        engine.stuck.clear()
        assert remove_leftovers(tmp_path / "engine.sock", "us", lambda folder: True) == 1


@pytest.mark.parametrize("there", [True, False])
async def test_a_machine_without_an_engine_is_no_trouble(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "none.sock" if there else None
    await tidy_containers(path, "us", tmp_path, lambda: {ENDED})()
