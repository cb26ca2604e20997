"""Load a run that `scoresde train` has written, and sample it anew: python examples/load_run.py runs/NAME.

Nothing in the directory is executed, whoever it is from.
"""

import argparse
import time

import scoresde
from scoresde.sampling import AutoAdams, DataStraight, EDMHeun, KarrasGrid, Sampler

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", help="a run directory")
parser.add_argument("--samples", type=int, default=16, help="how many samples to draw")
parser.add_argument("--seed", type=int, default=0, help="seed of the samples: sample i depends on it and on i alone")
parser.add_argument("--label", type=int, help="index of a class, for a model with classes")
arguments = parser.parse_args()

model = scoresde.load(arguments.run)
print(model)
assert model.info is not None  # facts about the data are kept with every run
shape = (arguments.samples, *model.info.shape)
cond = {} if arguments.label is None else {"labels": arguments.label}

for sampler in (Sampler(AutoAdams(), DataStraight(8)), Sampler(EDMHeun(), KarrasGrid(17))):
    start = time.perf_counter()
    out = sampler(model, shape=shape, seed=arguments.seed, **cond)
    seconds = time.perf_counter() - start
    decoded = model.decode(out.x)
    print(f"{out.nfe} evaluations in {seconds:.2f} s: {decoded.dtype} from {decoded.min()} to {decoded.max()}")
