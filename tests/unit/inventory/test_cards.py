"""Cards as drivers report them and as people declare them."""

import logging
import os
from pathlib import Path

import pytest

from dstack_agent.inventory.declared import DeclaredSource
from dstack_agent.inventory.nvml import NvmlSource, installed_nvml
from dstack_agent.inventory.strangers import user_of
from dstack_mesh.machine import CardLoad, Gpu
from dstack_scheduler.gpus import parse_declared
from support.recorded_nvml import (
    DRIVER_NOT_LOADED,
    LIB_RM_VERSION_MISMATCH,
    LIBRARY_NOT_FOUND,
    MIB,
    RecordedNvml,
    sliced_a100,
    two_v100,
)

USERS = {42: "bo", 77: "ana"}


def source(nvml: RecordedNvml, ours: frozenset[int] = frozenset()) -> NvmlSource:
    return NvmlSource(nvml, lambda: ours, lambda pid: USERS.get(pid, ""))


def test_cards_are_read_with_model_memory_and_uuid() -> None:
    assert source(two_v100()).cards() == (
        Gpu("GPU-5f0a", "Tesla V100-SXM2-16GB", 16160 * MIB),
        Gpu("GPU-77c1", "Tesla V100-SXM2-16GB", 16160 * MIB),
    )


def test_a_strangers_process_holds_the_card() -> None:
    assert [card.holder for card in source(two_v100(pids=[42])).cards()] == ["pid 42 (bo)", ""]
    assert [card.holder for card in source(two_v100(pids=[9])).cards()] == ["pid 9", ""]


def test_our_own_process_does_not() -> None:
    cards = source(two_v100(pids=[42]), frozenset({42})).cards()
    assert [card.holder for card in cards] == ["", ""]
    cards = source(two_v100(pids=[42, 77]), frozenset({42})).cards()
    assert [card.holder for card in cards] == ["pid 77 (ana)", ""]


def test_processes_that_the_driver_keeps_to_itself_hold_nothing() -> None:
    nvml = two_v100()
    nvml.devices[0].pids = None
    assert [card.holder for card in source(nvml).cards()] == ["", ""]


def test_a_card_in_mig_mode_is_its_slices() -> None:
    cards = source(sliced_a100()).cards()
    assert [(card.uuid, card.memory_bytes // MIB, card.holder) for card in cards] == [
        ("MIG-11d3", 4864, ""),
        ("MIG-90aa", 9856, "pid 77 (ana)"),
        ("GPU-a2", 40960, ""),
    ]


def test_what_is_used_of_cards_is_what_was_read_last() -> None:
    driver = two_v100()
    driver.devices[0].used_mib, driver.devices[0].busy = 12_000, 93
    cards = source(driver)
    assert cards.loads == ()
    cards.cards()
    assert cards.loads == (CardLoad("GPU-5f0a", 12_000 * MIB, 93), CardLoad("GPU-77c1", 0, 0))
    driver.devices[0].lost = True
    cards.cards()
    assert [load.uuid for load in cards.loads] == ["GPU-77c1"]


def test_of_slices_the_memory_is_known_and_no_more() -> None:
    cards = source(sliced_a100())
    cards.cards()
    assert CardLoad("MIG-90aa", 900 * MIB, None) in cards.loads


def test_a_lost_card_is_left_out_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    nvml = two_v100()
    cards = source(nvml)
    nvml.devices[0].lost = True
    assert [card.uuid for card in cards.cards()] == ["GPU-77c1"]
    cards.cards()
    assert [record.levelno for record in caplog.records] == [logging.WARNING], "said once"
    assert "GPU 0" in caplog.text
    nvml.devices[0].lost = False
    assert [card.uuid for card in cards.cards()] == ["GPU-5f0a", "GPU-77c1"]


@pytest.mark.parametrize("trouble", [LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED])
def test_a_machine_without_a_driver_has_no_cards_quietly(
    trouble: int, caplog: pytest.LogCaptureFixture
) -> None:
    nvml = two_v100()
    nvml.trouble = trouble
    cards = source(nvml)
    assert cards.cards() == ()
    assert cards.problem == ""
    assert not caplog.records
    nvml.trouble = None
    assert len(cards.cards()) == 2, "a driver that is installed later is found"


def test_a_driver_mismatch_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    nvml = two_v100()
    nvml.trouble = LIB_RM_VERSION_MISMATCH
    cards = source(nvml)
    for _ in range(3):
        assert cards.cards() == ()
    assert len(caplog.records) == 1
    assert "mismatch" in cards.problem


def test_a_driver_that_was_replaced_under_us_is_opened_again() -> None:
    nvml = two_v100()
    cards = source(nvml)
    assert len(cards.cards()) == 2
    nvml.trouble = LIB_RM_VERSION_MISMATCH
    assert cards.cards() == ()
    nvml.trouble = None
    assert len(cards.cards()) == 2
    assert cards.problem == ""


def test_the_real_library_has_what_we_use() -> None:
    nvml = installed_nvml()
    recorded = RecordedNvml()
    for name in (name for name in dir(recorded) if name.startswith(("nvml", "NVML"))):
        assert hasattr(nvml, name)
    for name in ("NVML_ERROR_LIBRARY_NOT_FOUND", "NVML_ERROR_DRIVER_NOT_LOADED"):
        assert getattr(nvml, name) == getattr(recorded, name)


def test_the_owner_of_a_process_is_named() -> None:
    assert user_of(os.getpid())
    assert user_of(2**22 + 1) == ""


def test_declared_cards_are_stable_for_a_home(tmp_path: Path) -> None:
    declared = [parse_declared("V100:16GB:2"), parse_declared("RTX 4090:24GB")]
    cards = DeclaredSource(tmp_path / "a", declared).cards()
    assert [card.name for card in cards] == ["V100", "V100", "RTX 4090"]
    assert cards[:2] == DeclaredSource(tmp_path / "a", declared[:1]).cards()
    elsewhere = {card.uuid for card in DeclaredSource(tmp_path / "b", declared).cards()}
    assert not elsewhere & {card.uuid for card in cards}
