"""Names are one repository's, and one name has one answer everywhere."""

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from dstack_mesh.faults import Missing, Refused
from dstack_mesh.ids import RunId
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.job import TagRecord
from dstack_scheduler.resolve import merged_tags, repository_of, rival_tags

AT = datetime(2026, 11, 26, tzinfo=UTC)
KNOWN = ("example.org/acme/digits", "example.org/acme/other", "git.lab/acme/other", "digits")


def claim(run: str, second: float, over: float | None = None) -> TagRecord:
    known = AT + timedelta(seconds=over) if over is not None else None
    return TagRecord("r", "v1", RunId(run * 26), run, AT + timedelta(seconds=second), known)


def test_a_repository_is_found_by_its_owner_and_name() -> None:
    assert repository_of("acme/digits", KNOWN) == "example.org/acme/digits"
    assert repository_of("ACME/Digits", KNOWN) == "example.org/acme/digits"
    with pytest.raises(Missing) as missing:
        repository_of("me/digits", KNOWN)
    assert "example.org/acme/digits" in missing.value.why
    with pytest.raises(Refused) as several:
        repository_of("acme/other", KNOWN)
    assert "git.lab/acme/other" in several.value.why


def test_of_claims_at_the_same_time_the_later_one_wins_everywhere_and_both_are_shown() -> None:
    claims = [claim("A", 1), claim("B", 2), claim("C", 3, over=1)]
    for order in permutations(claims):
        told = [Listing((), (one,)) for one in order]
        assert merged_tags(told)["r", "v1"].run_name == "C"
        assert [one.run_name for one in rival_tags(told)["r", "v1"]] == ["B"]


def test_who_knew_the_claim_before_is_no_rival() -> None:
    told = [Listing((), (claim("A", 1), claim("B", 2, over=1)))]
    assert rival_tags(told) == {}
    moved_on = [*told, Listing((), (claim("A", 1), claim("A", 3)))]
    assert [one.run_name for one in rival_tags(moved_on)["r", "v1"]] == ["B"]


def test_of_claims_at_one_moment_the_run_decides() -> None:
    told = [Listing((), (claim("A", 1),)), Listing((), (claim("B", 1),))]
    assert merged_tags(told)["r", "v1"].run_name == "B"
    assert [one.run_name for one in rival_tags(told)["r", "v1"]] == ["A"]


def test_a_name_that_was_taken_back_has_no_rivals() -> None:
    taken_back = TagRecord("r", "v1", None, "A", AT + timedelta(seconds=5), AT)
    assert rival_tags([Listing((), (claim("A", 1), claim("B", 2), taken_back))]) == {}
