"""The roster on disk: shared by processes, bounded, and read without cryptography."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.faults import Busy
from dstack_mesh.home import Home
from dstack_mesh.identity import private_pem
from dstack_mesh.ids import MeshId
from dstack_mesh.signing import Signed, Signer
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster import book as book_of
from dstack_mesh.trust.roster import keeper as keeper_module
from dstack_mesh.trust.roster import roster as bounds
from dstack_mesh.trust.roster.book import Stamp, picture_path, read_picture, statements_path
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.trust.roster.picture import Belonging, Picture
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.scribe import LAST, Scribe
from dstack_mesh.trust.roster.statement import (
    MOST_OF_A_MEMBER,
    Assign,
    Leave,
    RemoveAdmin,
    Revoke,
    Sealed,
)
from dstack_mesh.wire.roster import open_book
from dstack_mesh.wire.statements import readable, seal, verified
from support.eventually import eventually_async
from support.played import Played
from support.rosters import NOW, Lab, admit, governed, mesh_id, peer, signer


def signed(roster: Roster) -> list[Signed]:
    return [one.signed for one in roster.missing_since({})]


def last_of(lab: Lab, name: str, known_by: str = "") -> tuple[int, bytes]:
    """Number and digest of the newest statement of an issuer, as it is known somewhere."""
    head = lab.roster(known_by or name).heads[peer(name)]
    return head.seq, head.digest


def test_what_was_added_is_read_again_and_its_picture_beside_it(tmp_path: Path) -> None:
    lab = governed("ann")
    book = open_book(Home(tmp_path), mesh_id())
    added = book.add(lab.roster("root").statements.values())
    assert book.read().statements == added.statements == dict(lab.roster("root").statements)
    assert read_picture(Home(tmp_path), mesh_id()) == lab.roster("root").picture


def test_a_picture_is_read_without_cryptography_and_without_protobuf(tmp_path: Path) -> None:
    book = open_book(Home(tmp_path), mesh_id())
    book.add(governed("ann").roster("root").statements.values())
    script = (
        "import sys; from pathlib import Path; from dstack_mesh.home import Home;"
        "from dstack_mesh.trust.roster.book import read_picture;"
        f"assert read_picture(Home(Path({str(tmp_path)!r})), {mesh_id()!r}).members;"
        "print([n for n in ('cryptography', 'google.protobuf', 'grpc') if n in sys.modules])"
    )
    ended = subprocess.run((sys.executable, "-c", script), capture_output=True, check=True)
    assert ended.stdout.strip() == b"[]"


def test_a_damaged_line_is_left_out_and_the_rest_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = open_book(Home(tmp_path), mesh_id())
    book.add(governed("ann").roster("root").statements.values())
    path = statements_path(Home(tmp_path).keys)
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"x" + first[4:] + b"".join(rest))
    assert len(book.read().statements) == 1
    assert "left out" in caplog.text


def test_a_damaged_picture_is_as_none(tmp_path: Path) -> None:
    open_book(Home(tmp_path), mesh_id()).add(governed("ann").roster("root").statements.values())
    picture_path(Home(tmp_path).keys).write_text("{")
    assert read_picture(Home(tmp_path), mesh_id()).members == {}


def test_a_picture_that_a_crash_left_behind_is_made_anew_by_whoever_opens_the_roster(
    tmp_path: Path,
) -> None:
    lab, book = governed("ann"), open_book(Home(tmp_path), mesh_id())
    book.add(lab.roster("root").statements.values())
    before = picture_path(Home(tmp_path).keys).read_bytes()
    lab.say("root", Revoke(peer("lost")))
    book.add(lab.roster("root").statements.values())
    picture_path(Home(tmp_path).keys).write_bytes(before)
    Keeper(open_book(Home(tmp_path), mesh_id()), readable, verified)
    picture = read_picture(Home(tmp_path), mesh_id())
    assert picture.belonging(peer("lost")) is Belonging.REVOKED


ADMITS_TWENTY = """
import sys
from pathlib import Path
from dstack_mesh.home import Home
from dstack_mesh.identity import read_private_key
from dstack_mesh.ids import MeshId
from dstack_mesh.signing import Signer
from dstack_mesh.trust.roster.scribe import LAST, Scribe
from dstack_mesh.wire.roster import open_book
from dstack_mesh.wire.statements import seal
from support.played import Played
from support.rosters import NOW, admit

folder, name = Path(sys.argv[1]), sys.argv[2]
key = Signer(read_private_key(folder / "root.pem"))
scribe = Scribe(key, MeshId(key.peer_id), seal)
book = open_book(Home(folder), MeshId(key.peer_id))
for number in range(20):
    fact = admit(f"{name}-{number}")
    book.issue(lambda roster: scribe.write(roster, [fact], NOW))
"""


def test_two_processes_that_write_at_once_lose_nothing_and_fork_nothing(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "root.pem").write_bytes(private_pem(key))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [
        subprocess.Popen((sys.executable, "-c", ADMITS_TWENTY, tmp_path, name), env=environment)
        for name in ("a", "b")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    roster = open_book(Home(tmp_path), MeshId(Signer(key).peer_id)).read()
    assert len(roster.statements) == 40
    assert roster.picture.forked == ()


def test_a_full_book_still_takes_revocations_and_what_the_root_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST_STATEMENTS", 8)
    monkeypatch.setattr(bounds, "KEPT_FREE", 3)
    monkeypatch.setattr(bounds, "KEPT_FOR_ROOT", 1)
    lab = governed("ann")
    book = open_book(Home(tmp_path), mesh_id())
    book.add(lab.roster("root").statements.values())
    scribe = Scribe(signer("ann"), mesh_id(), seal)

    def said(*facts: object) -> Roster:
        return book.issue(lambda roster: scribe.write(roster, facts, NOW))  # type: ignore[arg-type]

    said(admit("a"), admit("b"), admit("c"))
    with pytest.raises(Busy) as full:
        said(admit("d"))
    assert full.value.code == "roster-full"
    assert said(Revoke(peer("a"))).picture.belonging(peer("a")) is Belonging.REVOKED


def test_an_admin_fills_only_its_own_room_and_the_root_has_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST_STATEMENTS", 20)
    monkeypatch.setattr(bounds, "KEPT_FREE", 4)
    monkeypatch.setattr(bounds, "KEPT_FOR_ROOT", 3)
    monkeypatch.setattr(bounds, "MOST_OF_AN_ADMIN", 7)
    lab = governed("ann", "bob", "cat")
    book = open_book(Home(tmp_path), mesh_id())
    book.add(lab.roster("root").statements.values())
    for name in ("ann", "bob", "cat"):
        before = len(book.read().statements)
        book.add(lab.say(name, *(Revoke(peer(f"{name}-{number}")) for number in range(30))))
        assert len(book.read().statements) - before <= 7
    root = Scribe(signer("root"), mesh_id(), seal)
    facts = [RemoveAdmin(peer(name), 0, b"") for name in ("ann", "bob", "cat")]
    assert book.issue(lambda roster: root.write(roster, facts, NOW)).picture.admins == frozenset()


def test_of_a_removed_admin_nothing_is_kept_beyond_its_limit_but_that_it_leaves() -> None:
    lab = governed("ann")
    lab.say("ann", admit("early"))
    lab.tell("ann", "root")
    lab.say("ann", *(Revoke(peer(f"victim-{number}")) for number in range(30)))
    lab.say("root", RemoveAdmin(peer("ann"), *last_of(lab, "ann", "root")))
    removed, everything = lab.roster("root"), lab.roster("root").merge(lab.roster("ann"))
    late = removed.take(everything.statements.values())
    early = lab.roster("ann").take(removed.statements.values())
    assert late.heads == early.heads == removed.heads
    lab.known["ann"] = early
    [leaves] = lab.say("ann", Leave(early.picture.members[peer("ann")].admissions))
    for one in (late, early):
        assert one.take([leaves]).picture.belonging(peer("ann")) is Belonging.LEFT


def test_nobody_silences_others_by_a_date_far_ahead(tmp_path: Path) -> None:
    lab = governed("ann")
    lab.say("root", admit("ws", Role.READER))
    lab.tell("root", "ws")
    lab.now = LAST - timedelta(seconds=1)
    lab.say("ws", Leave(()))
    lab.tell("ws", "root", "ann")
    lab.now = NOW
    [said] = lab.say("root", Revoke(peer("ws")))
    assert said.statement.at < NOW + timedelta(days=1)
    lab.now = LAST - timedelta(seconds=1)
    lab.say("ann", admit("a"), admit("b"))
    lab.tell("ann", "root")
    lab.now = NOW
    lab.say("root", Assign(peer("a"), Role.READER), Assign(peer("a"), Role.SUBMITTER))
    lab.say("root", Assign(peer("b"), Role.READER), RemoveAdmin(peer("ann"), *last_of(lab, "ann")))
    picture = lab.roster("root").picture
    assert picture.admins == frozenset()
    assert picture.role(peer("a"), Role.RUNNER) is Role.SUBMITTER
    assert picture.role(peer("b"), Role.RUNNER) is Role.READER


def test_who_is_nobody_fills_no_book(tmp_path: Path) -> None:
    lab = governed("ann")
    book = open_book(Home(tmp_path), mesh_id())
    book.add(lab.roster("root").statements.values())
    stranger = lab.say("stranger", *(Leave(()) for _ in range(5)))
    assert len(book.add(stranger).statements) == 2
    lab.say("root", admit("ws", Role.READER))
    lab.tell("root", "ws")
    lab.say("ws", *(Leave(()) for _ in range(MOST_OF_A_MEMBER + 5)))
    assert len(book.add(lab.roster("ws").statements.values()).statements) == 3 + MOST_OF_A_MEMBER


async def test_a_keeper_notices_what_another_process_wrote(tmp_path: Path) -> None:
    lab = governed("ann")
    keeper = Keeper(open_book(Home(tmp_path), mesh_id()), readable, verified)
    told: list[Picture] = []
    keeper.subscribe(told.append)
    open_book(Home(tmp_path), mesh_id()).add(lab.roster("root").statements.values())
    await keeper.look()
    await keeper.look()
    assert told == [lab.roster("root").picture]


async def test_a_disk_that_fails_for_a_moment_does_not_end_the_keeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper_module, "LOOK_SECONDS", 0.01)
    lab, book = governed("ann"), open_book(Home(tmp_path), mesh_id())
    keeper, stamp, troubles = Keeper(book, readable, verified), book.stamp, [OSError(5, "I/O")]

    def failing() -> Stamp | None:
        if troubles:
            raise troubles.pop()
        return stamp()

    monkeypatch.setattr(book, "stamp", failing)
    open_book(Home(tmp_path), mesh_id()).add(lab.roster("root").statements.values())
    running = asyncio.create_task(keeper.run())

    async def noticed() -> bool:
        return keeper.picture == lab.roster("root").picture

    await eventually_async(noticed, within=10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not troubles and "could not be read" in caplog.text


async def test_a_revocation_counts_although_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lab = governed("ann")
    book = open_book(Home(tmp_path), mesh_id())
    keeper = Keeper(book, readable, verified)
    said = lab.say("root", Revoke(peer("ws")))

    def full(statements: object) -> Roster:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(book, "add", full)
    everything: list[Sealed] = [*lab.roster("root").statements.values()]
    assert said[0] in everything
    assert await keeper.absorb([one.signed for one in everything]) == 3
    assert keeper.picture.belonging(peer("ws")) is Belonging.REVOKED
    assert "No space left" in caplog.text


async def test_what_was_heard_while_the_disk_was_full_is_written_down_with_the_next_statement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = governed("ann")
    keeper = Keeper(open_book(Home(tmp_path), mesh_id()), readable, verified)
    lab.say("root", admit("ws"), Revoke(peer("lost")))

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(book_of, "write_durably", full)
        await keeper.absorb(signed(lab.roster("root")))
    own = Scribe(signer("ann"), mesh_id(), seal)
    await keeper.absorb([one.signed for one in own.write(keeper.roster, [admit("a")], NOW)])
    assert keeper.picture.belonging(peer("lost")) is Belonging.REVOKED
    await keeper.issue(lambda roster: own.write(roster, [admit("b")], NOW))
    assert keeper.picture.belonging(peer("lost")) is Belonging.REVOKED
    written = open_book(Home(tmp_path), mesh_id()).read().picture
    assert written.belonging(peer("lost")) is Belonging.REVOKED


async def test_what_is_dated_days_ahead_waits_for_its_time(tmp_path: Path) -> None:
    clock = Played(NOW)
    keeper = Keeper(open_book(Home(tmp_path), mesh_id()), readable, verified, clock)
    lab = governed()
    lab.now = NOW + timedelta(days=2)
    lab.say("root", admit("ws"))
    assert await keeper.absorb(signed(lab.roster("root"))) == 0
    clock.day = 1.5
    assert await keeper.absorb(signed(lab.roster("root"))) == 1


async def test_what_nobody_would_keep_costs_no_look_at_its_signature(tmp_path: Path) -> None:
    looked: list[Signed] = []

    def counted(arrived: Iterable[Signed]) -> list[Sealed]:
        looked.extend(kept := list(arrived))
        return verified(kept)

    lab = governed("ann")
    lab.say("root", admit("ws"))
    keeper = Keeper(open_book(Home(tmp_path), mesh_id()), readable, counted)
    assert await keeper.absorb(signed(lab.roster("root"))) == 3
    assert len(looked) == 3
    looked.clear()
    lab.tell("root", "ws")
    stranger, ours = lab.say("stranger", *[Leave(())] * 5), lab.say("ws", *[Leave(())] * 100)
    assert await keeper.absorb([one.signed for one in (*stranger, *ours[1:])]) == 0
    assert looked == []
    await keeper.absorb([one.signed for one in ours])
    assert len(looked) == MOST_OF_A_MEMBER


async def test_what_nobody_signed_is_not_absorbed(tmp_path: Path) -> None:
    keeper = Keeper(open_book(Home(tmp_path), mesh_id()), readable, verified)
    [said] = Lab().say("root", admit("ws"))
    forged = Signed(said.signed.body, said.signed.key, said.signed.signature[:-1] + b"\0")
    assert await keeper.absorb([forged]) == 0
    assert await keeper.absorb([forged, said.signed]) == 1
