"""Whatever arrives in whatever order: peers agree, and nobody who was revoked comes back.

`DSTACK_CHAOS_ROUNDS=1000000` plays a million interleavings; the check plays a few hundred.
"""

import random
from functools import cache

from dstack_mesh.ids import PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.fold import picture_of
from dstack_mesh.trust.roster.picture import Belonging
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.statement import (
    AddAdmin,
    AddIssuer,
    Assign,
    Fact,
    Leave,
    RemoveAdmin,
    RemoveIssuer,
    RequireProtocol,
    Revoke,
    Sealed,
)
from support.rosters import Lab, admit, mesh_id, peer, together
from support.rounds import rounds, seeded

ISSUERS = ("root", "ann", "bob", "ws-1")
KEYS = ("key-1", "key-2")
SUBJECTS = ("ann", "bob", "ws-1", "ws-2", "ws-3")


def some_fact(chance: random.Random, lab: Lab, name: str) -> Fact:
    """Something that this issuer might say, allowed or not."""
    subject = chance.choice(SUBJECTS)
    picture = lab.roster(name).picture
    head = lab.roster(name).heads.get(peer(subject))
    own = picture.members.get(peer(name))
    facts: list[Fact] = [
        admit(subject, chance.choice([Role.READER, Role.SUBMITTER, Role.RUNNER])),
        admit(subject, Role.RUNNER),
        Assign(peer(subject), chance.choice([Role.READER, Role.RUNNER])),
        Revoke(peer(subject)),
        AddAdmin(peer(subject)),
        RemoveAdmin(peer(subject), head.seq if head else 0, head.digest if head else b""),
        Leave(own.admissions if own else ()),
        AddIssuer(peer(chance.choice(KEYS)), peer(subject)),
        RemoveIssuer(peer(chance.choice(KEYS))),
        RequireProtocol(chance.randrange(1, 5)),
    ]
    return chance.choice(facts)


def history(chance: random.Random) -> list[Sealed]:
    """What four issuers said while they knew one another only in part; one forked itself."""
    lab = Lab()
    lab.say("root", admit("ann"), AddAdmin(peer("ann")))
    for _ in range(chance.randrange(4, 11)):
        name = chance.choice(ISSUERS)
        past = lab.roster(name)
        lab.say(name, some_fact(chance, lab, name))
        if chance.random() < 0.15:  # a copied home says something else under the same number
            said, lab.known[name] = lab.roster(name), past
            lab.say(name, some_fact(chance, lab, name))
            lab.known[name] = lab.known[name].merge(said)
        lab.tell(name, *chance.sample(ISSUERS, 2))
    return [one for roster in lab.known.values() for one in roster.statements.values()]


@cache
def histories() -> list[list[Sealed]]:
    chance = seeded("merges")
    made = [history(chance) for _ in range(min(2000, max(40, rounds(400) // 100)))]
    return [list({one.digest: one for one in each}.values()) for each in made]


def undone_by_the_root(subject: PeerId, before: Roster, after: Roster) -> bool:
    """Whether the root made an admin of the revoked, or removed the admins who revoked it."""
    of_root = [
        one.statement.fact
        for one in after.statements.values()
        if one.statement.issuer == peer("root")
    ]
    made = {fact.subject for fact in of_root if isinstance(fact, AddAdmin)}
    removed = {fact.subject for fact in of_root if isinstance(fact, RemoveAdmin)}
    revokers = {
        one.statement.issuer
        for one in before.statements.values()
        if isinstance(one.statement.fact, Revoke) and one.statement.fact.subject == subject
    }
    if peer("root") in revokers:
        return False
    return subject in made or revokers & made <= removed


def test_merging_is_commutative_associative_idempotent_and_resurrects_nobody() -> None:
    chance, undone = seeded("interleavings"), 0
    for _ in range(rounds(400)):
        said = chance.choice(histories())
        parts = [together(chance.sample(said, chance.randrange(len(said) + 1))) for _ in range(3)]
        a, b, c = parts
        one_way, other_way = a.merge(b).merge(c), c.merge(b.merge(a))
        assert one_way.picture == other_way.picture
        assert one_way.heads == other_way.heads
        assert one_way.merge(a).picture == one_way.picture
        for part in parts:
            assert part.picture.voided <= one_way.picture.voided
            for key in map(peer, KEYS):
                stranger = peer("nobody-knows")
                if key in part.picture.voided:
                    assert not one_way.picture.honours(key, stranger)
            for subject in part.picture.members:
                was, now = (roster.picture.belonging(subject) for roster in (part, one_way))
                if was is Belonging.REVOKED and now is not Belonging.REVOKED:
                    assert undone_by_the_root(subject, part, one_way)
                    undone += 1
    print(f"revocations undone by the root: {undone}")


def test_the_order_of_statements_never_changes_what_they_come_to() -> None:
    chance = seeded("orders")
    for said in histories()[: rounds(40)]:
        expected = together(said).picture
        for _ in range(3):
            chance.shuffle(said)
            roster = together(())
            for one in said:
                roster = roster.merge(together([one]))
            assert roster.picture == expected
            assert picture_of(mesh_id(), roster.chains) == expected


def test_two_peers_that_exchange_what_is_missing_agree_within_a_few_rounds() -> None:
    chance = seeded("exchanges")
    for said in histories()[: rounds(40)]:
        one, other = (together(()).take(chance.sample(said, len(said) // 2 + 1)) for _ in range(2))
        for _ in range(3):
            other = other.take(one.missing_since(other.heads))
            one = one.take(other.missing_since(one.heads))
        assert one.heads == other.heads
        assert one.picture == other.picture
        assert one.missing_since(other.heads) == ()


def test_a_root_that_changes_its_mind_is_the_one_way_back() -> None:
    """The negative control of the rule above: there it would say "undone"."""
    lab = Lab()
    lab.say("root", admit("ann"), AddAdmin(peer("ann")), admit("ws-1"))
    lab.tell("root", "ann")
    lab.say("ann", Revoke(peer("ws-1")))
    before = lab.roster("ann")
    assert before.picture.belonging(peer("ws-1")) is Belonging.REVOKED
    assert not undone_by_the_root(peer("ws-1"), before, before)
    lab.say("root", RemoveAdmin(peer("ann"), 0, b""))
    after = before.merge(lab.roster("root"))
    assert after.picture.belonging(peer("ws-1")) is Belonging.MEMBER
    assert undone_by_the_root(peer("ws-1"), before, after)
