import math

import pytest
import torch
from torch import Tensor

from scoresde.numerics.step_sizes import accepted_and_factor, first_step, on_grid

F64 = torch.float64


def test_a_step_is_accepted_up_to_an_error_of_one() -> None:
    ok, _ = accepted_and_factor(torch.tensor([0.0, 1.0, 1.0 + 1e-12, 1e10], dtype=F64), torch.ones(4, dtype=F64), 5)
    assert ok.tolist() == [True, True, False, False]


def test_factors_stay_in_their_limits() -> None:
    error = torch.logspace(-12, 12, 200, dtype=F64)
    for previous in (1e-4, 1.0):
        ok, factor = accepted_and_factor(error, torch.full_like(error, previous), 5)
        assert float(factor[ok].min()) >= 0.2 and float(factor[ok].max()) <= 10  # noqa: PT018 (one interval)
        assert float(factor[~ok].min()) >= 0.1 and float(factor[~ok].max()) <= 0.9  # noqa: PT018


@pytest.mark.parametrize("order", [3, 5, 8])
def test_a_steady_error_leads_to_the_step_that_has_it(order: int) -> None:
    # With error = (step/s)^order the fixed point of the controller is where 0.9 error^(-0.3/order) is 1.
    step, previous = torch.tensor([0.3], dtype=F64), torch.tensor([1.0], dtype=F64)
    for _ in range(200):
        error = step**order
        ok, factor = accepted_and_factor(error, previous, order)
        previous = torch.where(ok, error.clamp_min(1e-4), previous)
        step = step * factor
    assert float(step) ** order == pytest.approx(0.9 ** (order / 0.3), rel=1e-6)


def test_steps_on_a_grid_are_the_nearest_powers() -> None:
    step = torch.tensor([0.013, 0.2, 1.7], dtype=F64)
    powers = on_grid(step, 0.25).log() / 0.25
    torch.testing.assert_close(powers, powers.round(), rtol=0, atol=1e-12)
    assert float((on_grid(step, 0.25).log() - step.log()).abs().max()) <= 0.125
    assert torch.equal(on_grid(step, 0.0), step)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_first_step_is_that_of_the_published_algorithm(sign: float) -> None:
    """Hairer, Norsett & Wanner 1993, II.4, for y' = a y with the norm |.|/tol."""
    a, tol, order = -2.0, 1e-6, 5

    def error_norm(error: Tensor, before: Tensor, after: Tensor, slope: Tensor) -> Tensor:
        return error.abs().amax(1) / tol

    y = torch.ones(1, 1, dtype=F64)
    found = first_step(lambda t, y: a * y, y, a * y, 0.0, sign * 10.0, error_norm, order)
    trial = 0.01 * (1 / tol) / (2 / tol)
    bend = abs(a * (1 + sign * a * trial) - a) / tol / trial
    assert float(found) == pytest.approx(min(100 * trial, (0.01 / max(2 / tol, bend)) ** (1 / order)), rel=1e-12)


def test_a_field_that_is_not_finite_gives_a_finite_first_step() -> None:
    y = torch.ones(2, 1, dtype=F64)
    slope = torch.tensor([[math.nan], [1.0]], dtype=F64)
    norm = lambda error, before, after, slope: error.abs().amax(1)  # noqa: E731
    step = first_step(lambda t, y: slope, y, slope, 0.0, 4.0, norm, 5)
    assert step.tolist()[0] == 4e-6
    assert step.isfinite().all()
