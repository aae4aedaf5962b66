"""A statement is believed only as it was signed, for what it was signed, of whoever signed it."""

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.faults import Damaged
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, public_der
from dstack_mesh.signing import Signed, Signer, check

SIGNER = Signer(ec.generate_private_key(ec.SECP256R1()))
OTHER = Signer(ec.generate_private_key(ec.SECP256R1()))


@given(st.binary(max_size=300))
def test_what_was_signed_is_believed_as_its_signers(body: bytes) -> None:
    assert check("record", SIGNER.sign("record", body)) == SIGNER.peer_id


def test_a_peer_signs_as_itself(tmp_path: Path) -> None:
    identity = Identity.load_or_make(Home(tmp_path))
    assert check("record", Signer.of(identity).sign("record", b"x")) == identity.peer_id


def test_every_flipped_bit_is_noticed() -> None:
    signed = SIGNER.sign("record", b"ana may submit")
    for field in ("body", "key", "signature"):
        whole: bytes = getattr(signed, field)
        for bit in range(len(whole) * 8):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(Damaged):
                check("record", replace(signed, **{field: bytes(flipped)}))


def test_a_signature_is_good_for_its_purpose_alone() -> None:
    with pytest.raises(Damaged):
        check("roster", SIGNER.sign("record", b"x"))


def test_nobody_signs_for_another() -> None:
    signed = SIGNER.sign("record", b"x")
    with pytest.raises(Damaged):
        check("record", replace(signed, key=OTHER.public_key))


@settings(max_examples=200)
@given(st.binary(max_size=200), st.binary(max_size=100))
def test_bytes_of_anybody_are_refused_in_words(key: bytes, signature: bytes) -> None:
    with pytest.raises(Damaged):
        check("record", Signed(b"x", key, signature))


def test_a_key_of_another_kind_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(Damaged, match="P-256"):
        check("record", Signed(b"x", public_der(key.public_key()), b""))
