"""Many who stand between a newcomer and an invitation, and many newcomers at one invitation.

`DSTACK_CHAOS_ROUNDS=10000 pytest tests/mesh/test_joins_under_attack.py -k relayed` relays so many
joins, and `DSTACK_CHAOS_ROUNDS=100 … -k race` races so many times with as many newcomers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from dstack_mesh.faults import Fault, Forbidden, MeshError
from dstack_mesh.home import Home
from dstack_mesh.ids import MeshId
from dstack_mesh.trust.desk import Desk
from dstack_mesh.trust.invite import Code, Transcript, derive_key, make_code
from dstack_mesh.trust.joining import Agreement, Greeting, Newcomer, Reply
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.wire.admission import Invitation, serve_invitation
from dstack_mesh.wire.newcomer import join_mesh
from support.desks import CLOCK, LISTENER, desk_of
from support.meshes import Mesh
from support.relay import relay
from support.rounds import rounds, seeded


@dataclass(slots=True)
class Between:
    """Passes greetings on, changed by chance, and tries to join itself with what it saw.

    Attributes:
        shows: Hash of the certificate that it shows to newcomers.
    """

    chance: Random
    desk: Desk
    own: Newcomer
    shows: bytes
    seen: list[bytes] = field(default_factory=lambda: [b"", b"p" * 32])
    did: Counter[str] = field(default_factory=Counter[str])
    source: int = 0

    def greet(self, newcomer: Newcomer) -> tuple[Greeting, bytes]:
        """What the newcomer hears, and the nonce that the listener heard."""
        how = self.chance.choice(("as it is", "own key", "own nonce"))
        self.did[how] += 1
        key = self.own.public_key if how == "own key" else newcomer.public_key
        nonce = secrets.token_bytes(32) if how == "own nonce" else newcomer.nonce
        self.source += 1  # as from a million addresses, of which each is bounded
        heard = self.desk.greet(str(self.source), newcomer.invite_id, key, nonce)
        self.seen.append(heard.proof)
        return self._changed(heard), nonce

    def _changed(self, heard: Greeting) -> Greeting:
        match self.chance.randrange(50):
            case number if number < 10:
                return replace(heard, nonce=secrets.token_bytes(32))
            case number if number < 20:
                return replace(heard, proof=self.chance.choice(self.seen[-50:]))
            case 20:  # costs the newcomer a new key each time
                return replace(heard, mesh_id=MeshId("b" * 32))
            case _:
                return heard

    async def join(self, invite_id: str, nonce: bytes, proof: bytes | None) -> Reply:
        """Tries to be admitted in the newcomer's place."""
        tried = self.chance.choice(self.seen[-50:]) if proof is None else proof
        return await self.desk.join(
            str(self.source), invite_id, nonce, tried, self.own.request(), "ws-1"
        )


async def relayed(between: Between, newcomer: Newcomer) -> bool:
    """Whether anybody got in."""
    greeting, nonce = between.greet(newcomer)
    proof: bytes | None = None
    try:
        agreement = await asyncio.to_thread(newcomer.check, greeting, between.shows)
        proof = agreement.proof
    except Forbidden:
        pass
    try:
        await between.join(newcomer.invite_id, nonce, proof)
    except MeshError:
        return proof is not None
    return True


async def test_nobody_gets_in_by_relayed_greetings(tmp_path: Path) -> None:
    mesh, code, chance = Mesh.make(tmp_path / "root"), make_code(), seeded("relayed")
    between = Between(chance, desk_of(mesh, code, 1 << 30), _newcomer(tmp_path, code), b"r" * 32)
    accepted, count = 0, rounds(20)
    newcomer = Newcomer(Home(tmp_path / "victim"), code)
    for _ in range(count):
        newcomer.nonce = secrets.token_bytes(32)
        accepted += await relayed(between, newcomer)
    print(f"{count:,} relayed joins, {accepted} accepted, {dict(between.did)}")
    assert accepted == 0
    assert Membership.load(Home(tmp_path / "victim")) is None


async def test_a_relay_with_the_listeners_own_certificate_would_be_found(tmp_path: Path) -> None:
    mesh, code = Mesh.make(tmp_path / "root"), make_code()
    desk = desk_of(mesh, code, 1 << 30)
    between = Between(Random(3), desk, _newcomer(tmp_path, code), LISTENER)
    accepted = 0
    for _ in range(12):
        accepted += await relayed(between, Newcomer(Home(tmp_path / "victim"), code))
    assert accepted > 0


def _newcomer(folder: Path, code: Code) -> Newcomer:
    return Newcomer(Home(folder / "between"), code)


@asynccontextmanager
async def served(mesh: Mesh) -> AsyncGenerator[Invitation]:
    made: asyncio.Future[Invitation] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(
            serve_invitation(mesh.root, Role.RUNNER, 60, made.set_result, host="127.0.0.1")
        )
        yield await made
        serving.cancel()


async def test_nobody_gets_in_over_a_relay_that_speaks_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSTACK_MDNS", "0")
    mesh, count, proofs = Mesh.make(tmp_path / "root"), min(rounds(4), 400), list[bytes]()
    tried = 0
    while tried < count:
        async with served(mesh) as invitation, relay(invitation.addresses[0]) as between:
            for number in range(min(4, count - tried)):  # the fifth would make it void
                with pytest.raises(Forbidden):
                    await join_mesh(
                        Home(tmp_path / f"ws-{number}"), invitation.code, between.address
                    )
                tried += 1
            proofs += between.proofs
            assert between.greeted
    print(f"{tried} joins were relayed over TLS, and {len(proofs)} proofs were seen")
    assert set(proofs) == {b""}
    assert all(Membership.load(Home(tmp_path / f"ws-{number}")) is None for number in range(4))


async def raced(mesh: Mesh, homes: list[Home]) -> Counter[str]:
    """All of them come to one invitation at once."""
    code = make_code()
    desk = desk_of(mesh, code)
    key = await asyncio.to_thread(derive_key, code, mesh.membership.mesh_id)

    async def come(home: Home) -> str:
        newcomer = Newcomer(home, code, home.root.name)
        source = home.root.name
        heard = desk.greet(source, newcomer.invite_id, newcomer.public_key, newcomer.nonce)
        agreement = Agreement(key, _transcript(newcomer, heard))
        await asyncio.sleep(0)
        try:
            reply = await desk.join(
                source,
                code.invite_id,
                newcomer.nonce,
                agreement.proof,
                newcomer.request(),
                newcomer.name,
            )
        except MeshError as refused:
            return refused.code or refused.fault.value
        newcomer.finish(agreement, reply, CLOCK.now())
        return "joined"

    return Counter(await asyncio.gather(*map(come, homes)))


def _transcript(newcomer: Newcomer, heard: Greeting) -> Transcript:
    return Transcript(
        heard.mesh_id,
        newcomer.invite_id,
        LISTENER,
        newcomer.public_key,
        newcomer.nonce,
        heard.nonce,
    )


async def test_in_a_race_for_an_invitation_exactly_one_gets_in(tmp_path: Path) -> None:
    mesh, count = Mesh.make(tmp_path / "root"), rounds(3)
    racers = 100 if count > 20 else 20
    ends = Counter[str]()
    for number in range(count):
        homes = [Home(tmp_path / f"{number}-{racer}") for racer in range(racers)]
        came = await raced(mesh, homes)
        assert came["joined"] == 1, came
        assert sum(Membership.load(home) is not None for home in homes) == 1
        ends += came
    print(f"{count} races of {racers}: {dict(ends)}")
    # Where more than 64 talk at once, the first of them are to start again.
    assert ends.keys() <= {"joined", "invite-used", Fault.INVALID.value}
