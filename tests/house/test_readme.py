"""The README's promises that can be checked without running them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_first_block_holds_exactly_two_single_lines() -> None:
    block = re.search(r"```\w*\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    lines = block.group(1).strip().splitlines()
    assert len(lines) == 2
    assert "dstack run train" in lines[0]
    assert "pytest" in lines[1]
    assert not any(line.endswith("\\") for line in lines)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_check_runs_the_readmes_second_line_and_no_other_test() -> None:
    check = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in check
    assert "pytest" not in check
