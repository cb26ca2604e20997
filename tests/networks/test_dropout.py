"""Dropout on a CPU: its mean, its rate and its independence are those of the definition."""

import pytest
import torch

from scoresde.networks.dropout import FeatureDropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_zeroes_a_share_and_keeps_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rate, size = 0.13, (400, 3, 17, 11)
    x = torch.ones(size, dtype=dtype, requires_grad=True)
    out = dropout(x, rate)
    zeros = out == 0
    count, total = int(zeros.sum()), zeros.numel()
    assert abs(count / total - rate) < 4 * (rate * (1 - rate) / total) ** 0.5 + 2**-17
    assert out.dtype == dtype
    torch.testing.assert_close(out[~zeros].unique(), torch.tensor([1 / (1 - rate)], dtype=dtype), rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out)
    # Each of the four draws from a word, and neighbours in a word, over samples and along one.
    flat = zeros.flatten(1).double() - rate
    bound = 5 * rate * (1 - rate) / total**0.5
    for lag in (1, 2, 3, 4):
        assert abs(float((flat[:, lag:] * flat[:, :-lag]).mean())) < bound
    assert abs(float((flat[1:] * flat[:-1]).mean())) < bound
    each = zeros.flatten(1)[:, :560].view(400, -1, 4).double().mean((0, 1))
    assert float((each - rate).abs().max()) < 4 * (rate * (1 - rate) / (400 * 140)) ** 0.5


def test_dropout_is_of_training_alone_and_seeded() -> None:
    x = torch.randn(3, 5)
    layer = FeatureDropout(0.5)
    assert layer.eval()(x) is x
    layer.train()
    draws = []
    for _ in range(2):
        torch.manual_seed(1)
        draws.append(layer(x))
    assert torch.equal(*draws)
    assert not torch.equal(layer(x), draws[0])
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(dropout(x, 1 - 1e-9)[x > 0] > 0, torch.zeros(int((x > 0).sum()), dtype=torch.bool))
