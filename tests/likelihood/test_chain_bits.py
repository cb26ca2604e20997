"""Bits per dimension of pixels under a chain, its decoder, and the weights of its steps."""

import itertools
import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from scoresde.chains import GaussianChainModel
from scoresde.data import Affine, Discrete
from scoresde.likelihood import chain_bits_per_dim, chain_bound, discretised_log_prob, pilot_weights
from scoresde.score import EmpiricalScore, GaussianMixtureScore
from scoresde.sde import VPSDE, GaussianChain, GaussianStep, linear_betas
from tests.problems import generator, ring

F64 = torch.float64


@pytest.mark.parametrize("std", [0.01, 0.3, 5.0])
def test_the_decoder_is_a_probability_over_all_levels(std: float) -> None:
    """Of 0 to 4, against the distribution function at many digits, in the tails too."""
    transform = Discrete(5)
    levels = torch.arange(5)[:, None]
    for mean in (-1.7, -0.1, 0.4, 3.0):
        step = GaussianStep(torch.full((5, 1), mean, dtype=F64), torch.full((5, 1), std**2, dtype=F64))
        found = discretised_log_prob(step, levels, transform)
        assert float(found.exp().sum()) == pytest.approx(1)
        edges = [-mpmath.inf, *(mpmath.mpf(-1) + mpmath.mpf(2 * k) / 5 for k in range(1, 5)), mpmath.inf]
        for k in range(5):
            low, high = sorted(((e - mean) / std / mpmath.sqrt(2) for e in (edges[k], edges[k + 1])), key=abs)
            if low * high > 0:  # the difference of the tails beyond both
                truth = mpmath.log((mpmath.erfc(abs(low)) - mpmath.erfc(abs(high))) / 2)
            else:
                truth = mpmath.log((mpmath.erf(abs(low)) + mpmath.erf(abs(high))) / 2)
            # float32 holds the middles of the cells.
            assert float(found[k]) == pytest.approx(float(truth), rel=1e-4, abs=1e-4)


def test_pixels_of_a_small_data_set_cost_their_entropy() -> None:
    """By the exact score of eight images, each as likely: 3 bits, and what the finite steps cost."""
    transform = Discrete(4)
    pixels = torch.tensor(list(itertools.product((0, 3), repeat=3)))
    sde = VPSDE(t_min=1e-6)
    model, bits = EmpiricalScore(transform.encode(pixels).double(), sde), []
    for steps, draws in ((5, 1000), (20, 250), (100, 50)):
        # The variance that suits points: the posterior's own.
        inside = GaussianChainModel(model, sde.chain(steps), "small")
        out = chain_bits_per_dim(inside, pixels, transform, draws=draws, seed=1)
        bits.append(out.mean)
        assert out.mean > 1 - 4 * out.draw_stderr
        assert out.draw_stderr < 0.1
        assert sum(out.terms().values()) == pytest.approx(out.mean)
    assert bits[0] > bits[1] + 0.2 > bits[2] + 0.4
    assert bits[2] < 1.3


def test_it_is_a_bound_on_the_probability_of_the_levels() -> None:
    """By the exact score of a pixel with known probabilities of its levels, below which it is, by a little."""
    transform = Discrete(3)
    pixels, probs = torch.arange(3)[:, None], torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    model = GaussianMixtureScore(probs, transform.encode(pixels).double(), torch.full((3,), 1e-6), VPSDE())
    inside = GaussianChainModel(model, GaussianChain(linear_betas()), "small")
    out = chain_bits_per_dim(inside, pixels.repeat(200, 1), transform, evaluations=400)
    values, errors = out.bound.value.reshape(200, 3), out.bound.stderr.reshape(200, 3)
    gap = probs.log() - values.mean(0)
    assert (gap > -4 * errors.norm(dim=0) / 200).all()
    assert (gap < 0.1).all()
    assert (errors.norm(dim=0) / 200).max() < 0.04


def test_bits_are_nats_of_the_bound() -> None:
    transform = Discrete(16)
    model = ring(VPSDE())
    inside = GaussianChainModel(model, VPSDE().chain(40))
    pixels = transform.decode(model.sample(20, 0.0, generator()).clamp(-0.99, 0.99))
    out = chain_bits_per_dim(inside, pixels, transform, draws=2)
    torch.testing.assert_close(out.bits, -out.bound.value / (2 * math.log(2)))
    torch.testing.assert_close(out.stderr, out.bound.stderr / (2 * math.log(2)))
    assert out.bound.nfe == 80
    density = chain_bound(inside, transform.encode(pixels), draws=2)
    torch.testing.assert_close(out.bound.steps, density.steps)  # all but L_0
    assert (out.bound.reconstruction >= 0).all()
    part = chain_bits_per_dim(inside, pixels[3:5], transform, draws=2, first=3, batch_size=7)
    torch.testing.assert_close(part.bits, out.bits[3:5])
    assert "draw stderr" in repr(out)
    assert "reconstruction" in out._repr_html_()


def test_pilot_weights_follow_the_noise_of_the_terms() -> None:
    """The error of draws by them is that of the default's, or less, and a flat choice is far worse."""
    sde = VPSDE()
    model = ring(sde)
    inside, x = GaussianChainModel(model, sde.chain(500)), model.sample(100, 0.0, generator())
    weights = pilot_weights(inside, model.sample(32, 0.0, generator(1)))
    assert weights.shape == (500,)
    assert (weights > 0).all()

    def error(w: Tensor | None) -> float:
        return chain_bound(inside, x, evaluations=40, weights=w).draw_stderr

    assert error(weights) < 1.15 * error(None)
    assert error(weights) < 0.5 * error(torch.ones(500))
    full = chain_bound(inside, x, draws=4)
    drawn = chain_bound(inside, x, evaluations=40, weights=weights, seed=1)
    assert abs(float((full.value - drawn.value).mean())) < 4 * math.hypot(full.draw_stderr, drawn.draw_stderr)


def test_weights_of_few_steps_and_of_normal_data() -> None:
    sde = VPSDE()
    short = GaussianChainModel(ring(sde), sde.chain(2))
    assert pilot_weights(short, torch.zeros(3, 2)).shape == (2,)
    normal = GaussianMixtureScore([1.0], [[0.0]], [1.0], sde)  # nothing is left to be drawn
    weights = pilot_weights(GaussianChainModel(normal, sde.chain(50)), torch.ones(4, 1))
    assert weights.isfinite().all()
    assert (weights > 0).all()


def wrong(call: Any, *words: str) -> None:
    with pytest.raises(ValueError, match=".*".join(words)) as found:
        call()
    assert "\n" not in str(found.value)


def test_wrong_input() -> None:
    sde = VPSDE()
    model = ring(sde)
    inside, pixels = GaussianChainModel(model, sde.chain(10)), torch.zeros(3, 2).int()
    wrong(lambda: chain_bits_per_dim(inside, pixels), "does not know the transform")
    wrong(lambda: chain_bits_per_dim(inside, pixels, Affine(0.0, 1.0)), "discrete data")  # type: ignore[arg-type]
    wrong(lambda: chain_bits_per_dim(inside, pixels + 4, Discrete(4)), "integers 0..3")
    wrong(lambda: chain_bits_per_dim(inside, pixels[0], Discrete(4)), "pixels has shape")
    wrong(lambda: chain_bits_per_dim(model, pixels, Discrete(4)), "GaussianChainModel")  # type: ignore[arg-type]
    wrong(lambda: pilot_weights(inside, torch.zeros(3, 2), levels=1), "levels is 1")
