"""The sampler of discrete chains."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scoresde.chains import DiscreteChainModel, sample_chain
from scoresde.sampling import ChainSampler
from scoresde.sde import BinomialChain, erasure_betas


class Always(nn.Module):
    """A network that is sure of the sequence 0110."""

    shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.odds = nn.Parameter(torch.tensor([-40.0, 40.0, 40.0, -40.0]))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.odds.expand(len(x), -1)


MODEL = DiscreteChainModel(Always(), BinomialChain(erasure_betas(12)))


def test_all_steps_are_those_of_sample_chain() -> None:
    out, own = ChainSampler()(MODEL, 5, seed=3, trajectory=True), sample_chain(MODEL, 5, seed=3, trajectory=True)
    assert out.nfe == 12
    assert torch.equal(out.x, own.x)
    assert torch.equal(out.x.long(), torch.tensor([[0, 1, 1, 0]]).expand(5, -1))


def test_fewer_steps_span_the_chain() -> None:
    thin = ChainSampler(5).of(MODEL)
    assert thin.chain.steps == 5
    assert torch.allclose(thin.chain.signal(torch.arange(1, 6)), MODEL.chain.signal(torch.tensor([2, 5, 7, 10, 12])))
    out = ChainSampler(5)(MODEL, 3, seed=1)
    assert out.nfe == 5
    assert torch.equal(out.x.long(), torch.tensor([[0, 1, 1, 0]]).expand(3, -1))
    assert ChainSampler(12).of(MODEL) is MODEL


def test_it_is_a_value_and_refuses_what_no_chain_has() -> None:
    assert ChainSampler(5) == ChainSampler(5) != ChainSampler(6)
    assert repr(ChainSampler(5)) == "ChainSampler(steps=5)"
    assert ChainSampler(5).in_run(Path()) == ChainSampler(5)
    with pytest.raises(ValueError, match="steps is 1, expected an integer of at least 2"):
        ChainSampler(1)
    with pytest.raises(ValueError, match="steps is 13, expected at most the 12 of the chain"):
        ChainSampler(13)(MODEL, 2)
