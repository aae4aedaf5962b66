"""The code that one person reads to another, and what it proves."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.faults import Invalid, Missing
from dstack_mesh.home import Home
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.trust.invite import (
    ALPHABET,
    MOST_TRIES,
    Burned,
    Code,
    Expired,
    Invite,
    Live,
    Transcript,
    Used,
    code_of,
    derive_key,
    make_code,
    parse_code,
)
from dstack_mesh.trust.invites import MOST_RECORDS, InviteBook
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.words import WORDS, words_of

codes = st.builds(
    code_of,
    st.text(ALPHABET, min_size=3, max_size=3),
    st.text(ALPHABET, min_size=12, max_size=12),
)
TRANSCRIPT = Transcript(MeshId("m" * 32), "7K3V", b"leaf", b"key", b"n" * 32, b"s" * 32)


@given(codes, st.data())
def test_a_code_survives_how_people_write_it(code: Code, data: st.DataObject) -> None:
    written = ""
    for letter in code.invite_id + code.secret:
        forms = {"0": "0Oo", "1": "1IiLl"}.get(letter, letter + letter.lower())
        written += data.draw(st.sampled_from(["", "-", " ", "\t", "_", "\u2013"]))
        written += data.draw(st.sampled_from(forms))
    assert parse_code(written) == code


@given(codes, st.integers(0, 3), st.sampled_from(ALPHABET))
def test_one_slip_in_the_public_part_is_noticed(code: Code, place: int, letter: str) -> None:
    slipped = code.invite_id[:place] + letter + code.invite_id[place + 1 :] + code.secret
    if letter == code.invite_id[place]:
        assert parse_code(slipped) == code
    else:
        with pytest.raises(Invalid):
            parse_code(slipped)


@given(st.text())
def test_what_is_no_code_is_refused_and_nothing_else_happens(text: str) -> None:
    try:
        code = parse_code(text)
    except Invalid as refused:
        assert refused.hint
    else:
        assert set(code.invite_id + code.secret) <= set(ALPHABET)


def test_a_codes_secret_is_not_in_its_repr() -> None:
    code = make_code()
    assert code.secret not in repr(code)
    assert str(code).replace("-", "") == code.invite_id + code.secret


def test_codes_have_sixty_random_bits() -> None:
    secrets = {make_code().secret for _ in range(200)}
    assert len(secrets) == 200
    assert all(len(secret) == 12 for secret in secrets)


def test_the_key_depends_on_the_secret_the_mesh_and_the_invitation() -> None:
    code = make_code()
    other = replace(code, secret=code.secret[::-1] + "0")
    keys = {
        derive_key(code, MeshId("a")),
        derive_key(other, MeshId("a")),
        derive_key(code, MeshId("b")),
        derive_key(replace(code, invite_id="0000"), MeshId("a")),
    }
    assert len(keys) == 4


@pytest.mark.parametrize(
    "changed",
    [
        replace(TRANSCRIPT, mesh_id=MeshId("x" * 32)),
        replace(TRANSCRIPT, invite_id="AAAA"),
        replace(TRANSCRIPT, listener_hash=b"other leaf"),
        replace(TRANSCRIPT, newcomer_key=b"other key"),
        replace(TRANSCRIPT, newcomer_nonce=b"m" * 32),
        replace(TRANSCRIPT, listener_nonce=b"t" * 32),
        # The same bytes, cut elsewhere.
        replace(TRANSCRIPT, listener_hash=b"lea", newcomer_key=b"fkey"),
    ],
)
def test_every_part_of_the_transcript_counts(changed: Transcript) -> None:
    key = b"k" * 64
    assert changed.listener_proof(key) != TRANSCRIPT.listener_proof(key)
    assert changed.newcomer_proof(key) != TRANSCRIPT.newcomer_proof(key)
    assert changed.reply_proof(key, b"a") != TRANSCRIPT.reply_proof(key, b"a")
    assert changed.words(key) != TRANSCRIPT.words(key)


def test_no_proof_stands_for_another() -> None:
    key = b"k" * 64
    proofs = {
        TRANSCRIPT.listener_proof(key),
        TRANSCRIPT.newcomer_proof(key),
        TRANSCRIPT.reply_proof(key),
        TRANSCRIPT.reply_proof(key, b"ab"),
        TRANSCRIPT.reply_proof(key, b"a", b"b"),
        TRANSCRIPT.listener_proof(b"j" * 64),
    }
    assert len(proofs) == 6


def test_each_byte_has_a_word_of_its_own() -> None:
    assert len(set(WORDS)) == 256
    assert len(words_of(b"\x00\x01\xfe\xff")) == 4


def _invite() -> Invite:
    return Invite("7K3V", MeshId("m" * 32), Role.RUNNER, expires_at=100.0)


def test_so_many_wrong_proofs_burn_it_and_not_one_less() -> None:
    invite = _invite()
    for left in range(MOST_TRIES - 1, 0, -1):
        invite = invite.after_wrong_proof()
        assert invite.state == Live(left)
    assert invite.after_wrong_proof().state == Burned()


def test_it_is_used_once() -> None:
    used = _invite().used(PeerId("p" * 32))
    assert used.state == Used(PeerId("p" * 32))
    with pytest.raises(Missing) as refused:
        used.used(PeerId("q" * 32))
    assert refused.value.code == "invite-used"


def test_it_expires_at_its_time_and_not_before() -> None:
    assert _invite().at(99.9).state == Live()
    assert _invite().at(100.0).state == Expired()


@given(st.lists(st.sampled_from(["wrong", "use", "late"])))
def test_no_order_of_events_brings_an_invitation_back(events: list[str]) -> None:
    invite, ended = _invite(), False
    for event in events:
        before = invite
        if event == "wrong":
            invite = invite.after_wrong_proof()
        elif event == "late":
            invite = invite.at(1000.0)
        elif isinstance(invite.state, Live):
            invite = invite.used(PeerId("p" * 32))
        assert not ended or invite == before
        ended = not isinstance(invite.state, Live)


def test_only_the_last_invitations_are_remembered_whoever_else_forgets_some(tmp_path: Path) -> None:
    home = Home(tmp_path)
    book, folder = InviteBook(home), home.keys / "invites"
    book.write(replace(_invite(), invite_id="FIRST"), datetime.now(UTC))
    os.utime(folder / "FIRST.json", (0, 0))
    for number in range(MOST_RECORDS - 1):
        (folder / f"{number}.json").touch()
    (folder / "gone.json").symlink_to(tmp_path / "nothing")  # as one that goes while we look
    book.write(replace(_invite(), invite_id="LAST"), datetime.now(UTC))
    assert not (folder / "FIRST.json").exists()
    assert (folder / "LAST.json").exists()
    assert len([*folder.iterdir()]) == MOST_RECORDS
