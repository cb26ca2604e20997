"""The figures of the pages `docs/moving`: what samplers of other libraries give on normal data with an exact network.

    pip install --no-deps k-diffusion==0.1.1.post1 diffusers==0.42.1 azula==0.11.1
    pip install torchdiffeq einops torchsde
    python benchmarks/moving.py [LIBRARY ...]

Data are N(0.3, 0.7²) in one dimension where nothing else is said, and an exact network is the closed form for them, so
that what differs from 0.3 and 0.7 is the sampler's own. Errors are standard errors over the samples. A library that is
not installed is named and left out.
"""

import argparse
import contextlib
import importlib
import io
import math
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy
import torch
from peers import load_peers
from torch import Tensor

MEAN, STD = 0.3, 0.7
SAMPLES = 20_000


def denoised(x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """E[x₀ given α x₀ + σ ε = x] for the data."""
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    mean: Tensor = MEAN + gain * (x - alpha * MEAN)
    return mean


def quantiles() -> Tensor:
    """Starts of solvers without noise: the quantiles of a normal distribution, whose moments have no error."""
    z: Tensor = torch.special.ndtri((torch.arange(SAMPLES, dtype=torch.float64) + 0.5) / SAMPLES)
    return z


def moments(x: Tensor, random: bool = True) -> str:
    """Mean and standard deviation, with their standard errors if the samples are random."""
    mean, std, n = float(x.mean()), float(x.std()), x.numel()
    if not random:
        return f"mean {mean:.3f}, deviation {std:.3f}"
    return f"mean {mean:.3f} ± {std / math.sqrt(n):.3f}, deviation {std:.3f} ± {std / math.sqrt(2 * n):.3f}"


# ---------------------------------------------------------------- diffusers


def _noise_model(scheduler: Any) -> Callable[[Tensor, Any], Tensor]:
    """The exact prediction of ε at a timestep of a VP chain."""

    def predict(x: Tensor, t: Any) -> Tensor:
        bar = scheduler.alphas_cumprod[int(t)].double()
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
        noise: Tensor = (x - alpha * denoised(x, alpha, sigma)) / sigma
        return noise

    return predict


def _run(scheduler: Any, predict: Callable[[Tensor, Any], Tensor], steps: int) -> Tensor:
    scheduler.set_timesteps(steps)
    x: Tensor = quantiles()[:, None, None, None] * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, t), t, x).prev_sample
    return x


def diffusers() -> Iterator[str]:
    """As many steps as training timesteps; step counts of DDIM; churn; the last sigma; stochastic flow matching."""
    library: Any = importlib.import_module("diffusers")

    for name in ("DPMSolverMultistep", "DEISMultistep", "UniPCMultistep", "SASolver"):
        with contextlib.redirect_stderr(io.StringIO()):
            ends = [
                _run(scheduler, _noise_model(scheduler), steps)
                for steps in (99, 100)
                for scheduler in [getattr(library, f"{name}Scheduler")(num_train_timesteps=100)]
            ]
        finite = [f"{float(end.isfinite().double().mean()):.0%}" for end in ends]
        yield f"{name}, 100 training timesteps: finite samples {finite[0]} of 99 steps, {finite[1]} of 100 steps"
    for steps in (200, 500, 150, 400, 600):
        scheduler = library.DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
        end = _run(scheduler, _noise_model(scheduler), steps)
        yield f"DDIM, trailing, {steps} steps: {moments(end, random=False)}"
    for steps in (50, 200):
        scheduler = library.EDMEulerScheduler()
        scheduler.set_timesteps(steps)
        random = torch.Generator().manual_seed(0)
        x = torch.randn(SAMPLES, 1, 1, 1, generator=random) * scheduler.init_noise_sigma
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            scheduler.scale_model_input(x, t)  # without which a step warns
            c_skip, c_out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
            output = (denoised(x, 1.0, sigma) - c_skip * x) / c_out
            x = scheduler.step(output, t, x, s_churn=80.0, generator=random).prev_sample
        yield f"EDMEuler, s_churn=80, {steps} steps: {moments(x)}"
    levels = [10.0, 3.0, 1.0, 0.3, 0.1, 0.03]
    for name, top in (("EulerDiscreteScheduler", 10.0), ("FlowMatchEulerDiscreteScheduler", 1.0)):
        scheduler = getattr(library, name)()
        scheduler.set_timesteps(sigmas=[s / 10 * top for s in levels])
        yield f"{name}, six levels: {len(scheduler.timesteps)} calls, last sigma {float(scheduler.sigmas[-1]):g}"
    for steps in (200, 1000):
        scheduler = library.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
        scheduler.set_timesteps(steps)
        torch.manual_seed(0)
        x = torch.randn(SAMPLES, 1, 1, 1)
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            mean = denoised(x, 1 - sigma, sigma)
            x = scheduler.step((x - mean) / sigma, t, x).prev_sample
        yield f"FlowMatchEuler, stochastic_sampling, {steps} steps: {moments(x)}"


# ---------------------------------------------------------------- k-diffusion


def k_diffusion() -> Iterator[str]:
    """The order of the third-order methods, with eta=0, on equal steps of log σ."""
    load_peers([])  # which has a way around what its package imports
    sampling: Any = importlib.import_module("k_diffusion.sampling")
    start = torch.full((2, 1), 10.0, dtype=torch.float64) * torch.tensor([[1.0], [-0.5]])

    def error(sampler: Callable[..., Tensor], steps: int, **options: Any) -> float:
        levels = torch.logspace(1, -1, steps + 1, dtype=torch.float64)

        def model(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
            return denoised(x, 1.0, sigma[:, None])

        end = sampler(model, start, levels, disable=True, **options)
        width = [math.sqrt(STD**2 + float(s) ** 2) for s in (levels[0], levels[-1])]
        return float((end - (MEAN + (start - MEAN) * width[1] / width[0])).abs().max())

    def zero(*_: Any) -> Tensor:
        return torch.zeros_like(start)

    methods: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
        "sample_dpmpp_2m": (sampling.sample_dpmpp_2m, {}),
        "sample_dpmpp_3m_sde, eta=0": (sampling.sample_dpmpp_3m_sde, {"eta": 0.0, "noise_sampler": zero}),
        "sample_lms": (sampling.sample_lms, {}),
    }
    for name, (sampler, options) in methods.items():
        errors = [error(sampler, steps, **options) for steps in (40, 80, 160)]
        slopes = [math.log2(a / b) for a, b in pairwise(errors)]
        shown = ", ".join(f"{e:.1e}" for e in errors)
        yield f"{name}: errors {shown} at 40, 80 and 160 steps, slopes {slopes[0]:.2f} and {slopes[1]:.2f}"


# ---------------------------------------------------------------- azula


def azula() -> Iterator[str]:
    """The order of REAB on a VE schedule, and xEAB on the default VP schedule."""
    denoise, noise, sample = (importlib.import_module(f"azula.{part}") for part in ("denoise", "noise", "sample"))
    base: Any = denoise.Denoiser

    class Exact(base):  # type: ignore[misc]
        def __init__(self, schedule: Any) -> None:
            super().__init__()
            self.schedule = schedule

        def forward(self, x: Tensor, t: Tensor, **_: Any) -> Any:
            return denoise.DiracPosterior(denoised(x, *self.schedule(t)))

    def run(name: str, schedule: Any, steps: int, **options: Any) -> tuple[Tensor, Tensor]:
        sampler = getattr(sample, name)(Exact(schedule), steps=steps, silent=True, **options)
        ends = [schedule(torch.tensor(t, dtype=torch.float64)) for t in (1.0, 0.0)]
        width = [(a**2 * STD**2 + s**2).sqrt() for a, s in ends]
        z = quantiles()[:, None]
        out = sampler(ends[0][0] * MEAN + width[0] * z)
        return out, ends[1][0] * MEAN + width[1] * z

    schedule = noise.VESchedule(sigma_min=0.1, sigma_max=10.0)
    cases: list[tuple[str, dict[str, int]]] = [
        ("EulerSampler", {}),
        ("zEABSampler", {"order": 3}),
        ("REABSampler", {"order": 3}),
    ]
    for name, options in cases:
        errors = [float((a - b).abs().max()) for a, b in (run(name, schedule, n, **options) for n in (40, 80))]
        yield f"{name} {options or ''}: errors {errors[0]:.1e} and {errors[1]:.1e} at 40 and 80 steps on VE"
    for name, options in (
        ("EulerSampler", {}),
        ("vABSampler", {"order": 3}),
        ("xEABSampler", {"order": 3}),
        ("xEABSampler", {"order": 4}),
    ):
        end, _ = run(name, noise.VPSchedule(), 64, **options)
        yield f"{name} {options or ''}, VPSchedule(), 64 steps: {moments(end, random=False)}"


# ---------------------------------------------------------------- torchsde


def torchsde() -> Iterator[str]:
    """The seed of a solve, and the variance between steps of a Brownian motion."""
    library: Any = importlib.import_module("torchsde")

    class Brownian(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.zeros_like(y)

        def g(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.ones_like(y)

    start, times = torch.zeros(SAMPLES, 1), torch.tensor([0.0, 0.05, 0.15, 0.2])
    ends = []
    numpy.random.seed(0)  # so that the figures repeat
    for _ in range(2):
        torch.manual_seed(0)
        ends.append(library.sdeint(Brownian(), start, times, dt=0.1, method="euler"))
    yield f"two solves after the same torch.manual_seed: {'equal' if bool((ends[0] == ends[1]).all()) else 'different'}"
    for i in (1, 2, 3):
        variance = float(ends[0][i].var())
        error = variance * math.sqrt(2 / SAMPLES)
        yield f"Brownian motion, dt=0.1, at t={float(times[i]):g}: variance {variance:.4f} ± {error:.4f}"


LIBRARIES = {"diffusers": diffusers, "k-diffusion": k_diffusion, "azula": azula, "torchsde": torchsde}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY", help=f"of {', '.join(LIBRARIES)}; all if none")
    warnings.simplefilter("ignore")
    for name in parser.parse_args().libraries or LIBRARIES:
        try:
            for line in LIBRARIES[name]():
                print(f"{name}: {line}", flush=True)
        except ImportError as error:
            print(f"{name} is left out: {error}")


if __name__ == "__main__":
    main()
