"""The density in the plane given a vector."""

import pytest
import torch

from scoresde.data import gaussian_arc, gaussian_arc_log_prob, gaussian_arc_moments


def test_points_are_drawn_from_the_gaussians_of_their_conditions() -> None:
    data = gaussian_arc(20_000, 100)
    assert data.train_conditions is not None
    vector = data.train_conditions["vector"]
    means, widths = gaussian_arc_moments(vector)
    normal = (data.train - means) / widths[:, None]
    n = len(normal)
    assert (normal.mean(0).abs() < 4 / n**0.5).all()
    assert (normal.square().mean(0) - 1).abs().max() < 4 * (2 / n) ** 0.5
    truth = torch.distributions.Normal(means, widths[:, None]).log_prob(data.train.double()).sum(1)
    torch.testing.assert_close(gaussian_arc_log_prob(data.train, vector), truth)
    assert gaussian_arc_moments(torch.tensor([[90.0, 0.1]]))[0][0].tolist() == pytest.approx([0, 1])
    assert torch.equal(gaussian_arc(20_000, 5).train, data.train)
    with pytest.raises(ValueError, match="an angle in degrees and a width"):
        gaussian_arc_moments(torch.zeros(2))
