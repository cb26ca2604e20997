"""Classifiers of noised samples: exact posteriors, other SDEs, training, and what does not fit."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.data import Data, DataInfo, Discrete, Identity
from scoresde.guidance import ClassifierGuidance
from scoresde.information import noisy_accuracy
from scoresde.networks import MLPClassifier
from scoresde.objectives import CrossEntropy, UniformLogSNR
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import EDMHeun, KarrasGrid, Sampler
from scoresde.score import NetworkScore, NoisyClassifier
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE
from scoresde.training import fit
from tests.problems import F64, gaussian, generator

# Two classes N(±1, 0.5²) in one dimension, of equal frequency.
MEAN, STD = 1.0, 0.5


class Posterior(nn.Module):
    """The exact log-odds of the classes, from the input c_in x of EDM and ¼ log(σ/α), as a network has them."""

    num_classes, shape = 2, (1,)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        level = (4 * c_noise.double()).exp()[:, None]
        whole = x.double() * (1 + level**2).sqrt()  # x_t/α, for a preconditioning of sigma_data 1
        odds = 2 * MEAN * whole / (STD**2 + level**2)
        return torch.cat((-odds / 2, odds / 2), 1).to(x)


def exact(sde: SDE) -> NoisyClassifier:
    return NoisyClassifier(Posterior(), sde, EDMPreconditioning(1.0))


def drawn(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 2
    x = MEAN * (2.0 * labels - 1)[:, None] + STD * torch.randn(n, 1, generator=generator(seed))
    return x, labels


def error_rate(log_snr: float) -> float:
    """The Bayes error Φ(−m/√(s² + (σ/α)²)) of the two classes at a noise level."""
    return 0.5 * math.erfc(MEAN / math.sqrt(STD**2 + math.exp(-2 * log_snr)) / math.sqrt(2))


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(), EDMSDE()], ids=lambda sde: type(sde).__name__)
def test_the_exact_posterior_has_the_accuracy_of_bayes(sde: SDE) -> None:
    found = noisy_accuracy(exact(sde), *drawn(4000), levels=5, seed=3)
    wanted = torch.tensor([1 - error_rate(level) for level in found.log_snr.tolist()], dtype=F64)
    assert ((found.accuracy - wanted).abs() < 4 * found.accuracy_stderr.clamp_min(1e-3)).all()
    assert float(found.cross_entropy[0]) == pytest.approx(math.log(2), abs=0.01)


@pytest.mark.parametrize(("own", "other"), [(VPSDE(), VESDE()), (VESDE(), EDMSDE()), (EDMSDE(), VPSDE())])
def test_states_of_another_sde_have_the_logits_of_the_same_noise_level(own: SDE, other: SDE) -> None:
    level = torch.tensor(0.3, dtype=F64)
    x, noise = torch.randn(6, 1, dtype=F64, generator=generator()), torch.randn(6, 1, dtype=F64)
    states = [sde.perturb(x, sde.time(level), noise) for sde in (own, other)]
    classifier = exact(own)
    torch.testing.assert_close(
        classifier.under(other)(states[1], other.time(level)), classifier(states[0], own.time(level))
    )
    t = torch.full((6,), float(other.time(level)), dtype=F64)
    torch.testing.assert_close(classifier.under(other)(states[1], t), classifier(states[0], own.time(level)))


def test_noise_beyond_the_classifiers_own_is_scaled_to_its_most() -> None:
    narrow, wide = EDMSDE(0.01, 5.0), EDMSDE(0.001, 80.0)
    classifier, moved = exact(narrow), exact(narrow).under(wide)
    x = torch.randn(4, 1, generator=generator())
    torch.testing.assert_close(moved(80 * x, torch.tensor(80.0)), classifier(5 * x, torch.tensor(5.0)))
    torch.testing.assert_close(moved(x, torch.tensor(0.001)), classifier(x, torch.tensor(0.01)))
    with pytest.raises(ValueError, match="has no noise level in common with the classifier"):
        classifier.under(EDMSDE(10.0, 80.0))


def test_cross_entropy_is_the_mean_surprise_of_the_right_class() -> None:
    sde = VPSDE()
    x, labels = drawn(2000)
    noise, u = torch.randn(2000, 1, generator=generator(1)), torch.rand(2000, generator=generator(2), dtype=F64)
    objective = CrossEntropy(UniformLogSNR())
    loss = objective(exact(sde), x, u=u, noise=noise, labels=labels)
    t, _ = UniformLogSNR().sample(sde, u)
    whole = sde.perturb(x, t, noise)[:, 0] / sde.alpha(t)
    odds = (2.0 * labels - 1) * 2 * MEAN * whole / (STD**2 + (-2 * sde.log_snr(t)).exp())
    torch.testing.assert_close(
        loss.per_sample.double(), torch.nn.functional.softplus(-odds).double(), rtol=1e-4, atol=1e-5
    )
    assert float(loss.value) == pytest.approx(float(loss.per_sample.mean()))
    for options, message in (({}, "labels are missing"), ({"labels": labels[:3]}, "labels are of shape")):
        with pytest.raises(ValueError, match=message):
            objective(exact(sde), x, u=u, noise=noise, **options)
    with pytest.raises(ValueError, match="trains a NoisyClassifier, and the model is a GaussianMixtureScore"):
        objective.begin(gaussian(sde))


def test_training_comes_near_the_exact_posterior_and_guides_as_it_does() -> None:
    sde = EDMSDE(0.01, 20.0)
    torch.manual_seed(0)
    classifier = NoisyClassifier(MLPClassifier((1,), 2, width=32, blocks=1), sde, EDMPreconditioning())
    x, labels = drawn(2000)
    course = fit(classifier, Data("pair", x, x, Identity(), labels, labels, num_classes=2), 300, progress=False)
    assert course.loss[-1] < course.loss[0]
    fresh = drawn(1000, seed=5)
    found, best = (noisy_accuracy(c, *fresh, levels=5, seed=1) for c in (classifier, exact(sde)))
    assert float((found.cross_entropy - best.cross_entropy).abs().max()) < 0.03
    # Both classes together are a mixture, of which guidance of scale 1 by the posterior makes the class.
    from scoresde.score import GaussianMixtureScore

    whole = GaussianMixtureScore(torch.ones(2), torch.tensor([[-MEAN], [MEAN]]), torch.full((2,), STD**2), sde)
    sampler = Sampler(EDMHeun(), KarrasGrid(25))
    own, true = (sampler(ClassifierGuidance(whole, c, 1.0), 500, seed=0, labels=1).x for c in (classifier, exact(sde)))
    assert float(true.mean()) == pytest.approx(MEAN, abs=0.08)
    assert float((own - true).abs().mean()) < 0.1


def test_what_does_not_fit_is_one_line() -> None:
    classifier = NoisyClassifier(MLPClassifier((2,), 3, width=8), VPSDE(), EDMPreconditioning(1.0))
    classifier.info = DataInfo("a", (2,), Identity(), 3, ("x", "y", "z"))

    class Three(nn.Module):
        num_classes, shape = 3, (2,)

        def forward(self, x: Tensor, c_noise: Tensor, labels: Any = None) -> Tensor:
            return x

    model = NetworkScore(Three(), VPSDE(), EDMPreconditioning(1.0))
    ClassifierGuidance(model, classifier)
    for shape, classes, info, message in (
        ((3,), None, None, r"of samples of shape \(2,\), and the model's have shape \(3,\)"),
        (None, 4, None, "is of 3 classes, and the model has 4"),
        (None, 3, DataInfo("b", (2,), Discrete(16), 3), "has its data in other units"),
        (
            None,
            3,
            DataInfo("b", (2,), Identity(), 3, ("x", "y", "w")),
            "has the classes x, y, z, and the model x, y, w",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            classifier.check_fits(shape, classes, info)
    with pytest.raises(ValueError, match=r"x has shape \(4, 3\), expected \(B, 2\)"):
        classifier(torch.zeros(4, 3), torch.tensor(0.5))
    with pytest.raises(ValueError, match="does not say of how many classes"):
        NoisyClassifier(nn.Linear(2, 2), VPSDE(), EDMPreconditioning(1.0))
    with pytest.raises(ValueError, match="labels hold 0 to 5, expected 0 to 2"):
        noisy_accuracy(classifier, torch.zeros(2, 2), torch.tensor([0, 5]))
