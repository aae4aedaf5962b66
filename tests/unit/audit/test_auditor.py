"""What is worth a line of the audit log, and what is not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from dstack_agent.audit.auditor import Auditor
from dstack_agent.audit.entry import Entry, What
from dstack_agent.audit.log import AuditLog
from dstack_agent.audit.reading import read_log
from dstack_agent.audit.repeats import MOST_KINDS, WINDOW_SECONDS, Repeats
from dstack_agent.owner.standing import Open, Paused, Standing
from dstack_mesh.faults import Forbidden
from dstack_mesh.ids import MeshId, PeerId, RunId
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.picture import Belonging, Enrolled, Picture, empty
from dstack_mesh.wire.caller import Member, Owner
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.job import JobKey, TagRecord

AT = datetime(2026, 11, 20, tzinfo=UTC)
ROOT, ANA, BEN = (PeerId(letter * 32) for letter in "rab")
RUN = RunId("0" * 26)


@dataclass
class Machine:
    """A clock, and all that an auditor looks at."""

    folder: Path
    picture: Picture = field(default_factory=lambda: empty(MeshId(ROOT)))
    policy: str = ""
    standing: Standing = field(default_factory=Open)
    seconds: float = 0.0

    def elapsed(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return AT

    def auditor(self) -> tuple[Auditor, AuditLog]:
        log = AuditLog(self.folder / "audit", self.now)
        made = Auditor(
            log,
            self.folder / "audited.json",
            self,
            lambda: self.picture,
            lambda: self.policy,
            lambda: self.standing,
        )
        return made, log

    async def look(self) -> None:
        """An agent that starts, looks, and ends."""
        auditor, log = self.auditor()
        await auditor.look()
        log.close()

    def told(self) -> list[tuple[str, str, str]]:
        lines = read_log(self.folder / "audit", 16).lines
        return [(one.entry.what.value, one.entry.who, one.entry.about) for one in lines]

    def enrol(self, peer: PeerId, role: Role, how: Belonging = Belonging.MEMBER) -> None:
        one = Enrolled(peer, "ana", role, how, ROOT, "7K3V", AT, None, why="stolen")
        self.picture = replace(self.picture, members={**self.picture.members, peer: one})


async def test_what_happened_while_no_agent_ran_is_told_once_when_it_starts(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    await machine.look()
    assert machine.told() == []
    machine.enrol(ANA, Role.SUBMITTER)
    await machine.look()
    await machine.look()
    machine.enrol(ANA, Role.READER)
    machine.policy, machine.standing = "who: [ana]", Paused()
    await machine.look()
    machine.enrol(ANA, Role.READER, Belonging.REVOKED)
    machine.policy = ""
    await machine.look()
    assert machine.told() == [
        ("admitted", ROOT, ANA),
        ("role", ROOT, ANA),
        ("policy", "owner", "policy.yaml"),
        ("lending", "owner", "paused"),
        ("revoked", "roster", ANA),
        ("policy", "owner", "policy.yaml"),
    ]


async def test_what_was_seen_and_cannot_be_read_is_told_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.enrol(ANA, Role.SUBMITTER)
    await machine.look()
    (tmp_path / "audited.json").write_text("[1")
    await machine.look()
    assert machine.told() == [("admitted", ROOT, ANA)] * 2


def test_only_an_end_by_somebody_else_is_told(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    auditor, log = machine.auditor()
    ana, ben = Member(ANA, Role.SUBMITTER), Member(BEN, Role.ADMIN)
    gave = frozenset({ANA})
    auditor.stopped(ana, Asker(ANA), RUN, False, gave)
    auditor.stopped(Owner(), Asker(ANA), RUN, False, gave)
    auditor.stopped(Owner(), OWNER, RUN, False, frozenset())
    auditor.stopped(Owner(), OWNER, RUN, False, frozenset({PeerId("")}))
    assert machine.told() == []
    auditor.stopped(ben, Asker(BEN), RUN, True, gave)
    auditor.stopped(Owner(), OWNER, RUN, False, gave)
    log.close()
    assert machine.told() == [("stopped", BEN, RUN), ("stopped", "owner", RUN)]


def test_a_tag_that_is_taken_back_is_told_and_one_that_is_given_is_not(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    auditor, log = machine.auditor()
    auditor.tagged(Owner(), TagRecord("lab/repo", "v1", RUN, "calm-ibex-1", AT))
    auditor.tagged(Owner(), TagRecord("lab/repo", "v1", None, "", AT))
    log.close()
    assert machine.told() == [("deleted", "owner", "tag lab/repo v1")]


def test_refused_calls_are_told_and_a_flood_of_them_is_counted(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    auditor, log = machine.auditor()
    for number in range(10_000):
        who = Member(PeerId(f"{number % 20:032d}"), Role.READER)
        auditor.refused(who, "/x/Stop", Forbidden("No.", code="no-right"))
    assert len(machine.told()) == MOST_KINDS
    machine.seconds = WINDOW_SECONDS
    auditor.refused(None, "/x/Stop", Forbidden("No.", code="old-tls"))
    log.close()
    lines = read_log(tmp_path / "audit", 16).lines
    assert len(lines) == 2 * MOST_KINDS + 2
    assert {line.entry.what for line in lines} == {What.REFUSED}
    assert lines[MOST_KINDS].entry.why == "no-right, 499 more times"
    assert lines[-2].entry.why == "7,500 more, of other kinds"
    assert (lines[-1].entry.who, lines[-1].entry.why) == ("stranger", "old-tls")


def test_a_month_of_refused_calls_leaves_room_for_what_else_happens() -> None:
    refusals, lines, now = Repeats(What.REFUSED), 0, 0.0
    for number in range(200_000):
        now = number * 13.0
        kind = Entry(What.REFUSED, f"{number % 100}", "/x/Stop", why="no-right")
        lines += len(refusals.heard(kind, now))
    assert now > 30 * 86_400
    assert lines < 2 * (MOST_KINDS + 1) * (now / WINDOW_SECONDS + 1)
    assert lines * 400 < 24 << 20


def test_who_gave_jobs_and_who_got_at_them_is_told_and_the_owner_s_are_not(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    auditor, log = machine.auditor()
    auditor.given(RUN, PeerId(""))
    auditor.opened(Owner(), JobKey(RUN, 2, 1))
    assert machine.told() == []
    for _ in range(3):
        auditor.given(RUN, ANA)
        auditor.opened(Member(BEN, Role.RUNNER), JobKey(RUN, 2, 1))
    log.close()
    job = f"job 2, attempt 1 of run {RUN}"
    assert machine.told() == [("given", ANA, f"run {RUN}"), ("opened", BEN, job)]
