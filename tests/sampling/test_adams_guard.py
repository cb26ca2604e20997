"""The safeguard of Adams methods: its formula, that it keeps orders and samples apart, and what it is for."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.sampling import (
    AutoAdams,
    DataStraight,
    ExplicitTimes,
    KarrasGrid,
    Multistep,
    NoiseLevel,
    Sampler,
    SignalLevel,
)
from scoresde.sampling.plain_rule import plain_rule
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE, FlowSDE
from scoresde.statistics import Statistics
from tests.problems import F64, Mixture, generator, ring, rms, true_ends


class Guided(ScoreModel):
    """The field w D(x | class) + (1 − w) D(x), for the first of five Gaussians as the class."""

    def __init__(self, sde: SDE, scale: float) -> None:
        means, variances = torch.randn(5, 6, generator=generator(3), dtype=F64), torch.full((5,), 0.3**2, dtype=F64)
        marginal = GaussianMixtureScore(torch.ones(5), means, variances, sde)
        super().__init__(sde, marginal.statistics)
        self.marginal = marginal
        self.conditional = GaussianMixtureScore(torch.ones(1), means[:1], variances[:1], sde)
        self.scale = scale

    @property
    def step_statistics(self) -> Statistics | None:
        return self.statistics  # of the steps below it is known how long they are

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return torch.lerp(self.marginal.denoise(x, t), self.conditional.denoise(x, t), self.scale)


def test_the_step_written_out() -> None:
    """The formulas of Adams and Bashforth on even steps of dx = ε ds, each term as far as the safeguard lets it."""
    sde = EDMSDE(0.01, 3.0)
    model = ring(sde, 3, 0.3)
    x = start = model.sample(40, 3.0, generator())
    times = torch.linspace(3.0, 0.01, 12, dtype=F64)
    h, values, shares = float(times[1] - times[0]), list[Tensor](), []
    for i in range(11):
        values.insert(0, model.noise(x, times[i]))
        terms = [h * values[0]]
        if i > 0:
            terms.append(h / 2 * (values[0] - values[1]))
        if i > 1:
            terms.append(h * 5 / 12 * (values[0] - 2 * values[1] + values[2]))
        sizes = [term.norm(dim=1, keepdim=True) for term in terms]
        if i > 1:
            shares.append((torch.maximum(sizes[1] / 2, sizes[0] / 10) / sizes[2]).clamp(max=1))
        elif i > 0:
            shares.append((sizes[0] / 2 / sizes[1]).clamp(max=1))
        x = x + terms[0] + (shares[-1] * sum(terms[1:]) if i else 0)
    grid = ExplicitTimes(times.tolist())
    solver = Multistep(3, coordinate=NoiseLevel(), safeguard=True)
    torch.testing.assert_close(Sampler(solver, grid, denoise=False)(model, x_init=start).x, x, rtol=1e-11, atol=1e-11)
    # It is a test of both branches.
    full = torch.cat(shares) == 1
    assert 0.05 < float(full.double().mean()) < 0.95


@pytest.mark.parametrize(
    ("order", "corrector", "sde"), [(2, 0, VPSDE()), (3, 0, EDMSDE()), (3, 3, FlowSDE())], ids=["2", "3", "4"]
)
def test_order_is_kept(planar: Mixture, order: int, corrector: int, sde: SDE) -> None:
    model = planar.model(sde)
    x = model.sample(8, sde.t_max, generator())
    true = true_ends(model, x)
    solver = Multistep(order, corrector, centre=True, safeguard=True)
    errors = [rms(Sampler(solver, DataStraight(n, 0.3), denoise=False)(model, x_init=x).x - true) for n in (128, 256)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(corrector + 1 if corrector else order, abs=0.25)


@pytest.mark.parametrize("coordinate", [None, SignalLevel()])
def test_samples_move_with_the_mean(coordinate: SignalLevel | None) -> None:
    """Data that are shifted are sampled as before, and shifted: what is compared has the mean taken out of it."""
    sde, shift = VPSDE(), 30.0
    alphas = sde.alpha(KarrasGrid(7)(sde)[[0, -1]]).tolist()
    means, variances = torch.randn(4, 3, generator=generator(1), dtype=F64), torch.full((4,), 0.01, dtype=F64)
    solver = Multistep(3, 2, coordinate, centre=True, safeguard=True)
    ends = []
    for by in (0.0, shift):
        model = GaussianMixtureScore(torch.ones(4), means + by, variances, sde)
        x = torch.randn(30, 3, generator=generator(2), dtype=F64) + by * alphas[0]
        ends.append(Sampler(solver, KarrasGrid(7), denoise=False)(model, x_init=x).x - by * alphas[1])
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-9)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model = ring(EDMSDE(), 5, 0.02)
    x = model.sample(6, 80.0, generator())
    sampler = Sampler(Multistep(3, 2, safeguard=True), KarrasGrid(8), denoise=False)
    together = sampler(model, x_init=x).x
    for i in range(6):
        torch.testing.assert_close(sampler(model, x_init=x[i : i + 1]).x[0], together[i], rtol=1e-12, atol=1e-12)


def test_all_values_may_be_zero() -> None:
    """The velocity along the angle is 0 for isotropic normal data, and the ratio of the terms is not a number."""
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.tensor([1.0]), EDMSDE())
    x = model.sample(4, 80.0, generator())
    for solver in (Multistep(2, safeguard=True), Multistep(4, 3, safeguard=True)):
        out = Sampler(solver, KarrasGrid(6), denoise=False)(model, x_init=x)
        torch.testing.assert_close(out.x, x * math.hypot(1, 0.002) / math.hypot(1, 80), rtol=1e-9, atol=1e-9)


def test_strong_guidance() -> None:
    """Six steps are far too long for second order, by which samples end far from all data."""
    model = Guided(EDMSDE(), 8.0)
    x = model.conditional.sample(64, 80.0, generator())
    true = true_ends(model, x)
    rule = plain_rule(6)
    grid = DataStraight(6, rule.bend, top=rule.top, narrow=rule.narrow)
    assert torch.equal(grid(model.sde, model.statistics), DataStraight(6)(model.sde, model.statistics))
    without = AutoAdams(rule=dataclasses.replace(rule, safeguard=False))
    default, unguarded = (
        rms(Sampler(s, grid, denoise=False)(model, x_init=x).x - true) for s in (AutoAdams(), without)
    )
    assert unguarded > 2 * rms(true - model.conditional.means[0])
    assert default < unguarded / 4


def test_the_text_of_a_method_without_it_is_as_before_there_was_one() -> None:
    """Stored samples and results are found by it."""
    assert "safeguard" not in repr(Multistep(2))
    assert repr(Multistep(2, safeguard=True)).endswith(", strict=False, safeguard=True)")
