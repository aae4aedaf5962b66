"""`dstack agents remove`: takes back what `add` did. The data stays, unless it is to go too."""

from dstack_cli.enrolling.added import Added
from dstack_cli.enrolling.asking import Host
from dstack_cli.enrolling.finding import find_python
from dstack_cli.enrolling.ssh import Dialing, connected
from dstack_cli.enrolling.steps import Steps
from dstack_cli.enrolling.target import parse_target
from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen


@frozen
class Removed:
    """What became of it."""

    root: str
    purged: bool


async def remove(host: Added, purge: bool, steps: Steps) -> Removed:
    """Ends the agent and removes its service and software.

    Raises:
        Refused: An agent runs in that folder that was not started from here.
    """
    dialing = Dialing(parse_target(host.target), host.identity, host.options)
    async with steps.step("ssh", f"connecting to {host.target}") as step, connected(dialing) as ssh:
        step.now("ending the agent; its jobs go on")
        there = Host(ssh, (await find_python(ssh)).path)
        request = {"home": host.remote_home, "purge": purge}
        answer = await there.ask("remove", request, "removing the agent")
        if answer["serves"]:
            raise Refused(
                f"An agent still runs on {host.target}.",
                f"It serves {answer['root']} and was not started by `dstack agents add`.",
                "End it there, then run this again.",
                code="not-ours-to-end",
            )
        step.done = "ended" if answer["there"] else "nothing was there"
    return Removed(str(answer["root"]), purge and bool(answer["there"]))
