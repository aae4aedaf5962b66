"""All benchmarks, one after the other, on this machine: `python bench/everything.py`.

`--smoke` runs each in its smallest size, to see that it runs; its figures mean nothing.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SMALLEST = {
    "first_line.py": "1",
    "fan_out.py": "2",
    "idle.py": "1",
    "log_lines.py": "1000",
    "bulk.py": "4",
    "deltas.py": "16",
    "many_files.py": "100",
    "slow_network.py": "1",
}


def main() -> int:
    smoke = "--smoke" in sys.argv[1:]
    codes = [
        subprocess.run(
            (sys.executable, str(HERE / name), *((size,) if smoke else ())), check=False
        ).returncode
        for name, size in SMALLEST.items()
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
