"""The smallest change of what a job needs that would let an agent take it. Pure.

An agent says why it refuses, and with each reason the flag that would change its answer. A change
is believed only once the agent was asked again with it.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace

from dstack_mesh.frozen import frozen
from dstack_scheduler.needs import Needs
from dstack_scheduler.verdict import Reason
from dstack_scheduler.workflow.sizes import parse_size

MOST_ROUNDS = 4
"""One change may lay another reason bare."""


@frozen
class Eased:
    """Lesser needs, and the flags that say them."""

    needs: Needs
    flags: tuple[str, ...] = ()


def eased(before: Eased, reasons: Sequence[Reason]) -> Eased | None:
    """What would answer all reasons; None if one of them no flag changes."""
    after = before
    for reason in reasons:
        changed = _changed(after.needs, reason)
        if changed is None:
            return None
        needs, flag = changed
        name = flag.split(" ")[0]
        others = tuple(one for one in after.flags if one.split(" ")[0] != name)
        after = Eased(needs, (*others, flag))
    return after if after.needs != before.needs else None


def _changed(needs: Needs, reason: Reason) -> tuple[Needs, str] | None:
    if reason.code == "gpu-too-few" and not reason.hint:  # a machine without any
        return _without_cards(needs), "--gpu 0"
    flag = reason.hint.splitlines()[0].partition("   ")[0] if reason.hint else ""
    try:
        words = shlex.split(flag)
    except ValueError:
        return None
    match words:
        case [name, value] if name in _FLAGS:
            changed = _FLAGS[name](needs, value)
            return None if changed is None else (changed, flag)
        case _:
            return None


def _without_cards(needs: Needs) -> Needs:
    return replace(needs, gpus=0, gpu_name="", gpu_memory_bytes=0)


def _gpus(needs: Needs, value: str) -> Needs | None:
    return replace(needs, gpus=int(value)) if value.isdecimal() else None


def _cpus(needs: Needs, value: str) -> Needs | None:
    return replace(needs, cpus=int(value)) if value.isdecimal() else None


def _memory(needs: Needs, value: str) -> Needs | None:
    size = parse_size(value)
    return None if size is None else replace(needs, memory_bytes=size)


def _gpu_memory(needs: Needs, value: str) -> Needs | None:
    size = parse_size(value)
    return None if size is None else replace(needs, gpu_memory_bytes=size)


def _gpu_name(needs: Needs, value: str) -> Needs | None:
    return replace(needs, gpu_name=value)


_FLAGS: dict[str, Callable[[Needs, str], Needs | None]] = {
    "--gpu": _gpus,
    "--cpu": _cpus,
    "--memory": _memory,
    "--gpu-memory": _gpu_memory,
    "--gpu-name": _gpu_name,
}
