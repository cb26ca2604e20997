"""Thresholding by its formula, element by element."""

import pytest
import torch
from torch import Tensor

from scoresde.guidance import Thresholded
from scoresde.sampling import EDMHeun, KarrasGrid, Sampler
from scoresde.sde import EDMSDE, SDE, FlowSDE
from tests.problems import F64, blobs, generator


def by_hand(mean: Tensor, quantile: float, limit: float) -> Tensor:
    rows = []
    for row in mean:
        s = max(limit, float(row.abs().quantile(quantile)) if quantile else limit)
        rows.append(torch.tensor([limit * min(max(float(v), -s), s) / s for v in row], dtype=F64))
    return torch.stack(rows)


@pytest.mark.parametrize("sde", [EDMSDE(), FlowSDE()], ids=["edm", "flow"])
@pytest.mark.parametrize("quantile", [0.0, 0.6, 1.0])
def test_every_prediction_is_that_of_the_formula(quantile: float, sde: SDE) -> None:
    model, limit = blobs(sde, (5,)), 0.8
    bounded = Thresholded(model, quantile, limit)
    for level in (0.05, 3.0):
        t = sde.time(-torch.tensor(level, dtype=F64).log())
        x = 1.3 * model.sample(6, t, generator())
        mean = by_hand(model.denoise(x, t), quantile, limit)
        noise = (x - sde.alpha(t) * mean) / sde.sigma(t)
        torch.testing.assert_close(bounded.denoise(x, t), mean)
        torch.testing.assert_close(bounded.noise(x, t), noise, rtol=1e-6, atol=1e-8)
    wide = Thresholded(model, 0.9, 100.0)
    assert torch.equal(wide.noise(x, t), model.noise(x, t))
    assert not wide.is_score
    out = Sampler(EDMHeun(), KarrasGrid(5))(bounded, 8, seed=0)
    assert float(out.x.abs().max()) <= limit + 1e-5
    with pytest.raises(ValueError, match="quantile is 1.5"):
        Thresholded(model, 1.5)
