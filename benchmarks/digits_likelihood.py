"""Held-out bits/dim of tuned Gaussian mixtures on the digits, for comparison with a trained run.

    python benchmarks/digits_likelihood.py [RUN_DIRECTORY]

The same split and dequantisation as `scoresde train`: each test image gets one uniform draw, the same that the
run's likelihood used. Each kind of mixture is tuned on a fifth of the training images, then fitted to all.
"""

import math
import sys
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from scoresde.data import digits
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.runs.directory import Run

GRID = {
    "full": ((1, 2, 5, 10, 20, 30), (1e-3, 3e-3, 1e-2)),
    "diag": ((10, 20, 50, 100, 150), (1e-4, 1e-3)),
    "tied": ((10, 20, 50, 100), (1e-3, 3e-3)),
}


def dequantised(raw: Tensor, seed: int, draws: int = 1) -> Tensor:
    """`(draws * N, 64)` in model space, with the noise that `bits_per_dim` draws."""
    noise = SampleNoise(seed, torch.arange(len(raw)), tuple(raw.shape[1:]), torch.float64, stream=Stream.DEQUANTISATION)
    return torch.cat([DATA.transform.encode(raw, noise.uniform()).double().flatten(1) for _ in range(draws)])


def bits(mixture: GaussianMixture, x: Tensor) -> Tensor:
    nats = torch.from_numpy(mixture.score_samples(x.numpy())) + DATA.transform.log_det(DATA.shape)
    return -nats / (64 * math.log(2))


def fit(kind: str, components: int, floor: float, x: Tensor) -> GaussianMixture:
    mixture = GaussianMixture(components, covariance_type=kind, reg_covar=floor, random_state=0, max_iter=500)
    return mixture.fit(x.numpy())


DATA = digits()


def main() -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)
    order = torch.randperm(len(DATA.train), generator=torch.Generator().manual_seed(0))
    held = len(order) // 5
    fitting, tuning = DATA.train[order[held:]], DATA.train[order[:held]]
    test = dequantised(DATA.test[:], seed=0)
    print(f"{'mixture':<34}{'tuning':>8}{'test bits/dim':>20}")
    for kind, (counts, floors) in GRID.items():
        # Several dequantisation draws of each image: otherwise a mixture overfits the noise.
        tried = [(c, f) for c in counts for f in floors]
        scores = {
            (c, f): float(bits(fit(kind, c, f, dequantised(fitting, 1, 3)), dequantised(tuning, 2)).mean())
            for c, f in tried
        }
        components, floor = min(scores, key=lambda choice: scores[choice])
        out = bits(fit(kind, components, floor, dequantised(DATA.train[:], 1, 3)), test)
        name = f"{kind}, {components} components, floor {floor:g}"
        print(f"{name:<34}{scores[components, floor]:>8.3f}{out.mean():>12.4f} ± {out.std() / len(out) ** 0.5:.4f}")
    if len(sys.argv) > 1:
        entry = Run.open(sys.argv[1]).summary()["likelihood"]
        print(f"{'score model ' + sys.argv[1]:<42}{entry['bits_per_dim']:>12.4f} ± {entry['stderr']:.4f}")


if __name__ == "__main__":
    main()
