"""Megabyte buffers are used again instead of faulting in each time."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from dstack_mesh.allocator import keep_buffers
if sys.argv[1] == "kept":
    keep_buffers()
for _ in range(50):
    # As many as wait between network and disk; then all of them are free at once.
    buffers = [b"x" * (1 << 20) for _ in range(16)]
    del buffers
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_freed_buffers_stay_with_the_process() -> None:
    def faults(word: str) -> int:
        command = (sys.executable, "-c", FAULTS, word)
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    assert faults("kept") < faults("given back") / 4


LOOKS = """
import gc, sys
from dstack_mesh.allocator import collect_rarely
if sys.argv[1] == "rarely":
    collect_rarely()
kept = [(number, [number]) for number in range(300_000)]
print(sum(generation["collections"] for generation in gc.get_stats()))
"""


def test_naming_many_chunks_hardly_looks_for_cycles() -> None:
    def looks(word: str) -> int:
        command = (sys.executable, "-c", LOOKS, word)
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    assert looks("rarely") < looks("as usual") / 10


HOLES = """
from dstack_mesh.allocator import give_back, keep_buffers

def resident():
    return int(open("/proc/self/statm").read().split()[1])

keep_buffers()
pieces = [b"x" * 100_000 for _ in range(400)]
between = [piece for number, piece in enumerate(pieces) if number % 40 == 0]
del pieces
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_what_is_free_between_what_is_in_use_goes_back_to_the_kernel() -> None:
    command = (sys.executable, "-c", HOLES)
    pages = int(subprocess.run(command, check=True, capture_output=True).stdout)
    assert pages * 4096 > 20e6
