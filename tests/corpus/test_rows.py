"""Every row of the language's map has a test that is named by it, or is said to be open.

`rows.txt` lists the rows of sections 1 to 4: section, table, row. A test of `test_section_*.py` is
named by its row, as `test_1_2_24_env_in_all_its_forms`; a table of cases names it in the id of a
case, as `pytest.param(..., id="1.5.3 gpu")`. `elsewhere.txt` names, row by row, tests of the parts
themselves. What has no test stands in OPEN.md; a row of which only a part is missing may have both.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROW = re.compile(r"(\d\.\d+\.\d+)(?= |\Z)")
TEST = re.compile(r"test_(\d)_(\d+)_(\d+)(?=_|\Z)")


def rows() -> set[str]:
    found = [line.split(" ")[0] for line in (HERE / "rows.txt").read_text().splitlines()]
    assert len(found) == len(set(found))
    return set(found)


def elsewhere() -> dict[str, str]:
    """The test, as `FILE::TEST` below `tests/`, that guards a row beside others."""
    lines = (HERE / "elsewhere.txt").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def opened() -> set[str]:
    lines = (HERE / "OPEN.md").read_text().splitlines()
    return {match[1] for line in lines if (match := re.match(r"- (\d\.\d+\.\d+) \S", line))}


def named() -> set[str]:
    return {
        row for path in sorted(HERE.glob("test_section_*.py")) for row in named_in(path.read_text())
    }


def named_in(source: str) -> Iterator[str]:
    """The rows that the tests of a file are named by."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            match = TEST.match(node.name)
            if match:
                yield ".".join(match.groups())
        elif isinstance(node, ast.keyword) and node.arg == "id":
            match = ROW.match(str(ast.literal_eval(node.value)))
            if match:
                yield match[1]


def test_every_row_is_named_by_a_test_or_open() -> None:
    assert rows() - named() - set(elsewhere()) - opened() == set()


def test_tests_and_open_rows_name_rows_that_exist() -> None:
    assert (named() | set(elsewhere()) | opened()) - rows() == set()
    assert len(named()) > 70


def test_tests_of_rows_that_are_elsewhere_exist() -> None:
    missing = [
        guard
        for guard in elsewhere().values()
        for file, _, test in [guard.partition("::")]
        if f"def {test or 'test_'}" not in (HERE.parent / file).read_text()
    ]
    assert missing == []


def test_a_row_without_a_test_would_be_found() -> None:
    """The negative control of the tests above."""
    source = 'def test_1_2_3_x(): ...\ndef test_of_it(): ...\npytest.param(1, id="1.2.4 y")\n'
    assert set(named_in(source)) == {"1.2.3", "1.2.4"}
