"""Two laptops want the one card at once: never both, never neither."""

import subprocess
from pathlib import Path

import pytest

from support.lab import DSTACK, join_mesh, make_peer, project
from support.rounds import rounds

pytestmark = pytest.mark.chaos

WORKFLOWS = """
workflows:
  - name: alone
    provider: bash
    commands:
      - mkdir {lock}
      - sleep 0.2
      - rmdir {lock}
    resources:
      gpu: 1
"""


def test_two_laptops_take_turns(tmp_path: Path, free_port: int) -> None:
    shared = tmp_path / "shared"  # jobs of others may write here, not beside the agent's home
    shared.mkdir()
    code = project(tmp_path / "code", WORKFLOWS.format(lock=shared / "lock"))
    station = make_peer(tmp_path, "ws", DSTACK_MDNS="0")
    laptops = [
        make_peer(tmp_path, name, DSTACK_MDNS="0", DSTACK_SEEDS=f"127.0.0.1:{free_port}")
        for name in ("ana", "bo")
    ]
    join_mesh(station, *laptops, role="submitter")
    waited, talks = 0, list[str]()
    with station.runner("--listen", f"127.0.0.1:{free_port}", "--gpu", "V100:16GB"):
        for round_ in range(rounds(5)):
            both = [
                laptop.popen(
                    (*DSTACK, "run", "alone", "--remote"),
                    cwd=code,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                for laptop in laptops
            ]
            talks = [process.communicate(timeout=60)[1].decode() for process in both]
            codes = [process.returncode for process in both]
            assert codes == [0, 0], f"round {round_}: {codes}\n" + "\n--\n".join(talks)
            waited += sum("GPU 0 is held by" in talk for talk in talks)
    assert waited > 0, f"nobody was ever told who holds the card:\n{talks}"
