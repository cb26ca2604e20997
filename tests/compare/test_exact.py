import math

import pytest
import torch

from scoresde.compare import ExactReference, marginal
from scoresde.sampling import DataStraight, DPMSolverPP, KarrasGrid, Multistep, Sampler, Solver
from scoresde.sampling.grid import Grid
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, VPSDE


def needles() -> GaussianMixtureScore:
    """Four components in 16 dimensions, wide in eight random directions of their own and narrow in the other eight."""
    generator = torch.Generator().manual_seed(0)
    turns = torch.linalg.qr(torch.randn(4, 16, 16, generator=generator, dtype=torch.float64)).Q
    common = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64)).Q
    # The same eight narrow directions for all, turned among themselves and so are the wide ones.
    for part in (slice(8), slice(8, 16)):
        turns[:, part, part] = torch.linalg.qr(turns[:, part, part]).Q
    turns[:, :8, 8:], turns[:, 8:, :8] = 0, 0
    variances = torch.cat((torch.linspace(0.2, 1, 8).double(), torch.linspace(0.02, 0.04, 8).double().square()))
    means = torch.cat((torch.randn(4, 8, generator=generator, dtype=torch.float64), torch.zeros(4, 8).double()), 1)
    axes = common @ turns
    return GaussianMixtureScore(
        torch.tensor([0.4, 0.3, 0.2, 0.1]), means @ common.T, (axes * variances) @ axes.mT, EDMSDE(0.002, 80.0)
    )


def test_marginal_is_the_density_at_a_time() -> None:
    model = needles()
    x = model.sample(20, 0.5, torch.Generator().manual_seed(0))
    assert torch.allclose(marginal(model, 0.5).log_prob(x), model.log_prob(x, 0.5))
    assert torch.allclose(marginal(model).log_prob(x), model.log_prob(x, 0.002), rtol=1e-9)
    vp = GaussianMixtureScore(torch.ones(1), torch.ones(1, 2), torch.ones(1), VPSDE())
    assert marginal(vp, 1.0).means.abs().max() < 0.01
    assert torch.allclose(marginal(vp, 1.0).variances, torch.ones(1, 2).double())


def test_images_in_float32() -> None:
    means = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    model = GaussianMixtureScore(torch.ones(2), means, torch.full((2, 1, 2, 2), 0.1), EDMSDE()).float()
    reference = ExactReference(model, 300)
    assert reference.exact.shape == (300, 1, 2, 2)
    found = reference(reference.exact.float())
    assert abs(found["nats_lost"].value) < 1e-3
    assert found["sliced_wasserstein"].value < 1e-6
    assert reference.spectrum(reference.exact).reference_std.shape == (4,)
    assert "sliced_wasserstein" not in reference(reference.exact[:100])
    assert "kl_to_model" not in ExactReference(model, 300, divergences=False).floor


def test_no_density_is_said() -> None:
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), EDMSDE())
    assert ExactReference(model, 100).floor["noise_left"].value == 1
    with pytest.raises(ValueError, match="no density"):
        ExactReference(model, 100, t=0.0)


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float]]:
    """Measures of three samplers of 8 evaluations, and of exact samples."""
    model, n = needles(), 2000
    reference = ExactReference(model, n)
    start = model.sample(n, model.sde.t_max, torch.Generator().manual_seed(5)).float()

    def measure(solver: Solver, grid: Grid) -> dict[str, float]:
        x = Sampler(solver, grid, denoise=False)(model, x_init=start, seed=0).x
        return {name: e.value for name, e in reference(x).items()}

    some_noise = Multistep(1, 1, tau=0.6, centre=True, start="gaussian")
    return {
        "some noise": measure(some_noise, DataStraight(8, 0.45)),
        "2M": measure(DPMSolverPP(2, sde=True), KarrasGrid(8)),
        "exact": {name: e.value for name, e in reference.floor.items()},
    }


def test_noise_left_in_narrow_directions_is_seen(measured: dict[str, dict[str, float]]) -> None:
    # What a distance between sets of samples calls the better sampler leaves noise of several times the data's width.
    noisy, other, exact = measured["some noise"], measured["2M"], measured["exact"]
    assert noisy["sliced_wasserstein"] < 0.7 * other["sliced_wasserstein"]
    assert noisy["noise_left"] > 3
    assert noisy["widest"] > 3
    assert noisy["nats_lost"] > 10 * other["nats_lost"] > 0
    assert noisy["kl_to_model"] > 20
    assert noisy["kl_to_samples"] > 5
    assert other["noise_left"] < 1.5
    assert (exact["noise_left"], exact["too_narrow"], exact["widest"], exact["kl_to_model"]) == (1, 1, 1, 0)


def test_the_loss_is_that_of_the_widths(measured: dict[str, dict[str, float]]) -> None:
    # (r² − 1)/2 nats for each of eight narrow directions of at most the largest ratio r.
    noisy = measured["some noise"]
    assert 10 < noisy["nats_lost"] < 8 * (noisy["widest"] ** 2 - 1) / 2 + 1
    assert math.isclose(noisy["widest"], noisy["noise_left"], rel_tol=0.25)
