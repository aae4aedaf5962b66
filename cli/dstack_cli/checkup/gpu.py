"""NVIDIA's cards: on the bus, with a driver, and a library that talks to it."""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dstack_cli.checkup.finding import Finding, failed, passed
from dstack_cli.output.words import count as counted
from dstack_mesh.frozen import frozen

LIBRARY = "libnvidia-ml.so.1"
INSTALL = (
    "sudo apt-get install nvidia-driver-570   (another distribution: its package), then restart"
)

_NVIDIA, _DISPLAY = "0x10de", "0x03"
_OK, _OTHER_VERSION = 0, 18


@frozen
class Cards:
    """What the machine shows without asking the driver.

    Attributes:
        on_bus: Addresses of NVIDIA display devices on the bus.
        nodes: Device files of cards.
        module: The kernel's module is loaded.
        nouveau: The free driver is loaded instead.
    """

    on_bus: tuple[str, ...]
    nodes: tuple[str, ...]
    module: bool
    nouveau: bool

    @property
    def any(self) -> bool:
        return bool(self.on_bus or self.nodes)


def seen(root: Path = Path("/")) -> Cards:
    """Looks below a root."""
    devices = (root / "sys/bus/pci/devices").glob("*")
    return Cards(
        on_bus=tuple(sorted(one.name for one in devices if _is_card(one))),
        nodes=tuple(sorted(f"/dev/{one.name}" for one in (root / "dev").glob("nvidia[0-9]*"))),
        module=(root / "sys/module/nvidia").exists(),
        nouveau=(root / "sys/module/nouveau").exists(),
    )


def load_library() -> Any:
    """The driver's library. Raises OSError without it."""
    return ctypes.CDLL(LIBRARY)


def check_gpus(cards: Cards, load: Callable[[], Any] = load_library) -> Sequence[Finding]:
    """Whether the driver tells of the cards that are there."""
    try:
        library = load()
    except OSError:
        return [_without_library(cards)]
    code, count = int(library.nvmlInit_v2()), ctypes.c_uint(0)
    if code == _OK:
        library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        library.nvmlShutdown()
        return [_counted(cards, count.value)]
    if code == _OTHER_VERSION:
        what = "the driver was updated: its library and the loaded module are of different versions"
        return [failed("gpu", "driver-changed", what, "sudo reboot")]
    if not cards.any:
        return [passed("gpu", "no NVIDIA card on this machine")]
    if not cards.module:
        return [_without_module(cards)]
    return [
        failed(
            "gpu",
            "driver-silent",
            f"the driver is loaded and does not answer (NVML error {code})",
            "sudo dmesg | grep -i nvrm | tail; nvidia-smi   (if it fails too, restart the machine)",
        )
    ]


def _counted(cards: Cards, count: int) -> Finding:
    if count < len(cards.on_bus):
        what = f"{len(cards.on_bus)} cards are on the bus, and the driver answers for {count}"
        return failed("gpu", "card-lost", what, "sudo dmesg | grep -i -e nvrm -e xid | tail")
    return passed("gpu", f"the driver answers: {counted(count, 'NVIDIA card')}")


def _without_library(cards: Cards) -> Finding:
    if not cards.any:
        return passed("gpu", "no NVIDIA card on this machine")
    if not cards.module:
        return _without_module(cards)
    what = f"the driver is loaded, but its library {LIBRARY} is not installed or does not load"
    return failed("gpu", "no-driver-library", what, "sudo apt-get install libnvidia-compute-570")


def _without_module(cards: Cards) -> Finding:
    where = ", ".join(cards.on_bus or cards.nodes)
    what = f"an NVIDIA card is there ({where}) and its driver is not"
    if cards.nouveau:
        return failed("gpu", "no-driver", f"{what}: the kernel uses nouveau instead", INSTALL)
    return failed("gpu", "no-driver", f"{what}: the kernel's module nvidia is not loaded", INSTALL)


def _is_card(device: Path) -> bool:
    try:
        vendor = (device / "vendor").read_text().strip()
        return vendor == _NVIDIA and (device / "class").read_text().startswith(_DISPLAY)
    except OSError:
        return False
