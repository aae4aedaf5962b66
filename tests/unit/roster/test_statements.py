"""Statements as bytes: what was signed comes back, and nothing else is believed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.faults import Damaged, MeshError
from dstack_mesh.ids import PeerId
from dstack_mesh.signing import Signed
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.statement import (
    ASSIGNABLE,
    LONGEST_STATEMENT_BYTES,
    PURPOSE,
    AddAdmin,
    AddIssuer,
    Admit,
    Assign,
    Leave,
    RemoveAdmin,
    RemoveIssuer,
    RequireProtocol,
    Revoke,
    Statement,
    Unread,
)
from dstack_mesh.v1 import roster_pb2 as pb
from dstack_mesh.wire.statements import seal, to_wire, unseal
from support.rosters import NOW, Lab, admit, mesh_id, peer, signer

ids = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=32, max_size=32).map(PeerId)
digests = st.binary(min_size=32, max_size=32)
names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), max_size=50)
roles = st.sampled_from([*sorted(ASSIGNABLE, key=str), Role.ROOT])
facts = st.one_of(
    st.builds(
        Admit,
        ids,
        st.sampled_from([*ASSIGNABLE, Role.ROOT]),
        names,
        names,
        st.just(NOW) | st.none(),
    ),
    st.builds(Assign, ids, st.sampled_from(sorted(ASSIGNABLE, key=str))),
    st.builds(Revoke, ids, names, st.booleans()),
    st.builds(Leave, st.lists(digests, max_size=4).map(tuple)),
    st.builds(AddAdmin, ids),
    st.builds(RemoveAdmin, ids, st.integers(1, 2**63), digests),
    st.builds(AddIssuer, ids, ids),
    st.builds(RemoveIssuer, ids),
    st.builds(RequireProtocol, st.integers(0, 2**32 - 1)),
    st.just(Unread()),
)


@settings(max_examples=100, deadline=None)
@given(facts, st.integers(2, 2**63), digests)
def test_what_was_said_comes_back(fact: object, seq: int, previous: bytes) -> None:
    said = Statement(mesh_id(), peer("root"), seq, previous, NOW, fact)  # type: ignore[arg-type]
    sealed = seal(signer("root"), said)
    assert sealed.statement == said
    assert unseal(sealed.signed) == sealed


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_flipped_bit_anywhere_is_never_believed(data: st.DataObject) -> None:
    signed = SAID.signed
    parts = [signed.body, signed.key, signed.signature]
    which = data.draw(st.integers(0, 2))
    place = data.draw(st.integers(0, len(parts[which]) - 1))
    flipped = bytearray(parts[which])
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    parts[which] = bytes(flipped)
    with pytest.raises(MeshError):
        unseal(Signed(*parts))


[SAID] = Lab().say("root", admit("ws"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_words(body: bytes) -> None:
    with pytest.raises(Damaged):
        unseal(signer("root").sign(PURPOSE, body))


def test_nobody_speaks_in_the_name_of_another() -> None:
    said = Statement(mesh_id(), peer("root"), 1, b"", NOW, Revoke(peer("ws")))
    body = to_wire(said).SerializeToString()
    with pytest.raises(Damaged, match="claims"):
        unseal(signer("member").sign(PURPOSE, body))


def test_what_was_signed_for_something_else_is_no_statement() -> None:
    said = Statement(mesh_id(), peer("root"), 1, b"", NOW, Revoke(peer("ws")))
    signed = signer("root").sign("record", to_wire(said).SerializeToString())
    with pytest.raises(Damaged, match="something else"):
        unseal(signed)


def test_a_long_statement_is_refused_before_it_is_read() -> None:
    with pytest.raises(Damaged, match="bytes"):
        unseal(signer("root").sign(PURPOSE, b"x" * (LONGEST_STATEMENT_BYTES + 1)))


def test_a_kind_of_newer_software_is_kept_and_has_no_effect() -> None:
    said = Statement(mesh_id(), peer("root"), 1, b"", NOW, admit("ws"))
    message = to_wire(said)
    message.admit.role = 77  # type: ignore[assignment]
    newer = message.SerializeToString()
    assert unseal(signer("root").sign(PURPOSE, newer)).statement.fact == Unread()
    unknown = pb.Statement.FromString(to_wire(said).SerializeToString())
    unknown.ClearField("admit")
    with_field = unknown.SerializeToString() + bytes([0xF2, 0x07, 0x01, 0x00])
    assert unseal(signer("root").sign(PURPOSE, with_field)).statement.fact == Unread()
