"""Typicality, areas under curves and classification against closed forms and exact posteriors."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.likelihood import auroc, bayes_classify, class_log_prob, log_likelihood, typicality
from scoresde.numerics.trace import Hutchinson
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import VPSDE

F64 = torch.float64
# So little signal is left at the end that the Gaussian there is right for every class.
FAR = VPSDE(0.1, 40.0)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class ClassModel(ScoreModel):
    """`labels` pick a class, each of which is a mixture of one or more."""

    def __init__(self, classes: list[GaussianMixtureScore]) -> None:
        super().__init__(classes[0].sde)
        self.parts = torch.nn.ModuleList(classes)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        every = torch.stack([part.denoise(x, t) for part in self.parts])
        return every[cond["labels"], torch.arange(len(x))]

    def log_prob(self, x: Tensor) -> Tensor:
        """`(B, K)`, exact."""
        return torch.stack([part.log_prob(x, self.sde.t_min) for part in self.parts], 1)


def class_model(dim: int, apart: float) -> tuple[ClassModel, Tensor]:
    """Three classes of two components each, and draws of all of them."""
    g = torch.Generator().manual_seed(5)
    parts = []
    for k in range(3):
        means = apart * torch.randn(2, dim, generator=g, dtype=F64)
        factors = torch.randn(2, dim, dim, generator=g, dtype=F64)
        covariances = (0.3 + 0.1 * k) * factors @ factors.mT / dim + 0.1 * torch.eye(dim, dtype=F64)
        parts.append(GaussianMixtureScore(torch.tensor([0.4, 0.6]), means, covariances, FAR))
    return ClassModel(parts), torch.cat([part.sample(8, FAR.t_min, g) for part in parts])


def test_posteriors_are_exact() -> None:
    model, x = class_model(3, 0.5)
    exact = model.log_prob(x)
    found = class_log_prob(model, x, 3, seed=0, tol=1e-4)
    assert found.dtype == F64
    torch.testing.assert_close(found, exact, rtol=0, atol=5e-3)
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    joint = exact.exp() * prior
    predicted, posterior = bayes_classify(found, prior.log())
    torch.testing.assert_close(posterior, joint / joint.sum(1, keepdim=True), rtol=0, atol=2e-3)
    assert torch.equal(predicted, joint.argmax(1))
    # Neither trivial nor hopeless.
    assert 0.5 < float((predicted == torch.arange(3).repeat_interleave(8)).double().mean()) < 1.0


def test_classes_share_their_probes() -> None:
    """Of classes that differ by a shift, most of the noise cancels; independent probes would leave √2 of each."""
    dim, options = 12, {"tol": 1e-2}
    g = torch.Generator().manual_seed(5)
    factors = torch.randn(dim, dim, generator=g, dtype=F64)
    cover = 0.3 * factors @ factors.mT / dim + 0.1 * torch.eye(dim, dtype=F64)
    means = 0.3 * torch.randn(2, 1, dim, generator=g, dtype=F64)
    model = ClassModel([GaussianMixtureScore(torch.ones(1), mean, cover[None], FAR) for mean in means])
    x = torch.cat([part.sample(15, FAR.t_min, g) for part in model.parts])
    found = torch.stack([class_log_prob(model, x, 2, seed=s, divergence=Hutchinson(1), **options) for s in range(3)])
    error = found - model.log_prob(x)
    rms = float(error.square().mean().sqrt())
    assert rms > 0.3
    assert float((error[..., 1] - error[..., 0]).square().mean().sqrt()) < 0.5 * math.sqrt(2) * rms
    labels = torch.ones(30, dtype=torch.int64)
    column = log_likelihood(model, x, seed=2, labels=labels, divergence=Hutchinson(1), **options).log_prob
    assert torch.equal(found[2, :, 1], column)


def test_places_and_names_of_conditions() -> None:
    class Named(ClassModel, same_field=True):
        def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return super().denoise(x + cond["shift"][:, None], t, labels=cond["kind"])

    model, x = class_model(6, 0.5)
    named = Named(list(model.parts))
    shift = torch.linspace(0, 0.01, 4, dtype=F64)
    options = {"name": "kind", "seed": 1, "tol": 1e-2}
    whole = class_log_prob(named, x[:4], 2, shift=shift, **options)
    tail = class_log_prob(named, x[2:4], 2, shift=shift[2:], first=2, **options)
    torch.testing.assert_close(tail, whole[2:], rtol=0, atol=1e-9)


def test_bayes_rule() -> None:
    log_prob = torch.tensor([[0.0, math.log(3.0)], [-2000.0, -2001.0]])
    predicted, posterior = bayes_classify(log_prob)
    assert predicted.tolist() == [1, 0]
    odds = math.exp(-1)
    wanted = torch.tensor([[0.25, 0.75], [1 / (1 + odds), odds / (1 + odds)]], dtype=F64)
    torch.testing.assert_close(posterior, wanted, rtol=1e-6, atol=0)
    # A prior up to a constant, and one that rules a class out.
    _, weighed = bayes_classify(log_prob, torch.tensor([6.0, 2.0]).log())
    torch.testing.assert_close(weighed[0], torch.tensor([0.5, 0.5], dtype=F64), rtol=1e-6, atol=0)
    predicted, posterior = bayes_classify(log_prob, torch.tensor([0.0, -math.inf]))
    assert predicted.tolist() == [0, 0]
    assert posterior[:, 1].tolist() == [0.0, 0.0]


def test_typicality_of_normal_data() -> None:
    """Of N(0, I) the mode is more probable than any draw, and as far from typical as √(D/2) standard deviations."""
    dim = 50

    def log_prob(x: Tensor) -> Tensor:
        return -0.5 * (x.square() + math.log(2 * math.pi)).sum(1)

    reference, inside = log_prob(draws(4000, dim)), log_prob(draws(500, dim, seed=1))
    usual = typicality(inside, reference)
    assert usual.shape == (500,)
    assert float(usual.square().mean()) == pytest.approx(1, abs=0.25)
    mode = torch.zeros(1, dim, dtype=F64)
    assert float(log_prob(mode)) > float(inside.max())
    assert float(typicality(log_prob(mode), reference)) == pytest.approx(5, rel=0.05)
    far, narrow = log_prob(2 * draws(300, dim, seed=2)), log_prob(0.5 * draws(300, dim, seed=3))
    for outside in (far, narrow):
        area, _ = auroc(usual, typicality(outside, reference))
        assert area > 0.97
    # The density alone takes the narrow ones for the best there are.
    assert auroc(-inside, -narrow)[0] < 0.01
    # Bits are nats in other units.
    torch.testing.assert_close(typicality(-inside / 3, -reference / 3), usual)
    assert typicality(torch.tensor([-math.inf]), reference).tolist() == [math.inf]


def compared(inside: Tensor, outside: Tensor) -> Tensor:
    """`(M, N)`: 1 where the outside score is the larger, ½ in ties."""
    return (outside[:, None] > inside).double() + 0.5 * (outside[:, None] == inside).double()


@pytest.mark.parametrize("digits", [1, 8])
def test_area_and_error_against_every_pair(digits: int) -> None:
    inside, outside = draws(60).round(decimals=digits), (draws(45, seed=1) + 0.7).round(decimals=digits)
    area, stderr = auroc(inside, outside)
    pairs = compared(inside, outside)
    assert area == pytest.approx(float(pairs.mean()), abs=1e-15)
    assert stderr**2 == pytest.approx(float(pairs.mean(1).var() / 45 + pairs.mean(0).var() / 60), rel=1e-12)
    assert auroc(outside, inside)[0] == pytest.approx(1 - area, abs=1e-15)
    # The same by resampling both sets, up to the (n − 1)/n of its variances.
    g = torch.Generator().manual_seed(2)
    rows, columns = (torch.randint(n, (4000, n), generator=g) for n in (45, 60))
    areas = torch.stack([pairs[i][:, j].mean() for i, j in zip(rows, columns, strict=True)])
    assert float(areas.std()) == pytest.approx(stderr, rel=0.05)


def test_the_error_is_that_of_fresh_draws() -> None:
    truth = 0.5 * (1 + math.erf(0.5))  # Φ(1/√2), for a shift of one
    found = [auroc(draws(80, seed=2 * s), 1 + draws(50, seed=2 * s + 1)) for s in range(400)]
    areas = torch.tensor([a for a, _ in found], dtype=F64)
    assert float(areas.mean()) == pytest.approx(truth, abs=4 * float(areas.std()) / 20)
    rms = torch.tensor([e for _, e in found], dtype=F64).square().mean().sqrt()
    assert float(rms) == pytest.approx(float(areas.std()), rel=0.12)


def test_areas_at_the_ends() -> None:
    low, high = torch.arange(3.0), torch.arange(5.0, 9.0)
    assert auroc(low, high) == (1.0, 0.0)
    assert auroc(high, low) == (0.0, 0.0)
    assert auroc(low, low)[0] == 0.5
    assert auroc(torch.zeros(4), torch.zeros(3)) == (0.5, 0.0)
    area, stderr = auroc(low, torch.tensor([math.inf]))
    assert area == 1.0
    assert math.isnan(stderr)
    for inside, outside in itertools.permutations([torch.tensor([0, 1, 2]), torch.tensor([1.0])]):
        assert auroc(inside, outside)[0] == 0.5


def test_bad_arguments() -> None:
    model, x = class_model(3, 0.5)
    one, two = torch.ones(1), torch.arange(2.0)
    with pytest.raises(ValueError, match="reference has 1 finite values of 1, expected at least 2 and all of them"):
        typicality(two, one)
    with pytest.raises(ValueError, match="reference has the same value everywhere, expected a spread"):
        typicality(two, torch.ones(3))
    with pytest.raises(ValueError, match=r"values has shape \(2, 1\), expected one dimension with at least one value"):
        typicality(two[:, None], two)
    with pytest.raises(ValueError, match="outside has 1 values of 2 that are NaN"):
        auroc(two, torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match=r"inside has shape \(0,\)"):
        auroc(two[:0], two)
    with pytest.raises(ValueError, match="classes is 0, expected at least 1"):
        class_log_prob(model, x, 0, seed=0)
    with pytest.raises(ValueError, match="got labels, expected it to be left out: every class is given in turn"):
        class_log_prob(model, x, 3, seed=0, labels=torch.zeros(24))
    with pytest.raises(ValueError, match=r"log_prob has shape \(2,\), expected \(B, K\) with at least one class"):
        bayes_classify(two)
    with pytest.raises(ValueError, match=r"log_prior has shape \(1,\), expected \(2,\), one for each class"):
        bayes_classify(two[None], one)
    with pytest.raises(ValueError, match="NaN or [+]inf"):
        bayes_classify(torch.tensor([[0.0, math.nan]]))
    with pytest.raises(ValueError, match="no class has a positive probability for 1 samples, the first is 1"):
        bayes_classify(torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]]))
