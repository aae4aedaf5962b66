"""An inviter's side of an invitation, without the network: whom to believe and what to sign.

"Used" is on disk before anything is signed. A crash in between loses the invitation and never
admits two. Whoever gets a certificate is written into the roster before it is sent.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from cryptography import x509

from dstack_mesh.clock import Clock
from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen
from dstack_mesh.identity import id_of_key, public_der
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.signing import LONGEST_KEY_BYTES
from dstack_mesh.trust.authority import Authority, key_of, parse_request, read_request
from dstack_mesh.trust.crowd import Crowd
from dstack_mesh.trust.invite import (
    NONCE_BYTES,
    Code,
    Expired,
    Invite,
    Live,
    State,
    Transcript,
    derive_key,
    why_not,
    wrong_code,
)
from dstack_mesh.trust.invites import InviteBook
from dstack_mesh.trust.joining import Greeting, Reply
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.enrolment import Enrolment
from dstack_mesh.trust.roster.roster import Roster

LONGEST_REQUEST_BYTES = 4096


@frozen
class Greeted:
    """Somebody asks to join; both screens show these words."""

    words: tuple[str, str, str, str]


@frozen
class TriedWrong:
    """Somebody at an address tried a wrong code, and has so many tries left there."""

    tries_left: int
    source: str = ""


@frozen
class Joined:
    """Somebody joined, and what people call it."""

    peer_id: PeerId
    name: str


DeskEvent = Greeted | TriedWrong | Joined


class Desk:
    """Serves one invitation. Use from one event loop.

    Args:
        authority: Signs.
        enrolment: Writes into the roster.
        book: Where states are written down.
        code: The code. Only a key derived from it is kept, which takes a quarter of a second.
        invite: The invitation, live.
        listener_hash: SHA-256 of the listener's certificate, DER.
        clock: To know when it expires.
        seeds: Addresses of agents, given to the newcomer, as they are at that moment.
        on_event: Told what happens.
    """

    def __init__(
        self,
        authority: Authority,
        enrolment: Enrolment,
        book: InviteBook,
        code: Code,
        invite: Invite,
        listener_hash: bytes,
        clock: Clock,
        seeds: Callable[[], tuple[Address, ...]],
        on_event: Callable[[DeskEvent], None],
    ) -> None:
        self._authority = authority
        self._enrolment = enrolment
        self._book = book
        self._key = derive_key(code, invite.mesh_id)
        self._invite = invite
        self._listener_hash = listener_hash
        self._clock = clock
        self._seeds = seeds
        self._on_event = on_event
        self._crowd = Crowd()
        self._turn = asyncio.Lock()
        self._ended = asyncio.Event()

    def greet(self, source: str, invite_id: str, key: bytes, nonce: bytes) -> Greeting:
        """Proves that we know the code to whoever calls from an address.

        Raises:
            Missing: The invitation is not live.
            Busy: That address greets too often.
            Forbidden: It tried too many wrong codes.
        """
        self._check_live(invite_id)
        self._crowd.check(source, self._clock.elapsed())
        if len(nonce) != NONCE_BYTES or not 0 < len(key) <= LONGEST_KEY_BYTES:
            raise Invalid("A newcomer's greeting is malformed.")
        transcript = Transcript(
            mesh_id=self._invite.mesh_id,
            invite_id=invite_id,
            listener_hash=self._listener_hash,
            newcomer_key=key,
            newcomer_nonce=nonce,
            listener_nonce=secrets.token_bytes(NONCE_BYTES),
        )
        self._crowd.keep(source, transcript)
        self._on_event(Greeted(transcript.words(self._key)))
        proof = transcript.listener_proof(self._key)
        return Greeting(self._invite.mesh_id, transcript.listener_nonce, proof)

    async def join(
        self,
        source: str,
        invite_id: str,
        nonce: bytes,
        proof: bytes,
        request: bytes,
        name: str = "",
        issuer_request: bytes = b"",
    ) -> Reply:
        """Signs for whoever proves to know the code, once.

        Raises:
            Missing: The invitation is not live any more.
            Forbidden: The proof is wrong; that was one of five tries of this address.
            Invalid: The request is not signed by the key of the greeting.
            Refused: That key was revoked.
            Busy: The roster is full.
        """
        async with self._turn:
            self._check_live(invite_id)
            self._crowd.check_tries(source)
            transcript = self._crowd.take(source, nonce)
            if transcript is None:
                raise Invalid("Nobody greeted with this nonce.", hint="Start again.")
            if not secrets.compare_digest(transcript.newcomer_proof(self._key), proof):
                left = self._crowd.tried_wrong(source)
                await self._note(self._invite.after_wrong_proof())
                self._on_event(TriedWrong(left, source))
                raise wrong_code()
            if max(len(request), len(issuer_request)) > LONGEST_REQUEST_BYTES:
                raise Invalid("A certificate request is too long.")
            checked = read_request(request, transcript.newcomer_key)
            peer_id = PeerId(id_of_key(transcript.newcomer_key))
            self._enrolment.check(peer_id, self._invite.role)
            # An older newcomer asks for no key to sign with, and a member needs none.
            issues = self._invite.role is Role.ADMIN and bool(issuer_request)
            issuing = parse_request(issuer_request) if issues else None
            await self._note(self._invite.used(peer_id))
            now = self._clock.now()
            certificate = self._authority.sign(checked, self._invite.role, now)
            issuer_pem = self._authority.sign_issuer(issuing, now) if issuing else b""
            roster = await self._enrol(peer_id, name, now, issuing)
        self._on_event(Joined(peer_id, roster.picture.members[peer_id].name))
        return self._reply(transcript, certificate, roster, issuer_pem)

    async def _enrol(
        self,
        peer_id: PeerId,
        name: str,
        now: datetime,
        issuing: x509.CertificateSigningRequest | None,
    ) -> Roster:
        invite, until = self._invite, self._authority.until(now)
        issuer = PeerId(id_of_key(public_der(key_of(issuing)))) if issuing else None
        return await self._enrolment.enrol(
            peer_id, invite.role, name, invite.invite_id, until, now, issuer
        )

    async def ended(self) -> State:
        """Waits until it was used, burned or expired."""
        left = self._invite.expires_at - self._clock.elapsed()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                await self._ended.wait()
        except TimeoutError:
            async with self._turn:
                if isinstance(self._invite.state, Live):
                    await self._note(replace(self._invite, state=Expired()))
        return self._invite.state

    def _check_live(self, invite_id: str) -> None:
        if invite_id != self._invite.invite_id:
            raise why_not(None)
        state = self._invite.at(self._clock.elapsed()).state
        if not isinstance(state, Live):
            raise why_not(state)

    async def _note(self, invite: Invite) -> None:
        self._invite = invite
        if not isinstance(invite.state, Live):
            self._ended.set()
        await asyncio.to_thread(self._book.write, invite, self._clock.now())

    def _reply(
        self, transcript: Transcript, certificate: bytes, roster: Roster, issuer_pem: bytes
    ) -> Reply:
        unproved = Reply(
            certificate_pem=certificate,
            root_pem=self._authority.root_pem,
            mesh_name=self._authority.membership.mesh_name,
            discovery_key=self._authority.membership.discovery_key,
            seeds=self._seeds(),
            role=self._invite.role.value,
            proof=b"",
            statements=tuple(one.signed for one in roster.missing_since({})),
            issuer_pem=issuer_pem,
        )
        return replace(unproved, proof=transcript.reply_proof(self._key, *unproved.fields()))
