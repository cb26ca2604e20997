"""A small GAN and a diffusion model, trained for the same processor time: which modes do they cover, what do they copy?

    python benchmarks/gan_baseline.py train FOLDER [--data grid digits] [--seeds 5] [--seconds 20]
    python benchmarks/gan_baseline.py table FOLDER

`train` writes the samples of each model and seed as FOLDER/DATA-METHOD-SEED.safetensors and goes on where it was
interrupted; `table` measures them. Data are the grid of 25 Gaussians and scikit-learn's digits. All methods see the
same training data. The diffusion model is trained first, with a falling learning rate for about as long as asked, and
the GAN for exactly the processor time that it took; the time of drawing samples is stated beside. `edm` is the
diffusion model with a loss that was chosen for the grid.

Settings were chosen at seed 100, which is not judged, by trainings as long; docs/evaluation.md says among which. The
networks of the diffusion model are those of `conf/experiment`.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from gan import GAN, train_gan
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from scoresde.data import Data, digits, grid_gaussians, grid_gaussians_mixture
from scoresde.metrics import (
    Classifier,
    Estimate,
    class_metrics,
    clipped_metrics,
    fit_classifier,
    frechet_distance,
    memorisation_metrics,
    mixture_of,
    mode_metrics,
)
from scoresde.networks import MLP, UNet
from scoresde.objectives import DenoisingScoreMatching, EDMWeighting, LogNormalSigma, Objective
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import AutoAdams, DataStraight, Sampler
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE
from scoresde.training import make_trainer

__all__ = ["PROBLEMS", "Problem", "measure", "table"]

_SAMPLES = {"grid": 2000, "digits": 360}
_SECONDS = {"grid": 20.0, "digits": 30.0}
_TIMING = 40  # steps by which the speed of the diffusion model is measured


@dataclass(frozen=True)
class Problem:
    """Data, and what each method is given for them.

    Attributes:
        data: Makes the data.
        gan: Settings of the GAN.
        network: Makes the network of the diffusion model.
        batch: Batch size of the diffusion model.
        lr: Peak of its learning rate.
        objective: Its loss; that of `scoresde.training.fit` if None.
        nfe: Steps of its sampler.
    """

    data: Callable[[], Data]
    gan: GAN
    network: Callable[[], torch.nn.Module]
    batch: int
    lr: float = 3e-3
    objective: Objective | None = None
    nfe: int = 24


PROBLEMS = {
    "grid": Problem(
        grid_gaussians,
        GAN("relativistic", penalty=0.001, lr=3e-3, latent=16, width=128, depth=3, batch=128),
        lambda: MLP((2,), width=128, blocks=3),
        512,
    ),
    "digits": Problem(
        digits,
        GAN("relativistic", penalty=1.0, lr=1e-3, latent=32, width=256, depth=3, batch=64),
        lambda: UNet((1, 8, 8), channels=24, multipliers=(1, 2), blocks=1, attention=(-1,), dropout=0.1),
        64,
    ),
}


def batches_of(data: Data, size: int, seed: int) -> Callable[[int], Tensor]:
    """Training batches in model space, by step, dequantised where values are levels."""

    def batch(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 2**32 + step)
        raw = data.train[torch.randint(len(data.train), (size,), generator=generator)]
        noise = None if data.transform.levels is None else torch.rand(raw.shape, generator=generator)
        return data.transform.encode(raw, noise).float()

    return batch


def gan_samples(problem: Problem, data: Data, seconds: float, seed: int, n: int) -> tuple[Tensor, dict[str, float]]:
    """n samples in raw units of a GAN trained for `seconds`, and what they cost."""
    began = time.process_time()
    batches = batches_of(data, problem.gan.batch, seed)
    generator, steps = train_gan(batches, data.shape, seconds, seed, problem.gan)
    trained = time.process_time()
    raw = data.transform.decode(generator.draw(n, seed))
    return raw, {"train_s": trained - began, "sample_s": time.process_time() - trained, "steps": steps}


def diffusion_samples(
    problem: Problem, data: Data, seconds: float, seed: int, n: int
) -> tuple[Tensor, dict[str, float]]:
    """n samples in raw units of a diffusion model trained for `seconds`, and what they cost.

    The learning rate falls along the training, so the number of steps is set beforehand, by the time of a few of them
    on a model that is thrown away; the time that all took is what the GAN is given.
    """

    def trainer(steps: int) -> tuple[NetworkScore, Callable[[], float]]:
        torch.manual_seed(seed)
        model = NetworkScore(problem.network(), VPSDE(), EDMPreconditioning())
        made = make_trainer(
            model,
            data,
            steps,
            objective=problem.objective,
            lr=problem.lr,
            batch_size=problem.batch,
            seed=seed,
            warmup=min(100, steps // 2),
        )

        def train() -> float:
            start = time.process_time()
            for _ in made.steps():
                pass
            return time.process_time() - start

        return model, train

    trainer(_TIMING)[1]()
    each = trainer(_TIMING)[1]() / _TIMING
    steps = max(_TIMING, round(seconds / each))
    model, train = trainer(steps)
    spent = train()
    start = time.process_time()
    out = Sampler(AutoAdams(), DataStraight(problem.nfe))(model, shape=(n, *data.shape), seed=seed, progress=False)
    cost = {"train_s": spent, "sample_s": time.process_time() - start, "steps": float(steps)}
    return model.decode(out.x).cpu(), cost


def edm_samples(problem: Problem, data: Data, seconds: float, seed: int, n: int) -> tuple[Tensor, dict[str, float]]:
    """The same of a diffusion model whose loss and learning rate were chosen on the grid, as the GAN's were.

    Its training spends its times at noise levels near the widths of the modes, with the weights of Karras et al. 2022.
    """
    chosen = DenoisingScoreMatching(EDMWeighting(), LogNormalSigma(-1.6, 1.0))
    batch = max(64, problem.batch // 2)
    return diffusion_samples(replace(problem, objective=chosen, lr=5e-3, batch=batch), data, seconds, seed, n)


METHODS = {"diffusion": diffusion_samples, "edm": edm_samples, "gan": gan_samples}


def train(folder: Path, name: str, seed: int, seconds: float) -> None:
    """Train all methods with one seed and store their samples, unless they are there."""
    data = PROBLEMS[name].data()
    for method, make in METHODS.items():
        file = folder / f"{name}-{method}-{seed}.safetensors"
        if not file.is_file():
            raw, cost = make(PROBLEMS[name], data, seconds, seed, _SAMPLES[name])
            save_file({"samples": raw.contiguous()}, file, {k: f"{v:.3f}" for k, v in cost.items()})
            print(file, cost, flush=True)
        if method == "diffusion":
            seconds = stored(file)[1]["train_s"]


def stored(file: Path) -> tuple[Tensor, dict[str, float]]:
    """Samples of a file in raw units, and what they cost."""
    with safe_open(file, "pt") as opened:
        return opened.get_tensor("samples"), {k: float(v) for k, v in opened.metadata().items()}


def measure(name: str, data: Data, raw: Tensor, classifier: Classifier | None = None) -> dict[str, Estimate]:
    """The metrics of samples in raw units: modes or classes, clipped density and coverage, copies."""
    test = data.test[: len(raw)]
    x, y, train = (data.transform.encode(v).double() for v in (raw, test, data.train[:]))
    if name == "grid":
        found = mode_metrics(x, mixture_of(*grid_gaussians_mixture()))[0]
    else:
        assert classifier is not None
        found = class_metrics(x, data.transform.encode(data.test[:]).double(), classifier)[0]
    found = {**found, **clipped_metrics(x, y), "frechet_distance": frechet_distance(x, y)}
    return found | memorisation_metrics(x, train, data.transform.encode(data.test[:]).double())[0]


def table(folder: Path) -> str:
    """A table for each data set: means over seeds with their standard errors, and training data for scale."""
    lines = []
    for name, problem in PROBLEMS.items():
        data = problem.data()
        classifier = None
        if name == "digits":
            assert data.train_labels is not None
            assert data.test_labels is not None
            encoded = [data.transform.encode(x).double() for x in (data.train[:], data.test[:])]
            classifier = fit_classifier(encoded[0], data.train_labels, encoded[1], data.test_labels, 10)
        columns: dict[str, list[dict[str, float]]] = {}
        for method in METHODS:
            for file in sorted(folder.glob(f"{name}-{method}-*.safetensors")):
                raw, cost = stored(file)
                values = {key: e.value for key, e in measure(name, data, raw, classifier).items()}
                columns.setdefault(method, []).append(values | cost)
        if not columns:
            continue
        n = _SAMPLES[name]
        held = measure(
            name,
            data,
            data.train[torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:n]],
            classifier,
        )
        lines += [
            f"{name}, {n} samples",
            f"{'':22s}" + "".join(f"{f'{m} ({len(r)})':>22s}" for m, r in columns.items()),
        ]
        for key in columns[next(iter(columns))][0]:
            cells = [_mean([row[key] for row in rows]) for rows in columns.values()]
            scale = f"   training data {held[key].value:.3f}" if key in held else ""
            lines.append(f"{key:22s}" + "".join(f"{cell:>22s}" for cell in cells) + scale)
        lines.append("")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> str:
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    return f"{mean:.3f} ± {error:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and draw, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="of processor time for a training; 20 on the grid, 30 on digits")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.what == "table":
        print(table(options.folder))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for name in options.data:
            train(options.folder, name, seed, options.seconds or _SECONDS[name])


if __name__ == "__main__":
    main()
