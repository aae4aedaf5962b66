"""What an idle agent costs: memory, and processor time over half a minute."""

import os
import sys
import time
from pathlib import Path

from parts import pair, table

WATCH_SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 30


def used(pid: int) -> tuple[float, float]:
    """Resident memory in MB, processor time in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    pages = int(fields[21])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    with pair() as peers:
        peers.laptop.dstack("run", "bash", "-c", "echo warm", "--remote", check=True)
        time.sleep(2)
        _, before = used(peers.daemon.pid)
        time.sleep(WATCH_SECONDS)
        memory, after = used(peers.daemon.pid)
    share = (after - before) / WATCH_SECONDS * 100
    table(
        f"Idle agent, {WATCH_SECONDS:.0f} s",
        [
            ("resident memory", f"{memory:.0f} MB", "target <= 90 MB"),
            ("processor", f"{share:.2f} %", "target <= 0.5 % of a core"),
        ],
    )


if __name__ == "__main__":
    main()
