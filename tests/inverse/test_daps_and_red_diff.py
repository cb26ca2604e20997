"""DAPS has the law of its recursion on a Gaussian, and RED-diff is Adam on its loss."""

import math

import torch
from torch import Tensor

from scoresde.inverse import DAPS, GaussianNoise, MatrixOperator, Problem, REDDiff, restore
from scoresde.sampling import DataStraight, SampleNoise
from scoresde.sampling.start import prior_start
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, VPSDE
from tests.problems import F64, gaussian


def test_daps_has_the_moments_of_its_recursion() -> None:
    variance, std, y, steps, count = 0.8, 0.4, 2.0, 12, 8_000
    model = GaussianMixtureScore([1.0], [[0.0]], [variance], EDMSDE(0.002, 40.0))
    given = Problem(MatrixOperator(torch.ones(1, 1)), GaussianNoise(std)).given(torch.tensor([[y]], dtype=F64))
    level = model.sde.noise_level(DataStraight(steps)(model.sde, model.step_statistics)).tolist()
    mean, spread = 0.0, variance + level[0] ** 2
    for i in range(steps):
        # The ODE's map of a Gaussian is linear, and so is the draw of x₀.
        flow = math.sqrt((variance + level[-1] ** 2) / (variance + level[i] ** 2))
        gain = level[i] ** 2 / (level[i] ** 2 + std**2)
        mean = (1 - gain) * flow * mean + gain * y
        spread = ((1 - gain) * flow) ** 2 * spread + gain * std**2
        if i + 1 < steps:
            spread += level[i + 1] ** 2
    for method, slack in ((DAPS(60, None), 0.005), (DAPS(60, 30), 0.02)):
        samples = count if method.langevin_steps is None else count // 8
        x = restore(model, given, method, samples=samples, steps=steps).x[0]
        assert abs(float(x.mean()) - mean) < 4 * (spread / samples) ** 0.5 + slack
        assert abs(float(x.std()) / spread**0.5 - 1) < 4 / (2 * samples) ** 0.5 + slack


def test_red_diff_is_adam_on_its_loss() -> None:
    sde, steps, weight = VPSDE(), 8, 0.4
    model = gaussian(sde, (3,))
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, -1.0]], dtype=F64)
    y = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=F64)
    given = Problem(MatrixOperator(matrix), GaussianNoise(0.3)).given(y)
    found = restore(model, given, REDDiff(weight, 0.2), steps=steps, seed=5).x[:, 0]

    times = DataStraight(steps)(sde, model.step_statistics)
    noise = SampleNoise(5, torch.arange(2), (3,), F64)
    mean = model.denoise(prior_start(model, noise(), times[0]), times[0])
    spread = model.data_std**2 * matrix @ matrix.T + 0.3**2 * torch.eye(2, dtype=F64)
    gain = model.data_std**2 * matrix.T @ spread.inverse()
    point: Tensor = (mean + (y - mean @ matrix.T) @ gain.T).requires_grad_()
    adam = torch.optim.Adam([point], lr=0.2, betas=(0.9, 0.99))
    for t in times[:-1]:
        alpha, sigma, fresh = float(sde.alpha(t)), float(sde.sigma(t)), noise()
        with torch.no_grad():
            off = model.noise(alpha * point + sigma * fresh, t) - fresh
        loss = 0.5 * (y - point @ matrix.T).square().sum() + weight * sigma / alpha * (off * point).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    torch.testing.assert_close(found, point.detach(), rtol=1e-6, atol=1e-6)


def test_red_diff_is_not_led_away_by_small_singular_values() -> None:
    model = gaussian(VPSDE(), (3,))
    problem = Problem(MatrixOperator(torch.diag(torch.tensor([1.0, 1.0, 1e-4], dtype=F64))), GaussianNoise(0.3))
    x = torch.zeros(20, 3, dtype=F64)
    found = restore(model, problem.measure(x), REDDiff(), steps=30).x
    assert float(found.abs().max()) < 10


def test_red_diff_says_that_it_is_an_estimate() -> None:
    assert REDDiff().is_estimate
    assert not DAPS().is_estimate
