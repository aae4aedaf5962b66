"""The memory of agents and shims, which holds keys and secrets."""

import subprocess
import sys
from pathlib import Path

import pytest

from dstack_agent.executor import tree
from support.person import as_person, person_id

LOOK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from dstack_agent.executor import tree
if sys.argv[2] == "hidden":
    tree.hide_memory()
print(os.stat("/proc/self/environ").st_uid)
"""


@pytest.mark.parametrize("how", ["hidden", "open"])
def test_what_may_not_be_dumped_belongs_to_root_even_for_its_own_user(how: str) -> None:
    sources = Path(tree.__file__).parents[2]
    command = (*as_person(), sys.executable, "-c", LOOK, str(sources), how)
    seen = subprocess.run(command, capture_output=True, check=True).stdout
    assert int(seen) == (0 if how == "hidden" else person_id())
