"""YAML as people write it: YAML 1.2, text as written, limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_scheduler.workflow.document import (
    MAX_ALIASES,
    MAX_BYTES,
    SourceFile,
    decode,
    read_tree,
)
from dstack_scheduler.workflow.problem import Code, Report
from dstack_scheduler.workflow.syntax import MAX_DEPTH
from dstack_scheduler.workflow.tree import Kind, ListNode, MapNode, Node, ScalarNode, plain_kind


def read(text: str) -> tuple[Node | None, list[Code]]:
    report = Report({"f": text})
    return read_tree("f", text, report), [problem.code for problem in report.problems]


def scalar(text: str) -> ScalarNode:
    node, problems = read(text)
    assert isinstance(node, ScalarNode)
    assert not problems
    return node


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("3.10", Kind.NUMBER),
        ("1e-3", Kind.NUMBER),
        ("0.00002", Kind.NUMBER),
        ("12", Kind.WHOLE),
        ("0o17", Kind.WHOLE),
        ("1_000", Kind.TEXT),
        ("on", Kind.TEXT),
        ("off", Kind.TEXT),
        ("no", Kind.TEXT),
        ("yes", Kind.TEXT),
        ("12:30:45", Kind.TEXT),
        ("2022-01-01", Kind.TEXT),
        ("True", Kind.FLAG),
        ("~", Kind.NULL),
        ("null", Kind.NULL),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2_and_keep_their_text(text: str, kind: Kind) -> None:
    node = scalar(text)
    assert (node.text, node.kind) == (text, kind)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_every_number_is_a_number_and_stays_as_written(number: float) -> None:
    assert plain_kind(str(number)) in (Kind.WHOLE, Kind.NUMBER)
    assert scalar(str(number)).text == str(number)


def test_quotes_make_text() -> None:
    assert scalar('"3.10"').kind is Kind.TEXT
    assert scalar("!!str 3").kind is Kind.TEXT


def test_places_count_from_one_in_characters() -> None:
    node, _ = read("ключ:\n  - é: [ü, x]\n")
    assert isinstance(node, MapNode)
    items = node.entries[0][1]
    assert isinstance(items, ListNode)
    item = items.items[0]
    assert isinstance(item, MapNode)
    values = item.entries[0][1]
    assert isinstance(values, ListNode)
    place = values.items[1].place
    assert (place.line, place.column) == (2, 12)


def test_aliases_and_merges_are_written_out_and_nearer_keys_win() -> None:
    node, problems = read("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n  z: 4\n")
    assert not problems
    assert isinstance(node, MapNode)
    merged = node.entries[1][1]
    assert isinstance(merged, MapNode)
    pairs = {key.text: value.text for key, value in merged.entries if isinstance(value, ScalarNode)}
    assert pairs == {"x": "1", "y": "3", "z": "4"}


def test_nesting_is_limited() -> None:
    assert read("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))[1] == []
    assert read("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))[1] == [Code.TOO_DEEP]
    assert read("[" * 100_000)[1] == [Code.TOO_DEEP]


def test_aliases_do_not_nest_deeper_than_lists() -> None:
    half = MAX_DEPTH // 2 + 2
    text = f"- &a {'[' * half}{']' * half}\n- {'[' * half}*a{']' * half}\n"
    assert read(text)[1] == [Code.TOO_DEEP]


def test_aliases_are_limited() -> None:
    assert read("- &a x\n" + "- *a\n" * MAX_ALIASES)[1] == []
    assert read("- &a x\n" + "- *a\n" * (MAX_ALIASES + 1))[1] == [Code.TOO_MANY_ALIASES]


def test_a_billion_laughs_are_not_laughed() -> None:
    lines = ["- &a0 [x, x]"]
    lines += [f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 11)]
    assert read("\n".join(lines))[1] == [Code.TOO_LARGE]


def test_an_alias_within_its_own_anchor_is_refused() -> None:
    assert read("&a [*a]")[1] == [Code.SYNTAX]


def test_large_files_and_other_encodings_are_refused() -> None:
    report = Report({})
    assert decode(SourceFile("f", b"#" * (MAX_BYTES + 1)), report) is None
    assert decode(SourceFile("f", b"a: b\nc: \xff\n"), report) is None
    assert [problem.code for problem in report.problems] == [Code.TOO_LARGE, Code.ENCODING]
    assert (report.problems[1].line, report.problems[1].column) == (2, 4)


def test_a_byte_order_mark_is_not_part_of_the_text() -> None:
    assert decode(SourceFile("f", b"\xef\xbb\xbfa: b"), Report({})) == "a: b"


@given(st.text(max_size=200))
def test_any_text_is_a_tree_or_a_problem(text: str) -> None:
    node, problems = read(text)
    if node is None and text.strip():
        assert problems or all(
            line.split("#")[0].strip() in ("", "---", "...") or line.startswith("%")
            for line in text.splitlines()
        )


@given(st.text("[]{}-:,&*!|>'\"%@` \n\tab#?$<", max_size=60))
def test_any_punctuation_is_a_tree_or_a_problem(text: str) -> None:
    read(text)
