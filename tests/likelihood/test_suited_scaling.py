"""The scaling that is chosen for a model where none is given."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.likelihood import (
    CovarianceScaling,
    DiagonalScaling,
    FlowOptions,
    Hutchinson,
    ScalarScaling,
    decode,
    encode,
    log_likelihood,
)
from scoresde.likelihood.scaling import Scaling
from scoresde.likelihood.suited_scaling import probe_variance_ratio, with_scaling
from scoresde.score import Conditions, GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE, FlowSDE
from tests.problems import F64, generator, short

SIZE = 12
SPREADS = torch.arange(1, SIZE + 1, dtype=F64).pow(-1.0)


def rotated(turn: float, sde: SDE, size: int = SIZE) -> GaussianMixtureScore:
    """Four modes at one mean, of one spectrum that each turns by angles of the size `turn`: normal data for 0."""
    noise = generator(3)
    basis = torch.linalg.qr(torch.randn(size, size, generator=noise, dtype=F64))[0]
    covariance = (basis * SPREADS[:size] ** 2) @ basis.mT
    covariances = []
    for _ in range(4):
        angles = turn * torch.randn(size, size, generator=noise, dtype=F64)
        rotation = torch.linalg.matrix_exp(angles - angles.mT)
        covariances.append(rotation @ covariance @ rotation.mT)
    return GaussianMixtureScore(torch.ones(4), torch.zeros(4, size, dtype=F64), torch.stack(covariances), sde)


def pair(sde: SDE) -> GaussianMixtureScore:
    """Two narrow modes, which together are wide along the line between them."""
    way = torch.linspace(0.5, 1.5, SIZE, dtype=F64)
    return GaussianMixtureScore(torch.ones(2), torch.stack((way, -way)), torch.full((2,), 0.01), sde)


class Counting(ScoreModel):
    """A model that counts evaluations, and takes labels that do nothing if it has classes."""

    def __init__(self, model: GaussianMixtureScore, classes: int | None = None) -> None:
        super().__init__(model.sde, model.statistics)
        self.model, self.classes = model, classes
        self.calls = 0
        self.labels: list[list[int]] = []

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.calls += 1
        if "labels" in cond:
            self.labels.append(cond["labels"].tolist())
        return self.model.denoise(x, t)


def chosen(model: ScoreModel, options: FlowOptions | None = None, **cond: Any) -> Scaling:
    conditions = Conditions(cond, 3)
    scaling = with_scaling(model, torch.Size((3, SIZE)), conditions, options or FlowOptions()).scaling
    assert scaling is not None
    return scaling


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE(), FlowSDE()], ids=short)
def test_the_covariance_is_chosen_where_data_are_nearly_normal(sde: SDE) -> None:
    assert isinstance(chosen(rotated(0.0, sde)), CovarianceScaling)
    assert isinstance(chosen(rotated(0.03, sde)), CovarianceScaling)
    assert isinstance(chosen(rotated(1.0, sde)), ScalarScaling)
    assert isinstance(chosen(pair(sde)), ScalarScaling)


@pytest.mark.parametrize("turn", [0.1, 0.2, 1.0])
def test_the_ratio_is_that_of_the_variances_of_log_densities(turn: float) -> None:
    model = rotated(turn, VPSDE())
    x = model.sample(64, model.sde.t_min, generator(7))
    variances = [
        float(log_likelihood(model, x, scaling=scaling, divergence=Hutchinson(2)).stderr.square().mean())
        for scaling in (CovarianceScaling(), ScalarScaling())
    ]
    ratio = probe_variance_ratio(model, torch.Size((SIZE,)), False, FlowOptions())
    # Four paths tell it to a factor of two.
    assert abs(math.log(ratio * variances[1] / variances[0])) < math.log(2.0)


def test_a_likelihood_is_that_of_the_chosen_scaling() -> None:
    for model, scaling in ((rotated(0.01, VPSDE()), CovarianceScaling()), (pair(VPSDE()), ScalarScaling())):
        x = model.sample(6, model.sde.t_min, generator(7))
        found, given = log_likelihood(model, x), log_likelihood(model, x, scaling=scaling)
        assert torch.equal(found.log_prob, given.log_prob)
        assert torch.equal(found.nfe, given.nfe)
        part = log_likelihood(model, x[4:], first=4)
        torch.testing.assert_close(part.log_prob, found.log_prob[4:], rtol=0, atol=1e-9)
    nearly = rotated(0.01, VPSDE())
    x = nearly.sample(16, nearly.sde.t_min, generator(7))
    default, scalar = log_likelihood(nearly, x), log_likelihood(nearly, x, scaling=ScalarScaling())
    assert float(default.nfe.double().mean()) < 0.8 * float(scalar.nfe.double().mean())
    assert float(default.stderr.square().mean()) < 0.01 * float(scalar.stderr.square().mean())
    torch.testing.assert_close(default.log_prob, nearly.log_prob(x, nearly.sde.t_min), rtol=0, atol=0.3)


def test_codes_are_found_under_it() -> None:
    model = rotated(0.01, VPSDE())
    x = model.sample(4, model.sde.t_min, generator(7))
    assert torch.equal(encode(model, x), encode(model, x, scaling=CovarianceScaling()))
    torch.testing.assert_close(decode(model, encode(model, x)), x, rtol=0, atol=1e-4)


def test_it_is_measured_once_for_the_weights_of_a_model() -> None:
    model = Counting(rotated(0.01, VPSDE()))
    chosen(model)
    first = model.calls
    assert 0 < first <= 16  # batches, of 4 paths
    chosen(model)
    assert model.calls == first
    chosen(model, FlowOptions(t_min=0.01))
    assert model.calls == 2 * first
    with torch.no_grad():
        model.model.means.add_(0.0)
    assert isinstance(chosen(model), CovarianceScaling)
    assert model.calls == 3 * first


def test_a_scaling_that_is_given_is_kept_without_a_measurement() -> None:
    model = Counting(rotated(0.01, VPSDE()))
    assert isinstance(chosen(model, FlowOptions(scaling=DiagonalScaling())), DiagonalScaling)
    assert model.calls == 0


def test_labels_are_shown_in_equal_distances() -> None:
    model = Counting(rotated(0.01, VPSDE()), classes=10)
    assert isinstance(chosen(model, labels=torch.tensor([9, 9, 9])), CovarianceScaling)
    assert [0, 2, 5, 7] in model.labels
    assert isinstance(chosen(model), CovarianceScaling)


def test_what_cannot_be_measured_is_scaled_by_one_number() -> None:
    model = Counting(rotated(0.01, VPSDE()))
    assert isinstance(chosen(model, context=torch.zeros(3, 2)), ScalarScaling)
    assert isinstance(chosen(model, labels=torch.zeros(3)), ScalarScaling)  # of how many classes is not known
    model.statistics = None
    assert isinstance(chosen(model), ScalarScaling)
    alike = Counting(GaussianMixtureScore(torch.ones(1), torch.zeros(1, SIZE), torch.ones(1), VPSDE()))
    assert isinstance(chosen(alike), ScalarScaling)
    assert model.calls + alike.calls == 0


def test_a_model_that_is_not_finite_somewhere_is_scaled_by_one_number() -> None:
    class Broken(Counting):
        def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return super().denoise(x, t) / (t > 0.1)[:, None]

    assert isinstance(chosen(Broken(rotated(0.01, VPSDE()))), ScalarScaling)


def test_another_shape_than_the_models_is_rejected() -> None:
    with pytest.raises(ValueError, match="a sample of this model has shape"):
        with_scaling(rotated(0.01, VPSDE()), torch.Size((3, 5)), Conditions({}, 3), FlowOptions())
