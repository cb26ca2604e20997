"""Options of a likelihood as keywords and as one value."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.data import Discrete
from scoresde.likelihood import (
    BitsPerDim,
    CovarianceScaling,
    Exact,
    FlowOptions,
    bits_per_dim,
    decode,
    differentiable_log_prob,
    discrete_elbo,
    elbo,
    encode,
    log_likelihood,
)
from scoresde.likelihood.options import BOUND_OPTIONS
from scoresde.numerics.ode import TSIT5
from scoresde.score import GaussianMixtureScore, NetworkScore
from scoresde.score.preconditioning import NoisePreconditioning
from scoresde.sde import VPSDE
from scoresde.sde.coordinates import NoiseLevel
from scoresde.statistics import Statistics

F64 = torch.float64
MODEL = GaussianMixtureScore(
    torch.tensor([0.3, 0.7]), torch.tensor([[1.0, 0.0, -1.0], [-1.0, 2.0, 0.5]]), torch.tensor([0.1, 0.2]), VPSDE()
)
X = MODEL.sample(5, VPSDE().t_min, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options",
    [
        {"tol": 1e-3},
        {"rtol": 1e-3, "nodes": 2},
        {"t_min": 1e-2, "t_max": 0.9, "method": TSIT5, "variable": NoiseLevel(), "scaling": CovarianceScaling()},
        {"batch_size": 2},
    ],
)
def test_one_value_is_the_same_as_its_keywords(options: dict[str, Any]) -> None:
    value = FlowOptions(**options)
    bound = {k: v for k, v in options.items() if k in BOUND_OPTIONS}
    for function, own in ((log_likelihood, options), (elbo, bound), (discrete_elbo, bound)):
        by_name, as_one = function(MODEL, X, **own), function(MODEL, X, options=value)
        name = "value" if hasattr(by_name, "value") else "log_prob"
        assert torch.equal(getattr(by_name, name), getattr(as_one, name))
    ends = {k: v for k, v in options.items() if k != "nodes"}
    assert torch.equal(encode(MODEL, X, **ends), encode(MODEL, X, options=value))
    assert torch.equal(decode(MODEL, X, **ends), decode(MODEL, X, options=value))
    fixed = {k: v for k, v in options.items() if k in ("t_min", "t_max", "variable", "scaling")}
    assert torch.equal(
        differentiable_log_prob(MODEL, X, steps=4, **fixed), differentiable_log_prob(MODEL, X, steps=4, options=value)
    )


def test_bits_take_the_options_of_the_density_and_of_the_bound() -> None:
    pixels = torch.randint(0, 8, (4, 3), generator=torch.Generator().manual_seed(1))

    def bits(**options: Any) -> BitsPerDim:
        return bits_per_dim(MODEL, pixels, Discrete(8), elbo_draws=4, divergence=Exact(), **options)

    by_name, as_one = bits(tol=1e-2, t_min=0.01), bits(options=FlowOptions(tol=1e-2, t_min=0.01))
    assert by_name.t_min == as_one.t_min == 0.01
    assert by_name.elbo is not None
    assert as_one.elbo is not None
    assert torch.equal(by_name.bits, as_one.bits)
    assert torch.equal(by_name.elbo, as_one.elbo)
    assert not torch.equal(by_name.bits, bits(tol=1e-2).bits)
    with pytest.raises(ValueError, match="bits_per_dim has no argument 'elbo_draw', did you mean elbo_draws?"):
        bits_per_dim(MODEL, pixels, Discrete(8), elbo_draw=4)


def test_a_keyword_replaces_the_value_in_options() -> None:
    tight, loose = (log_likelihood(MODEL, X, tol=tol).log_prob for tol in (1e-6, 1e-1))
    both = log_likelihood(MODEL, X, options=FlowOptions(tol=1e-1), tol=1e-6).log_prob
    assert torch.equal(both, tight)
    assert not torch.equal(both, loose)


def test_codes_take_a_tolerance_in_nats_or_of_the_state() -> None:
    default, same, coarse = encode(MODEL, X), encode(MODEL, X, rtol=1e-6, atol=1e-6), encode(MODEL, X, tol=0.3)
    assert torch.equal(default, same)
    assert 1e-5 < float((coarse - same).abs().max()) < 1
    with pytest.raises(ValueError, match="got tol=0.1 beside rtol=0.1 and atol=None"):
        encode(MODEL, X, tol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtoll": 1e-3}, "log_likelihood has no argument 'rtoll', did you mean rtol?"),
        ({"t_mn": 1e-3}, "log_likelihood has no argument 't_mn', did you mean t_min?"),
        ({"sed": 1}, "log_likelihood has no argument 'sed', did you mean seed?"),
        ({"tol": -1.0}, "tol is -1.0, expected a positive number of nats"),
        ({"nodes": 0}, "nodes is 0, expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"scaling": "dct"}, "scaling is 'dct', expected a Scaling"),
        ({"tol": "small"}, "tol is 'small', expected a number"),
    ],
)
def test_wrong_options_are_rejected_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        log_likelihood(MODEL, X, **options)
    assert message in str(error.value)


class Graph(nn.Module):
    """A network with a condition whose name is like that of an option."""

    def forward(self, x: Tensor, c_noise: Tensor, node: Tensor | None = None) -> Tensor:
        return x if node is None else x * node[:, None]


def test_a_condition_of_the_network_is_no_misspelt_option() -> None:
    model = NetworkScore(Graph(), VPSDE(), NoisePreconditioning(), Statistics.standard((3,)))
    node = torch.linspace(0.5, 1, 5)
    x = X.float()
    assert not torch.equal(encode(model, x, node=node), encode(model, x))
    with pytest.raises(ValueError, match="encode has no argument 'atoll', did you mean atol?"):
        encode(model, x, atoll=1e-3)
