"""Invitations: the code that one person reads to another, and what both sides prove with it.

    newcomer                                        listener
      invite id, own key, nonce          ──────▶
                                         ◀──────    mesh, nonce, HMAC(K, "listener" + transcript)
      checks it, else stops here
      HMAC(K, "newcomer" + transcript)   ──────▶    checks it; written down as used; then signs
                                         ◀──────    certificate and more, HMAC(K, "reply" + all)

K comes from the code's secret by scrypt. The transcript holds both nonces, the newcomer's key and
the hash of the certificate that the listener showed, so whoever stands in between cannot pass it
on. The listener proves itself first: a false one learns nothing from a newcomer.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import replace

from dstack_mesh.faults import Forbidden, Invalid, MeshError, Missing
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.words import words_of

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base32: no I, L, O and U."""

PUBLIC_CHARACTERS = 4
SECRET_CHARACTERS = 12
"""60 random bits, worth nothing after ten minutes or so many wrong tries."""

TRIES = 5
"""Wrong tries of one address; then it is shut out."""

MOST_TRIES = 25
"""Wrong tries of all addresses together; then the invitation is void."""

NONCE_BYTES = 32
LONGEST_LIFETIME_SECONDS = 24 * 3600


@frozen
class Code:
    """A code in its two parts. The public part may be announced; the secret never leaves."""

    invite_id: str
    secret: str

    def __str__(self) -> str:
        text = self.invite_id + self.secret
        return "-".join(text[start : start + 4] for start in range(0, len(text), 4))

    def __repr__(self) -> str:
        return f"Code({self.invite_id}-…)"


def make_code() -> Code:
    """A new random code."""
    body = "".join(secrets.choice(ALPHABET) for _ in range(PUBLIC_CHARACTERS - 1))
    secret = "".join(secrets.choice(ALPHABET) for _ in range(SECRET_CHARACTERS))
    return code_of(body, secret)


def code_of(body: str, secret: str) -> Code:
    """The code with these characters: three public ones, to which a check is added, and twelve."""
    return Code(body + _check_character(body), secret)


def parse_code(text: str) -> Code:
    """The code as somebody typed it: case, dashes, spaces and O/0, I/L/1 do not matter.

    The last character of the public part checks that part, so a slip there is noticed here and not
    taken for an invitation that does not exist. The secret carries no check, which would tell
    about it; a slip there is one wrong try.

    Raises:
        Invalid: No code can look like this.
    """
    plain = re.sub(r"[\s\-_.\u2013\u2014]", "", text)
    plain = "".join(letter.upper() if letter.isascii() else letter for letter in plain)
    plain = plain.translate(str.maketrans({"O": "0", "I": "1", "L": "1"}))
    strange = sorted(set(plain) - set(ALPHABET))
    if strange:
        raise _no_code(f"{', '.join(map(repr, strange))} cannot be part of one.")
    if len(plain) != PUBLIC_CHARACTERS + SECRET_CHARACTERS:
        raise _no_code(f"It has {len(plain)} characters.")
    invite_id, secret = plain[:PUBLIC_CHARACTERS], plain[PUBLIC_CHARACTERS:]
    if invite_id[-1] != _check_character(invite_id[:-1]):
        raise _no_code("Its first four characters do not belong together; there is a slip in them.")
    return Code(invite_id, secret)


def _no_code(why: str) -> Invalid:
    return Invalid(
        "This is not an invitation code.",
        why,
        "A code looks like 7K3V-Q2MX-9T4B-HC6D; type it as it stands on the other screen.",
        code="bad-invite-code",
    )


def _check_character(body: str) -> str:
    # Odd weights: a single wrong character always changes the sum.
    total = sum((2 * place + 1) * ALPHABET.index(letter) for place, letter in enumerate(body))
    return ALPHABET[total % 32]


def derive_key(code: Code, mesh_id: MeshId) -> bytes:
    """The key that both sides derive; a quarter of a second and 32 MiB on purpose."""
    salt = f"{mesh_id}|{code.invite_id}".encode()
    limit = 64 * 1024 * 1024
    return hashlib.scrypt(code.secret.encode(), salt=salt, n=2**15, r=8, p=1, maxmem=limit)


@frozen
class Transcript:
    """What both sides saw; equal on both unless somebody stands in between.

    Attributes:
        mesh_id: The mesh that the listener named.
        invite_id: Public part of the code.
        listener_hash: SHA-256 of the listener's throw-away certificate, DER.
        newcomer_key: The newcomer's public key, DER.
        newcomer_nonce: 32 random bytes.
        listener_nonce: 32 random bytes.
    """

    mesh_id: MeshId
    invite_id: str
    listener_hash: bytes
    newcomer_key: bytes
    newcomer_nonce: bytes
    listener_nonce: bytes

    def listener_proof(self, key: bytes) -> bytes:
        """What only a listener that knows the code can send."""
        return self._mac(key, "listener")

    def newcomer_proof(self, key: bytes) -> bytes:
        """What only a newcomer that knows the code can send."""
        return self._mac(key, "newcomer")

    def reply_proof(self, key: bytes, *fields: bytes) -> bytes:
        """What makes the listener's reply its own, whole and unchanged."""
        return self._mac(key, "reply", *fields)

    def words(self, key: bytes) -> tuple[str, str, str, str]:
        """Four words that are equal on both screens."""
        return words_of(self._mac(key, "words")[:4])

    def _mac(self, key: bytes, label: str, *fields: bytes) -> bytes:
        parts = (
            b"dstack-mesh invitation 1",
            label.encode(),
            self.mesh_id.encode(),
            self.invite_id.encode(),
            self.listener_hash,
            self.newcomer_key,
            self.newcomer_nonce,
            self.listener_nonce,
            *fields,
        )
        framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.new(key, framed, hashlib.sha256).digest()


@frozen
class Live:
    """It can be used."""

    tries_left: int = MOST_TRIES


@frozen
class Used:
    """Somebody joined by it."""

    by: PeerId


@frozen
class Expired:
    """Its time is over."""


@frozen
class Burned:
    """Too many wrong codes were tried."""


State = Live | Used | Expired | Burned


@frozen
class Invite:
    """An invitation as its maker knows it. Seconds are of the maker's steady clock."""

    invite_id: str
    mesh_id: MeshId
    role: Role
    expires_at: float
    state: State = Live()

    def at(self, now: float) -> "Invite":
        """The same at a later time."""
        if isinstance(self.state, Live) and now >= self.expires_at:
            return replace(self, state=Expired())
        return self

    def after_wrong_proof(self) -> "Invite":
        """Somebody tried a wrong code."""
        if not isinstance(self.state, Live):
            return self
        left = self.state.tries_left - 1
        return replace(self, state=Live(left) if left > 0 else Burned())

    def used(self, by: PeerId) -> "Invite":
        """Somebody proved to know the code. Raises Missing unless it is live."""
        if not isinstance(self.state, Live):
            raise why_not(self.state)
        return replace(self, state=Used(by))


def why_not(state: Used | Expired | Burned | None) -> MeshError:
    """Why an invitation in this state cannot be used; None: there is no such invitation."""
    hint = "Ask for a new one: `dstack mesh invite`."
    match state:
        case Used():
            return Missing(
                "This invitation was used already.",
                "Each admits one peer. If that was not you, tell whoever invited you.",
                hint,
                code="invite-used",
            )
        case Expired():
            return Missing("This invitation expired.", "Its time is over.", hint, "invite-expired")
        case Burned():
            return Missing(
                "This invitation is void.",
                f"{MOST_TRIES} wrong codes were tried, from several addresses.",
                hint,
                code="invite-burned",
            )
        case None:
            return Missing(
                "There is no such invitation here.",
                "Whoever answers made none with these first four characters.",
                hint,
                code="invite-unknown",
            )


def wrong_code() -> Forbidden:
    """The proof is not one that the code makes."""
    return Forbidden(
        "The code is wrong.",
        "Whoever answered and this side do not hold the same code.",
        f"Check its last twelve characters. After {TRIES} wrong tries nobody at this address is "
        "heard.",
        code="wrong-code",
    )
