"""A real agent in a process of its own, on a home of its own, reached over its Unix socket."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstack_mesh.card import HelloAnswer, PeerCard
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.home import Home
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.greeter import command_card
from dstack_mesh.wire.membership import MembershipClient
from dstack_scheduler.wire.agent import GrpcAgent

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [str(ROOT / part) for part in ("agent", "cli", "mesh", "scheduler")]
RUNNER = (sys.executable, "-m", "dstack_agent.command")
UNKNOWN = PeerCard(PeerId("a" * 32), MeshId(""), "the agent", (), "", True)


def environment() -> dict[str, str]:
    """The environment in which the commands of this checkout are found."""
    path = os.pathsep.join([*SOURCES, os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path}


@dataclass
class AgentProcess:
    """Starts, kills and restarts the agent of one home; ends what it started."""

    home: Home
    options: tuple[str, ...] = ("--private", "--idle", "0")
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> float:
        """Starts it and waits until its socket answers; how many seconds that took."""
        self.home.prepare()
        began = time.monotonic()
        with (self.home.root / "stderr").open("ab") as errors:
            self.process = subprocess.Popen(
                [*RUNNER, "start", "--home", str(self.home.root), *self.options],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        return self._until_ready(began)

    def _until_ready(self, began: float) -> float:
        while time.monotonic() - began < 20:
            assert self.process is not None
            assert self.process.poll() is None, self.said()
            if self._serves():
                return time.monotonic() - began
            time.sleep(0.005)
        raise AssertionError(f"the agent is not ready: {self.said()}")

    def _serves(self) -> bool:
        import grpc

        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self.home.agent_socket))
            local = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
            with grpc.secure_channel(f"unix:{self.home.agent_socket}", local) as opened:
                channel: Any = opened  # its calls are typed by generated code only
                check = channel.unary_unary("/grpc.health.v1.Health/Check")
                with contextlib.suppress(grpc.RpcError):
                    return bool(check(b"", timeout=5) == b"\x08\x01")
        return False

    def said(self) -> str:
        """All that it logged."""
        files = (self.home.root / "stderr", self.home.state / "agent.log")
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> float:
        """SIGTERM; how many seconds it took to end, which must be with exit code 0."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0, self.said()
        return time.monotonic() - began

    @contextlib.asynccontextmanager
    async def agent(self) -> AsyncGenerator[GrpcAgent]:
        """A client of it, with the home's own store."""
        channels, store = Channels(self.home), ChunkStore(self.home.chunks)
        try:
            channel = channels.to_local(self.home.agent_socket)
            yield GrpcAgent(channel, UNKNOWN, True, store)
        finally:
            await channels.close()
            store.close()

    async def card(self) -> PeerCard:
        """Who it says that it is."""
        return (await self.hello()).card

    async def hello(self) -> HelloAnswer:
        """What it answers to Hello."""
        channels = Channels(self.home)
        try:
            client = MembershipClient(channels.to_local(self.home.agent_socket), "the agent")
            return await client.hello(command_card(self.home))
        finally:
            await channels.close()


@contextlib.contextmanager
def agent_process(root: Path, *options: str) -> Generator[AgentProcess]:
    """A started agent; at the end it and the shims of its jobs are ended."""
    agent = AgentProcess(Home(root), options) if options else AgentProcess(Home(root))
    try:
        agent.start()
        yield agent
    finally:
        if agent.process is not None and agent.process.poll() is None:
            agent.kill()
        _end_shims(agent.home.jobs)


def _end_shims(jobs: Path) -> None:
    from dstack_agent.executor.watching import ask_to_end

    for folder in jobs.iterdir():
        if (folder / "shim.json").exists():
            ask_to_end(folder, abort=True)
