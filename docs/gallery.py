"""The pictures of the page docs/gallery.md, on exact scores alone, so that they need no training.

python docs/gallery.py
"""

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

from scoresde import plots
from scoresde.certificate import digits
from scoresde.guidance import DensityGuided
from scoresde.inverse import ExactPosterior, GaussianNoise, Mask, Problem
from scoresde.sampling import DPMSolverPP, EDMHeun, KarrasGrid, Sampler, UniformLogSNR
from scoresde.score import GaussianMixtureScore
from scoresde.sde import VPSDE

OUT = Path(__file__).parent / "_static" / "gallery"
SHAPE = (1, 8, 8)


def ring() -> GaussianMixtureScore:
    """Eight narrow Gaussians on a circle, under the VP SDE."""
    angle = torch.arange(8) * math.pi / 4
    means = 1.5 * torch.stack((angle.cos(), angle.sin()), 1)
    return GaussianMixtureScore(torch.ones(8), means, torch.full((8,), 0.15**2), VPSDE())


def paths(figure: Figure, model: GaussianMixtureScore, noisy: bool, column: int) -> None:
    """Where states are, from noise on the left to data on the right, in the first coordinate."""
    solver = DPMSolverPP(1, sde=True) if noisy else DPMSolverPP(2)
    out = Sampler(solver, UniformLogSNR(150), denoise=False)(model, shape=(60, 2), seed=1, trajectory=True)
    assert out.trajectory is not None
    axes = figure.add_subplot(1, 2, column)
    track = out.trajectory[:, :, 0].cpu()
    steps = torch.arange(len(track))
    for i in range(track.shape[1]):
        axes.plot(steps.tolist(), track[:, i].tolist(), lw=0.6, color=plt_colour(i), alpha=0.7)
    axes.set_title("reverse SDE" if noisy else "probability-flow ODE")
    axes.set_xlabel("step, equal in log-SNR")
    axes.set_ylabel("first coordinate" if column == 1 else "")


def plt_colour(i: int) -> str:
    """A colour of the palette that colour-blind readers can tell apart."""
    return ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")[i % 6]


def save(figure: Figure, name: str) -> None:
    figure.savefig(OUT / f"{name}.png", dpi=160, bbox_inches="tight")
    print(OUT / f"{name}.png")


def images(x: torch.Tensor) -> torch.Tensor:
    """Digits `(N, 1, 8, 8)` in [0, 1] from those of the mixture, in [−1, 1]."""
    return ((x.reshape(-1, *SHAPE).float() + 1) / 2).clamp(0, 1)


def main() -> None:
    """Draw all pictures."""
    OUT.mkdir(parents=True, exist_ok=True)
    model = ring()
    random = torch.Generator().manual_seed(0)
    times = torch.tensor([0.001, 0.1, 0.2, 0.3, 0.5, 1.0])
    save(plots.forward_process(torch.stack([model.sample(1000, float(t), random) for t in times]), times), "forward")
    axis = torch.linspace(-2.4, 2.4, 17)
    points = torch.cartesian_prod(axis, axis)
    scores = model.score(points, torch.tensor(0.2))
    save(plots.vector_field(points, scores, samples=model.sample(500, 0.2, random)), "field")
    figure = Figure(figsize=(9, 3.2))
    for column, noisy in ((1, False), (2, True)):
        paths(figure, model, noisy, column)
    figure.tight_layout()
    save(figure, "paths")
    prior = digits()
    sampler = Sampler(EDMHeun(), KarrasGrid(17))
    drawn = sampler(prior, shape=(40, *SHAPE), seed=0).x
    save(plots.image_grid(images(drawn), columns=20), "digits")
    guided = [sampler(DensityGuided(prior, q), shape=(20, *SHAPE), seed=0).x for q in (0.45, 0.5, 0.55)]
    save(plots.image_grid(images(torch.cat(guided)), columns=20), "density")
    keep = torch.zeros(SHAPE, dtype=torch.bool)
    keep[:, 4:] = True
    problem = Problem(Mask(keep), GaussianNoise(0.2))
    truth = prior.sample(1, 0.002, torch.Generator().manual_seed(8)).reshape(1, *SHAPE)
    measured = problem.measure(truth, seed=0)
    posterior = ExactPosterior(prior, problem).given(measured.y[0])
    found = sampler(posterior, shape=(18, *SHAPE), seed=0).x
    shown = torch.where(keep, truth, torch.full_like(truth, -1.0))
    save(plots.image_grid(images(torch.cat([truth, shown, found.to(truth)])), columns=20), "posterior")


if __name__ == "__main__":
    main()
