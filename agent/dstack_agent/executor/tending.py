"""The life of a container below its shim. Standard library only: the shim imports it.

Output is taken from before the start on, so no byte is missed. A shim that adopts a container reads
its log from the first byte and leaves out what the journal has already, stream by stream: nothing
is stored twice and nothing is lost. The container is removed once its exit is recorded.
"""

import select
import signal
import socket
import sys
import time

from dstack_agent.executor import ending, halves, record, tree
from dstack_agent.executor.container_task import ContainerTask
from dstack_agent.executor.detaching import Refusal, detach, hold, refuse, say_ok, take
from dstack_agent.executor.engine import Engine, EngineError, OutputStream, answer_body
from dstack_agent.executor.output import Output
from dstack_agent.executor.signals import ABORT, signal_pipe, signals_in

_START_SECONDS = 120.0
_KILL_SECONDS = 30.0
_DRAIN_SECONDS = 10.0
_ENGINE_SECONDS = 120.0
_ENGINE_EVERY = 0.5
_BURST_SECONDS = 0.001
_LONGEST_WAIT = 86_400.0
_BURST_BYTES = 64 * 1024


def tend(folder: str) -> int:
    """Takes the container whose task is on standard input, and sees it to its end."""
    task = ContainerTask.decode(sys.stdin.buffer.read())
    detach()
    tree.hide_memory()
    signals = signal_pipe()
    try:
        held = hold(task.locks)
        take(folder, task.adopt)
    except Refusal as refusal:
        return refuse(refusal)
    hidden = halves.kept(folder) if task.adopt else _kept_for_others(folder, task.hidden)
    output = Output(folder, task.wake, task.log_bytes, hidden)
    say_ok()
    output.start()
    tender = Tender(task, output, signals)
    try:
        summary = tender.tend(record.noted_request(folder))
    finally:  # whatever becomes of the records, no secret stays in memory
        if hidden:
            halves.forget(folder)
    output.close()
    stdout, stderr = output.lengths
    lengths = {"stdout_bytes": stdout, "stderr_bytes": stderr, "lost_bytes": output.lost_bytes}
    record.write_exit(folder, summary | lengths | {"ended_at_ns": time.time_ns()})
    tender.remove()
    output.poke()
    del held
    return 0


def _kept_for_others(folder: str, hidden: "list[str]") -> "list[str]":
    """The values to hide, which a shim that takes over from this one finds in memory."""
    if hidden:
        try:
            halves.keep(folder, hidden)
        except OSError as error:
            print(f"another shim could not hide the secrets: {error}", file=sys.stderr)
    return hidden


class Tender:
    """A container, from its start to its removal."""

    def __init__(self, task: ContainerTask, output: Output, signals: int) -> None:
        self._task = task
        self._output = output
        self._signals = signals
        self._engine = Engine(task.engine)
        self._stream: OutputStream | None = None
        self._waiting: socket.socket | None = None
        self._answer = b""
        self._skip = [0, 0]
        self._oom_kills = ending.oom_kills()
        self._ended = False
        self._ended_by = ""
        self._kill_at: float | None = None
        self._limit_at = time.monotonic() + task.limit_seconds if task.limit_seconds else None

    def tend(self, asked: str) -> dict[str, object]:
        """Sees the container to its end; returns the fields of the exit record.

        Args:
            asked: What a shim before this one was asked for, which may have died before it heard.
        """
        try:
            self._begin()
            self._obey(asked)
            while not self._ended:
                self._turn()
            self._drain()
            return self._summary()
        except EngineError as error:
            return self._failed(f"The Docker engine says: {error}.")
        except OSError as error:
            return self._failed(f"The Docker engine went away: {error}.")

    def remove(self) -> None:
        """Removes the container. One that cannot be removed now is found by its labels later."""
        try:
            self._call("DELETE", "?force=1&v=1")
        except (EngineError, OSError) as error:
            print(f"container {self._task.container} is left: {error}", file=sys.stderr)

    def _begin(self) -> None:
        if self._task.adopt:
            self._find_again()
            return
        given = bool(self._task.given)
        flags = f"/attach?stream=1&stdout=1&stderr=1&stdin={int(given)}"
        connection = self._open("POST", flags, _START_SECONDS)
        self._stream = OutputStream(connection)
        self._call("POST", "/start")
        if given:
            connection.setblocking(True)
            connection.sendall(self._task.given.encode())
            connection.shutdown(socket.SHUT_WR)
            connection.setblocking(False)
        self._waiting = self._open("POST", "/wait", None)

    def _resume(self) -> None:
        """Goes on with a container that runs or ran, from where the journal ends."""
        self._output.forget_held()
        stdout, stderr = self._output.lengths
        self._skip = [stdout, stderr]
        if self._engine.state(self._task.container).status == "created":
            raise EngineError(0, "the container was never started")
        flags = "/logs?stdout=1&stderr=1&follow=1"
        self._stream = OutputStream(self._open("GET", flags, _START_SECONDS))
        self._waiting = self._open("POST", "/wait", None)

    def _turn(self) -> None:
        """Waits for something to happen, and deals with it."""
        readable = [each for each in (self._stream, self._waiting) if each is not None]
        ready, _, _ = select.select([self._signals, *readable], [], [], self._seconds_left())
        if self._signals in ready:
            self._heed(signals_in(self._signals))
        copied = self._copy() if self._stream in ready else 0
        if self._waiting in ready:
            self._hear()
        if self._output.trouble:
            self._end(record.DISK_FULL)
        self._keep_time()
        if 0 < copied < _BURST_BYTES:
            time.sleep(_BURST_SECONDS)

    def _seconds_left(self) -> float | None:
        ends = [end for end in (self._kill_at, self._limit_at) if end is not None]
        return min(max(min(ends) - time.monotonic(), 0), _LONGEST_WAIT) if ends else None

    def _keep_time(self) -> None:
        now = time.monotonic()
        if self._limit_at is not None and now >= self._limit_at:
            self._end(record.TIME_LIMIT)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = now + _KILL_SECONDS
            self._signal("SIGKILL")

    def _heed(self, numbers: bytes) -> None:
        if ABORT in numbers:
            self._obey(record.ABORTED)
        elif signal.SIGTERM in numbers:
            self._obey(record.STOPPED)

    def _obey(self, asked: str) -> None:
        if asked == record.ABORTED:
            self._ended_by = record.ABORTED
            self._limit_at = None
            self._kill_at = time.monotonic()
        elif asked:
            self._end(asked)

    def _end(self, reason: str) -> None:
        """Asks the container to end, once; the first reason stays."""
        self._limit_at = None
        if self._kill_at is None:
            self._ended_by = reason
            self._kill_at = time.monotonic() + self._task.grace_seconds
            self._signal("SIGTERM")

    def _signal(self, name: str) -> None:
        try:
            self._call("POST", f"/kill?signal={name}")
        except EngineError as error:
            if error.status not in (404, 409):  # gone or ended meanwhile
                raise
        except OSError:  # the answer to "wait" breaks off too, and then the engine is looked for
            return

    def _copy(self) -> int:
        """Bytes that one read gave; forgets the stream at its end."""
        if self._stream is None:
            return 0
        pieces = self._stream.read()
        if pieces is None:
            self._stream.close()
            self._stream = None
            return 0
        for stream, data in pieces:
            skipped = min(self._skip[stream], len(data))
            self._skip[stream] -= skipped
            if skipped < len(data):
                self._output.write(stream, data[skipped:])
        return sum(len(data) for _, data in pieces)

    def _hear(self) -> None:
        """Reads what the engine says of the end."""
        assert self._waiting is not None
        try:
            data = self._waiting.recv(4096)
        except ConnectionError:
            data = b""
        self._answer += data
        if data:
            return
        self._waiting.close()
        self._waiting = None
        try:
            answer_body(self._answer)
            self._ended = True
        except OSError:
            self._answer = b""
            self._find_again()

    def _find_again(self) -> None:
        """Waits until the engine is there, and goes on with the container."""
        until = time.monotonic() + _ENGINE_SECONDS
        while True:
            for each in (self._stream, self._waiting):
                if each is not None:
                    each.close()
            self._stream = self._waiting = None
            try:
                self._resume()
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(_ENGINE_EVERY)

    def _drain(self) -> None:
        until = time.monotonic() + _DRAIN_SECONDS
        while self._stream is not None and time.monotonic() < until:
            select.select([self._stream], [], [], 0.1)
            self._copy()

    def _summary(self) -> dict[str, object]:
        state = self._engine.state(self._task.container)
        code = state.exit_code
        # The engine learns of it on a way of its own, which may be later than the end.
        out_of_memory = state.out_of_memory or ending.oom_kills() > self._oom_kills
        reason, cause = ending.explain(code, self._ended_by, out_of_memory)
        if state.error and not reason:
            reason, cause = record.DOCKER_ERROR, f"The Docker engine says: {state.error}."
        cause = ending.with_cut(cause, self._output.lost_bytes, self._output.cut)
        return {"exit_code": code, "reason": reason, "cause": cause}

    def _failed(self, cause: str) -> dict[str, object]:
        unknown = record.SHIM_LOST if self._task.adopt else record.DOCKER_ERROR
        return {"exit_code": None, "reason": self._ended_by or unknown, "cause": cause}

    def _call(self, method: str, path: str) -> None:
        self._engine.call(method, f"/containers/{self._task.container}{path}")

    def _open(self, method: str, path: str, seconds: float | None) -> socket.socket:
        return self._engine.open(method, f"/containers/{self._task.container}{path}", seconds)
