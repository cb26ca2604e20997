"""Samplers of other libraries are certified through their adapters, where they are installed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.certificate import Function, PosteriorExam, SamplerExam, contender, ring
from scoresde.certificate.adapters import AzulaSampler, DiffusersScheduler
from scoresde.inverse import GaussianNoise, MatrixOperator, Problem
from scoresde.sde import EDMSDE

EXAM = SamplerExam(ring(EDMSDE(0.002, 200.0)), samples=64)


def test_a_scheduler_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    sampler = contender(DiffusersScheduler(lambda: diffusers.EulerDiscreteScheduler(timestep_spacing="trailing")))
    order = EXAM.verdict("order", sampler, 1)
    assert order.passed, order
    assert EXAM.verdict("mates", sampler).passed


def test_a_function_of_k_diffusion() -> None:
    sampling = pytest.importorskip("k_diffusion.sampling", exc_type=ImportError)  # or what it imports
    order = EXAM.verdict("order", contender(sampling.sample_heun), 2)
    assert order.passed, order


def test_a_sampler_of_azula() -> None:
    sample, noise, denoise = (pytest.importorskip(f"azula.{name}") for name in ("sample", "noise", "denoise"))
    schedule = noise.VESchedule(0.002, 10.0)
    sampler = contender(AzulaSampler(sample.HeunSampler, schedule, denoise.DiracPosterior))
    order = EXAM.verdict("order", sampler, 2)
    assert order.passed, order


def test_a_posterior_sampler_of_deepinv() -> None:
    deepinv = pytest.importorskip("deepinv")
    prior = ring()

    def langevin(denoiser: Any, operator: Any, y: Tensor, noise_std: float, n: int, seed: int) -> Tensor:
        physics = deepinv.physics.LinearPhysics(A=operator, A_adjoint=operator.adjoint)
        x = torch.zeros(n, 2, dtype=torch.float64)
        fidelity = deepinv.optim.data_fidelity.L2(noise_std)
        for _ in range(5):
            x = denoiser(x, 0.5) - 0.001 * fidelity.grad(x, y.expand(n, -1), physics)
        return x

    problem = Problem(MatrixOperator(torch.tensor([[1.0, 0.0]])), GaussianNoise(0.1))
    row = PosteriorExam(prior, problem, measurements=4, samples=64).run(Function(langevin), 5)
    assert row["nfe"] == 5
    assert "spread" in row["deviates"] or "covariance" in row["deviates"]
