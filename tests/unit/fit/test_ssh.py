"""Which machines take a job that is to be entered over SSH."""

from dataclasses import replace

from dstack_mesh.ids import PeerId
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.asker import Asker
from dstack_scheduler.fit import Occasion, fit
from dstack_scheduler.verdict import Never, Now, Verdict
from support.machines import machine, question

ENTERED = replace(question(), ssh=True)
BY_OTHERS = Occasion(Asker(PeerId("a" * 32), "ana", "submitter"))


def why(verdict: Verdict) -> tuple[str, str, str]:
    assert isinstance(verdict, Never)
    (reason,) = verdict.reasons
    return reason.code, reason.message, reason.hint


def test_a_machine_without_a_server_never_takes_it_and_says_how_to_get_one() -> None:
    bare = replace(
        machine(), no_sshd="sshd is not installed here.", no_sshd_of_others="It is root."
    )
    code, message, hint = why(fit(ENTERED, bare))
    assert (code, message) == ("no-ssh", "sshd is not installed here.")
    assert "openssh-server" in hint
    assert why(fit(ENTERED, bare, occasion=BY_OTHERS)) == ("no-ssh", "It is root.", "")
    assert fit(question(), bare) == fit(ENTERED, machine()) == Now()
    assert fit(ENTERED, machine(), occasion=BY_OTHERS) == Now()


def test_a_container_brings_its_own_server_but_root_lets_nobody_in() -> None:
    both = frozenset(ExecutorKind)
    within = replace(ENTERED, executor=ExecutorKind.DOCKER)
    bare = replace(machine(), executors=both, no_sshd="sshd is not installed here.")
    assert fit(within, bare) == fit(within, bare, occasion=BY_OTHERS) == Now()
    code, said, hint = why(fit(within, replace(bare, no_sshd_in_containers="It is root.")))
    assert (code, said) == ("no-ssh", "It is root.")
    assert "--no-ssh" in hint
