"""What NVML answers on machines that we have seen or that its documentation describes.

Stands in for the module `pynvml` through a constructor. The shapes of the answers (types, errors,
handles that mean nothing to the caller) are those of nvidia-ml-py 13.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

MIB = 2**20

LIBRARY_NOT_FOUND = 12
DRIVER_NOT_LOADED = 9
NOT_SUPPORTED = 3
NOT_FOUND = 6
GPU_IS_LOST = 15
LIB_RM_VERSION_MISMATCH = 18

_WORDS = {
    LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
    DRIVER_NOT_LOADED: "Driver Not Loaded",
    NOT_SUPPORTED: "Not Supported",
    NOT_FOUND: "Not Found",
    GPU_IS_LOST: "GPU is lost",
    LIB_RM_VERSION_MISMATCH: "RM has detected an NVML/RM version mismatch.",
}


class RecordedError(Exception):
    """As NVMLError: a code and its words."""

    def __init__(self, value: int) -> None:
        super().__init__(_WORDS[value])
        self.value = value


@dataclass
class Memory:
    total: int
    used: int


@dataclass
class Utilization:
    gpu: int


@dataclass
class Process:
    pid: int


@dataclass
class Device:
    """A card or a slice. `mig` is None where a model knows no MIG; a slice None is a hole."""

    uuid: str
    name: str
    memory_mib: int
    pids: list[int] | None = field(default_factory=list[int])
    mig: "list[Device | None] | None" = None
    lost: bool = False
    used_mib: int = 0
    busy: int | None = 0


class RecordedNvml:
    """A driver with these cards; `trouble` is what init fails with, as long as it is set."""

    NVMLError: type[Exception] = RecordedError
    NVML_ERROR_LIBRARY_NOT_FOUND: int = LIBRARY_NOT_FOUND
    NVML_ERROR_DRIVER_NOT_LOADED: int = DRIVER_NOT_LOADED

    def __init__(self, *devices: Device, trouble: int | None = None) -> None:
        self.devices = list(devices)
        self.trouble = trouble
        self.inits = 0
        self._ready = False

    def nvmlInit(self) -> None:
        self.inits += 1
        if self.trouble is not None:
            raise RecordedError(self.trouble)
        self._ready = True

    def nvmlShutdown(self) -> None:
        self._ready = False

    def nvmlDeviceGetCount(self) -> int:
        if self.trouble is not None:
            raise RecordedError(self.trouble)
        assert self._ready, "NVML is asked before nvmlInit"
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:
        if self.devices[index].lost:
            raise RecordedError(GPU_IS_LOST)
        return self.devices[index]

    def nvmlDeviceGetName(self, handle: Device) -> str:
        return handle.name

    def nvmlDeviceGetUUID(self, handle: Device) -> str:
        return handle.uuid

    def nvmlDeviceGetMemoryInfo(self, handle: Device) -> Memory:
        return Memory(handle.memory_mib * MIB, handle.used_mib * MIB)

    def nvmlDeviceGetUtilizationRates(self, handle: Device) -> Utilization:
        if handle.busy is None:
            raise RecordedError(NOT_SUPPORTED)
        return Utilization(handle.busy)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Device) -> Sequence[Process]:
        if handle.pids is None:
            raise RecordedError(NOT_SUPPORTED)
        return [Process(pid) for pid in handle.pids]

    def nvmlDeviceGetMigMode(self, handle: Device) -> Sequence[int]:
        if handle.mig is None:
            raise RecordedError(NOT_SUPPORTED)
        on = int(bool(handle.mig))
        return [on, on]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Device) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Device, index: int) -> Device:
        slices = handle.mig or []
        found = slices[index] if index < len(slices) else None
        if found is None:
            raise RecordedError(NOT_FOUND)
        return found


def two_v100(*, pids: Sequence[int] = ()) -> RecordedNvml:
    """A workstation with two V100; the processes are on the first."""
    return RecordedNvml(
        Device("GPU-5f0a", "Tesla V100-SXM2-16GB", 16160, list(pids)),
        Device("GPU-77c1", "Tesla V100-SXM2-16GB", 16160),
    )


def sliced_a100() -> RecordedNvml:
    """An A100 in MIG mode with two slices, numbered with a hole, beside a whole one."""
    name = "NVIDIA A100-SXM4-40GB"
    slices = [
        Device("MIG-11d3", f"{name} MIG 1g.5gb", 4864, busy=None),
        None,
        Device("MIG-90aa", f"{name} MIG 2g.10gb", 9856, [77], used_mib=900, busy=None),
    ]
    return RecordedNvml(
        Device("GPU-a1", name, 40960, mig=slices), Device("GPU-a2", name, 40960, mig=[])
    )
