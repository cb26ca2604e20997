"""Likelihoods compared in pairs, against the exact densities of two mixtures."""

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.data import Discrete
from scoresde.likelihood import (
    Exact,
    Hutchinson,
    LikelihoodError,
    Uniform,
    bits_per_dim,
    compare_likelihoods,
    log_likelihood,
)
from scoresde.numerics.paired import PairedDifference
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import VPSDE
from tests.problems import F64, correlated, gaussian, generator

LN2 = math.log(2)
FAR = VPSDE(0.1, 40.0)


@functools.cache
def truth() -> GaussianMixtureScore:
    return correlated(VPSDE(), (6,))


@functools.cache
def rivals() -> dict[str, GaussianMixtureScore]:
    """The truth with all variances larger by a fifth, and with a mean beside its own."""
    model = truth()
    assert model.rotations is not None
    rotations, variances = model.rotations, model.variances
    full = torch.einsum("kij,kj,klj->kil", rotations, variances, rotations)
    wider = GaussianMixtureScore(model.weights, model.means, 1.2 * full, model.sde)
    return {"wider": wider, "moved": GaussianMixtureScore(model.weights, model.means + 0.1, full, model.sde)}


def exact_difference(x: Tensor) -> Tensor:
    """What the second rival's log-density is more than the first's, `(B,)`."""
    first, second = (model.log_prob(x, model.sde.t_min) for model in rivals().values())
    return second - first


def test_differences_are_those_of_the_exact_densities() -> None:
    x = truth().sample(24, truth().sde.t_min, generator())
    out = compare_likelihoods(rivals(), x, divergence=Exact(), tol=1e-4)
    assert (out.names, out.unit, out.lower_is_better) == (("wider", "moved"), "nats", False)
    (difference,) = out.differences
    torch.testing.assert_close(difference.values, exact_difference(x), rtol=0, atol=5e-3)
    assert difference.total == pytest.approx(float(exact_difference(x).sum()), abs=2e-2)
    for name, values, result in zip(out.names, out.values, out.results, strict=True):
        alone = log_likelihood(rivals()[name], x, divergence=Exact(), tol=1e-4)
        torch.testing.assert_close(values, alone.log_prob, rtol=0, atol=0)
        torch.testing.assert_close(result.stderr, alone.stderr, rtol=0, atol=0)


def test_bits_are_of_the_same_dequantised_values() -> None:
    data = Discrete(8, -4.0, 4.0)
    pixels = data.decode(truth().sample(20, truth().sde.t_min, generator()).clamp(-3.9, 3.9))
    out = compare_likelihoods(rivals(), pixels, data, divergence=Exact(), tol=1e-4, seed=4, first=7)
    noise = SampleNoise(4, torch.arange(7, 27), (6,), F64, stream=Stream.DEQUANTISATION)
    z, log_q = Uniform().draw(pixels, data, noise, 1.0, 0.0)
    assert out.unit == "bits/dim"
    for model, bits in zip(rivals().values(), out.values, strict=True):
        exact = -(model.log_prob(z.double(), model.sde.t_min) - log_q) / (6 * LN2)
        torch.testing.assert_close(bits, exact, rtol=0, atol=2e-3)
    torch.testing.assert_close(out.differences[0].values, -exact_difference(z.double()) / (6 * LN2), rtol=0, atol=2e-3)


def test_the_error_bar_holds_samples_and_probes() -> None:
    """Of 100 comparisons on 40 samples each, with one probe, the true mean difference lies within two standard errors
    in 95 %; on these samples themselves, the probes alone are what a comparison errs by."""
    count, n = 100, 40
    g = generator(1)
    true_mean = float(exact_difference(truth().sample(200_000, truth().sde.t_min, g)).mean())
    x = truth().sample(count * n, truth().sde.t_min, g)
    out = compare_likelihoods(rivals(), x, divergence=Hutchinson(1), tol=2e-2)
    pairs = [PairedDifference(*values) for values in out.values.unflatten(1, (count, n)).unbind(1)]
    inside = sum(abs(p.mean - true_mean) < 2 * p.stderr for p in pairs) / count
    assert 0.90 < inside < 0.99
    shorter = sum(p.stderr / p.unpaired_stderr for p in pairs) / count
    assert shorter < 0.4
    # Probes are a part of the scatter, and the same probes cancel in part.
    error = out.differences[0].values - exact_difference(x)
    assert float(error.square().mean()) < float(out.stderr.square().sum(0).mean())


def test_results_do_not_depend_on_batches() -> None:
    x = truth().sample(10, truth().sde.t_min, generator())
    options: dict[str, Any] = {"divergence": Hutchinson(1), "tol": 0.1, "seed": 3}
    whole = compare_likelihoods(rivals(), x, **options, batch_size=3)
    halves = [compare_likelihoods(rivals(), part, **options, first=k) for k, part in ((0, x[:4]), (4, x[4:]))]
    joined = torch.cat([half.differences[0].values for half in halves])
    torch.testing.assert_close(whole.differences[0].values, joined, rtol=0, atol=1e-9)


def test_every_model_is_compared_with_the_first() -> None:
    x = truth().sample(40, truth().sde.t_min, generator())
    models = [truth(), *rivals().values(), truth()]
    out = compare_likelihoods(models, x, divergence=Exact(), tol=0.05)
    assert out.names == ("model 1", "model 2", "model 3", "model 4")
    assert len(out.differences) == 3
    same = out.differences[2]
    assert (same.mean, same.stderr, same.ties, same.p_value) == (0.0, 0.0, 40, 1.0)
    assert out.verdicts[2] == "model 1 and model 4 cannot be told apart: they differ by 0 nats"
    assert repr(out) == f"LikelihoodComparison({'; '.join(out.verdicts)}; n=40)"
    page = out._repr_html_()
    assert all(str(difference) in page for difference in out.differences)
    assert "0 samples more, 0 less, p = 1" in page
    # Of two differences an error can be told, and so what it would be apart.
    assert page.count("apart the means would have") == 2
    assert "inf" not in page


def test_one_sample_has_a_difference_and_no_error() -> None:
    x = truth().sample(1, truth().sde.t_min, generator())
    out = compare_likelihoods(rivals(), x, divergence=Exact(), tol=1e-3)
    assert out.differences[0].mean == pytest.approx(float(exact_difference(x)), abs=2e-2)
    assert out.verdicts[0].startswith("wider and moved cannot be told apart")
    assert "nan" not in out._repr_html_()


class Labelled(ScoreModel):
    """A Gaussian about the mean that is the condition; at t_max nothing is left of it."""

    def __init__(self) -> None:
        inner = gaussian(FAR, mean=0.0)
        super().__init__(inner.sde, inner.statistics)
        self.inner = inner

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        mean = cond["mean"][:, None].to(x)
        return self.inner.denoise(x - self.sde.alpha(t.double())[:, None] * mean, t) + mean


def test_each_model_has_its_conditions() -> None:
    x = torch.tensor([[0.3, -0.2], [1.0, 0.1]], dtype=F64)
    means = torch.tensor([0.0, 1.0], dtype=F64)
    given = [{"mean": means}, {}, {"mean": torch.zeros(2, dtype=F64)}]
    models = [Labelled(), gaussian(FAR, mean=0.0), Labelled()]
    out = compare_likelihoods(models, x, conditions=given, tol=1e-4)
    wanted = torch.distributions.Normal(torch.stack([means, 0 * means, 0 * means])[..., None], math.sqrt(0.3))
    torch.testing.assert_close(out.values, wanted.log_prob(x).sum(-1), rtol=0, atol=2e-3)


class Lost(ScoreModel):
    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return x * math.nan


def test_bad_input_is_refused_in_one_line() -> None:
    x = torch.zeros(2, 6, dtype=F64)
    with pytest.raises(ValueError, match="^models has 1 model, expected two or more to compare$"):
        compare_likelihoods([truth()], x)
    with pytest.raises(ValueError, match="^b is 'run', expected a score model$"):
        compare_likelihoods({"a": truth(), "b": "run"}, x)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="^conditions has 1 entries for 2 models: give one for each$"):
        compare_likelihoods(rivals(), x, conditions=[{}])
    with pytest.raises(ValueError, match=r"of data of different shape, \(6,\) and \(2,\): their"):
        compare_likelihoods({"a": truth(), "b": gaussian(VPSDE())}, x)
    with pytest.raises(ValueError, match="has no argument 'tols', did you mean tol"):
        compare_likelihoods(rivals(), x, tols=1)
    with pytest.raises(ValueError, match="does not know the transform"):
        compare_likelihoods(rivals(), torch.zeros(2, 6, dtype=torch.int64))
    lost = Lost(truth().sde, truth().statistics)
    with pytest.raises(LikelihoodError, match="^lost: the probability-flow ODE could not be followed"):
        compare_likelihoods({"truth": truth(), "lost": lost}, x, tol=1.0)


def test_other_levels_are_refused() -> None:
    models = {"a": gaussian(VPSDE()), "b": gaussian(VPSDE(), variance=0.4)}
    pixels = torch.zeros(2, 2, dtype=torch.uint8)
    for model, levels in zip(models.values(), (8, 16), strict=True):
        model.info = info(Discrete(levels))
    with pytest.raises(ValueError, match="^a and b are of data of different levels, 8 and 16: their likelihoods"):
        compare_likelihoods(models, pixels)
    models["b"].info = info(Discrete(8))
    out = compare_likelihoods(models, pixels, tol=0.1)
    torch.testing.assert_close(out.values[1], bits_per_dim(models["b"], pixels, tol=0.1).bits, rtol=0, atol=0)


def info(transform: Discrete) -> Any:
    from scoresde.data import DataInfo

    return DataInfo(name="made", shape=(2,), transform=transform)
