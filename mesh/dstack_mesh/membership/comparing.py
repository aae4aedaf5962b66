"""Two peers make their views of the mesh equal: what probes missed is caught up here.

    caller: my view's fingerprint ── answerer: the same          (nearly always; two messages)
    caller: my view's fingerprint ── answerer: its first page
    caller: what I know better of that page ── answerer: its next page      … until the last page

Both sides take what they are told as they take rumours. Pages are in the order of ids, bounded, and
the caller has to ask for each, so nobody is sent more than it wants.
"""

from collections.abc import Generator
from dataclasses import dataclass
from hashlib import blake2b

from dstack_mesh.membership.rumour import Message, Rumour, outweighs
from dstack_mesh.membership.swim import Swim

MOST_PAGES = 128
"""Pages of one comparison; with 64 peers each, more than the most members."""


@dataclass(frozen=True, slots=True)
class Question:
    """A step of the caller.

    Attributes:
        message: The caller's word, and what it knows better of the last page.
        fingerprint: Of the caller's view.
        after: The last id of the last page; empty at first.
    """

    message: Message
    fingerprint: bytes
    after: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A step of the answerer.

    Attributes:
        message: The answerer's word, and its page.
        same: Both views are the same; there is no page.
        next: What to ask with as `after`; empty if this was the last page.
    """

    message: Message
    same: bool = False
    next: str = ""


def fingerprint(swim: Swim) -> bytes:
    """Eight bytes that are the same where the same peers may answer and say the same."""
    known = [one for one in swim.members if one.living]
    lines = [f"{one.peer_id} {one.incarnation}" for one in known]
    lines.append(f"{swim.word.peer_id} {swim.word.incarnation}")
    return blake2b("\n".join(sorted(lines)).encode(), digest_size=8).digest()


def comparing(swim: Swim) -> Generator[Question, Reply, None]:
    """The caller's steps. Whoever drives it also gives each reply's message to `swim`."""
    reply = yield Question(Message(swim.word), fingerprint(swim))
    after = ""
    for _ in range(MOST_PAGES):
        if reply.same:
            return
        better = _better_than(swim, reply, after)
        if not reply.next and not better:
            return
        after = reply.next or after
        # A last step, with nothing more to learn, starts after every id.
        question = Question(Message(swim.word, better), b"", reply.next or "~")
        reply = yield question
        if question.after == "~":
            return


def reply_to(swim: Swim, question: Question) -> Reply:
    """The answerer's step, after the question's message was given to `swim`."""
    first = not question.after and not question.message.rumours
    if first and question.fingerprint == fingerprint(swim):
        return Reply(Message(swim.word), same=True)
    later = [one for one in _lines(swim) if one.peer_id > question.after]
    page = tuple(later[: swim.pace.most_page])
    more = len(later) > len(page)
    return Reply(Message(swim.word, page), next=page[-1].peer_id if more else "")


def _better_than(swim: Swim, reply: Reply, after: str) -> tuple[Rumour, ...]:
    """What we know of the page's range of ids that the answerer does not; a page at most."""
    told = {one.peer_id: one for one in (*reply.message.rumours, reply.message.word)}
    better: list[Rumour] = []
    for ours in _lines(swim):
        if ours.peer_id <= after or (reply.next and ours.peer_id > reply.next):
            continue
        theirs = told.get(ours.peer_id)
        if theirs is None or outweighs(ours, theirs.incarnation, theirs.condition):
            better.append(ours)
    return tuple(better[: swim.pace.most_page])


def _lines(swim: Swim) -> list[Rumour]:
    return sorted((one.rumour() for one in swim.members), key=lambda one: one.peer_id)
