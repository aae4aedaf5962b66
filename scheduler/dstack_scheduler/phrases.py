"""The words in which reasons are told: counts, lists, sizes, cards."""

from collections.abc import Iterable

from dstack_mesh.machine import Gpu
from dstack_scheduler.gpus import nominal_gb
from dstack_scheduler.needs import Needs


def wanted_cards(needs: Needs) -> str:
    """The cards that a job needs: "2 V100 GPUs"."""
    name = f"{needs.gpu_name.replace(',', ' or ')} " if needs.gpu_name else ""
    return count(needs.gpus, f"{name}GPU")


def models(cards: Iterable[Gpu]) -> str:
    """The cards by model: "2 x RTX 4090 24 GB"."""
    counts: dict[str, int] = {}
    for gpu in cards:
        model = f"{gpu.name} {nominal_gb(gpu.memory_bytes)} GB"
        counts[model] = counts.get(model, 0) + 1
    return listing(f"{number} x {model}" for model, number in counts.items())


def count(number: int, noun: str) -> str:
    """A number of things: "1 job", "2 jobs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listing(words: Iterable[str]) -> str:
    """Each word once: "a, b and c"."""
    known = list(dict.fromkeys(words))
    return known[0] if len(known) == 1 else f"{', '.join(known[:-1])} and {known[-1]}"


def gigabytes(size_bytes: int) -> str:
    """A size for people: "16.6 GB"."""
    return f"{size_bytes / 10**9:.3g} GB" if size_bytes < 10**12 else f"{size_bytes // 10**9} GB"


def largest_whole(size_bytes: int) -> str:
    """The largest whole size that fits, ready to paste."""
    unit, name = (10**9, "GB") if size_bytes >= 10**9 else (10**6, "MB")
    return f"{size_bytes // unit}{name}"
