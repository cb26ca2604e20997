"""Information of labels against quadrature and exact densities."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from scoresde.data import Standardise
from scoresde.information import class_information, conditional_information
from scoresde.networks import MLP
from scoresde.score import GaussianMixtureScore, NetworkScore, ScoreModel
from scoresde.score.preconditioning import EDMPreconditioning
from scoresde.sde import EDMSDE, SDE, VPSDE
from tests.problems import correlated, generator

F64 = torch.float64


class Labelled(ScoreModel):
    """A mixture whose components are the classes; without labels the mixture itself."""

    def __init__(self, mixture: GaussianMixtureScore) -> None:
        super().__init__(mixture.sde, mixture.statistics)
        self.mixture, self._classes = mixture, len(mixture.weights)
        rotations = mixture.rotations
        one = torch.ones(1)
        self.parts = nn.ModuleList(
            GaussianMixtureScore(
                one,
                mixture.means[k : k + 1],
                torch.diag(mixture.variances[k])[None]
                if rotations is None
                else (rotations[k] @ torch.diag(mixture.variances[k]) @ rotations[k].mT)[None],
                mixture.sde,
            )
            for k in range(len(mixture.weights))
        )

    def takes_condition(self, name: str) -> bool:
        return name == "labels"

    def _check_names(self, cond: Any) -> None:
        assert set(cond) <= {"labels"}

    def noise(self, x: Tensor, t: Tensor, labels: Tensor | None = None, **cond: Any) -> Tensor:
        if labels is None:
            return self.mixture.noise(x, t)
        every = torch.stack([part.noise(x, t) for part in self.parts])  # type: ignore[operator]
        return every[labels, torch.arange(len(x))]

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        raise NotImplementedError

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Samples and their classes."""
        labels = torch.multinomial(self.mixture.weights, n, True, generator=generator(1))
        every = torch.stack([p.sample(n, 0.0, generator(2)) for p in self.parts])  # type: ignore[operator]
        return every[labels, torch.arange(n)], labels

    def information(self, x: Tensor, labels: Tensor) -> Tensor:
        t = torch.tensor(0.0, dtype=F64)
        every = torch.stack([part.log_prob(x, t) for part in self.parts])  # type: ignore[operator]
        return every[labels, torch.arange(len(x))] - self.mixture.log_prob(x, t)


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=["vp", "edm"])
def test_pointwise_information_is_that_of_the_densities(sde: SDE) -> None:
    model = Labelled(correlated(sde))
    x, labels = model.draw(600)
    out = conditional_information(model, x, {"labels": labels}, seed=2)
    error = out.nats - model.information(x, labels)
    assert abs(error.mean()) < 2.5 * error.std() / math.sqrt(len(x))
    assert 0.75 < float(error.square().mean().sqrt() / out.stderr.square().mean().sqrt()) < 1.1


def test_mutual_information_against_quadrature() -> None:
    weights, means, std = [0.3, 0.7], [-0.4, 0.6], 0.5
    mixture = GaussianMixtureScore(weights, [[m] for m in means], [std**2, std**2], EDMSDE())

    def entropy_term(x: float) -> float:
        p = sum(
            w * math.exp(-0.5 * ((x - m) / std) ** 2) / (std * math.sqrt(2 * math.pi))
            for w, m in zip(weights, means, strict=True)
        )
        return -p * math.log(p)

    known = quad(entropy_term, -5, 5)[0] - 0.5 * math.log(2 * math.pi * math.e * std**2)
    model = Labelled(mixture)
    x, labels = model.draw(4000)
    out = conditional_information(model, x, {"labels": labels})
    mean, error = out.mutual_information
    assert abs(mean - known) < 2.5 * error
    assert error < 0.05 * known + 0.02
    assert np.allclose(out.bits, (mean / math.log(2), error / math.log(2)))
    # Classes apart: the entropy of the labels.
    apart = Labelled(GaussianMixtureScore(weights, [[-20.0], [20.0]], [1.0, 1.0], EDMSDE()))
    x, labels = apart.draw(2000)
    mean, error = conditional_information(apart, x, {"labels": labels}).mutual_information
    entropy = -sum(w * math.log(w) for w in weights)
    assert abs(mean - entropy) < 2.5 * error


def test_labels_that_do_not_matter_tell_nothing() -> None:
    mixture = correlated(VPSDE())
    model = Labelled(mixture)
    for part in model.parts:
        part.noise = mixture.noise  # type: ignore[assignment, method-assign]
    out = conditional_information(model, mixture.sample(20, 0.0, generator(3)), {"labels": torch.zeros(20).long()})
    assert float(out.nats.abs().max()) == 0.0
    assert "0 nats" in repr(out)


def test_unconditional_models_are_rejected() -> None:
    x = torch.randn(4, 2)
    labels = {"labels": torch.zeros(4, dtype=torch.int64)}

    def network(**options: Any) -> NetworkScore:
        return NetworkScore(MLP((2,), width=8, blocks=1, **options), VPSDE(), EDMPreconditioning(1.0))

    with pytest.raises(ValueError, match="conditional information of an unconditional model: it takes no labels"):
        conditional_information(network(), x, labels)
    with pytest.raises(ValueError, match="the model takes no text; give a condition that it takes"):
        conditional_information(network(num_classes=3), x, {"text": 1})
    with pytest.raises(ValueError, match="condition is empty"):
        conditional_information(network(num_classes=3), x, {})
    with pytest.raises(ValueError, match="label_dropout"), pytest.warns(UserWarning, match="does not know the mean"):
        conditional_information(network(num_classes=3), x, labels)
    with pytest.warns(UserWarning, match="does not know the mean"):
        out = conditional_information(network(num_classes=3, label_dropout=0.1), x, labels, draws=4)
    assert out.nats.shape == (4,)


def test_an_unconditional_model_of_other_data_is_rejected() -> None:
    model = Labelled(correlated(VPSDE()))
    x, labels = model.draw(4)
    other = correlated(VPSDE())
    other.transform = Standardise(mean=[0.0] * 6, std=[2.0] * 6)
    with pytest.raises(ValueError, match="different transforms of the data"):
        conditional_information(model, x, {"labels": labels}, unconditional=other)


def blobs_of_classes(scale: float) -> Labelled:
    means = scale * torch.randn(3, 4, generator=generator(2), dtype=F64)
    return Labelled(GaussianMixtureScore([0.2, 0.3, 0.5], means, torch.full((3,), 0.25, dtype=F64), VPSDE()))


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_information_by_predictions_for_every_class_is_that_of_the_densities(scale: float) -> None:
    model = blobs_of_classes(scale)
    x, labels = model.draw(600)
    out = class_information(model, x, labels, prior=model.mixture.weights, draws=32)
    error = out.nats - model.information(x, labels)
    assert abs(error.mean()) < 2.5 * error.std() / math.sqrt(len(x))
    assert float(error.square().mean().sqrt()) < float(out.stderr.square().mean().sqrt()) < 0.2
    t = torch.tensor(0.0, dtype=F64)
    joint = torch.stack([p.log_prob(x, t) for p in model.parts], 1) + model.mixture.weights.log()  # type: ignore[operator]
    assert float((out.posterior - joint.softmax(1)).abs().mean()) < 0.02
    known = float((joint.argmax(1) == labels).double().mean())
    assert abs(out.accuracy[0] - known) < 0.02
    # A mean log-ratio is at most the entropy of the labels; here also without any error.
    entropy = -float((model.mixture.weights * model.mixture.weights.log()).sum())
    assert out.mutual_information[0] < entropy + 2 * out.mutual_information[1]


def test_halves_of_an_odd_number_of_strata_leave_no_bias() -> None:
    model = blobs_of_classes(0.5)
    x, labels = model.draw(1500)
    out = class_information(model, x, labels, prior=model.mixture.weights, draws=9)
    error = out.nats - model.information(x, labels)
    assert abs(error.mean()) < 3 * error.std() / math.sqrt(len(x))


def test_classes_alike_tell_nothing() -> None:
    model = blobs_of_classes(0.0)
    x, labels = model.draw(10)
    out = class_information(model, x, labels, draws=4)
    assert float(out.nats.abs().max()) < 1e-12
    assert torch.allclose(out.posterior, torch.full((10, 3), 1 / 3, dtype=F64))


def test_bad_classes_are_rejected() -> None:
    model = blobs_of_classes(1.0)
    x, labels = model.draw(4)
    with pytest.raises(ValueError, match=r"labels of shape \(4,\) and int64 must be \(4,\) integers from 0 to 2"):
        class_information(model, x, labels + 3)
    with pytest.raises(ValueError, match=r"labels of shape \(4,\) and float32 must be \(4,\) integers"):
        class_information(model, x, labels.float())
    with pytest.raises(ValueError, match="prior has 2 entries, expected one for each of the model's 3 classes"):
        class_information(model, x, labels, prior=torch.ones(2))
    with pytest.raises(ValueError, match="expected a positive number for each of two classes or more"):
        class_information(model, x, labels, prior=torch.tensor([0.5, 0.0, 0.5]))
    with pytest.raises(ValueError, match="the model knows of no classes: give their prior, if it takes labels"):
        class_information(model.mixture, x, labels)
