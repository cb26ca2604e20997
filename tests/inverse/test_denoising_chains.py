"""Steps of the chains that denoise and correct are those of their papers, written out in matrices."""

import itertools

import pytest
import torch
from torch import Tensor

from scoresde.inverse import DDNM, DDRM, DiffPIR, GaussianNoise, MatrixOperator, NoNoise, Problem, RePaint
from scoresde.inverse.denoising_chain import DenoisingChain, way
from scoresde.inverse.method import SolverMethod
from tests.problems import F64, generator

MATRIX = torch.tensor([[2.0, 0.5, 0.0, 0.2], [0.0, 0.3, -0.1, 0.1]], dtype=F64)
LEFT, VALUES, RIGHT = torch.linalg.svd(MATRIX, full_matrices=True)
S, T = 0.5, 0.3


def stepped(method: SolverMethod, std: float) -> tuple[Tensor, ...]:
    """One step in the coordinates of all right singular vectors, `(3, 4)`, and what it is made of there.

    The values are the state before, the denoised mean, the measured coefficients and the noise of the two draws.
    """
    noise = GaussianNoise(std) if std else NoNoise()
    given = Problem(MatrixOperator(MATRIX), noise).given(torch.randn(3, 2, generator=generator(1), dtype=F64))
    z, mean, one, two = torch.randn(4, 3, 4, generator=generator(2), dtype=F64)
    draws = iter((one, two))
    solver = method.solver(given)
    assert isinstance(solver, DenoisingChain)
    found = solver.step(z, mean, S, T, lambda *_: next(draws))
    z, mean, one, two, found = (x @ RIGHT.T for x in (z, mean, one, two, found))
    return found, z, mean, given.y @ LEFT / VALUES, one, two


# σ_y for which v = σ_y/a is below t, between, and above t: a is 2.06 and 0.33.
@pytest.mark.parametrize("std", [0.0, 0.05, 0.3, 1.0])
def test_ddrm_is_its_three_cases(std: float) -> None:
    eta, eta_b = 0.85, 0.9
    found, z, mean, given, xi, _ = stepped(DDRM(eta, eta_b), std)
    for i in range(4):
        if i >= 2:
            expected = mean[:, i] + (1 - eta**2) ** 0.5 * T * (z - mean)[:, i] / S + eta * T * xi[:, i]
        elif (v := std / float(VALUES[i])) > T:
            pull = (1 - eta**2) ** 0.5 * T * (given - mean[:, :2])[:, i] / v
            expected = mean[:, i] + pull + eta * T * xi[:, i]
        else:
            expected = (1 - eta_b) * mean[:, i] + eta_b * given[:, i] + (T**2 - (eta_b * v) ** 2) ** 0.5 * xi[:, i]
        torch.testing.assert_close(found[:, i], expected)


@pytest.mark.parametrize("std", [0.0, 0.05, 0.3, 1.0])
def test_ddnm_takes_the_measured_part_as_far_as_its_noise_fits(std: float) -> None:
    eta = 0.6
    keep = (1 - eta**2) ** 0.5
    found, z, mean, given, xi, _ = stepped(DDNM(eta), std)
    fresh = keep * (z - mean) / S + eta * xi
    expected = mean + T * fresh
    for i in range(2):
        v, off = std / float(VALUES[i]), given[:, i] - mean[:, i]
        if v == 0:
            expected[:, i] += off
        elif v > T:  # DDNM+
            expected[:, i] = mean[:, i] + keep * T / v * off + eta * T * xi[:, i]
        else:
            expected[:, i] = given[:, i] + (T**2 - v**2) ** 0.5 * xi[:, i]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("std", [0.0, 0.3])
def test_repaint_replaces_what_is_measured(std: float) -> None:
    found, z, mean, given, xi, known = stepped(RePaint(), std)
    expected = mean + (T / S) ** 2 * (z - mean) + T * (1 - (T / S) ** 2) ** 0.5 * xi
    for i in range(2):
        if (v := std / float(VALUES[i])) <= T:
            expected[:, i] = given[:, i] + (T**2 - v**2) ** 0.5 * known[:, i]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("std", [0.05, 0.3])
def test_diffpir_goes_by_the_proximal_point(std: float) -> None:
    weight, zeta = 2.0, 0.3
    found, z, mean, given, xi, _ = stepped(DiffPIR(weight, zeta), std)
    rho = weight / S**2
    hessian = MATRIX.T @ MATRIX / std**2 + rho * torch.eye(4, dtype=F64)
    y = given * VALUES @ LEFT.T
    near = torch.linalg.solve(hessian, (y @ MATRIX / std**2 + rho * mean @ RIGHT).T).T @ RIGHT.T
    expected = near + T * ((1 - zeta) ** 0.5 * (z - near) / S + zeta**0.5 * xi)
    torch.testing.assert_close(found, expected)


def test_noise_of_ddnm_and_ddrm_is_that_of_the_level() -> None:
    """With the denoised mean and the true signal at 0, a state of noise s becomes one of noise t."""
    count, std = 100_000, 0.1
    y = std * torch.randn(count, 2, generator=generator(1), dtype=F64)
    given = Problem(MatrixOperator(MATRIX), GaussianNoise(std)).given(y)
    source = generator(2)
    z = S * torch.randn(count, 4, generator=source, dtype=F64)
    for method in (DDNM(), DDRM(), RePaint()):
        solver = method.solver(given)
        assert isinstance(solver, DenoisingChain)
        x = solver.step(z, 0 * z, S, T, lambda *_: torch.randn(count, 4, generator=source, dtype=F64)) @ RIGHT.T
        expected = torch.full((4,), T, dtype=F64)
        if isinstance(method, RePaint):  # below t = v the state is that of DDPM's step, whose mean is not the data's
            expected[1:] = T * (T**2 / S**2 + 1 - T**2 / S**2) ** 0.5
        torch.testing.assert_close(x.std(0), expected, rtol=0.01, atol=0)


@pytest.mark.parametrize(("steps", "length", "repeats"), [(10, 1, 1), (10, 3, 2), (7, 2, 4), (5, 10, 10)])
def test_jumps_go_back_and_take_every_step_again(steps: int, length: int, repeats: int) -> None:
    moves = [0, *way(steps, length, repeats)]
    changes = [b - a for a, b in itertools.pairwise(moves)]
    assert set(changes) <= {1, -length}
    assert moves[-1] == steps
    jumps = len(range(steps, length, -length))
    assert changes.count(-length) == jumps * (repeats - 1)
    assert min(moves[1:]) > 0
