"""The default solver: what it stands for, its order, and what it costs."""

import itertools
import math
import warnings
from typing import Any

import pytest
import torch

from scoresde.sampling import (
    Angle,
    AutoAdams,
    DataStraight,
    ExplicitTimes,
    Multistep,
    Sampler,
    ScipyODE,
    Straight,
    UniformLogSNR,
)
from scoresde.sampling.plain_rule import plain_rule
from scoresde.score import EmpiricalScore, GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE
from tests.problems import Mixture

F64 = torch.float64


class Unknown(ScoreModel):
    """An exact score that does not tell, as a network's."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model

    def denoise(self, x: torch.Tensor, t: torch.Tensor, **cond: Any) -> torch.Tensor:
        return self.model.denoise(x, t, **cond)


@pytest.mark.parametrize("steps", [1, 2, 6, 7, 9, 10, 14, 16, 25, 30, 60])
def test_the_rule_of_a_model_that_nothing_is_known_of(planar: Mixture, steps: int) -> None:
    model = Unknown(planar.model(VPSDE()))
    known = model.step_statistics
    assert known is not None
    assert known.covariance is not None
    # It might be a guided one, whose field bends at larger noise than that of its data.
    torch.testing.assert_close(known.covariance, 4 ** (2 / 3) * model.model.statistics.covariance)  # type: ignore[union-attr]
    largest = float(torch.linalg.eigvalsh(known.covariance)[-1].sqrt())
    order = 2 if steps < 15 else 3 if steps < 25 else 4
    guided = 5 <= steps < 25
    bend, top = (1 / 3, 0.05) if steps < 15 else (1 / 3, 0.1) if guided else (0.2, 0.25)
    same = Multistep(
        min(order, steps),
        order - 1 if guided or order > 2 else 2,
        Straight(largest * bend) if guided or steps >= 25 else Angle(float(known.std)),
        centre=True,
        safeguard=steps < 50,
    )
    narrow = 0.05 if steps < 7 else 0.1 if steps < 10 else 0.15
    grid = DataStraight(steps, bend, top=top, narrow=narrow)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no order that a short grid cannot have
        out = Sampler(AutoAdams(), DataStraight(steps), denoise=False)(model, (5, 2), seed=2)
    # Nor is its prediction at the start known, as that of a network would be.
    assert out.nfe == steps
    torch.testing.assert_close(out.times, grid(model.sde, known), rtol=0, atol=0)
    torch.testing.assert_close(
        out.x, Sampler(same, grid, denoise=False)(model, (5, 2), seed=2).x, rtol=1e-12, atol=1e-12
    )


def test_order(planar: Mixture, sde: SDE) -> None:
    model = planar.model(sde)
    x = model.sample(32, sde.t_max, torch.Generator().manual_seed(0))
    ends = ExplicitTimes([sde.t_max, sde.t_min_sampling])
    true = Sampler(ScipyODE("DOP853", 1e-12, 1e-12), ends, denoise=False)(model, x_init=x).x

    def error(grid: DataStraight) -> float:
        return float((Sampler(AutoAdams(), grid, denoise=False)(model, x_init=x).x - true).square().mean().sqrt())

    errors = [error(DataStraight(steps, 0.25)) for steps in (64, 128, 256)]  # a grid of its own: nothing is measured
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert errors[0] < 1e-4
    # The error of order 3 that the first step leaves is made good.
    assert slopes[-1] == pytest.approx(4, abs=0.15)


def test_narrow_modes() -> None:
    """Two modes of width 0.02 at a distance of 4: the grid of the default reaches noise levels of their width."""
    means = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])
    model = GaussianMixtureScore(torch.ones(2), means, torch.full((2,), 4e-4), EDMSDE())
    x = model.sample(64, 80.0, torch.Generator().manual_seed(0))
    ends = ExplicitTimes([80.0, 0.002])
    true = Sampler(ScipyODE("DOP853", 1e-12, 1e-12), ends, denoise=False)(model, x_init=x).x
    grid, without = DataStraight(20), DataStraight(20, narrow=0.0)
    errors = [
        float(
            (Sampler(AutoAdams(rule=plain_rule(20)), g, denoise=False)(model, x_init=x).x - true).norm(dim=1).median()
        )
        for g in (grid, without)
    ]
    assert errors[0] < 0.002
    assert errors[1] > 5 * errors[0]


def test_without_statistics_it_is_a_method_for_unit_data() -> None:
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=F64)
    model = EmpiricalScore(points, VPSDE())
    model.statistics = None
    out = Sampler(AutoAdams(), DataStraight(30))(model, (64, 2))
    assert out.nfe == 31
    assert float(torch.cdist(out.x, points).min(1).values.max()) < 0.05


def test_stochastic(planar: Mixture) -> None:
    """Two seeds from one start part, and the mean and covariance are those of the data."""
    model = planar.model(VPSDE())
    known = model.statistics
    assert known is not None
    assert known.covariance is not None
    x = model.sample(4000, 1.0, torch.Generator().manual_seed(0))
    sampler = Sampler(AutoAdams(tau=0.7), UniformLogSNR(40), denoise=False)
    first, second = (sampler(model, x_init=x, seed=seed).x for seed in (0, 1))
    assert float((first - second).square().mean().sqrt()) > 0.3 * float(known.std)
    assert bool(((first.mean(0) - known.mean).abs() < 5 * float(known.std) / math.sqrt(4000)).all())
    torch.testing.assert_close(first.T.cov(), known.covariance, rtol=0.1, atol=0.05)


def test_negative_stochasticity_is_refused() -> None:
    with pytest.raises(ValueError, match="tau is -1"):
        AutoAdams(tau=-1.0)


def test_normal_data_take_one_step() -> None:
    """P is 0 in the angle of isotropic normal data, so a single step without any evaluation is exact."""
    model = GaussianMixtureScore(torch.ones(1), torch.tensor([[0.4, -1.0]]), torch.tensor([0.3]), VPSDE())
    x = model.sample(20, 1.0, torch.Generator().manual_seed(0))
    out = Sampler(AutoAdams(), DataStraight(1), denoise=False)(model, x_init=x)
    fine = Sampler(AutoAdams(), DataStraight(10), denoise=False)(model, x_init=x)
    assert out.nfe == 0
    torch.testing.assert_close(out.x, fine.x, rtol=1e-9, atol=1e-9)
