"""How often a chaos test repeats, and from which seed.

The check runs a few rounds of each; `DSTACK_CHAOS_ROUNDS=200 pytest tests/chaos` runs as many as
one likes, and `DSTACK_CHAOS_SEED` repeats a run that failed.
"""

import os
import random


def rounds(few: int) -> int:
    """How many rounds to run; `few` in the check."""
    return int(os.environ.get("DSTACK_CHAOS_ROUNDS", few))


def seeded(name: str) -> random.Random:
    """Randomness whose seed is printed with the test's output."""
    seed = os.environ.get("DSTACK_CHAOS_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"{name}: DSTACK_CHAOS_SEED={seed}")
    return random.Random(f"{name} {seed}")
