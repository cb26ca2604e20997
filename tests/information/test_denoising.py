"""Log-densities from errors of denoising against exact densities and quadrature."""

import math
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from scoresde.information import ThreeWays, denoising_information, three_ways
from scoresde.information.three_ways import agreement
from scoresde.likelihood import Exact, LikelihoodError
from scoresde.numerics.html import with_error
from scoresde.numerics.means import mean_and_error
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE, FlowSDE, SubVPSDE
from tests.problems import blobs, correlated, gaussian, generator, ring

F64 = torch.float64
SIX = pytest.mark.parametrize(
    "sde", [VPSDE(), SubVPSDE(), VESDE(), EDMSDE(), FlowSDE(), CosineSDE()], ids=lambda sde: type(sde).__name__
)


class Scaled(ScoreModel):
    """The noise prediction of another model times a factor, the gradient of no density that evolves."""

    def __init__(self, model: ScoreModel, factor: float) -> None:
        super().__init__(model.sde, model.statistics)
        self.model, self.factor = model, factor

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.factor * self.model.noise(x, t, **cond)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        alpha, sigma = self.sde.alpha(t)[:, None], self.sde.sigma(t)[:, None]
        return (x - sigma * self.noise(x, t, **cond)) / alpha


def true_log_prob(model: GaussianMixtureScore, x: Tensor) -> Tensor:
    return model.log_prob(x, torch.tensor(0.0, dtype=F64))


@SIX
def test_log_densities_are_those_of_the_data(sde: SDE) -> None:
    model = correlated(sde)
    x = model.sample(600, 0.0, generator(1))
    out = denoising_information(model, x, seed=3)
    error = out.log_prob - true_log_prob(model, x)
    assert abs(error.mean()) < 2.5 * error.std() / math.sqrt(len(x))
    # Pointwise: errors are as large as is said.
    assert 0.9 < float(error.square().mean().sqrt() / out.stderr.square().mean().sqrt()) < 1.1


@SIX
def test_a_normal_density_leaves_nothing_to_chance(sde: SDE) -> None:
    model = gaussian(sde, (3,), [0.5, -1.0, 2.0], [0.3, 1.0, 0.1])
    x = model.sample(20, 0.0, generator(2))
    out = denoising_information(model, x, draws=64)
    # G has the variance of t_min in addition, which is all that there is to integrate.
    error = (out.log_prob - true_log_prob(model, x)).abs()
    assert float(error.max()) < 0.05 * model.sde.noise_level(torch.tensor(sde.t_min, dtype=F64)) / 0.01 + 1e-6


def test_pointwise_errors_against_quadrature() -> None:
    """The definition: E‖x − x̂(x + √v ε)‖²/v of one sample, by Gauss-Hermite in ε and quadrature in λ."""
    model = GaussianMixtureScore([0.3, 0.7], [[-1.0], [0.5]], [0.04, 0.2], EDMSDE())
    nodes, weights = (torch.as_tensor(v, dtype=F64) for v in _hermite(80))
    x = torch.tensor([[0.1]], dtype=F64)

    def error(log_snr: float) -> float:
        level = torch.tensor(math.exp(-log_snr), dtype=F64)
        eps = model.noise(x + level * nodes[:, None], level)
        return float((weights * (eps[:, 0] - nodes).square()).sum())

    low, high = -4.0, 5.0
    known = quad(error, low, high, epsabs=1e-8, limit=200)[0]
    copies = x.expand(4000, 1)
    out = denoising_information(model, copies, log_snr=(low, high), draws=32, seed=5)
    found = (out.errors * out.edges.diff()).sum(1)
    assert abs(found.mean() - known) < 3 * found.std() / math.sqrt(len(copies))
    assert out.edges[0] == low
    assert out.edges[-1] == high


def _hermite(n: int) -> tuple[Any, Any]:
    from numpy.polynomial.hermite_e import hermegauss

    nodes, weights = hermegauss(n)
    return nodes, weights / weights.sum()


def test_entropy_of_a_mixture_of_modes_apart() -> None:
    model = blobs(EDMSDE(), (3,), modes=4, variance=1e-3)
    out = denoising_information(model, model.sample(1500, 0.0, generator(3)))
    entropy, error = out.entropy
    known = math.log(4) + 1.5 * math.log(2 * math.pi * math.e * 1e-3)
    assert abs(entropy - known) < 2.5 * error
    assert error < 0.1


def test_a_sample_depends_on_its_index_alone() -> None:
    model = ring(VPSDE())
    x = model.sample(7, 0.0, generator(4))
    whole = denoising_information(model, x, draws=8)
    part = denoising_information(model, x[3:5], draws=8, first=3, batch_size=5)
    assert torch.equal(whole.excess[3:5], part.excess)
    assert not torch.equal(whole.excess, denoising_information(model, x, draws=8, seed=1).excess)


def test_data_in_their_own_units() -> None:
    from scoresde.data import Standardise

    model = correlated(VPSDE())
    z = model.sample(5, 0.0, generator(1))
    plain = denoising_information(model, z, draws=4)
    model.transform = Standardise(mean=[1.0] * 6, std=[2.0] * 6)
    x = model.to_data_space(z)
    scaled = denoising_information(model, x, draws=4)
    assert torch.allclose(scaled.log_prob, plain.log_prob - 6 * math.log(2.0))


@SIX
def test_three_ways_agree_for_exact_scores(sde: SDE) -> None:
    model = correlated(sde)
    out = three_ways(model, model.sample(300, 0.0, generator(5)), divergence=Exact())
    assert out.agree, out.verdicts
    assert all("agree within" in verdict for verdict in out.verdicts)
    assert "agree" in repr(out)
    assert "Log-density in three ways" in out._repr_html_()


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_a_score_of_no_density_is_told_apart(factor: float) -> None:
    model = Scaled(correlated(VPSDE()), factor)
    x = model.model.sample(300, 0.0, generator(5))
    out = three_ways(model, x, divergence=Exact(), tol=1e-2)
    ode_elbo, ode_immse, _ = out.agreements
    assert not ode_elbo.agree
    assert not ode_immse.agree
    assert "the ODE and the reverse SDE are different models" in out.verdicts[0]
    # The error of the ODE's mean is that of its likelihood, of which the solver has a share.
    assert f"ode {with_error(*mean_and_error(out.ode.log_prob, out.ode.solver_stderr))}, elbo" in repr(out)


def test_noise_at_t_min_that_smears_the_data_is_told_apart() -> None:
    model = ring(VESDE(sigma_min=0.3), std=0.1)
    out = three_ways(model, model.sample(300, 0.0, generator(5)), divergence=Exact())
    assert out.agreements[0].agree
    assert not out.agreements[2].agree
    assert "noise at t_min is not small" in out.verdicts[2]


def test_agreement_counts_the_solver() -> None:
    values = torch.arange(4.0, dtype=F64)
    ways = {"ode": values, "elbo": values - 0.1, "immse": values - 0.1}
    assert [a.agree for a in agreement(ways, torch.zeros(4))] == [False, False, True]
    alike = agreement(ways, torch.full((4,), 0.2 / math.sqrt(0.2 + 0.8 / 4)))  # a mean's error of 0.2
    assert all(a.agree for a in alike)
    assert alike[0].verdict(-2.0, "u").endswith(" u; they agree within the error of the ODE's solver, 0.4 u")
    assert alike[2].verdict().endswith("they agree within their errors")


def test_bad_input() -> None:
    model = ring(VPSDE())
    x = model.sample(3, 0.0, generator(4))
    with pytest.raises(ValueError, match="log_snr is -90 to 1, expected an interval between"):
        denoising_information(model, x, log_snr=(-90.0, 1.0))
    with pytest.raises(ValueError, match="draws is 1, expected 2 or more"):
        denoising_information(model, x, draws=1)
    with pytest.raises(TypeError, match="did you mean draws"):
        denoising_information(model, x, drawz=3)
    with pytest.raises(LikelihoodError, match="error of denoising is not finite for 3 of 3 samples") as caught:
        denoising_information(Scaled(model, math.nan), x)
    assert caught.value.samples == [0, 1, 2]
    assert isinstance(three_ways(model, x, draws=2), ThreeWays)
    one = three_ways(model, x[:1], draws=2)
    assert "nan" not in repr(denoising_information(model, x[:1], draws=2))
    assert repr(one).endswith(" nats, n=1)")
    assert all("one sample does not tell" in verdict for verdict in one.verdicts)
