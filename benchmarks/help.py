"""How long `inferbench --help` takes, over `python -c pass`.

    python benchmarks/help.py [--repeats 20]

Must be reached: at most 2.5 times as long, by the medians of interleaved runs. Exit status 1 if it is not.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import inferbench_contract

MOST = 2.5

PROGRAM = Path(sys.executable).with_name("inferbench")
COMMANDS = {"python -c pass": (sys.executable, "-c", "pass"), "inferbench --help": (str(PROGRAM), "--help")}


def main() -> int:
    """Time both, print the table, and tell whether the help was quick enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="default: %(default)s")
    milliseconds = timed(parser.parse_args().repeats)
    passing, helping = (statistics.median(taken) for taken in milliseconds.values())
    print(f"inferbench {inferbench_contract.__version__}, Python {platform.python_version()}, {platform.machine()}\n")
    print("| what | median, ms | quickest to slowest |\n| --- | --- | --- |")
    for name, taken in milliseconds.items():
        print(f"| `{name}` | {statistics.median(taken):.1f} | {min(taken):.1f} to {max(taken):.1f} |")
    print(f"\nThe help takes {helping / passing:.2f} times as long as nothing; it must take at most {MOST} times.")
    return 0 if helping <= MOST * passing else 1


def timed(repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds of each run of each command; their first runs only warm the caches of the system."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats + 1):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: taken[1:] for name, taken in times.items()}


if __name__ == "__main__":
    sys.exit(main())
