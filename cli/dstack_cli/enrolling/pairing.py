"""The host joins the mesh: an invitation that only this ssh connection leads to.

The code goes over standard input. Where ssh may forward a port back, the listener stands on our own
loopback and the host reaches it through the connection: no network between the two is needed. Both
ends are ours, so the four words are compared here, and only then the host is told to go on.
"""

import asyncio
import re
import shlex
import socket
from asyncio.subprocess import Process
from collections.abc import Sequence

from dstack_cli.enrolling.ssh import FAILED, Ssh, end
from dstack_cli.reach import Private, reaching
from dstack_mesh.faults import Forbidden, MeshError, Refused, TooLate
from dstack_mesh.home import Home
from dstack_mesh.ids import Address
from dstack_mesh.trust.desk import DeskEvent, Greeted
from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.admission import Invitation, serve_invitation

JOIN_SECONDS = 60.0
SEED_SECONDS = 1.5
LAST_LINES = 4

Words = tuple[str, ...]

_WORDS = re.compile(r"must show:? +([a-z]+(?:[ -][a-z]+){3})")


class Pairing:
    """Has one host join.

    Args:
        home: Ours; it may invite.
        ssh: Leads to the host.
        runner: Path of `dstack-runner` there.
        root: The folder of its agent.
    """

    def __init__(self, home: Home, ssh: Ssh, runner: str, root: str) -> None:
        self._home = home
        self._ssh = ssh
        self._runner = runner
        self._root = root
        self._ours: asyncio.Future[Words] = asyncio.get_running_loop().create_future()

    async def pair(self) -> Words:
        """Returns the four words once the host is a member.

        Raises:
            MeshError: It does not join, with the reason.
        """
        seeds = await _seeds(self._home)
        port = _free_port()
        there = await self._ssh.forward_back(port)
        invited: asyncio.Future[Invitation] = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(
                serve_invitation(
                    self._home,
                    Role.RUNNER,
                    JOIN_SECONDS,
                    invited.set_result,
                    on_event=self._heard,
                    seeds=lambda: seeds,
                    host="127.0.0.1" if there is not None else "0.0.0.0",
                    port=port,
                )
            )
            await asyncio.wait({serving, invited}, return_when=asyncio.FIRST_COMPLETED)
            if not invited.done():
                raise AssertionError(serving.result())
            invitation = invited.result()
            own = (Address(f"127.0.0.1:{there}"),) if there is not None else invitation.addresses
            try:
                return await self._join_at_any(invitation.code, own)
            finally:
                serving.cancel()

    def _heard(self, event: DeskEvent) -> None:
        if isinstance(event, Greeted) and not self._ours.done():
            self._ours.set_result(event.words)

    async def _join_at_any(self, code: str, addresses: Sequence[Address]) -> Words:
        """Tries our addresses, one of which the host may reach."""
        failed: MeshError | None = None
        for address in addresses:
            try:
                async with asyncio.timeout(JOIN_SECONDS):
                    return await self._join(code, address)
            except TimeoutError:
                failed = TooLate("The host did not join in time.", code="host-did-not-join")
            except Refused as refused:
                failed = refused
        raise failed or Refused("This machine has no address.", code="host-did-not-join")

    async def _join(self, code: str, address: Address) -> Words:
        command = shlex.join((self._runner, "join", "-", address, "--home", self._root))
        process = await self._ssh.start(command)
        said: list[str] = []
        try:
            assert process.stdin is not None
            process.stdin.write(f"{code}\n".encode())
            theirs = await _words(process, said)
            if theirs is not None:
                await self._compare(theirs)
                process.stdin.write(b"y\n")
            process.stdin.close()
            await _rest(process, said)
            if await process.wait() == 0 and theirs is not None:
                return theirs
        except (BrokenPipeError, ConnectionResetError):
            await _rest(process, said)
        finally:
            await end(process)
        if process.returncode == FAILED and not await self._ssh.alive():
            raise self._ssh.lost("joining")
        raise Refused(
            f"{self._ssh.target} did not join the mesh.",
            "\n".join(said[-LAST_LINES:]),
            "Can the host reach this machine? Where its ssh server allows forwarding "
            "(AllowTcpForwarding), it need not.",
            code="host-did-not-join",
        )

    async def _compare(self, theirs: Words) -> None:
        """Raises Forbidden unless both ends see the same words."""
        if not self._ours.done() or tuple(self._ours.result()) != theirs:
            raise Forbidden(
                "The words of the two ends differ; nothing was joined.",
                f"The host saw {' '.join(theirs)}.",
                "Somebody may stand between the two machines.",
                code="words-differ",
            )


async def _words(process: Process, said: list[str]) -> Words | None:
    """The words that the host sees; None if it ends before."""
    assert process.stderr is not None
    async for line in process.stderr:
        text = line.decode(errors="replace").strip()
        said.append(text)
        if (found := _WORDS.search(text)) is not None:
            return tuple(re.split("[ -]", found[1]))
    return None


async def _rest(process: Process, said: list[str]) -> None:
    assert process.stderr is not None
    rest = (await process.stderr.read()).decode(errors="replace")
    said += [line.strip() for line in rest.splitlines() if line.strip()]


async def _seeds(home: Home) -> tuple[Address, ...]:
    """Agents for the newcomer to begin with."""
    try:
        async with reaching(home, Private.NEVER) as reach, asyncio.timeout(SEED_SECONDS):
            return tuple(
                address
                for one in await reach.known()
                for address in one.addresses[:1]
                if one.answer is not None and not address.startswith("unix:")
            )
    except (MeshError, TimeoutError):
        return ()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
