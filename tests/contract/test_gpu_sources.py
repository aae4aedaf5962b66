"""What every source of cards promises, whatever stands behind it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dstack_agent.inventory import GpuSource
from dstack_agent.inventory.declared import DeclaredSource
from dstack_agent.inventory.nvml import Nvml, NvmlSource, installed_nvml
from dstack_scheduler.gpus import parse_declared
from support.recorded_nvml import GPU_IS_LOST, RecordedNvml, sliced_a100, two_v100

HOME = Path("/home/ana/.local/share/dstack")


def declared(*texts: str) -> GpuSource:
    return DeclaredSource(HOME, [parse_declared(text) for text in texts])


def recorded(nvml: Nvml) -> GpuSource:
    return NvmlSource(nvml, user_of=lambda pid: "ana")


SOURCES: dict[str, Callable[[], GpuSource]] = {
    "declared: none": declared,
    "declared: three": lambda: declared("V100:16GB:2", "RTX 4090:24GB"),
    "nvml: of this machine": lambda: NvmlSource(installed_nvml()),
    "nvml: two cards": lambda: recorded(two_v100(pids=[42])),
    "nvml: slices": lambda: recorded(sliced_a100()),
    "nvml: broken": lambda: recorded(RecordedNvml(trouble=GPU_IS_LOST)),
}


@pytest.fixture(params=SOURCES)
def make(request: pytest.FixtureRequest) -> Callable[[], GpuSource]:
    return SOURCES[request.param]


def test_every_card_is_described(make: Callable[[], GpuSource]) -> None:
    for card in make().cards():
        assert card.uuid
        assert card.name
        assert card.memory_bytes > 10**9


def test_uuids_are_unique(make: Callable[[], GpuSource]) -> None:
    uuids = [card.uuid for card in make().cards()]
    assert len(set(uuids)) == len(uuids)


def test_cards_stay_the_same_over_readings_and_restarts(make: Callable[[], GpuSource]) -> None:
    source = make()
    first = [(card.uuid, card.name, card.memory_bytes) for card in source.cards()]
    for again in (source, make()):
        assert [(card.uuid, card.name, card.memory_bytes) for card in again.cards()] == first


def test_only_declared_cards_are_simulated_and_they_say_so(
    make: Callable[[], GpuSource],
) -> None:
    source = make()
    for card in source.cards():
        assert card.simulated is isinstance(source, DeclaredSource)
        assert card.simulated is card.uuid.startswith("SIM-")
