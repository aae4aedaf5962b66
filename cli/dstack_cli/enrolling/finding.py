"""Asks the host's shell for a Python."""

from dstack_cli.enrolling import judging
from dstack_cli.enrolling.pythons import LOOK, HostPython, choose, parse_looked
from dstack_cli.enrolling.ssh import Ssh
from dstack_cli.enrolling.wheelhouse import this_platform
from dstack_mesh.faults import Refused


async def find_python(ssh: Ssh) -> HostPython:
    """The Python that is to run the agent. Raises MeshError where there is none."""
    process = await ssh.start("sh -s")
    output, _ = await process.communicate(LOOK.encode())
    looked = parse_looked(output.decode(errors="replace"))
    if looked is None:
        if not await ssh.alive():
            raise ssh.lost("looking at the host")
        raise Refused(
            f"{ssh.target} gives no shell.",
            "Its commands do not run, as where a login is for files alone.",
            "Log in once with ssh and see what it says.",
            code="host-silent",
        )
    if problems := judging.of_system(looked):
        raise judging.trouble(ssh.target, problems)
    python = choose(looked.pythons, this_platform().python)
    assert python is not None
    return python
