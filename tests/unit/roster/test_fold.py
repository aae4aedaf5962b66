"""What statements come to: who may say what, and what stands against what."""

from datetime import timedelta

import pytest

from dstack_mesh.ids import MeshId
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.picture import Belonging, from_json, to_json
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.statement import (
    AddAdmin,
    AddIssuer,
    Admit,
    Assign,
    Fact,
    Leave,
    RemoveAdmin,
    RemoveIssuer,
    RequireProtocol,
    Revoke,
)
from support.rosters import Lab, admit, governed, mesh_id, peer, together


def last_of(lab: Lab, name: str) -> tuple[int, bytes]:
    head = lab.roster(name).heads[peer(name)]
    return head.seq, head.digest


def test_a_member_has_the_role_that_was_said_last() -> None:
    lab = governed("ann")
    lab.say("root", admit("ws", Role.READER))
    lab.tell("root", "ann")
    lab.say("ann", Assign(peer("ws"), Role.SUBMITTER))
    lab.tell("ann", "root")
    assert lab.roster("root").picture.role(peer("ws"), Role.READER) is Role.SUBMITTER
    lab.say("root", Assign(peer("ws"), Role.RUNNER))
    assert lab.roster("root").picture.role(peer("ws"), Role.READER) is Role.RUNNER


def test_a_later_word_wins_whatever_the_issuers_clock_says() -> None:
    lab = governed("ann")
    lab.say("root", admit("ws", Role.READER))
    lab.tell("root", "ann")
    lab.now -= timedelta(days=400)
    lab.say("ann", Assign(peer("ws"), Role.RUNNER))
    assert lab.roster("ann").picture.role(peer("ws"), Role.READER) is Role.RUNNER


def test_who_is_not_known_has_the_role_of_its_certificate() -> None:
    picture = governed("ann").roster("root").picture
    assert picture.role(peer("nobody"), Role.SUBMITTER) is Role.SUBMITTER
    assert picture.may_run(peer("nobody")) is None


@pytest.mark.parametrize(
    "fact",
    [
        admit("friend", Role.RUNNER),
        Assign(peer("ws"), Role.RUNNER),
        Revoke(peer("ws")),
        AddAdmin(peer("member")),
        RemoveAdmin(peer("ann"), 0, b""),
        AddIssuer(peer("member"), peer("member")),
        RequireProtocol(99),
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_what_a_member_says_of_others_changes_nothing(fact: Fact) -> None:
    lab = governed("ann")
    lab.say("root", admit("ws", Role.READER), admit("member", Role.RUNNER))
    lab.tell("root", "member")
    before = lab.roster("root").picture
    lab.say("member", fact)
    after = lab.roster("member").picture
    assert (after.members, after.admins, after.issuers, after.protocol) == (
        before.members,
        before.admins,
        before.issuers,
        before.protocol,
    )


@pytest.mark.parametrize(
    "fact",
    [
        Revoke(peer("bob")),
        Revoke(peer("founder")),
        Assign(peer("bob"), Role.READER),
        admit("bob", Role.READER),
        admit("friend", Role.ROOT),
        AddAdmin(peer("friend")),
        RemoveAdmin(peer("bob"), 0, b""),
        AddIssuer(peer("ann"), peer("ann")),
        RequireProtocol(99),
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_an_admin_touches_neither_admins_nor_the_root_and_gives_no_more_than_it_has(
    fact: Fact,
) -> None:
    lab = governed("ann", "bob")
    lab.say("root", Admit(peer("founder"), Role.ROOT, "founder", "create"))
    lab.tell("root", "ann")
    before = lab.roster("root").picture
    lab.say("ann", fact)
    after = lab.roster("ann").picture
    assert (after.members, after.admins, after.issuers, after.protocol) == (
        before.members,
        before.admins,
        before.issuers,
        before.protocol,
    )


def test_a_removed_admins_word_stands_up_to_its_last_accepted_statement() -> None:
    lab = governed("ann")
    lab.say("ann", admit("early"), Revoke(peer("lost")))
    seq, digest = last_of(lab, "ann")
    lab.say("root", RemoveAdmin(peer("ann"), seq, digest))
    lab.say("ann", admit("late"), Revoke(peer("early")))
    lab.tell("ann", "root")
    picture = lab.roster("root").picture
    assert picture.belonging(peer("early")) is Belonging.MEMBER
    assert picture.belonging(peer("lost")) is Belonging.REVOKED
    assert picture.belonging(peer("late")) is None
    assert picture.admins == frozenset()
    assert picture.role(peer("ann"), Role.READER) is Role.RUNNER


def test_a_removed_admin_cannot_write_its_past_anew() -> None:
    lab = governed("ann")
    fork = Lab()
    fork.known["ann"] = lab.roster("ann")
    lab.say("ann", admit("early"))
    lab.tell("ann", "root")
    lab.say("root", RemoveAdmin(peer("ann"), *last_of(lab, "ann")))
    forged = fork.say("ann", admit("friend"))
    picture = lab.roster("root").merge(together(forged)).picture
    assert picture.belonging(peer("early")) is Belonging.MEMBER
    assert picture.belonging(peer("friend")) is None
    assert picture.forked == (peer("ann"),)


def test_an_admin_that_was_removed_is_never_one_again() -> None:
    lab = governed("ann")
    lab.say("root", RemoveAdmin(peer("ann"), 0, b""), AddAdmin(peer("ann")))
    assert lab.roster("root").picture.admins == frozenset()


def test_a_revoked_key_is_not_admitted_again_by_anybody() -> None:
    lab = governed("ann")
    lab.say("root", admit("ws"), Revoke(peer("ws"), "lost"), admit("ws"))
    lab.tell("root", "ann")
    lab.say("ann", admit("ws"), Assign(peer("ws"), Role.RUNNER))
    picture = lab.roster("ann").picture
    assert picture.belonging(peer("ws")) is Belonging.REVOKED
    assert picture.members[peer("ws")].why == "lost"
    assert picture.may_run(peer("ws")) is False


def test_a_revocation_counts_although_statements_before_it_are_withheld() -> None:
    lab = governed("ann")
    lab.say("ann", admit("ws"))
    *_, revocation = lab.say("ann", admit("other"), Revoke(peer("ws")))
    withheld = lab.roster("ann").chains[peer("ann")].grounded
    seen = [
        one
        for one in lab.roster("ann").statements.values()
        if one.digest not in withheld or one.statement.seq != 2
    ]
    assert revocation in seen
    picture = together(seen).picture
    assert picture.belonging(peer("ws")) is Belonging.REVOKED
    assert picture.belonging(peer("other")) is None


def test_who_left_may_come_again_with_the_same_key() -> None:
    lab = governed("ann")
    lab.say("root", admit("ws"))
    lab.tell("root", "ws")
    lab.say("ws", Leave(lab.roster("ws").picture.members[peer("ws")].admissions))
    assert lab.roster("ws").picture.belonging(peer("ws")) is Belonging.LEFT
    assert lab.roster("ws").picture.shut_out() == {peer("ws")}
    lab.tell("ws", "root")
    lab.say("root", admit("ws", Role.READER))
    picture = lab.roster("root").picture
    assert picture.belonging(peer("ws")) is Belonging.MEMBER
    assert picture.role(peer("ws"), Role.RUNNER) is Role.READER


def test_nobody_leaves_for_another() -> None:
    lab = governed("ann")
    lab.say("root", admit("ws"))
    lab.tell("root", "ann")
    lab.say("ann", Leave(lab.roster("ann").picture.members[peer("ws")].admissions))
    assert lab.roster("ann").picture.belonging(peer("ws")) is Belonging.MEMBER


def test_issuers_come_and_go_and_the_newest_protocol_is_required() -> None:
    lab = Lab()
    keys = AddIssuer(peer("key-1"), peer("ann")), AddIssuer(peer("key-2"), peer("bob"))
    lab.say("root", *keys, RemoveIssuer(peer("key-1")), RequireProtocol(3), RequireProtocol(2))
    picture = lab.roster("root").picture
    assert picture.issuers == {peer("key-2"): peer("bob")}
    assert picture.protocol == 3


def test_statements_of_another_mesh_are_left_out() -> None:
    lab = governed("ann")
    other = Roster.of(MeshId(peer("other")), lab.roster("root").statements.values())
    assert other.statements == {}
    assert mesh_id() != other.mesh_id


def test_a_picture_survives_its_json() -> None:
    lab = governed("ann")
    lab.say("root", admit("ws"), Revoke(peer("ws"), "lost"), AddIssuer(peer("key"), peer("ann")))
    picture = lab.roster("root").picture
    assert from_json(to_json(picture)) == picture
