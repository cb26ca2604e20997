"""Importance weights of samples against energies whose normalisation and moments are known."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import genpareto
from torch import Tensor

from scoresde.arguments import ArgumentError
from scoresde.likelihood import Exact, Hutchinson, Reweighted, log_likelihood, reweight
from scoresde.numerics.pareto import ParetoTail, fit_pareto, smoothed_log_weights
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE
from tests.problems import F64, generator

SDE = EDMSDE(0.002, 20.0)
T = SDE.t_min


def mixture(means: list[list[float]], variances: list[float]) -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.ones(len(means)), torch.tensor(means), torch.tensor(variances), SDE)


def proposal() -> GaussianMixtureScore:
    return mixture([[-1.0, 0.0], [1.5, 0.5]], [0.8, 1.2])


def target() -> GaussianMixtureScore:
    return mixture([[-1.0, 0.2], [1.0, 0.5]], [0.5, 0.6])


def drawn(n: int, seed: int) -> tuple[Tensor, Tensor]:
    x = proposal().sample(n, T, torch.Generator().manual_seed(seed))
    return x, proposal().log_prob(x, T)


def test_few_samples_tell_no_tail_and_one_no_error() -> None:
    logs = torch.linspace(0, 1, 21, dtype=torch.float64)
    assert math.isnan(reweight(torch.zeros(20, 1), logs[:20], torch.zeros(20)).k_hat)
    assert math.isfinite(reweight(torch.zeros(21, 1), logs, torch.zeros(21)).k_hat)
    mean, error = reweight(torch.ones(1, 2), logs[:1], torch.zeros(1)).mean(torch.ones(1, 2))
    assert torch.equal(mean, torch.ones(2, dtype=torch.float64))
    assert bool(error.isnan().all())


def test_moments_and_log_z_of_another_mixture_lie_within_their_errors() -> None:
    """Of 100 estimates, 95 % lie within two standard errors, of which n = 500 samples tell the size."""
    log_z, kept = 1.7, []
    statistics = target().statistics
    assert statistics is not None
    true = statistics.mean.double()
    for seed in range(100):
        x, log_q = drawn(500, seed)
        out = reweight(x, log_q, lambda y: -target().log_prob(y, T) - log_z)
        mean, error = out.mean(x)
        z = [(out.log_z - log_z) / out.log_z_stderr, *((mean - true) / error).tolist()]
        kept.append(z)
    scores = torch.tensor(kept)
    assert bool((scores.abs() < 2).double().mean(0).sub(0.95).abs().lt(0.06).all())
    # The errors are those of the estimates, and not only bounds.
    assert bool((scores.std(0) > 0.8).all())


def test_the_likelihoods_of_a_model_weight_its_samples() -> None:
    x, log_q = drawn(300, 0)
    density = log_likelihood(proposal(), x, divergence=Exact(), tol=1e-3)
    found, exact = (reweight(x, values, lambda y: -target().log_prob(y, T)) for values in (density, log_q))
    assert found.log_z == pytest.approx(exact.log_z, abs=1e-3)
    assert found.ess == pytest.approx(exact.ess, rel=1e-2)


def test_the_noise_of_probes_does_not_make_weights_too_large() -> None:
    """A known energy has log Z within its error, which it has not without the correction."""
    x = torch.randn(4000, 2, dtype=F64, generator=generator())
    log_q = -0.5 * x.square().sum(1) - math.log(2 * math.pi)
    noise = torch.randn(len(x), dtype=F64, generator=generator())
    small = log_likelihood(proposal(), x[:2], divergence=Exact(), tol=0.1)
    fields = {name: getattr(small, name) for name in small.__dataclass_fields__}
    noisy = type(small)(**{**fields, "log_prob": log_q + 0.8 * noise, "stderr": torch.full((4000,), 0.8, dtype=F64)})
    out = reweight(x, noisy, lambda y: 0.5 * y.square().sum(1))
    assert abs(out.log_z - math.log(2 * math.pi)) < 3 * out.log_z_stderr
    wrong = reweight(x, noisy.log_prob, lambda y: 0.5 * y.square().sum(1))
    assert wrong.log_z - math.log(2 * math.pi) > 5 * wrong.log_z_stderr


def test_equal_weights() -> None:
    x, log_q = drawn(50, 1)
    out = reweight(x, log_q, -log_q - 3.0)
    assert out.ess == pytest.approx(50)
    assert (out.log_z, out.log_z_stderr) == (pytest.approx(3.0), pytest.approx(0.0, abs=1e-8))
    assert out.k_hat == -math.inf
    assert out.resampled_indices().tolist() == list(range(50))
    mean, error = out.mean(x)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(error, x.std(0, correction=0) / math.sqrt(50))


def test_the_effective_sample_size_is_that_of_kish() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)
    out = Reweighted(torch.zeros(4, 1), weights.log(), math.nan, False)
    assert out.ess == pytest.approx(100 / 30)
    assert out.log_z == pytest.approx(math.log(2.5))
    torch.testing.assert_close(out.weights, weights / 10)


def test_systematic_resampling_rounds_every_count() -> None:
    x, log_q = drawn(200, 2)
    out = reweight(x, log_q, lambda y: -target().log_prob(y, T))
    counts = torch.zeros(200, dtype=F64)
    for seed in range(50):
        index = out.resampled_indices(1000, seed)
        count = torch.bincount(index, minlength=200).double()
        assert bool((count - 1000 * out.weights).abs().max() < 1)
        counts += count / 50
    # Without bias: the mean of the rounding errors, uniform over seeds, is 0.
    assert float((counts - 1000 * out.weights).abs().max()) < 4 * 0.5 / math.sqrt(50)
    assert torch.equal(out.resample(7, seed=3), x[out.resampled_indices(7, seed=3)])
    assert not torch.equal(out.resampled_indices(1000, 0), out.resampled_indices(1000, 1))
    with pytest.raises(ValueError, match="n is 0"):
        out.resample(0)
    with pytest.raises(ArgumentError, match=r"n is 2\.5, expected an integer"):
        out.resample(2.5)  # type: ignore[arg-type]


def test_an_energy_may_exclude_samples() -> None:
    """The standard normal distribution on one side of the origin has Z = √(2π)/2 and the mean √(2/π)."""
    x = 1.5 * torch.randn(4000, 1, dtype=F64, generator=generator())
    log_q = -0.5 * (x[:, 0] / 1.5) ** 2 - math.log(1.5 * math.sqrt(2 * math.pi))
    out = reweight(x, log_q, lambda y: torch.where(y[:, 0] > 0, 0.5 * y[:, 0] ** 2, math.inf), batch_size=999)
    assert abs(out.log_z - math.log(math.sqrt(2 * math.pi) / 2)) < 3 * out.log_z_stderr
    mean, error = out.mean(torch.where(x > 0, x, math.nan))
    assert float((mean - math.sqrt(2 / math.pi)).abs()) < 3 * float(error)
    assert bool((out.resample(500) > 0).all())


WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a matrix": (lambda x: x, r"energy returned a tensor of shape \(4, 2\) for 4 samples, expected \(4,\): one number"),
    "their sum": (lambda x: x.sum(), r"energy returned a tensor of shape \(\) for 4 samples, expected \(4,\)"),
    "a float": (lambda x: 1.0, r"energy returned 1\.0, expected a tensor of shape \(4,\): one number for each sample"),
    "nothing": (lambda x: None, r"energy returned None, expected a tensor of shape \(4,\)"),
    "an array": (lambda x: x[:, 0].numpy(), r"energy returned .*, expected a tensor of shape \(4,\)"),
    "NaN": (
        lambda x: torch.tensor([0.0, math.nan, math.nan, 1.0]),
        r"energy returned nan for 2 of 4 samples, the first of them sample 1, expected finite numbers, or infinity",
    ),
    "an infinite density": (lambda x: torch.full((4,), -math.inf), "energy returned -inf for 4 of 4 samples"),
    "no density": (lambda x: torch.full((4,), math.inf), "energy is infinite for all 4 samples"),
}


@pytest.mark.parametrize(("energy", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_energy_is_refused_in_one_line(energy: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        reweight(torch.zeros(4, 2), torch.zeros(4), energy)
    assert "\n" not in str(caught.value)


def test_wrong_log_densities_are_refused() -> None:
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"log_prob is a tensor of shape \(3,\) for 4 samples"):
        reweight(x, torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="log_prob is nan for 1 of 4 samples, the first of them sample 2"):
        reweight(x, torch.tensor([0.0, 0.0, math.nan, 0.0]), torch.zeros(4))
    with pytest.raises(ValueError, match=r"samples has shape \(0, 2\)"):
        reweight(x[:0], torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match=r"values has shape \(3,\), expected \(4, \.\.\.\)"):
        reweight(x, torch.zeros(4), torch.zeros(4)).mean(torch.zeros(3))


def test_few_effective_samples_are_warned_of() -> None:
    x = torch.randn(1000, 10, dtype=F64, generator=generator())
    log_q = -0.5 * x.square().sum(1) - 5 * math.log(2 * math.pi)
    with pytest.warns(RuntimeWarning, match=r"the effective sample size is \d\.\d of 1000: a few samples decide"):
        reweight(x, log_q, lambda y: 10 * (y - 1).square().sum(1))
    with pytest.warns(RuntimeWarning, match=r"heavy tail \(k̂ = 0\.\d\d, expected at most 0\.7\)"):
        # Weights that have no variance: |x|^(−0.55) of a uniform x, of which moments below 1/0.55 exist, times another.
        reweight(x, torch.zeros(1000), torch.rand(1000, dtype=F64, generator=generator()).log() * 0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reweight(x, log_q, lambda y: 0.6 * y.square().sum(1))


@pytest.mark.parametrize("k", [-0.3, 0.1, 0.5, 0.9])
def test_the_fit_of_a_tail_finds_its_shape(k: float) -> None:
    found = [
        fit_pareto(torch.from_numpy(genpareto.rvs(k, scale=2, size=500, random_state=seed)).sort().values)
        for seed in range(20)
    ]
    assert sum(tail.k for tail in found) / 20 == pytest.approx(k, abs=0.05)
    assert sum(tail.scale for tail in found) / 20 == pytest.approx(2, rel=0.05)
    p = torch.tensor([0.01, 0.5, 0.99], dtype=F64)
    wanted = genpareto.ppf(p.numpy(), k, scale=2)
    torch.testing.assert_close(ParetoTail(k, 2.0).quantiles(p), torch.from_numpy(wanted))


def test_smoothing_lowers_the_error_of_heavy_weights_and_keeps_their_order() -> None:
    """Weights of a Pareto distribution of shape 0.7, whose mean is 1/0.3."""
    plain, smooth = [], []
    for seed in range(200):
        logs = torch.from_numpy(genpareto.rvs(0.7, size=1000, random_state=seed)).log()
        found, k = smoothed_log_weights(logs)
        assert 0.2 < k < 1.2
        assert bool((found[logs.argsort()].diff() >= 0).all())
        changed = found != logs
        assert int(changed.sum()) <= math.ceil(3 * math.sqrt(1000))
        assert float(found.max()) <= float(logs.max())
        plain.append(float(logs.exp().mean()) - 1 / 0.3)
        smooth.append(float(found.exp().mean()) - 1 / 0.3)
    assert sum(e**2 for e in smooth) < 0.7 * sum(e**2 for e in plain)


def test_weights_do_not_depend_on_a_constant_of_the_energy_or_on_batches() -> None:
    x, log_q = drawn(100, 4)
    one = reweight(x, log_q, lambda y: -target().log_prob(y, T), smooth=True)
    other = reweight(x, log_q, lambda y: 1e4 - target().log_prob(y, T), batch_size=7, smooth=True)
    torch.testing.assert_close(one.weights, other.weights, rtol=1e-7, atol=0)
    assert (one.k_hat, one.smoothed) == (pytest.approx(other.k_hat), True)
    assert one.log_z - other.log_z == pytest.approx(1e4)
    assert "effective sample size" in one._repr_html_()
    assert repr(one).startswith("Reweighted(n=100, ess=")


def test_probes_of_a_likelihood_are_corrected_for() -> None:
    x, _ = drawn(40, 5)
    density = log_likelihood(proposal(), x, divergence=Hutchinson(1), tol=0.1)
    by_hand = -density.log_prob - 0.5 * density.stderr.square()
    torch.testing.assert_close(reweight(x, density, torch.zeros(40)).log_weights, by_hand)
