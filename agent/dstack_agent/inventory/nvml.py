"""NVIDIA cards, by the driver's own library.

- No library or no driver: no cards, quietly. Any other trouble: said once, and tried again at every
  reading, so a driver that is installed later is found.
- A card in MIG mode is its slices. A card that fell off the bus is left out.
- Only compute processes count as use: the display of a workstation lives on its card all day.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

from dstack_agent.inventory.strangers import stranger, user_of
from dstack_mesh.machine import CardLoad, Gpu

log = logging.getLogger(__name__)


class Memory(Protocol):
    """What NVML says of a card's memory."""

    total: int
    used: int


class Utilization(Protocol):
    """What NVML says of the last moments, in percent."""

    gpu: int


class Process(Protocol):
    """What NVML says of a process on a card."""

    pid: int


class Nvml(Protocol):
    """The part of the module `pynvml` that is used; handles are opaque."""

    NVMLError: type[Exception]
    NVML_ERROR_LIBRARY_NOT_FOUND: int
    NVML_ERROR_DRIVER_NOT_LOADED: int

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...
    def nvmlDeviceGetName(self, handle: Any) -> str: ...
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Memory: ...
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Utilization: ...
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> Sequence[Process]: ...
    def nvmlDeviceGetMigMode(self, handle: Any) -> Sequence[int]: ...
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int: ...
    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any: ...


def installed_nvml() -> Nvml:
    """The real library; imported here because it takes 24 ms."""
    import pynvml  # pyright: ignore[reportMissingTypeStubs]

    return cast(Nvml, pynvml)


class NvmlSource:
    """Cards as NVML sees them.

    Args:
        nvml: The library.
        our_pids: Processes of this agent's jobs, whole trees; they are not strangers.
        user_of: Whose a process is.
    """

    def __init__(
        self,
        nvml: Nvml,
        our_pids: Callable[[], frozenset[int]] = frozenset,
        user_of: Callable[[int], str] = user_of,
    ) -> None:
        self._nvml = nvml
        self._our_pids = our_pids
        self._user_of = user_of
        self._ready = False
        self._problem = ""
        self._said: set[str] = set()
        self._loads: tuple[CardLoad, ...] = ()

    @property
    def problem(self) -> str:
        """What is wrong with the driver, for people; empty if nothing is."""
        return self._problem

    @property
    def loads(self) -> tuple[CardLoad, ...]:
        """What was used of the cards when they were read last."""
        return self._loads

    def cards(self) -> tuple[Gpu, ...]:
        self._loads = ()
        try:
            if not self._ready:
                self._nvml.nvmlInit()
                self._ready = True
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            self._broken(error)
            return ()
        self._problem = ""
        ours = self._our_pids()
        found = [each for index in range(count) for each in self._card(index, ours)]
        self._loads = tuple(load for _, load in found)
        return tuple(card for card, _ in found)

    def _broken(self, error: Exception) -> None:
        if self._ready:
            self._ready = False
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError as again:
                log.debug("NVML could not be shut down: %s", again)
        absent = (
            self._nvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            self._nvml.NVML_ERROR_DRIVER_NOT_LOADED,
        )
        if getattr(error, "value", None) not in absent:
            self._problem = f"The NVIDIA driver does not answer: {error}."
            self._say(f"{self._problem} No card is offered until it does.")

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.warning(message)

    def _card(self, index: int, ours: frozenset[int]) -> Iterator[tuple[Gpu, CardLoad]]:
        """The card, its slices in MIG mode, or nothing if it does not answer."""
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            if not self._sliced(handle):
                yield self._gpu(handle, index, ours)
                return
            slices = list(self._slices(handle))
        except self._nvml.NVMLError as error:
            self._say(f"GPU {index} does not answer and is not offered: {error}.")
            return
        for each in slices:
            try:
                yield self._gpu(each, index, ours)
            except self._nvml.NVMLError as error:
                self._say(f"A MIG slice of GPU {index} does not answer: {error}.")

    def _sliced(self, handle: Any) -> bool:
        try:
            return self._nvml.nvmlDeviceGetMigMode(handle)[0] == 1
        except self._nvml.NVMLError:
            return False  # Most models know no MIG and say "not supported".

    def _slices(self, handle: Any) -> Iterator[Any]:
        for index in range(self._nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                yield self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            except self._nvml.NVMLError:
                continue  # Slices need not be numbered without holes.

    def _gpu(self, handle: Any, index: int, ours: frozenset[int]) -> tuple[Gpu, CardLoad]:
        uuid = self._nvml.nvmlDeviceGetUUID(handle)
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        card = Gpu(
            uuid=uuid,
            name=self._nvml.nvmlDeviceGetName(handle),
            memory_bytes=int(memory.total),
            holder=self._stranger(handle, ours),
            number=index,
        )
        return card, CardLoad(uuid, int(memory.used), self._busy(handle))

    def _busy(self, handle: Any) -> int | None:
        try:
            return int(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except self._nvml.NVMLError:
            return None  # Of slices no driver says it.

    def _stranger(self, handle: Any, ours: frozenset[int]) -> str:
        try:
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except self._nvml.NVMLError:
            return ""  # Not every platform tells; then jobs find out for themselves.
        return stranger((process.pid for process in processes), ours, self._user_of)
