"""What a person calls a run."""

import pytest

from dstack_cli.misused import Misused
from dstack_cli.names import Named, find, listed
from dstack_mesh.faults import Missing

RUNS = [
    Named("lazy-bobcat-2", "01c"),
    Named("lazy-bobcat-1", "01b"),
    Named("calm-ibex-1", "01a"),
]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("@", "lazy-bobcat-2"),
        ("@1", "lazy-bobcat-2"),
        ("@3", "calm-ibex-1"),
        ("calm", "calm-ibex-1"),
        ("lazy-bobcat-1", "lazy-bobcat-1"),
        ("01a", "calm-ibex-1"),
    ],
)
def test_names_prefixes_ids_and_counts_find_the_run(text: str, name: str) -> None:
    assert find(text, RUNS, "run").name == name


@pytest.mark.parametrize("text", ["nobody", "@2"])
def test_how_many_are_known_is_told_in_words(text: str) -> None:
    with pytest.raises(Missing, match="1 run is known"):
        find(text, RUNS[:1], "run")
    with pytest.raises(Missing, match="0 runs are known"):
        find(text, [], "run")


def test_a_whole_name_wins_over_longer_ones() -> None:
    runs = [Named("calm-ibex-10", "1"), Named("calm-ibex-1", "2")]
    assert find("calm-ibex-1", runs, "run").id == "2"


def test_an_ambiguous_prefix_lists_the_candidates() -> None:
    with pytest.raises(Misused, match="lazy-bobcat-2 and lazy-bobcat-1"):
        find("lazy", RUNS, "run")


def test_a_typo_gets_a_suggestion() -> None:
    with pytest.raises(Missing) as raised:
        find("lasy-bobcat-1", RUNS, "run")
    assert "lazy-bobcat-1" in raised.value.hint


@pytest.mark.parametrize("text", ["@0", "@x", "@-1"])
def test_a_count_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Misused):
        find(text, RUNS, "run")


def test_a_count_beyond_the_runs_is_missing() -> None:
    with pytest.raises(Missing):
        find("@4", RUNS, "run")


def test_words_are_listed_as_in_a_sentence() -> None:
    assert [listed(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
