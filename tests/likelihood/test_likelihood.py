"""Likelihoods against the exact density of mixtures, and bits per dimension against closed forms."""

import copy
import functools
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.data.affine import Identity
from scoresde.data.transforms import Discrete
from scoresde.likelihood import LogLikelihood, bits_per_dim, decode, encode, log_likelihood
from scoresde.numerics.ode import BOSH3, DORMAND_PRINCE
from scoresde.numerics.trace import Exact, Hutchinson
from scoresde.preconditioning import EDMPreconditioning, NoisePreconditioning, Preconditioning
from scoresde.score import GaussianMixtureScore, NetworkScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE
from scoresde.sde.coordinates import Angle
from tests.problems import Oracle, correlated, gaussian, generator, ring

F64 = torch.float64
LN2 = math.log(2)


@functools.cache
def mixture_case() -> tuple[GaussianMixtureScore, Tensor, LogLikelihood]:
    """The 6-D mixture under VP at the default tolerance, six points."""
    model = correlated(VPSDE())
    x = model.sample(6, model.sde.t_min, generator())
    return model, x, log_likelihood(model, x, divergence=Exact())


@pytest.mark.parametrize("make", [ring, correlated], ids=["ring", "full"])
def test_exact_density_under_every_sde(sde: SDE, make: Any) -> None:
    """At tolerance τ a step may err by τ per dimension in the state; log p moves by that times the score's size
    in units of the state, below 10 here, over some 15 steps."""
    model, tol = make(sde), 1e-5
    x = model.sample(5, sde.t_min, generator())
    out = log_likelihood(model, x, divergence=Exact(), rtol=tol, atol=tol)
    truth = model.log_prob(x, sde.t_min)
    # Not from the solver: the latent's density is the Gaussian's of the same moments, not the mixture's.
    t = torch.tensor(sde.t_max, dtype=F64)
    prior = model.log_prob(out.latent, t) - matched(model, out.latent, t)
    assert (out.log_prob + prior - truth).abs().max() < 50 * tol * x.shape[1]
    assert prior.abs().max() < 5e-3
    assert out.stderr.tolist() == [0.0] * 5
    assert out.log_prob.dtype == F64
    assert out.latent.shape == x.shape
    assert out.t_min == sde.t_min


def matched(model: GaussianMixtureScore, z: Tensor, t: Tensor) -> Tensor:
    """log N(z; α m, α² Σ + σ² I)."""
    known = model.statistics
    assert known is not None
    assert known.covariance is not None
    eye = torch.eye(z.shape[1], dtype=F64)
    alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
    return torch.distributions.MultivariateNormal(
        alpha * known.mean, alpha**2 * known.covariance + sigma**2 * eye
    ).log_prob(z)


def test_error_follows_the_tolerance() -> None:
    model, x, _ = mixture_case()
    t = torch.tensor(model.sde.t_max, dtype=F64)
    errors, counts = [], []
    for tol in (1e-3, 1e-5, 1e-7):
        out = log_likelihood(model, x, divergence=Exact(), rtol=tol, atol=tol)
        exact_prior = out.log_prob + model.log_prob(out.latent, t) - matched(model, out.latent, t)
        errors.append(float((exact_prior - model.log_prob(x, model.sde.t_min)).abs().mean()))
        counts.append(float(out.nfe.double().mean()))
    for coarse, fine in itertools.pairwise(errors):
        assert 10 < coarse / fine < 10_000
    # A fifth-order pair: a factor 100 in tolerance is 100^(1/5) = 2.5 in steps.
    assert 1.5 < counts[1] / counts[0] < 3.5
    assert 1.5 < counts[2] / counts[1] < 3.5


def test_another_pair() -> None:
    model, x, reference = mixture_case()
    out = log_likelihood(model, x, divergence=Exact(), rtol=1e-4, atol=1e-4, method=BOSH3)
    assert (out.log_prob - reference.log_prob).abs().max() < 50 * 1e-4 * 6


@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_probes_do_not_touch_the_path(tol: float) -> None:
    """No sample is solved again here, which the error of the trace decides, and that is another with probes."""
    model, x, _ = mixture_case()
    exact, probed = (log_likelihood(model, x, rtol=tol, atol=tol, divergence=d, seed=3) for d in (Exact(), None))
    assert torch.equal(exact.latent, probed.latent)
    assert torch.equal(exact.nfe, probed.nfe)


def test_gaussian_data_are_exact(sde: SDE) -> None:
    """The state stands still, so that there is no error of any step: round-off alone."""
    model = gaussian(sde, (3,))
    x = model.sample(4, sde.t_min, generator())
    for tol in (1e-3, 1e-6):
        out = log_likelihood(model, x, divergence=Exact(), rtol=tol, atol=tol)
        assert (out.log_prob - model.log_prob(x, sde.t_min)).abs().max() < 1e-9
        assert int(out.nfe.max()) <= 30
    # The code of a Gaussian flow keeps (x − M)/√V.
    t = torch.tensor([sde.t_min, sde.t_max], dtype=F64)
    alpha, spread = sde.alpha(t), (0.3 * sde.alpha(t) ** 2 + sde.sigma(t) ** 2).sqrt()
    wanted = 0.7 * alpha[1] + spread[1] * (x - 0.7 * alpha[0]) / spread[0]
    torch.testing.assert_close(out.latent, wanted, rtol=1e-9, atol=1e-9)


def test_gaussian_data_with_a_covariance() -> None:
    factor = torch.randn(5, 5, generator=generator(2), dtype=F64)
    model = GaussianMixtureScore(
        torch.ones(1), torch.full((1, 5), -0.4), (factor @ factor.T / 5 + 0.02 * torch.eye(5))[None], VPSDE()
    )
    x = model.sample(4, 1e-5, generator())
    out = log_likelihood(model, x, divergence=Exact(), rtol=1e-7, atol=1e-7)
    assert (out.log_prob - model.log_prob(x, 1e-5)).abs().max() < 50 * 1e-7 * 5


def test_plain_prior_has_the_bias_it_should() -> None:
    """log N(z; 0, σ²) for log N(z; α m, V): in closed form where the data are Gaussian."""
    for sde in (VPSDE(), VESDE(sigma_max=5.0)):
        model = gaussian(sde, (3,))
        x = model.sample(4, sde.t_min, generator())
        plain = log_likelihood(model, x, divergence=Exact(), prior="plain")
        t = torch.tensor(sde.t_max, dtype=F64)
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        variance = 0.3 * alpha**2 + sigma**2
        z = plain.latent
        bias = -0.5 * (
            (z**2).sum(1) / sigma**2 - ((z - 0.7 * alpha) ** 2).sum(1) / variance + 3 * math.log(sigma**2 / variance)
        )
        assert bias.abs().max() > 1e-3
        torch.testing.assert_close(plain.log_prob, model.log_prob(x, sde.t_min) + bias, rtol=0, atol=1e-9)
        torch.testing.assert_close(
            sde.prior_log_prob(z), -0.5 * ((z / sigma) ** 2 + math.log(2 * math.pi * sigma**2)).sum(1)
        )


def test_without_statistics() -> None:
    model = gaussian(VESDE(sigma_max=5.0), (3,))
    model.statistics = None
    x = model.sample(4, 0.0, generator())
    a = log_likelihood(model, x, divergence=Exact(), rtol=1e-7, atol=1e-7)
    b = log_likelihood(gaussian(VESDE(sigma_max=5.0), (3,)), x, divergence=Exact(), prior="plain")
    torch.testing.assert_close(a.log_prob, b.log_prob, rtol=0, atol=1e-5)


def test_statistics_without_a_covariance() -> None:
    """The prior's variance is then α² s² + σ² in every direction; it must be kept in float64."""
    from scoresde.statistics import Statistics

    model = gaussian(EDMSDE(), (200,))
    assert model.statistics is not None
    model.statistics = Statistics(model.statistics.mean, model.statistics.std)
    x = model.sample(2, 0.002, generator())
    out = log_likelihood(model, x, divergence=Hutchinson())
    assert (out.log_prob - model.log_prob(x, 0.002)).abs().max() < 1e-9


def wrapped(model: GaussianMixtureScore, preconditioning: Preconditioning) -> NetworkScore:
    return NetworkScore(Oracle(model, preconditioning), model.sde, preconditioning, model.statistics)


def test_network_with_an_oracle() -> None:
    model, x, exact = mixture_case()
    assert model.statistics is not None
    edm = EDMPreconditioning(float(model.statistics.std))
    coarse = log_likelihood(model, x, divergence=Exact(), rtol=1e-3, atol=1e-3)
    oracle, angle = wrapped(model, NoisePreconditioning()), Angle(float(model.statistics.std))
    out = log_likelihood(oracle, x, divergence=Exact(), rtol=1e-3, atol=1e-3, variable=angle)
    # The same path, of whose error only an exact score makes nothing.
    torch.testing.assert_close(out.latent, coarse.latent, rtol=0, atol=1e-7)
    assert bool(((out.log_prob - coarse.log_prob).abs() <= 2 * out.solver_stderr).all())
    network = copy.deepcopy(wrapped(model, edm)).float()
    assert network.dtype == torch.float32
    out = log_likelihood(network, x.float(), divergence=Exact(), rtol=1e-4, atol=1e-4)
    assert out.latent.dtype == torch.float32
    assert out.log_prob.dtype == F64
    # float32 noise in ε is amplified by σ̃⁻¹ in the score, but the state and log-determinant are float64.
    assert (out.log_prob - exact.log_prob).abs().max() < 50 * 1e-4 * 6


def test_labels_reach_the_network() -> None:
    class TwoClasses(ScoreModel):
        """Class 0 has one Gaussian, class 1 another."""

        def __init__(self) -> None:
            super().__init__(VPSDE())
            self.parts = nn.ModuleList([gaussian(VPSDE(), (2,), 0.5, 0.2), gaussian(VPSDE(), (2,), -1.0, 0.6)])

        def denoise(self, x: Tensor, t: Tensor, labels: Tensor, scale: Any = 1.0) -> Tensor:
            assert float(scale) == 1
            assert len(labels) == len(x)
            a, b = (part.denoise(x, t) for part in self.parts)
            return torch.where(labels[:, None] == 0, a, b)

    model = TwoClasses()
    x = torch.randn(5, 2, dtype=F64, generator=generator())
    labels = torch.tensor([0, 1, 1, 0, 1])
    parts = torch.stack([part.log_prob(x, 1e-5) for part in model.parts])  # type: ignore[operator]
    wanted = parts.gather(0, labels[None])[0]
    # No statistics: the plain prior's bias, 0.1 nats at most.
    out = log_likelihood(model, x, labels=labels, batch_size=2, scale=torch.tensor(1.0))
    assert (out.log_prob - wanted).abs().max() < 0.1
    z = encode(model, x, labels=labels, rtol=1e-5, atol=1e-5)
    assert (decode(model, z, labels=labels, rtol=1e-5, atol=1e-5) - x).abs().max() < 1e-3
    with pytest.raises(ValueError, match="labels has 4 entries, expected one for each of the 5 samples"):
        log_likelihood(model, x, labels=labels[:4])
    with pytest.raises(ValueError, match="labels has 4 entries"):
        encode(model, x, labels=labels[:4])


def test_encode_and_decode_are_inverse(sde: SDE) -> None:
    model = correlated(sde, (3,))
    x = model.sample(4, sde.t_min, generator())
    z = encode(model, x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(decode(model, z, rtol=1e-7, atol=1e-7), x, rtol=0, atol=1e-4)
    assert (z - x).abs().max() > 0.1


def test_encode_is_the_likelihoods_code() -> None:
    model, x, _ = mixture_case()
    out = log_likelihood(model, x, method=DORMAND_PRINCE)
    torch.testing.assert_close(encode(model, x), out.latent, rtol=0, atol=1e-3)
    batch = encode(model, x)[1]
    assert (encode(model, x[1:2])[0] - batch).abs().max() < 1e-10


def test_own_interval() -> None:
    model, x, _ = mixture_case()
    low = log_likelihood(model, x, divergence=Exact(), t_min=0.1, t_max=0.9, rtol=1e-6, atol=1e-6)
    t = torch.tensor(0.9, dtype=F64)
    fixed = low.log_prob + model.log_prob(low.latent, t) - matched(model, low.latent, t)
    assert (fixed - model.log_prob(x, 0.1)).abs().max() < 50 * 1e-6 * 6
    assert low.t_min == 0.1


def test_images_are_flat_vectors() -> None:
    model, x, flat = mixture_case()
    image = GaussianMixtureScore(model.weights, model.means.reshape(3, 1, 2, 3), covariance_of(model), model.sde)
    out = log_likelihood(image, x.reshape(6, 1, 2, 3), divergence=Exact())
    torch.testing.assert_close(out.log_prob, flat.log_prob, rtol=0, atol=1e-7)
    assert out.latent.shape == (6, 1, 2, 3)


def covariance_of(model: GaussianMixtureScore) -> Tensor:
    assert model.rotations is not None
    return torch.einsum("kij,kj,klj->kil", model.rotations, model.variances, model.rotations)


def test_few_dimensions_use_the_exact_divergence() -> None:
    model = ring(VPSDE())
    x = model.sample(2, 1e-5, generator())
    a, b = (
        log_likelihood(model, x, rtol=1e-3, atol=1e-3),
        log_likelihood(model, x, rtol=1e-3, atol=1e-3, seed=1),
    )
    assert torch.equal(a.log_prob, b.log_prob)
    assert a.stderr.tolist() == [0, 0]
    model6, x6, _ = mixture_case()
    assert log_likelihood(model6, x6[:2], rtol=1e-2, atol=1e-2, divergence=Hutchinson(6)).stderr.tolist() == [
        0,
        0,
    ]
    assert float(log_likelihood(model6, x6[:2], rtol=1e-2, atol=1e-2, divergence=Hutchinson(5)).stderr.min()) > 0


@pytest.fixture(scope="module")
def probed() -> tuple[Tensor, Tensor]:
    """Errors and standard errors from one probe, 300 samples of a 16-D mixture."""
    model = correlated(EDMSDE(), (16,))
    x = model.sample(300, 0.002, generator(5))
    out = log_likelihood(model, x, rtol=1e-3, atol=1e-3, seed=1)
    t = torch.tensor(80.0, dtype=F64)
    prior = model.log_prob(out.latent, t) - matched(model, out.latent, t)
    return out.log_prob + prior - model.log_prob(x, 0.002), out.stderr


def test_probes_are_unbiased(probed: tuple[Tensor, Tensor]) -> None:
    error, _ = probed
    assert abs(float(error.mean())) < 4 * float(error.std()) / math.sqrt(len(error))
    assert float(error.std()) > 0.1


def test_the_standard_error_is_honest(probed: tuple[Tensor, Tensor]) -> None:
    error, stderr = probed
    inside = float((error.abs() < 2 * stderr).double().mean())
    assert inside > 0.95 - 2 * math.sqrt(0.95 * 0.05 / len(error))
    # The estimate errs on the large side, but not by much.
    ratio = float(stderr.square().mean().sqrt() / error.square().mean().sqrt())
    assert 0.9 < ratio < 1.5


def test_probes_average() -> None:
    model, x, exact = mixture_case()
    out = log_likelihood(model, x, divergence=Hutchinson(4), rtol=1e-3, atol=1e-3)
    one = log_likelihood(model, x, divergence=Hutchinson(1), rtol=1e-3, atol=1e-3)
    assert bool(((out.log_prob - exact.log_prob).abs() < 4 * out.stderr + 1e-2).all())
    assert float(out.stderr.mean() / one.stderr.mean()) == pytest.approx(0.5, rel=0.3)


class Recording:
    """A transform that keeps what it encoded."""

    def __init__(self, inner: Discrete) -> None:
        self.inner = inner
        self.levels = inner.levels
        self.seen: list[Tensor] = []

    def encode(self, raw: Tensor, noise: Tensor | None = None) -> Tensor:
        x = self.inner.encode(raw, noise, torch.float64)
        self.seen.append(x)
        return x

    def log_det(self, shape: tuple[int, ...]) -> float:
        return self.inner.log_det(shape)


PIXELS = torch.tensor([[3, 8, 12], [16, 0, 7]])


def test_bits_formula_and_draws() -> None:
    model, transform = gaussian(VPSDE(), (3,), mean=0.1, variance=0.3), Recording(Discrete(17))
    out = bits_per_dim(model, PIXELS, transform, draws=3, seed=5)
    assert len(transform.seen) == 3
    density = torch.stack([model.log_prob(x, 1e-5) for x in transform.seen])
    log_prob = density.mean(0)
    torch.testing.assert_close(out.log_prob, log_prob, rtol=0, atol=1e-8)
    # p(pixels + u) = p(x) |dx/du| with |dx/du| = (2/17)³
    wanted = -(log_prob + 3 * math.log(2 / 17)) / (3 * LN2)
    torch.testing.assert_close(out.bits, wanted, rtol=0, atol=1e-8)
    assert out.mean == pytest.approx(float(wanted.mean()), abs=1e-8)
    assert out.mean_stderr == pytest.approx(float(wanted.std()) / math.sqrt(2), abs=1e-8)
    assert out.t_min == 1e-5
    assert out.draws == 3
    assert density.std(0).min() > 0
    again = Recording(Discrete(17))
    bits_per_dim(model, PIXELS[1:], again, seed=5, first=1)
    assert torch.equal(again.seen[0], transform.seen[0][1:])
    # Each level's own cell, and all of it.
    assert torch.equal(transform.inner.decode(transform.seen[1]).long(), PIXELS)


def test_bits_of_a_gaussian_in_closed_form() -> None:
    """E_u (x − M)² = (centre − M)² + w²/12 over a cell of width w: the expected bits of one factorised model."""
    model, transform = gaussian(VPSDE(), (2,), mean=0.1, variance=0.3), Discrete(8)
    pixel, n = torch.tensor([2, 6]), 4000
    out = bits_per_dim(model, pixel.expand(n, 2), transform)
    t = torch.tensor(1e-5, dtype=F64)
    mean, variance = 0.1 * model.sde.alpha(t), 0.3 * model.sde.alpha(t) ** 2 + model.sde.sigma(t) ** 2
    width = 2 / 8
    centre = -1 + (pixel + 0.5) * width
    second = (centre - mean) ** 2 + width**2 / 12
    nats = 0.5 * (second / variance + torch.log(2 * math.pi * variance)) - math.log(width)
    wanted = float(nats.mean()) / LN2
    assert out.mean == pytest.approx(wanted, abs=4 * out.mean_stderr)
    assert out.mean_stderr < 5e-3
    # An upper bound of the discrete model's bits, −log₂ ∫ p over the cell, and close to it: the gap is half the
    # variance of log p within a cell.
    normal = torch.distributions.Normal(mean, variance.sqrt())
    mass = normal.cdf(centre + width / 2) - normal.cdf(centre - width / 2)
    exact = float(-mass.log2().mean())
    assert wanted > exact
    slope = (centre - mean) / variance * width
    assert wanted - exact == pytest.approx(float((slope**2 / 24).mean()) / LN2, rel=0.1)


def test_bits_do_not_depend_on_the_models_units() -> None:
    wide = correlated(VESDE(0.01, 20.0), (3,))
    half = GaussianMixtureScore(wide.weights, (wide.means + 1) / 2, covariance_of(wide) / 4, VESDE(0.005, 10.0))
    a = bits_per_dim(wide, PIXELS, Discrete(17), divergence=Exact(), rtol=1e-4, atol=1e-4)
    b = bits_per_dim(half, PIXELS, Discrete(17, 0.0, 1.0), divergence=Exact(), rtol=1e-4, atol=1e-4)
    # The two are one problem in other units, up to float32 pixels: the steps are the same.
    torch.testing.assert_close(a.bits, b.bits, rtol=0, atol=1e-4)
    torch.testing.assert_close(b.log_prob - a.log_prob, torch.full((2,), 3 * LN2, dtype=F64), rtol=0, atol=1e-3)


def test_bits_standard_error_from_probes() -> None:
    model = correlated(VPSDE())
    pixels = torch.randint(0, 17, (40, 6), generator=generator())
    options: dict[str, Any] = {"rtol": 1e-2, "atol": 1e-2}
    one = bits_per_dim(model, pixels, Discrete(17), **options)
    four = bits_per_dim(model, pixels, Discrete(17), draws=4, **options)
    assert float(one.stderr.min()) > 0
    assert float(four.stderr.mean() / one.stderr.mean()) == pytest.approx(0.5, rel=0.25)
    single = log_likelihood(model, Discrete(17).encode(pixels), **options)
    assert float(one.stderr.mean() * 6 * LN2 / single.stderr.mean()) == pytest.approx(1, rel=0.1)


def test_bits_errors() -> None:
    model = gaussian(VPSDE(), (3,))
    with pytest.raises(ValueError, match="continuous: use log_likelihood"):
        bits_per_dim(model, PIXELS, Identity())
    with pytest.raises(ValueError, match="draws is 0, expected at least 1"):
        bits_per_dim(model, PIXELS, Discrete(17), draws=0)
    with pytest.raises(ValueError, match="expected 'uniform'"):
        bits_per_dim(model, PIXELS, Discrete(17), dequantisation="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one sample"):
        bits_per_dim(model, PIXELS[:0], Discrete(17))
    with pytest.raises(ValueError, match=r"integers 0\.\.9"):
        bits_per_dim(model, PIXELS, Discrete(10))


def test_bad_arguments() -> None:
    model = gaussian(VPSDE(), (3,))
    x = torch.zeros(2, 3, dtype=F64)
    bad = x.clone()
    bad[1, 0] = torch.nan
    for function in (log_likelihood, encode, decode):
        with pytest.raises(
            ValueError, match="not finite in 1 of 2 samples, the first of them sample 1: remove those first"
        ):
            function(model, bad)
        with pytest.raises(ValueError, match="at least one sample"):
            function(model, x[:0])
        with pytest.raises(ValueError, match="at least one sample"):
            function(model, x[0])
        for name in ("rtol", "atol"):
            for value in (0.0, -1.0, math.nan):
                with pytest.raises(ValueError, match="must be positive"):
                    function(model, x, **{name: value})
        with pytest.raises(ValueError, match="outside"):
            function(model, x, t_min=1e-7)
        with pytest.raises(ValueError, match="outside"):
            function(model, x, t_max=2.0)
        with pytest.raises(ValueError, match="less than t_max"):
            function(model, x, t_min=0.6, t_max=0.5)
    with pytest.raises(ValueError, match="expected 'matched' or 'plain'"):
        log_likelihood(model, x, prior="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size is 0"):
        log_likelihood(model, x, batch_size=0)


def test_a_broken_model_is_an_error_and_its_mode_is_restored() -> None:
    class Broken(ScoreModel):
        def denoise(self, x: Tensor, t: Tensor) -> Tensor:
            assert not self.training
            return x * torch.where(x[:, :1] > 0, torch.nan, 1.0)

    model = Broken(VPSDE()).train()
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]])
    with pytest.raises(ArithmeticError, match="could not be followed for 2 of 3 samples"):
        log_likelihood(model, x)
    assert model.training


def test_nfe_and_repr() -> None:
    class Counted(ScoreModel):
        rows = 0

        def denoise(self, x: Tensor, t: Tensor) -> Tensor:
            Counted.rows += len(x)
            return x / (1 + x**2)

    model = Counted(VPSDE())
    x = torch.randn(4, 6, generator=generator(), requires_grad=True)
    out = log_likelihood(model, x, rtol=1e-3, atol=1e-3)
    # One forward for each evaluation of the field: the divergence shares it.
    assert Counted.rows == int(out.nfe.sum())
    assert out.nfe.shape == (4,)
    assert repr(out).startswith("LogLikelihood(")
    assert "n=4" in repr(out)
