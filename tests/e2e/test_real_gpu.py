"""Cards of a real driver: run this on a machine that has one."""

from pathlib import Path

import pytest

from dstack_agent.inventory import Inventory
from dstack_agent.inventory.nvml import NvmlSource, installed_nvml
from dstack_mesh.clock import SystemClock
from dstack_mesh.machine import Gpu
from dstack_scheduler.fit import fit
from dstack_scheduler.gpus import name_fits, nominal_gb
from dstack_scheduler.needs import Needs
from dstack_scheduler.verdict import Never, Now
from support.machines import question


@pytest.fixture(scope="module")
def cards() -> tuple[Gpu, ...]:
    source = NvmlSource(installed_nvml())
    found = source.cards()
    if not found:
        pytest.skip(f"no NVIDIA card answers here. {source.problem}")
    return found


pytestmark = pytest.mark.may_skip


def test_every_card_is_described_as_nvidia_names_things(cards: tuple[Gpu, ...]) -> None:
    for card in cards:
        print(card, f"{nominal_gb(card.memory_bytes)} GB")
        assert card.uuid.startswith(("GPU-", "MIG-"))
        assert card.memory_bytes > 2**30
        assert not card.simulated


def test_what_is_used_of_a_card_is_told(cards: tuple[Gpu, ...]) -> None:
    source = NvmlSource(installed_nvml())
    source.cards()
    assert [load.uuid for load in source.loads] == [card.uuid for card in cards]
    for card, load in zip(cards, source.loads, strict=True):
        print(load)
        assert 0 <= load.memory_bytes <= card.memory_bytes
        assert load.busy_percent is None or 0 <= load.busy_percent <= 100


def test_a_card_is_found_by_each_word_of_its_name(cards: tuple[Gpu, ...]) -> None:
    for card in cards:
        for word in card.name.replace("-", " ").split():
            assert name_fits(word, card.name) or word.endswith("GB")


def test_a_job_for_the_shown_size_fits(cards: tuple[Gpu, ...], tmp_path: Path) -> None:
    machine = Inventory(tmp_path, SystemClock(), [NvmlSource(installed_nvml())]).read()
    first = min(machine.gpus, key=lambda card: card.memory_bytes)
    asked = Needs(1, gpus=1, gpu_memory_bytes=nominal_gb(first.memory_bytes) * 10**9)
    if all(card.free for card in machine.gpus):
        assert isinstance(fit(question(asked), machine), Now)
    too_many = Needs(gpus=len(machine.gpus) + 1)
    assert isinstance(fit(question(too_many), machine), Never)


def test_a_process_on_the_card_is_a_stranger_unless_it_is_ours(cards: tuple[Gpu, ...]) -> None:
    """Holds a CUDA context for a moment, through the driver's own library."""
    import ctypes
    import os

    cuda = ctypes.CDLL("libcuda.so.1")
    context, device = ctypes.c_void_p(), ctypes.c_int()
    assert cuda.cuInit(0) == 0
    assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    try:
        holders = [card.holder for card in NvmlSource(installed_nvml()).cards()]
        assert any(holder.startswith("pid ") for holder in holders), holders
        mine = frozenset({os.getpid()})
        if f"pid {os.getpid()}" in "".join(holders):  # not so where pids have a namespace
            ours = NvmlSource(installed_nvml(), lambda: mine).cards()
            assert not any(f"pid {os.getpid()}" in card.holder for card in ours)
    finally:
        cuda.cuDevicePrimaryCtxRelease(device)
