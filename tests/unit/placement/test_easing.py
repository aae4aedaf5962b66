"""The smallest change that an agent itself would take a job with."""

from dstack_scheduler.easing import Eased, eased
from dstack_scheduler.lacks import lacks_of
from dstack_scheduler.needs import Needs
from dstack_scheduler.policy import Policy
from dstack_scheduler.verdict import Reason
from support import machines


def change(needs: Needs, *gpus: str) -> Eased | None:
    """What is changed until a machine with these cards lacks nothing."""
    cards = [machines.gpu(number, name) for number, name in enumerate(gpus)]
    machine = machines.machine(*cards)
    tried: Eased | None = Eased(needs)
    while tried is not None:
        question = machines.question(needs=tried.needs)
        lacks = lacks_of(question, machine, Policy())
        if not lacks:
            return tried
        tried = eased(tried, lacks)
    return None


def test_one_flag_for_each_thing_that_is_too_much() -> None:
    found = change(Needs(cpus=99, gpus=2), "Tesla V100-SXM2-16GB")
    assert found is not None
    assert (found.flags, found.needs.gpus) == (("--cpu 8", "--gpu 1"), 1)


def test_a_change_that_lays_another_reason_bare_is_changed_again() -> None:
    found = change(Needs(gpus=3, gpu_name="A100"), "Tesla V100-SXM2-16GB")
    assert found is not None and found.needs.gpus == 1
    assert {flag.split(" ")[0] for flag in found.flags} == {"--gpu-name", "--gpu"}


def test_a_machine_without_cards_takes_it_without_cards() -> None:
    found = change(Needs(gpus=1, gpu_name="V100", gpu_memory_bytes=16 * 10**9))
    assert found == Eased(Needs(), ("--gpu 0",))


def test_what_no_flag_changes_has_no_change() -> None:
    for hint in ("", "ask its owner", "--shell 'unclosed"):
        assert eased(Eased(Needs(gpus=1)), [Reason("paused", "It is paused.", hint)]) is None
