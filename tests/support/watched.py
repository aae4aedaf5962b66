"""Agents in processes on machines of a network, which write down whom they know."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import netns
from support.meshes import Mesh


@dataclass(frozen=True, slots=True)
class Watched:
    """An agent in a process on a machine of its own, which writes down whom it knows."""

    name: str
    host: netns.Host
    output: Path

    def last(self) -> dict[str, Any]:
        lines = self.output.read_text().splitlines() if self.output.exists() else []
        return json.loads(lines[-1]) if lines else {"agents": []}

    def sees(self) -> dict[str, str]:
        return {agent["name"]: agent["state"] for agent in self.last()["agents"]}

    def found_by(self) -> dict[str, str]:
        return {agent["name"]: agent["found_by"] for agent in self.last()["agents"]}

    def ever_saw(self) -> set[str]:
        lines = self.output.read_text().splitlines()
        return {agent["name"] for line in lines for agent in json.loads(line)["agents"]}


def start(host: netns.Host, mesh: Mesh, folder: Path, *arguments: str) -> Watched:
    home = mesh.admit(folder / host.name)
    output = folder / f"{host.name}.jsonl"
    command = [sys.executable, "-m", "support.mesh_agent", str(home.root), host.name, *arguments]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    with output.open("wb") as file, (folder / f"{host.name}.err").open("wb") as trouble:
        environment = os.environ | {"PYTHONPATH": path, "DSTACK_MDNS": "1"}
        host.popen(command, stdout=file, stderr=trouble, env=environment)
    return Watched(host.name, host, output)


def all_see_each_other(agents: list[Watched]) -> bool:
    names = {agent.name for agent in agents}
    return all(agent.sees() == {name: "alive" for name in names - {agent.name}} for agent in agents)
