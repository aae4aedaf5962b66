"""What people write for a card, and what drivers call it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.faults import Invalid
from dstack_scheduler.gpus import (
    DeclaredGpu,
    memory_fits,
    name_fits,
    nominal_gb,
    parse_declared,
)

CARDS = {
    "v100": "Tesla V100-SXM2-16GB",
    "v100-32": "Tesla V100-PCIE-32GB",
    "k80": "Tesla K80",
    "t4": "Tesla T4",
    "a10": "NVIDIA A10",
    "a10g": "NVIDIA A10G",
    "a100": "NVIDIA A100-SXM4-40GB",
    "a100-80": "NVIDIA A100 80GB PCIe",
    "h100": "NVIDIA H100 80GB HBM3",
    "h100-nvl": "NVIDIA H100 NVL",
    "h200": "NVIDIA H200",
    "3090": "NVIDIA GeForce RTX 3090",
    "3090ti": "NVIDIA GeForce RTX 3090 Ti",
    "4090": "NVIDIA GeForce RTX 4090",
    "1080ti": "GeForce GTX 1080 Ti",
    "a6000": "NVIDIA RTX A6000",
    "6000ada": "NVIDIA RTX 6000 Ada Generation",
    "l4": "NVIDIA L4",
    "l40s": "NVIDIA L40S",
    "titan": "NVIDIA TITAN Xp",
    "mig": "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
}

TABLE: dict[str, set[str]] = {
    "": set(CARDS),
    "NVIDIA": set(CARDS),
    "v100": {"v100", "v100-32"},
    "V100": {"v100", "v100-32"},
    "Tesla V100": {"v100", "v100-32"},
    "NVIDIA Tesla V100": {"v100", "v100-32"},
    "tesla-v100": {"v100", "v100-32"},
    "TeslaV100": {"v100", "v100-32"},
    "V100-SXM2": {"v100"},
    "V100-SXM2-16GB": {"v100"},
    "Tesla V100-SXM2-16GB": {"v100"},
    "V100 32GB": {"v100-32"},
    "V100_PCIE": {"v100-32"},
    "V10": set(),
    "V1000": set(),
    "100": set(),
    "K80": {"k80"},
    "k8": set(),
    "T4": {"t4"},
    "nvidia t4": {"t4"},
    "A10": {"a10"},
    "a10g": {"a10g"},
    "A100": {"a100", "a100-80", "mig"},
    "A100 80GB": {"a100-80"},
    "A100-80GB": {"a100-80"},
    "A100 40GB": {"a100"},
    "A100-SXM4": {"a100", "mig"},
    "MIG": {"mig"},
    "1g.5gb": {"mig"},
    "H100": {"h100", "h100-nvl"},
    "H100 NVL": {"h100-nvl"},
    "h100nvl": {"h100-nvl"},
    "H200": {"h200"},
    "4090": {"4090"},
    "RTX 4090": {"4090"},
    "rtx4090": {"4090"},
    "RTX-4090": {"4090"},
    "GeForce RTX 4090": {"4090"},
    "RTX": {"3090", "3090ti", "4090", "a6000", "6000ada"},
    "3090": {"3090", "3090ti"},
    "3090 Ti": {"3090ti"},
    "RTX3090Ti": {"3090ti"},
    "1080Ti": {"1080ti"},
    "A6000": {"a6000"},
    "6000": {"6000ada"},
    "RTX 6000": {"6000ada"},
    "L4": {"l4"},
    "L40": set(),
    "L40S": {"l40s"},
    "titan xp": {"titan"},
    "Tesla": {"v100", "v100-32", "k80", "t4"},
    "GeForce": {"3090", "3090ti", "4090", "1080ti"},
    "MI300X": set(),
    "V100,K80": {"v100", "v100-32", "k80"},
    "A10, RTX 4090": {"a10", "4090"},
}


@pytest.mark.parametrize("wanted", TABLE)
def test_a_name_fits_exactly_the_cards_of_that_model(wanted: str) -> None:
    assert {short for short, name in CARDS.items() if name_fits(wanted, name)} == TABLE[wanted]


@pytest.mark.parametrize("name", CARDS.values())
def test_a_card_fits_its_own_full_name_however_it_is_typed(name: str) -> None:
    without_slice_sizes = name.replace("-40GB MIG", " MIG")
    for typed in (without_slice_sizes, without_slice_sizes.lower(), name.upper().split("-")[0]):
        assert name_fits(typed, name)
        assert name_fits(typed.replace(" ", "_"), name)


@given(st.text(max_size=30), st.sampled_from(sorted(CARDS.values())))
def test_any_text_is_answered(wanted: str, card: str) -> None:
    assert name_fits(wanted, card) in (True, False)


@pytest.mark.parametrize(
    ("wanted_gb", "card_mib", "fits"),
    [
        (16, 16160, True),  # V100: 16.9 GB
        (16, 15360, True),  # T4
        (12, 11441, True),  # K80 with ECC: a little under 12 GB
        (24, 22731, True),  # A10G: 23.8 GB
        (80, 81920, True),
        (24, 16384, False),
        (16, 14000, False),
        (40, 24576, False),
        (0, 1, True),
    ],
)
def test_memory_fits_a_few_percent_under_nominal(wanted_gb: int, card_mib: int, fits: bool) -> None:
    assert memory_fits(wanted_gb * 10**9, card_mib * 2**20) is fits


@pytest.mark.parametrize(
    ("most_gb", "card_mib", "fits"),
    [
        (24, 24576, True),
        (24, 81920, False),
        (80, 81559, True),
        (16, 16160, True),
        (15, 16160, False),
    ],
)
def test_an_upper_end_goes_by_the_size_on_the_box(most_gb: int, card_mib: int, fits: bool) -> None:
    assert memory_fits(0, card_mib * 2**20, most_gb * 10**9) is fits


@pytest.mark.parametrize(
    ("memory_bytes", "shown"),
    [(24576 * 2**20, 24), (16160 * 2**20, 16), (16 * 10**9, 16), (81559 * 2**20, 80)],
)
def test_the_size_on_the_box_is_shown(memory_bytes: int, shown: int) -> None:
    assert nominal_gb(memory_bytes) == shown


@given(st.integers(min_value=10**9, max_value=10**12))
def test_asking_for_the_shown_size_gets_the_card(memory_bytes: int) -> None:
    assert memory_fits(nominal_gb(memory_bytes) * 10**9, memory_bytes)


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        ("V100:16GB", DeclaredGpu("V100", 16 * 10**9, 1)),
        ("V100:16GB:2", DeclaredGpu("V100", 16 * 10**9, 2)),
        (" RTX 4090 : 24 gb : 8 ", DeclaredGpu("RTX 4090", 24 * 10**9, 8)),
        ("A100:40GiB", DeclaredGpu("A100", 40 * 2**30, 1)),
        ("T4:15.5GB", DeclaredGpu("T4", 15_500_000_000, 1)),
        ("x:512MB", DeclaredGpu("x", 512 * 10**6, 1)),
    ],
)
def test_declared_cards_are_read(text: str, declared: DeclaredGpu) -> None:
    assert parse_declared(text) == declared


@pytest.mark.parametrize(
    "text",
    [
        *("", "V100", ":16GB", "V100:", "V100:16XB", "V100:-1GB", "V100:0GB", "V100:16GB:0"),
        *("V100:16GB:two", "V100:16GB:65", "V100:16GB:1:1", "V100:GB", "V100:1e9", "V100:16GB:٣"),
    ],
)
def test_a_wrong_declaration_says_how_it_is_written(text: str) -> None:
    with pytest.raises(Invalid) as raised:
        parse_declared(text)
    assert text in raised.value.what
    assert "V100:16GB" in raised.value.hint
