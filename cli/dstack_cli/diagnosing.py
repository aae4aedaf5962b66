"""Shows what an agent's own log notes of a run, where that log is this home's to read."""

import sys

from dstack_cli.output.escapes import plain
from dstack_cli.output.forms import chosen
from dstack_cli.reach import Private, carry_out, chosen_run, reaching
from dstack_mesh.home import Home


def diagnose(home: Home, run: str) -> int:
    """Prints the lines that name the run; of other machines it says where they are.

    Other people's runs are in an agent's log, so nobody reads it over the network.
    """

    async def look() -> int:
        async with reaching(home, Private.IF_HISTORY) as reach:
            picture = chosen_run(run, await reach.runs())
            ours = {agent.card.peer_id for agent in await reach.answering() if agent.local}
        record = picture.record
        names = {job.agent_id: job.agent_name for job in record.jobs if job.agent_id is not None}
        shown = False
        if ours & (names.keys() | set(picture.tellers)):
            shown = _show(home, record.run_id, record.run_name)
        for name in (name for peer, name in names.items() if peer not in ours):
            chosen().talk(
                f"the log of {name} is on that machine: journalctl --user -u dstack-runner"
                f" | grep {record.run_id}"
            )
        if not shown:
            chosen().talk(f"this home's agent noted nothing of {record.run_name}.")
        return 0

    return carry_out(look())


def _show(home: Home, *names: str) -> bool:
    try:
        with (home.state / "agent.log").open(errors="replace") as lines:
            noted = [line for line in lines if any(name in line for name in names)]
    except FileNotFoundError:
        return False
    for line in noted:
        sys.stdout.write(plain(line.rstrip("\n")) + "\n")
    return bool(noted)
