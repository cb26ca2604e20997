"""A density given a vector, learned and compared with the truth."""

import math

import pytest
import torch

from scoresde.data import gaussian_arc, gaussian_arc_log_prob, gaussian_arc_moments
from scoresde.likelihood import log_likelihood
from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import Heun, KarrasGrid, Sampler
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE
from scoresde.training import fit


@pytest.mark.slow
def test_samples_and_likelihoods_given_a_vector_are_those_of_the_density() -> None:
    data = gaussian_arc(4000, 500)
    assert data.test_conditions is not None
    vector = data.test_conditions["vector"]
    torch.manual_seed(0)
    network = MLP((2,), width=64, blocks=2, vector_size=2, condition_dropout=0.1)
    model = NetworkScore(network, VPSDE(), EDMPreconditioning())
    fit(model, data, 1200, batch_size=256, lr=5e-3, progress=False)

    truth = gaussian_arc_log_prob(data.test, vector)
    # p(x) is the mean of p(x | c) over the conditions: midpoints of a grid in angle and width.
    angles, widths = torch.arange(0.25, 270, 0.5), torch.arange(0.0525, 0.25, 0.005)
    grid = torch.cartesian_prod(angles, widths)
    each = [gaussian_arc_log_prob(x.expand(len(grid), 2), grid).logsumexp(0) for x in data.test]
    marginal = torch.stack(each) - math.log(len(grid))
    assert (truth - marginal).mean() > 2  # nats that the vector tells

    lost = truth - log_likelihood(model, data.test, seed=0, vector=vector).log_prob
    error = float(lost.std()) / len(lost) ** 0.5
    assert -3 * error < lost.mean() < 0.2
    # Without the vector the same network has the density of all points.
    lost = marginal - log_likelihood(model, data.test, seed=0).log_prob
    assert -3 * float(lost.std()) / len(lost) ** 0.5 < lost.mean() < 0.35

    few = torch.tensor([[30.0, 0.1], [135.0, 0.2], [250.0, 0.07]])
    drawn = Sampler(Heun(), KarrasGrid(20))(model, 1500, seed=0, vector=few.repeat_interleave(500, 0))
    means, stds = gaussian_arc_moments(few)
    found = drawn.x.view(3, 500, 2).double()
    assert ((found.mean(1) - means).abs() < 0.5 * stds[:, None]).all()
    assert ((found.std(1) / stds[:, None]).log().abs() < math.log(1.5)).all()
