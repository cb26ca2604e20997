"""Guided sampling: error of the default solver beside named ones, and time beside unguided sampling.

    python benchmarks/guidance.py [--pairs 300 301 302] [--scales 2 4 8] [--starts 256] [--run DIRECTORY] [--peers few]
    python benchmarks/guidance.py --speed

Errors: the root mean square distance of end points to those of a fine solve, of classifier-free guidance of a class in
a mixture: pairs that a seed draws, in 2 to 64 dimensions, under the SDEs of EDM and VP. Every solver is on its own
grid, in as many steps as fit into the evaluations, without a last denoising. The last column is the error of the
default over that of the best of the others; pairs from 300 on were not looked at when its rules were chosen. `default,
own class` is the default on a `ScoreModel` that mixes both models by hand and says nothing of itself. With `--run`, the
model is a trained network with labels and dropout of them, in float64, and each class in turn is asked for. With
`--peers`, deterministic solvers of other libraries are among the others, as `benchmarks/solvers.py` runs them: `few`
are those that lead there on the grids that serve them best, `all` are all on all grids. See `peers.py`.

Speed: the digits U-Net with labels, guided and not, by the same number of steps, in processor seconds of one thread.
The runs take turns, and the median counts.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contenders import Budget, Contender, Counted, peer_contenders, presets
from hydra.utils import instantiate
from peers import load_peers
from rows import markdown
from torch import Tensor
from truth import own_endpoints

import scoresde
from scoresde.guidance import ClassifierFree
from scoresde.networks import UNet
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import AutoAdams, DataStraight, Sampler
from scoresde.score import GaussianMixtureScore, NetworkScore, ScoreModel, in_model_space
from scoresde.sde import EDMSDE, SDE, VPSDE

NAMED = ("dpmpp_2m", "unipc", "deis_tab", "edm_heun")
BUDGETS = (8, 10, 15, 20)
DIMS = (2, 64, 2, 5, 16, 3)


def pair(seed: int, sde: SDE) -> tuple[GaussianMixtureScore, GaussianMixtureScore]:
    """A class, and the mixture that it is part of."""
    g = torch.Generator().manual_seed(seed)
    dim = DIMS[seed % len(DIMS)]
    count = int(torch.randint(4, 11, (), generator=g))
    members = int(torch.randint(1, 3, (), generator=g))
    means = torch.randn(count, dim, dtype=torch.float64, generator=g)
    variances = (2 * torch.rand(count, dim, dtype=torch.float64, generator=g) - 3.5).exp()
    made = [GaussianMixtureScore(torch.ones(k), means[:k], variances[:k], sde) for k in (members, count)]
    return made[0], made[1]


class Own(ScoreModel):
    """Guidance as a user may write it, of two models that it keeps, without a word about itself."""

    def __init__(self, one: ScoreModel, both: ScoreModel, scale: float) -> None:
        super().__init__(one.sde)
        self.one, self.both, self.scale = one, both, scale

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        weak = self.both.denoise(x, t)
        return weak + self.scale * (self.one.denoise(x, t, **cond) - weak)


def solved(model: ScoreModel, name: str, budget: int, x: Tensor, **cond: Any) -> Tensor:
    """The end points by a solver on its own grid."""
    config = presets()[name].copy()
    config.grid.steps = budget // 2 if name == "edm_heun" else budget
    made = instantiate(config, _convert_="all")
    out = Sampler(made.solver, made.grid, denoise=False)(model, x_init=x, **cond)
    assert out.nfe <= budget
    return out.x


def errors(seeds: list[int], scales: list[float], starts: int, peers: Sequence[Contender] = ()) -> Iterator[list[str]]:
    """Rows of the table of pairs of mixtures."""
    for sde in (EDMSDE(), VPSDE()):
        for seed in seeds:
            one, both = pair(seed, sde)
            x = both.sample(starts, sde.t_max, torch.Generator().manual_seed(seed + 1))
            for scale in scales:
                models = ClassifierFree(one, scale, both), Own(one, both, scale)
                yield from rows_of(f"{type(sde).__name__} {seed} ({x.shape[1]}-D)", *models, scale, x, 1e-9, peers)


def network_errors(run: Path, scales: list[float], starts: int, peers: Sequence[Contender] = ()) -> Iterator[list[str]]:
    """Rows of the table of a trained network."""
    model = in_model_space(scoresde.load(run)).double().eval()
    assert model.shape is not None
    assert model.classes is not None
    noise = torch.randn((starts, *model.shape), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, labels = model.sde.prior_sample(noise.shape, noise), torch.arange(starts) % model.classes
    for scale in scales:
        models = ClassifierFree(model, scale), Own(model, model, scale)
        yield from rows_of(run.name, *models, scale, x, 1e-6, peers, labels=labels)


def rows_of(
    name: str, model: ScoreModel, own: ScoreModel, scale: float, x: Tensor, tolerance: float,
    peers: Sequence[Contender] = (), **cond: Any,
) -> Iterator[list[str]]:  # fmt: skip
    """Rows of a model under one guidance, by number of evaluations."""
    true = own_endpoints(model, x, tolerance, **cond)
    counted = Counted(model, cond)
    budgets = [(str(peer), Budget(peer, counted, x)) for peer in peers]
    for budget in BUDGETS:
        found = {n: _rms(solved(model, n, budget, x, **cond) - true) for n in ("default", *NAMED)}
        by_hand = _rms(solved(own, "default", budget, x, **cond) - true)
        values = [f"{v:.2g}" for v in (by_hand, *found.values())]
        best = min(found[n] for n in NAMED)
        if peers:
            ends = ((which, each.end(budget)) for which, each in budgets)
            distances = ((_rms(end - true), which) for which, end in ends if end is not None)
            theirs, which = min(each for each in distances if math.isfinite(each[0]))
            values += [f"{theirs:.2g}", which]
            best = min(best, theirs)
        yield [name, f"{scale:g}", str(budget), *values, f"{by_hand / best:.2f}", f"{found['default'] / best:.2f}"]


def their_contenders(which: str) -> list[Contender]:
    """Deterministic solvers of other libraries, on their grids; a line says of each library that it is missing."""
    peers, missing = load_peers()
    for line in missing:
        print(f"without {line}", file=sys.stderr)
    return [each for each in peer_contenders(peers, which == "all") if not each.stochastic]


def _rms(x: Tensor) -> float:
    return float(x.flatten(1).square().sum(1).mean().sqrt())


def speed(batch: int, steps: int = 10, turns: int = 7) -> Iterator[list[str]]:
    """Processor seconds of a step, and their ratio to those without guidance."""
    torch.manual_seed(0)
    network = UNet((1, 8, 8), num_classes=10, label_dropout=0.1)
    model = NetworkScore(network, EDMSDE(), EDMPreconditioning(0.5)).eval()
    labels, sampler = torch.arange(batch) % 10, Sampler(AutoAdams(), DataStraight(steps), denoise=False)
    runs: dict[str, ScoreModel] = {
        "unguided": model,
        "guided": ClassifierFree(model, 3.0),
        "guided, two calls": ClassifierFree(model, 3.0, batched=False),
        "guided, rescale": ClassifierFree(model, 3.0, rescale=0.7),
        "outside of the interval": ClassifierFree(model, 3.0, interval=(0.00201, 0.00202)),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, each in runs.items():
            found[name].append(_seconds(partial(sampler, each, batch, seed=0, labels=labels)) / steps)
    base = statistics.median(found["unguided"])
    for name, values in found.items():
        ratios = [v / u for v, u in zip(values, found["unguided"], strict=True)]
        yield [name, f"{1e3 * statistics.median(values):.1f}", f"{statistics.median(values) / base:.2f}",
               f"{min(ratios):.2f} to {max(ratios):.2f}"]  # fmt: skip


def _seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[300, 301, 302])
    parser.add_argument("--scales", type=float, nargs="+", default=[2.0, 4.0, 8.0])
    parser.add_argument("--starts", type=int, default=256)
    parser.add_argument("--run", type=Path, help="of a network with labels, in place of pairs")
    parser.add_argument(
        "--peers", nargs="?", const="few", choices=("few", "all"), help="those that lead, or all on all grids"
    )
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.speed:
        for batch in (8, 16, 64):
            print(markdown([f"batch of {batch}", "ms a step", "ratio", "of the turns"], speed(batch)))
        return
    peers = their_contenders(options.peers) if options.peers else []
    found = (
        errors(options.pairs, options.scales, options.starts, peers)
        if options.run is None
        else network_errors(options.run, options.scales, options.starts, peers)
    )
    rows = []
    for row in found:
        rows.append(row)
        print(" | ".join(row), file=sys.stderr, flush=True)
    head = [
        "model",
        "scale",
        "evaluations",
        "default, own class",
        "default",
        *NAMED,
        *(("best peer", "which") if peers else ()),
        "own class / best",
        "default / best",
    ]
    print(markdown(head, rows))
    for column in (-2, -1):
        ratios = [float(row[column]) for row in rows]
        mean = math.exp(statistics.mean(math.log(max(r, 1e-9)) for r in ratios))
        above = ", ".join(f"above {limit:g} in {sum(r > limit for r in ratios)}" for limit in (0.8, 1.0))
        print(f"{head[column]}: geometric mean {mean:.2f}, largest {max(ratios):.2f}, {above} of {len(ratios)}")


if __name__ == "__main__":
    main()
