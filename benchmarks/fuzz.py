"""Mutate the files of a small run, and show each mutation that is neither read nor refused in a line.

    python benchmarks/fuzz.py --count 5000 --first 500 --kinds config model

The mutations, the limits on time and memory, and the verdict are those of `tests/test_fuzz.py`, which does the first of
each kind. Status 1 if there is a problem.
"""

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests import test_fuzz as fuzzing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="mutations of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--kinds", nargs="*", default=list(fuzzing.KINDS), choices=list(fuzzing.KINDS))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    problems = 0
    with tempfile.TemporaryDirectory() as folder:
        run = fuzzing.make_run(Path(folder) / "run")
        for kind in arguments.kinds:
            began, found = time.perf_counter(), 0
            for number in range(arguments.first, arguments.first + arguments.count):
                problem = fuzzing.fuzz(run, Path(folder) / "mutated", kind, number)
                if problem:
                    found += 1
                    print(problem, flush=True)
            problems += found
            print(f"{kind}: {found} problems in {arguments.count}, {time.perf_counter() - began:.0f} s", flush=True)
    sys.exit(min(problems, 1))


if __name__ == "__main__":
    main()
