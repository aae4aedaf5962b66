"""Who is told that a home leaves, and who had heard it from somebody faster."""

from pathlib import Path

import pytest

from dstack_cli.governing import seated
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.statement import Admit, Leave
from dstack_mesh.wire.roster import own_scribe
from support.mesh_agent import mesh_agent
from support.meshes import Mesh, member
from support.saying import say


async def test_an_agent_that_heard_from_another_that_we_left_counts_as_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    laptop = mesh.admit(tmp_path / "laptop")
    ours = member(laptop)
    say(mesh, Admit(ours.peer_id, Role.SUBMITTER, "laptop", "test"))
    async with mesh_agent(mesh.root, "root") as agent:
        monkeypatch.setenv("DSTACK_SEEDS", agent.address)
        monkeypatch.setenv("DSTACK_MDNS", "0")
        async with seated(laptop) as seat:
            own = seat.keeper.picture.members[ours.peer_id]
            await seat.issue(own_scribe(laptop, ours), [Leave(own.admissions)])
            assert agent.members.keeper is not None
            heard = seat.keeper.missing_since(agent.members.picture().heads)
            await agent.members.keeper.absorb([one.signed for one in heard])
            told = await seat.tell()
    assert (told.knowing, told.silent) == (("root",), ())
