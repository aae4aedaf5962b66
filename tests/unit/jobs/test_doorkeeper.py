"""Who gets at what a job listens on."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_agent.jobs.doorkeeper import persons_of
from dstack_agent.records import Accepted, Given
from dstack_agent.tokens import Tokens
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId
from dstack_mesh.signing import Signed, id_of_key
from support import machines

SUBMITTER, DRIVER, OWNER = PeerId("s" * 32), PeerId("d" * 32), PeerId("")
SIGNED = Signed(b"body", b"key", b"signature")
SIGNER = PeerId(id_of_key(SIGNED.key))


@pytest.mark.parametrize(
    ("given", "vouched", "expected"),
    [
        (None, None, set[PeerId]()),
        (Given(SUBMITTER), None, {SUBMITTER}),
        (Given(OWNER), None, {OWNER}),
        (Given(SIGNER), SIGNED, {SIGNER}),
        (Given(DRIVER), SIGNED, {SIGNER}),
        (Given(OWNER), SIGNED, {OWNER, SIGNER}),
    ],
)
def test_whoever_submitted_it_does_and_whoever_drove_it_does_not(
    given: Given | None, vouched: Signed | None, expected: set[PeerId]
) -> None:
    spec = machines.spec(machines.question())
    accepted = Accepted(spec, (), None, False, None, given, vouched)
    assert persons_of(accepted) == expected


def test_tokens_differ_by_attempt_and_by_home_and_outlive_the_agent(tmp_path: Path) -> None:
    homes = [Home(tmp_path / name) for name in ("one", "two")]
    for home in homes:
        home.prepare()
    key = machines.key()
    first, other = (Tokens(home) for home in homes)
    made = {
        first.of(key),
        other.of(key),
        first.of(replace(key, attempt=2)),
        first.of(replace(key, job=1)),
    }
    assert len(made) == 4 and all(len(token) == 32 and int(token, 16) for token in made)
    assert Tokens(homes[0]).of(key) == first.of(key)
    assert (homes[0].keys / "apps.key").stat().st_mode & 0o77 == 0


def test_first_ones_at_once_are_made_of_one_key(tmp_path: Path) -> None:
    for number in range(5):
        home = Home(tmp_path / str(number))
        home.prepare()
        tokens, start = Tokens(home), threading.Barrier(8)

        def made(tokens: Tokens = tokens, start: threading.Barrier = start) -> str:
            start.wait()
            return tokens.of(machines.key())

        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(made) for _ in range(8)]
        assert {each.result() for each in asked} == {Tokens(home).of(machines.key())}
