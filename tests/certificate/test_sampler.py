"""The certificate of samplers finds planted faults, each by the check that is for it, and nothing in what is right."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.certificate import SamplerExam, certify, contender, ring, sampler_table
from scoresde.sampling import DDPM, DPMSolverPP, EDMHeun, KarrasGrid, Sampler, UniformLogSNR
from scoresde.sde import EDMSDE, VPSDE

EXAM = SamplerExam(ring(), samples=128)
VP = SamplerExam(ring(VPSDE()), samples=128)


def heun(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's method as k-diffusion has it."""
    return sloped(model, x, sigmas, 0.5)


def sloped(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor, weight: float) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        here = (x - model(x, a)) / a
        ahead = x + (b - a) * here
        if b == 0:
            return ahead
        there = (ahead - model(ahead, b)) / b
        x = x + (b - a) * ((1 - weight) * here + weight * there)
    return x


def wrong_coefficient(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    return sloped(model, x, sigmas, 0.45)


def sees_its_batch(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    return heun(model, x, sigmas) * (1 + 1e-4 * x.std())


def ends_early(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    return heun(model, x, sigmas[:-1])


def counts_half(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> tuple[Tensor, int]:
    return heun(model, x, sigmas), len(sigmas) - 1


def random_each_time(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    return heun(model, x, sigmas) + 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(torch.seed()))


def ancestral(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor, wrong: float = 1.0) -> Tensor:
    """Ancestral steps of the variance-exploding process, with noise of a wrong scale."""
    for a, b in itertools.pairwise(sigmas):
        mean = model(x, a)
        x = mean + (b / a) ** 2 * (x - mean) + wrong * b * (1 - (b / a) ** 2).sqrt() * torch.randn_like(x)
    return x


def too_much_noise(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    return ancestral(model, x, sigmas, 1.3)


def passed(check: str, sampler: Any, claimed: float | None = None, exam: SamplerExam = EXAM) -> bool | None:
    return exam.verdict(check, contender(sampler), claimed).passed


@pytest.mark.parametrize(
    ("check", "wrong", "claimed"),
    [
        ("order", wrong_coefficient, 2),
        ("mates", sees_its_batch, None),
        ("alone", sees_its_batch, None),
        ("end", ends_early, None),
        ("count", counts_half, None),
        ("repeats", random_each_time, None),
        ("moments", too_much_noise, None),
    ],
)
def test_planted_faults_are_found(check: str, wrong: Any, claimed: float | None) -> None:
    assert passed(check, wrong, claimed) is False
    assert passed(check, ancestral if check == "moments" else heun, claimed) is (None if check == "count" else True)


@pytest.mark.parametrize("exam", [EXAM, VP], ids=["edm", "vp"])
@pytest.mark.parametrize("check", ["order", "count", "mates", "alone", "repeats", "end"])
def test_named_samplers_pass(check: str, exam: SamplerExam) -> None:
    for solver, order in ((EDMHeun(), 2), (DPMSolverPP(2), 2)):
        made = lambda n, solver=solver: Sampler(solver, UniformLogSNR(n))  # noqa: E731
        assert passed(check, made, order, exam) is True


def test_orders_are_slopes() -> None:
    found = EXAM.verdict("order", contender(heun), 2)
    assert abs(found.value - 2) < 0.1
    found = EXAM.verdict("order", contender(wrong_coefficient), 2)
    assert 0.5 < found.value < 1.1  # its error is that of two terms, of which the wrong one is left


def test_errors_are_at_most_at_the_budget_and_shrink() -> None:
    errors = []
    for budget in (5, 10, 20):
        found = EXAM.verdict(f"error at {budget}", contender(lambda n: Sampler(DPMSolverPP(2), UniformLogSNR(n))))
        assert f"{budget} evaluations" in found.text
        errors.append(found.value)
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.slow
def test_weak_orders_are_told_apart() -> None:
    exam = SamplerExam(ring(EDMSDE(0.01, 20.0)))
    second = exam.verdict("order", contender(lambda n: Sampler(DPMSolverPP(2, sde=True), UniformLogSNR(n))), 2)
    first = exam.verdict("order", contender(lambda n: Sampler(DDPM(), UniformLogSNR(n))), 2)
    assert (second.passed, first.passed) == (True, False), (second, first)


@pytest.mark.parametrize(("noise", "expected"), [("brownian", True), ("white", None)])
def test_finer_grids_refine_a_brownian_path(noise: Any, expected: bool | None) -> None:
    made = contender(lambda n: Sampler(DPMSolverPP(2, sde=True), UniformLogSNR(n), noise=noise))
    assert EXAM.verdict("refines", made).passed is expected


def test_the_end_of_a_sampler_without_denoising_is_that_of_its_grid() -> None:
    found = EXAM.verdict("end", contender(lambda n: Sampler(EDMHeun(), KarrasGrid(n), denoise=False)))
    assert found.passed is True
    assert found.value == pytest.approx(1, abs=0.05)


def test_a_table_names_what_is_wrong() -> None:
    checks = ["error at 10", "mates", "repeats"]
    frame = certify("ring", samplers={"good": heun, "bad": sees_its_batch}, checks=checks, samples=64, progress=False)
    assert list(frame["passed"][:3]) == ["", "yes", "yes"]
    head, *rows = sampler_table(frame)
    assert head == ["sampler", "error at 10", "wrong"]
    assert [row[-1] for row in rows] == ["nothing", "mates"]


def test_one_failure_leaves_the_other_checks() -> None:
    def fails(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
        raise RuntimeError("no\nluck")

    frame = certify("ring", samplers={"fails": fails, "good": heun}, checks=["repeats"], progress=False)
    assert list(frame["failure"]) == ["RuntimeError: no luck", ""]


def test_what_is_no_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a function of a number of steps, or f"):
        contender(torch.add)
    with pytest.raises(ValueError, match="sampler is 3, expected a Sampler"):
        contender(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to certify"):
        certify("ring")
    with pytest.raises(ValueError, match="claims"):
        certify("ring", samplers={"a": heun}, claims={"b": 2})
    with pytest.raises(ValueError, match="there are methods"):
        certify("ring", methods={"a": torch.zeros_like})
    with pytest.raises(FileNotFoundError):
        certify("rings", samplers={"a": heun})
