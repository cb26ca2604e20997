"""Where warnings about likelihoods point."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.data.transforms import Discrete
from scoresde.information import flipd, kl_divergence, three_ways
from scoresde.likelihood import Exact, bits_per_dim, compare_likelihoods, encode, log_likelihood
from scoresde.score import GaussianMixtureScore
from scoresde.sde import VPSDE

ASKED: dict[str, Callable[[GaussianMixtureScore, Tensor], Any]] = {
    "log_likelihood": lambda model, x: log_likelihood(model, x),
    "encode": lambda model, x: encode(model, x),
    "compare": lambda model, x: compare_likelihoods([model, model], x),
    "bits": lambda model, x: bits_per_dim(model, (x > 0).long(), Discrete(2)),
    "three ways": lambda model, x: three_ways(model, x, draws=4),
    "kl": lambda model, x: kl_divergence(model, model, x, draws=4),
    "flipd": lambda model, x: flipd(model, x, log_snr=1.0, divergence=Exact()),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_a_warning_points_at_the_line_that_asked(asked: Callable[[GaussianMixtureScore, Tensor], Any]) -> None:
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 3), torch.ones(1), VPSDE())
    model.statistics = None
    with pytest.warns(UserWarning, match="does not know the mean and standard deviation of its data") as caught:
        asked(model, torch.randn(2, 3, generator=torch.Generator().manual_seed(0)))
    assert {warning.filename for warning in caught} == {__file__}
