"""A mixture at any scale and offset: held-out log-density and share of the small mode, in units of scale 1.

    python benchmarks/scales.py [--sdes VPSDE VESDE] [--seeds 0 1 2] [--steps 1000] [--standardise none]

Two normal modes in the plane with shares .3 and .7, trained on by `fit` with nothing said of scale or offset. Every
line should be the same within the error over seeds; the truth is in the first. `--standardise none` shows what is
missed without.
"""

import argparse
import math
import warnings
from typing import Any

import torch
from torch import Tensor

import scoresde.sde
from scoresde.likelihood import log_likelihood
from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import Heun, KarrasGrid, Sampler
from scoresde.score import GaussianMixtureScore, NetworkScore
from scoresde.training import fit

WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([[1.2, 0.4], [-0.6, -0.2]], dtype=torch.float64)
STDS = torch.tensor([0.25, 0.5], dtype=torch.float64)
EXACT = GaussianMixtureScore(WEIGHTS, MEANS, STDS**2, scoresde.sde.VPSDE())
# Scale and offset of each channel.
CASES: dict[str, tuple[list[float], list[float]]] = {
    **{f"scale {s:g}": ([s, s], [0.0, 0.0]) for s in (1e-6, 1e-3, 1.0, 16.0, 1e3, 1e6)},
    **{f"shifted by {s:g}": ([1.0, 1.0], [s, s]) for s in (5.0, 20.0, 1e3, 1e6)},
    "scale 0.001, shifted by 1000": ([1e-3, 1e-3], [1e3, 1e3]),
    "pressure and humidity": ([700.0, 0.01], [101_325.0, 0.6]),
}


def draw(n: int, seed: int) -> Tensor:
    return EXACT.sample(n, 0.0, torch.Generator().manual_seed(seed))


def share(x: Tensor) -> float:
    """Of samples in the small mode, by which of the two is the more probable."""
    distance = ((x[:, None] - MEANS) / STDS[:, None]).square().sum(2) / 2 + 2 * STDS.log() - WEIGHTS.log()
    return float((distance[:, 0] < distance[:, 1]).double().mean())


def measure(sde: str, scale: Tensor, offset: Tensor, seed: int, steps: int, standardise: str) -> tuple[float, float]:
    """Log-density and share."""
    torch.manual_seed(seed)
    model = NetworkScore(MLP((2,), width=64, blocks=2), getattr(scoresde.sde, sde)(), EDMPreconditioning())
    options: dict[str, Any] = {"batch_size": 256, "seed": seed, "progress": False, "standardise": standardise}
    fit(model, offset + scale * draw(8000, 100 + seed), steps, **options)
    nats = log_likelihood(model, offset + scale * draw(2000, 7), tol=1e-2).log_prob.mean() + scale.log().sum()
    x = Sampler(Heun(), KarrasGrid(30))(model, (4000, 2), seed=seed).x.double()
    return float(nats), share((x - offset) / scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdes", nargs="+", default=["VPSDE"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--standardise", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    test = draw(2000, 7)
    print(f"truth: {float(EXACT.log_prob(test, 0.0).mean()):.3f} nats, share {share(test):.3f}")
    for sde in options.sdes:
        for name, (scale, offset) in CASES.items():
            factor, shift = (torch.tensor(v, dtype=torch.float64) for v in (scale, offset))
            found = torch.tensor(
                [measure(sde, factor, shift, seed, options.steps, options.standardise) for seed in options.seeds]
            )
            error = found.std(0) / math.sqrt(len(found)) if len(found) > 1 else torch.full((2,), math.nan)
            (nats, part), (nats_error, part_error) = found.mean(0).tolist(), error.tolist()
            print(f"{sde:10} {name:30} {nats:8.3f} ± {nats_error:.3f}   {part:.3f} ± {part_error:.3f}", flush=True)


if __name__ == "__main__":
    main()
