"""Break off and take up as many random runs as wanted, a third with other flags: `make soak CASES=200 SEED=1`.

Prints each case that does not survive, and on its last line survived / tried; status 0 only when all survive.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

import torch

from tests.faults.case import CONFIGURATIONS, Laboratory, draw_case
from tests.faults.change import Change, draw_change

CHANGES = 3
"""One case in so many goes on with other flags."""

ELSEWHERE = Path("/dev/shm")
"""Another file system, where a fifth of the cases has its temporary files."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of single cases")
    parser.add_argument("--keep", type=Path, help="a folder for what the runs leave")
    args = parser.parse_args()
    torch.set_num_threads(1)  # as the runs that it computes the weights of
    numbers = args.only or range(args.cases)
    folder = args.keep or Path(tempfile.mkdtemp())
    laboratories = [Laboratory(folder / f"laboratory-{core}") for core in os.sched_getaffinity(0)]
    failed: list[int] = []
    started = time.monotonic()

    def attempt(laboratory: Laboratory, number: int) -> None:
        place = folder / f"case-{number}"
        case = draw_change(args.seed, number) if number % CHANGES == CHANGES - 1 else draw_case(args.seed, number)
        try:
            elsewhere = number % 5 == 0 and ELSEWHERE.is_dir()
            if isinstance(case, Change):
                why = laboratory.follows(case, place)
            else:
                why = laboratory.survives(case, place, {"TMPDIR": str(ELSEWHERE)} if elsewhere else {})
        except PermissionError as error:
            print(f"case {number} is left out: {error}", flush=True)
            return
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        if why:
            failed.append(number)
            print(f"case {number} of seed {args.seed} did not survive {case}: {why}", flush=True)
        elif not args.keep:
            shutil.rmtree(place, ignore_errors=True)
        tried.append(number)
        if sys.stderr.isatty() or len(tried) % 20 == 0:
            left = (time.monotonic() - started) / len(tried) * (len(numbers) - len(tried))
            print(f"{len(tried)}/{len(numbers)} tried, {len(failed)} failed, {left:.0f} s left", file=sys.stderr)

    def work(place: int, laboratory: Laboratory) -> None:
        # Cases of one configuration go to one laboratory, which has its unbroken run.
        for number in numbers:
            if number % CONFIGURATIONS % len(laboratories) == place:
                attempt(laboratory, number)
        laboratory.close()

    tried: list[int] = []
    threads = [Thread(target=work, args=(place, laboratory)) for place, laboratory in enumerate(laboratories)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not args.keep:
        shutil.rmtree(folder, ignore_errors=True)
    first = f", first failure: case {min(failed)} of seed {args.seed}" if failed else ""
    print(f"survived {len(tried) - len(failed)} / {len(tried)} (seed {args.seed}{first})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
