"""Exact score models against autograd, quadrature and torch.distributions; networks against the contract."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.data import Affine, Discrete
from scoresde.networks import MLP
from scoresde.preconditioning import (
    EDMPreconditioning,
    FlowPreconditioning,
    NoisePreconditioning,
    Preconditioning,
    ScorePreconditioning,
    VelocityPreconditioning,
)
from scoresde.score import (
    BoundModel,
    Conditions,
    EmpiricalScore,
    GaussianMixtureScore,
    NetworkScore,
    ScoreModel,
    in_model_space,
    with_sde,
)
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE, FlowSDE
from tests.problems import Mixture

F64 = torch.float64
PREDICTIONS = ("denoise", "noise", "score", "velocity")


def at_log_snr(sde: SDE, *log_snr: float) -> Tensor:
    return sde.time(torch.tensor(log_snr, dtype=F64))


def middle(sde: SDE) -> Tensor:
    """Three times at which data and noise both count, in float64."""
    return at_log_snr(sde, 3.0, 0.0, -3.0)


def assert_consistent(model: ScoreModel, x: Tensor, t: Tensor, rtol: float = 1e-9, **cond: object) -> None:
    """x = α x₀ + σ ε, score = −ε/σ and velocity = f x − ½ g² score."""
    sde = model.sde
    alpha, sigma, f, g = (
        v.reshape(-1, *[1] * (x.ndim - 1))
        for v in (sde.alpha(t), sde.sigma(t), sde.drift_coefficient(t), sde.diffusion(t))
    )
    denoised, noise, score, velocity = (getattr(model, name)(x, t, **cond) for name in PREDICTIONS)
    torch.testing.assert_close(alpha * denoised + sigma * noise, x, rtol=rtol, atol=rtol)
    torch.testing.assert_close(score, -noise / sigma, rtol=rtol, atol=rtol)
    torch.testing.assert_close(velocity, f * x - 0.5 * g**2 * score, rtol=rtol, atol=rtol * float(1 + g.max() ** 2))


# Gaussian mixtures


def test_mixture_density_matches_torch_distributions(mixture: Mixture, sde: SDE, generator: torch.Generator) -> None:
    model = mixture.model(sde)
    for t in middle(sde):
        x = model.sample(8, t, generator)
        wanted = mixture.at(sde, t).log_prob(x.flatten(1))
        torch.testing.assert_close(model.log_prob(x, t), wanted, rtol=1e-10, atol=1e-10)


def test_mixture_score_is_the_gradient_of_its_density(mixture: Mixture, sde: SDE, generator: torch.Generator) -> None:
    model = mixture.model(sde)
    for t in middle(sde):
        x = model.sample(8, t, generator).requires_grad_()
        (wanted,) = torch.autograd.grad(model.log_prob(x, t).sum(), x)
        torch.testing.assert_close(model.score(x.detach(), t), wanted, rtol=1e-9, atol=1e-9)


def test_mixture_score_where_there_is_next_to_no_noise(mixture: Mixture, generator: torch.Generator) -> None:
    """At σ = 1e-3 the score is of order 1/σ, and of order 1/σ² off the plane of a singular covariance."""
    sde = VPSDE()
    t = torch.tensor(sde.t_min, dtype=F64)
    model = mixture.model(sde)
    x = model.sample(8, t, generator)
    x[0] += 0.1
    x.requires_grad_()
    log_prob = model.log_prob(x, t)
    (wanted,) = torch.autograd.grad(log_prob.sum(), x)
    assert log_prob.isfinite().all()
    sigma = sde.sigma(t).item()
    # x − α μ has an error of eps |x|, which the precision 1/σ² multiplies; twice over in a responsibility.
    torch.testing.assert_close(model.score(x.detach(), t), wanted, rtol=1e-8, atol=1e-14 / sigma**2)


def test_predictions_of_a_mixture_agree(mixture: Mixture, sde: SDE, generator: torch.Generator) -> None:
    t = middle(sde)
    model = mixture.model(sde)
    x = torch.cat([model.sample(1, time, generator) for time in t])
    assert_consistent(model, x, t)
    torch.testing.assert_close(model(x, t), model.denoise(x, t))


@pytest.mark.parametrize("kind", ["isotropic"])
@pytest.mark.parametrize("log_snr", [2.0, 0.0, -2.0])
def test_denoising_is_the_posterior_mean_by_quadrature_in_1d(sde: SDE, log_snr: Any, kind: Any) -> None:
    weights, means, variances = (torch.tensor(v, dtype=F64) for v in ([0.3, 0.7], [[-1.0], [1.5]], [0.2, 0.5]))
    t = at_log_snr(sde, log_snr)[0]
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    x0 = torch.linspace(-8, 8, 4001, dtype=F64)  # the trapezium rule converges geometrically on a Gaussian
    prior = (weights * torch.distributions.Normal(means[:, 0], variances.sqrt()).log_prob(x0[:, None]).exp()).sum(1)
    x = alpha * torch.tensor([-2.0, 0.1, 3.0], dtype=F64)
    joint = prior * torch.distributions.Normal(alpha * x0, sigma).log_prob(x[:, None]).exp()
    wanted = (joint * x0).sum(1) / joint.sum(1)
    model = GaussianMixtureScore(weights, means, variances, sde)
    torch.testing.assert_close(model.denoise(x[:, None], t)[:, 0], wanted, rtol=1e-10, atol=1e-10)
    density = joint.sum(1) * (x0[1] - x0[0])
    torch.testing.assert_close(model.log_prob(x[:, None], t), density.log(), rtol=1e-10, atol=1e-10)


def test_denoising_is_the_posterior_mean_by_quadrature_in_2d(planar: Mixture) -> None:
    sde = VPSDE()
    t = at_log_snr(sde, 0.5)[0]
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    axis = torch.linspace(-12, 12, 301, dtype=F64)  # spacing 0.08, a quarter of the smallest standard deviation
    x0 = torch.cartesian_prod(axis, axis)
    start = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(planar.weights),
        torch.distributions.MultivariateNormal(planar.means, planar.full),
    )
    x = torch.tensor([[0.3, -0.4], [1.5, 1.0]], dtype=F64)
    log_joint = start.log_prob(x0) - 0.5 * ((x[:, None] - alpha * x0) ** 2).sum(2) / sigma**2
    torch.testing.assert_close(planar.model(sde).denoise(x, t), log_joint.softmax(1) @ x0, rtol=1e-8, atol=1e-8)


def test_velocity_carries_the_density(planar: Mixture) -> None:
    """Continuity: ∂ log p/∂t + div v + v · score = 0 along the probability flow."""
    for sde in (VPSDE(), VESDE(), FlowSDE()):
        model = planar.model(sde)
        t = at_log_snr(sde, 0.3)[0].requires_grad_()
        x = torch.tensor([[0.4, -1.0]], dtype=F64)
        rate = torch.func.jvp(lambda s, m=model, y=x: m.log_prob(y, s), (t.detach(),), (torch.ones((), dtype=F64),))[1]
        jacobian = torch.func.jacrev(lambda y, m=model, s=t: m.velocity(y[None], s)[0])(x[0]).detach()
        change = rate + jacobian.trace() + (model.velocity(x, t) * model.score(x, t)).sum()
        assert abs(change.item()) < 1e-9 * (1 + abs(rate.item()))


def test_mixture_samples_have_its_moments(mixture: Mixture, generator: torch.Generator) -> None:
    n, sde = 20000, VPSDE()
    t = at_log_snr(sde, 1.0)[0]
    x = mixture.model(sde).sample(n, t, generator)
    assert x.shape == (n, *mixture.means.shape[1:])
    flat, means = x.flatten(1), mixture.means.flatten(1)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    mean = mixture.weights @ means
    second = torch.einsum("k,kij->ij", mixture.weights, mixture.full + means[:, :, None] * means[:, None, :])
    covariance = alpha**2 * (second - torch.outer(mean, mean)) + sigma**2 * torch.eye(len(mean), dtype=F64)
    spread = flat - alpha * mean
    assert (spread.mean(0).abs() < 5 * (covariance.diagonal() / n).sqrt()).all()
    products = spread[:, :, None] * spread[:, None, :]
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / math.sqrt(n)).all()


def test_mixture_samples_repeat_with_the_seed(planar: Mixture) -> None:
    model = planar.model(VPSDE())
    draws = [model.sample(5, 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    # A copy in float32 draws the same, up to the rounding of its numbers.
    single = copy.deepcopy(model).float().sample(5, 0.5, torch.Generator().manual_seed(1))
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, draws[0], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="n is 0, expected at least one sample"):
        model.sample(0, 0.5)


def test_draws_do_not_depend_on_the_signs_of_eigenvectors(planar: Mixture) -> None:
    """LAPACK gives others on another processor, and a seed should give the same samples on all."""
    model = planar.model(VPSDE())
    wanted = model.sample(7, 0.1, torch.Generator().manual_seed(1))
    assert model.rotations is not None
    model.rotations *= torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(model.sample(7, 0.1, torch.Generator().manual_seed(1)), wanted, rtol=1e-12, atol=1e-12)


def test_mixture_knows_its_statistics(mixture: Mixture) -> None:
    statistics = mixture.model(VPSDE()).statistics
    means = mixture.means.flatten(1)
    mean = mixture.weights @ means
    second = torch.einsum("k,kij->ij", mixture.weights, mixture.full + means[:, :, None] * means[:, None, :])
    covariance = second - torch.outer(mean, mean)
    torch.testing.assert_close(statistics.mean, mean.reshape(mixture.means.shape[1:]))
    torch.testing.assert_close(statistics.covariance, covariance)
    assert float(statistics.std) == pytest.approx(covariance.diagonal().mean().sqrt().item(), rel=1e-12)


def test_weights_are_normalised(planar: Mixture) -> None:
    sde = VPSDE()
    scaled = GaussianMixtureScore(10 * planar.weights, planar.means, planar.given, sde)
    x, t = torch.ones(1, 2, dtype=F64), torch.tensor(0.4, dtype=F64)
    torch.testing.assert_close(scaled.log_prob(x, t), planar.model(sde).log_prob(x, t))
    torch.testing.assert_close(scaled.weights.sum(), torch.ones((), dtype=F64))


def test_a_time_is_the_same_as_a_number_or_a_tensor(planar: Mixture) -> None:
    """A number is a float64 time: 0.001 must not become the float32 next to it."""
    sde = EDMSDE()
    x = torch.tensor([[0.3, -0.8]], dtype=F64)
    t = torch.tensor(0.0123, dtype=F64)
    for model in (planar.model(sde), EmpiricalScore(planar.means, sde), with_sde(planar.model(VPSDE()), sde)):
        for name in PREDICTIONS:
            torch.testing.assert_close(
                getattr(model, name)(x, t.item()), getattr(model, name)(x, t), rtol=1e-14, atol=0
            )
            # A vector's exp and log may round otherwise than a scalar's, and 1/σ² = 6600 makes it show; a
            # time in float32 would be off by 1e-8 or more.
            torch.testing.assert_close(
                getattr(model, name)(x, t[None]), getattr(model, name)(x, t), rtol=1e-10, atol=1e-10
            )
    model = planar.model(sde)
    torch.testing.assert_close(model.log_prob(x, t.item()), model.log_prob(x, t), rtol=1e-14, atol=0)
    torch.testing.assert_close(model.log_prob(x, t[None]), model.log_prob(x, t), rtol=1e-14, atol=0)


def test_lists_of_numbers_are_float64() -> None:
    x, t = torch.zeros(1, 2, dtype=F64), torch.tensor(0.3, dtype=F64)
    numbers = ([0.3, 0.7], [[0.1, 0.2], [-0.3, 0.4]], [0.1, 0.3])
    listed = GaussianMixtureScore(*numbers, VPSDE())  # type: ignore[arg-type]
    weights, means, variances = (torch.tensor(v, dtype=F64) for v in numbers)
    exact = GaussianMixtureScore(weights, means, variances, VPSDE())
    torch.testing.assert_close(listed.log_prob(x, t), exact.log_prob(x, t), rtol=1e-14, atol=0)


def test_mixture_keeps_the_dtype_of_the_state(planar: Mixture) -> None:
    model = planar.model(VPSDE())
    x = torch.tensor([[0.3, -0.8], [1.0, 2.0]], dtype=F64)
    t = torch.tensor([0.2, 0.6], dtype=F64)
    for name in PREDICTIONS:
        single = getattr(model, name)(x.float(), t.float())
        assert single.dtype == torch.float32
        # A few eps, times the condition of a responsibility: squared distances over variances, below 100.
        torch.testing.assert_close(single.double(), getattr(model, name)(x, t), rtol=1e-4, atol=1e-4)


def test_mixture_takes_flat_states(planar: Mixture) -> None:
    shaped = GaussianMixtureScore(planar.weights, planar.means.reshape(3, 1, 1, 2), planar.given, VPSDE())
    x, t = torch.tensor([[0.3, -0.8]], dtype=F64), torch.tensor(0.3, dtype=F64)
    assert torch.equal(shaped.score(x, t), shaped.score(x.reshape(1, 1, 1, 2), t).flatten(1))


def test_a_singular_covariance_may_come_in_float32(generator: torch.Generator) -> None:
    """Rank one by construction; float32 leaves eigenvalues of either sign of order 1e-8."""
    factors = torch.randn(16, 4, 1, generator=generator)
    model = GaussianMixtureScore(torch.ones(16), torch.zeros(16, 4), factors @ factors.mT, VPSDE())
    x = model.sample(4, 0.5, generator)
    assert model.log_prob(x, 0.5).isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.tensor([0.5, -0.5, 1.0])}, "expected 3 positive weights"),
        ({"weights": torch.tensor([0.5, 0.0, 0.5])}, "expected 3 positive weights"),
        ({"weights": torch.ones(2)}, "expected 3 positive weights"),
        ({"weights": torch.full((3,), math.nan)}, "expected 3 positive weights"),
        ({"covariances": torch.full((3,), -0.1)}, "not positive semi-definite"),
        ({"covariances": torch.full((3, 2), -0.1)}, "not positive semi-definite"),
        (
            {"covariances": torch.tensor([[1.0, 2.0], [2.0, 1.0]]).expand(3, 2, 2)},
            "not positive semi-definite",
        ),
        ({"covariances": torch.tensor([[1.0, 0.5], [0.0, 1.0]]).expand(3, 2, 2)}, "not symmetric"),
        ({"covariances": torch.ones(3, 3)}, r"shape \(3, 3\), expected \(3,\), \(3, 2\) or \(3, 2, 2\)"),
        ({"covariances": torch.tensor(1.0)}, r"shape \(\), expected"),
        ({"covariances": torch.full((3,), math.nan)}, "covariances"),
        ({"means": torch.full((3, 2), math.nan)}, "means"),
    ],
)
def test_bad_mixtures_are_refused_in_one_line(change: Any, message: str) -> None:
    good = {"weights": torch.ones(3), "means": torch.zeros(3, 2), "covariances": torch.ones(3)}
    with pytest.raises(ValueError, match=message) as error:
        GaussianMixtureScore(**{**good, **change}, sde=VPSDE())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (torch.zeros(4, 3), torch.tensor(0.5), r"x has shape \(4, 3\), expected"),
        (torch.zeros(2), torch.tensor(0.5), r"x has shape \(2,\), expected"),
        (torch.zeros(4, 2), torch.full((3,), 0.5), r"t has shape \(3,\), expected \(\) or \(4,\)"),
        (torch.zeros(1, 2), torch.full((3,), 0.5), r"t has shape \(3,\), expected \(\) or \(1,\)"),
        (torch.zeros(4, 2), torch.full((4, 1), 0.5), r"t has shape \(4, 1\), expected \(\) or \(4,\)"),
    ],
)
@pytest.mark.parametrize("make", [GaussianMixtureScore, EmpiricalScore])
def test_exact_models_say_what_is_wrong_with_a_state(make: Any, x: Any, t: Any, message: str, planar: Mixture) -> None:
    if make is EmpiricalScore:
        model: ScoreModel = EmpiricalScore(planar.means, VPSDE())
    else:
        model = planar.model(VPSDE())
    for name in ("denoise", "score"):
        with pytest.raises(ValueError, match=message) as error:
            getattr(model, name)(x.double(), t)
        assert "\n" not in str(error.value)


def test_a_sampling_time_is_one_number(planar: Mixture) -> None:
    with pytest.raises(ValueError, match=r"t has shape \(2,\)"):
        planar.model(VPSDE()).sample(2, torch.tensor([0.2, 0.4]))


# Finite data sets


def test_empirical_score_is_a_mixture_of_points(sde: SDE, generator: torch.Generator) -> None:
    data = torch.randn(6, 1, 2, 2, generator=generator, dtype=F64)
    points = GaussianMixtureScore(torch.ones(6), data, torch.zeros(6), sde)
    model = EmpiricalScore(data, sde)
    for t in middle(sde):
        x = points.sample(5, t, generator)
        # x = α x₀ + σ ε: an error of eps |x| in α x₀ is one of eps |x|/σ in ε, hence the divisions.
        for name, scale in (("denoise", 1), ("noise", sde.sigma(t)), ("score", sde.sigma(t) ** 2)):
            torch.testing.assert_close(
                scale * getattr(model, name)(x, t), scale * getattr(points, name)(x, t), rtol=1e-9, atol=1e-12
            )
        assert_consistent(model, x, t.expand(5))


def test_empirical_score_at_the_smallest_noise_returns_the_nearest_point(points: Mixture, sde: SDE) -> None:
    model = EmpiricalScore(points.means.float(), sde)
    t = torch.tensor([sde.t_min] * 3)
    x = sde.alpha(t)[:, None] * points.means.float() + 1e-3 * sde.sigma(t)[:, None]
    denoised = model.denoise(x, t)
    assert torch.equal(denoised, points.means.float())


def test_empirical_score_does_not_depend_on_the_chunk(generator: torch.Generator) -> None:
    data = torch.randn(7, 3, generator=generator, dtype=F64)
    x = torch.randn(5, 3, generator=generator, dtype=F64)
    t = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=F64)
    whole = EmpiricalScore(data, VPSDE()).denoise(x, t)
    for chunk in (1, 7, 15):
        torch.testing.assert_close(
            EmpiricalScore(data, VPSDE(), chunk=chunk).denoise(x, t), whole, rtol=1e-13, atol=1e-14
        )
    for i in range(5):
        torch.testing.assert_close(
            EmpiricalScore(data, VPSDE()).denoise(x[i : i + 1], t[i]),
            whole[i : i + 1],
            rtol=1e-13,
            atol=1e-14,
        )


def test_exact_models_can_be_differentiated(planar: Mixture, generator: torch.Generator) -> None:
    """Forwards and backwards, as exact and estimated divergences do."""
    x, t = torch.randn(2, 2, generator=generator, dtype=F64), torch.tensor(0.4, dtype=F64)
    v = torch.randn(2, 2, generator=generator, dtype=F64)
    for model in (planar.model(VPSDE()), EmpiricalScore(planar.means, VPSDE())):
        step = 1e-6
        wanted = (model.velocity(x + step * v, t) - model.velocity(x - step * v, t)) / (2 * step)
        forwards = torch.func.jvp(lambda y, m=model: m.velocity(y, t), (x,), (v,))[1]
        torch.testing.assert_close(forwards, wanted, rtol=1e-6, atol=1e-6)
        y = x.clone().requires_grad_()
        (backwards,) = torch.autograd.grad((model.velocity(y, t) * v).sum(), y)
        assert (backwards * v).sum().item() == pytest.approx((wanted * v).sum().item(), rel=1e-6)


def test_empirical_statistics_are_those_of_the_data(generator: torch.Generator) -> None:
    data = torch.randn(50, 1, 2, generator=generator, dtype=F64)
    model = EmpiricalScore(data, VPSDE())
    torch.testing.assert_close(model.statistics.mean, data.mean(0))
    assert EmpiricalScore(data[:1], VPSDE()).statistics is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(3), r"data has shape \(3,\), expected \(N, ...\)"),
        (torch.zeros(0, 2), r"data has shape \(0, 2\)"),
        (torch.tensor([[0.0, math.inf]]), "not finite"),
    ],
)
def test_bad_data_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmpiricalScore(data, VPSDE())


# Another SDE


def test_a_mixture_under_another_sde_is_the_mixture_rebuilt(
    planar: Mixture, sde: SDE, other_sde: SDE, generator: torch.Generator
) -> None:
    moved = with_sde(planar.model(sde), other_sde)
    rebuilt = planar.model(other_sde)
    assert (moved.sde.t_min, moved.sde.t_max) == (other_sde.t_min, other_sde.t_max)
    ends = other_sde.log_snr(torch.tensor([other_sde.t_min_sampling, other_sde.t_max], dtype=F64)).tolist()
    t = torch.cat([at_log_snr(other_sde, 3.0, 0.0, ends[0], ends[1]), torch.tensor([other_sde.t_max], dtype=F64)])
    x = torch.cat([rebuilt.sample(1, time, generator) for time in t])
    sigma = other_sde.sigma(t)[:, None]
    # λ is matched to eps (1 + |λ|), so that σ/α is to a relative 1e-14.
    torch.testing.assert_close(moved.noise(x, t), rebuilt.noise(x, t), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(moved.denoise(x, t), rebuilt.denoise(x, t), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(sigma * moved.score(x, t), sigma * rebuilt.score(x, t), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(moved.velocity(x, t), rebuilt.velocity(x, t), rtol=1e-8, atol=1e-8)
    assert moved.statistics is not None
    assert_consistent(moved, x, t, rtol=1e-8)


def test_an_sde_of_alpha_and_sigma_alone_can_carry_a_mixture(planar: Mixture, generator: torch.Generator) -> Any:
    class Plain(SDE):
        def alpha(self, t: Tensor) -> Tensor:
            return (0.5 * math.pi * t).cos()

        def sigma(self, t: Tensor) -> Tensor:
            return (0.5 * math.pi * t).sin()

    sde = Plain(0.01, 0.99)
    t = middle(sde)
    x = torch.randn(3, 2, generator=generator, dtype=F64)
    for moved, rebuilt in (
        (with_sde(planar.model(sde), sde), planar.model(sde)),
        (with_sde(planar.model(VPSDE()), sde), planar.model(sde)),
    ):
        torch.testing.assert_close(moved.velocity(x, t), rebuilt.velocity(x, t), rtol=1e-9, atol=1e-9)


class Probe(nn.Module):
    """A linear network that remembers what it was given."""

    def __init__(self, dim: int = 2, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(dim, dim, dtype=dtype)
        self.seen: list[tuple[Tensor, Tensor, dict]] = []

    def forward(self, x: Tensor, c_noise: Tensor, **cond: object) -> Tensor:
        self.seen.append((x, c_noise, cond))
        return self.linear(x) * (1 + c_noise[:, None])


def network(sde: SDE, preconditioning: Preconditioning | None = None, dtype: torch.dtype = F64) -> NetworkScore:
    return NetworkScore(Probe(dtype=dtype), sde, preconditioning or EDMPreconditioning(0.5))


def test_a_network_under_another_sde_keeps_to_its_noise_levels(
    sde: SDE, other_sde: SDE, generator: torch.Generator
) -> None:
    model = network(sde)
    moved = with_sde(model, other_sde)
    low, high = model.log_snr_range
    ends = moved.sde.log_snr(torch.tensor([moved.sde.t_max, moved.sde.t_min], dtype=F64)).tolist()
    own = other_sde.log_snr(torch.tensor([other_sde.t_max, other_sde.t_min], dtype=F64)).tolist()
    assert ends[0] == pytest.approx(max(low, own[0]), rel=1e-9)
    assert ends[1] == pytest.approx(min(high, own[1]), rel=1e-9)
    # And both ends can be asked for.
    t = torch.tensor([moved.sde.t_min, moved.sde.t_max], dtype=F64)
    x = torch.randn(2, 2, generator=generator, dtype=F64)
    if moved.sde.sigma(t).min() > 0:
        assert moved.score(x, t).isfinite().all()
    # The network sees the same picture whichever SDE asks.
    t = at_log_snr(moved.sde, 1.0, -1.0)
    inner = at_log_snr(sde, 1.0, -1.0)
    clean = x / moved.sde.alpha(t)[:, None]
    torch.testing.assert_close(
        moved.denoise(x, t), model.denoise(clean * sde.alpha(inner)[:, None], inner), rtol=1e-10, atol=1e-12
    )
    assert_consistent(moved, x, t)


def test_sdes_without_a_common_noise_level_are_refused() -> None:
    model = network(EDMSDE(sigma_min=0.002, sigma_max=0.01))
    with pytest.raises(ValueError, match="no noise level in common with the model") as error:
        with_sde(model, EDMSDE(sigma_min=1.0, sigma_max=80.0))
    assert "\n" not in str(error.value)


def test_a_network_under_another_sde_refuses_times_outside() -> None:
    moved = with_sde(network(VPSDE(t_min=1e-3)), EDMSDE())
    with pytest.raises(ValueError, match="outside"):
        moved.denoise(torch.zeros(1, 2, dtype=F64), torch.tensor(2 * moved.sde.t_max, dtype=F64))


def test_moving_twice_keeps_the_narrower_range() -> None:
    narrow = with_sde(network(VPSDE()), EDMSDE(sigma_min=1.0, sigma_max=2.0))
    twice = with_sde(narrow, FlowSDE())
    # σ/α = t/(1 − t) runs from 1 to 2.
    assert twice.sde.t_min == pytest.approx(1 / 2, rel=1e-9)
    assert twice.sde.t_max == pytest.approx(2 / 3, rel=1e-9)
    assert with_sde(narrow, VPSDE()).log_snr_range == pytest.approx((-math.log(2), 0.0), abs=1e-9)


def test_conditions_pass_through_another_sde() -> None:
    model = network(VPSDE())
    labels = torch.tensor([3])
    with_sde(model, EDMSDE()).score(torch.zeros(1, 2, dtype=F64), torch.tensor(1.0), labels=labels)
    assert model.network.seen[0][2] == {"labels": labels}


# Networks


@pytest.mark.parametrize(
    "preconditioning",
    [
        NoisePreconditioning(),
        ScorePreconditioning(),
        VelocityPreconditioning(),
        FlowPreconditioning(),
        EDMPreconditioning(0.5),
    ],
    ids=lambda p: type(p).__name__,
)
def test_predictions_of_a_network_agree(preconditioning: Any, sde: SDE, generator: torch.Generator) -> None:
    t = middle(sde)
    x = torch.randn(3, 2, generator=generator, dtype=F64)
    assert_consistent(network(sde, preconditioning), x, t)


def test_a_network_sees_scaled_states_and_one_noise_level_for_each(generator: torch.Generator) -> None:
    sde, preconditioning = EDMSDE(), EDMPreconditioning(0.5)
    model = network(sde, preconditioning)
    x = torch.randn(3, 2, generator=generator, dtype=F64)
    each = torch.tensor([0.01, 1.0, 50.0], dtype=F64)
    c = preconditioning.coefficients(sde, each)
    denoised = model.denoise(x, each)
    seen, c_noise, cond = model.network.seen[-1]
    torch.testing.assert_close(seen, c.c_in[:, None] * x)
    torch.testing.assert_close(c_noise, 0.25 * each.log())
    assert cond == {}
    torch.testing.assert_close(denoised, c.c_skip[:, None] * x + c.c_out[:, None] * model.raw(x, each))
    for t in (each[1], 1.0, each[1].float()):
        same = model.denoise(x, t)
        assert model.network.seen[-1][1].shape == (3,)
        torch.testing.assert_close(same, model.denoise(x, torch.ones(3, dtype=F64)))
    model.score(x, each, labels=torch.tensor([0, 1, 2]), scale=2.0)
    assert set(model.network.seen[-1][2]) == {"labels", "scale"}
    assert len(model.network.seen) == 9  # one evaluation for one prediction


@pytest.mark.parametrize("inside", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outside", [F64, torch.float32])
def test_a_network_runs_in_its_own_dtype_and_answers_in_that_of_the_state(
    inside: Any, outside: Any, generator: torch.Generator
) -> None:
    model = network(EDMSDE(), dtype=inside)
    x = torch.randn(3, 2, generator=generator, dtype=F64)
    t = torch.tensor([0.002, 1.0, 80.0], dtype=F64)
    reference = network(EDMSDE())
    reference.network.load_state_dict(model.network.state_dict())
    for name in PREDICTIONS:
        value = getattr(model, name)(x.to(outside), t.to(outside))
        assert value.dtype == outside
        assert value.isfinite().all()
        assert model.network.seen[-1][0].dtype == inside
        # The output F of order 1 has a few eps of the network; σ_data σ/√(σ² + σ_data²) ≤ 0.5 scales it.
        if name == "denoise":
            wanted = reference.denoise(x, t)
            torch.testing.assert_close(value.double(), wanted, rtol=0, atol=16 * torch.finfo(inside).eps)


def test_coefficients_are_not_rounded_to_the_dtype_of_t() -> None:
    """At small σ, D is x to float64's digits although the network has float32."""
    model = network(EDMSDE(), dtype=torch.float32)
    x, t = torch.tensor([[0.3, 0.7]], dtype=F64), torch.tensor(0.002, dtype=F64)
    F = model.raw(x, t)
    assert F.dtype == F64
    skip = 0.25 / (0.25 + 4e-6)
    torch.testing.assert_close(
        model.denoise(x, t), skip * x + 0.002 * 0.5 / math.sqrt(0.25 + 4e-6) * F, rtol=1e-14, atol=0
    )


def test_the_velocity_of_a_flow_is_the_network_itself(generator: torch.Generator) -> None:
    """dx/dt = ε − x₀ = F; f x + ½ g²/σ ε has terms of 1/(1 − t) that must not show."""
    sde = FlowSDE()
    model = network(sde, FlowPreconditioning())
    x = torch.randn(3, 2, generator=generator, dtype=F64)
    t = torch.tensor([sde.t_min, 0.5, sde.t_max], dtype=F64)
    torch.testing.assert_close(model.velocity(x, t), model.raw(x, t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (torch.zeros(3, 2), torch.tensor(1.5), "outside"),
        (torch.zeros(3, 2), torch.tensor([0.5, 0.5, -0.1]), "outside"),
        (torch.zeros(3, 2), torch.tensor(math.nan), "outside"),
        (torch.zeros(3, 2), torch.tensor([0.5, 0.5]), r"t has shape \(2,\), expected \(\) or \(3,\)"),
        (torch.zeros(3, 2), torch.full((3, 1), 0.5), r"t has shape \(3, 1\), expected \(\) or \(3,\)"),
        (
            torch.zeros(0, 2),
            torch.tensor(0.5),
            r"x has shape \(0, 2\), expected \(B, ...\) with at least one",
        ),
        (torch.zeros(3), torch.tensor(0.5), r"x has shape \(3,\), expected"),
    ],
)
@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_network_says_what_is_wrong_in_one_line(name: Any, x: Any, t: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        getattr(network(VPSDE()), name)(x, t)
    assert "\n" not in str(error.value)


def test_an_output_of_another_shape_is_refused() -> Any:
    class Narrow(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
            return x[:, :1]

    with pytest.raises(ValueError, match=r"\(3, 1\).*\(3, 2\)") as error:
        NetworkScore(Narrow(), VPSDE(), NoisePreconditioning()).denoise(torch.zeros(3, 2), torch.tensor(0.5))
    assert "\n" not in str(error.value)


def test_a_float32_end_of_the_cosine_schedule_moves() -> None:
    """t_max rounded to float32 lies above t_max; the clipped schedule must not stand still there."""
    sde = CosineSDE()
    x = torch.ones(1, 2, dtype=F64)
    model = network(sde, NoisePreconditioning())
    single = model.velocity(x, torch.tensor(sde.t_max))
    torch.testing.assert_close(single, model.velocity(x, torch.tensor(sde.t_max, dtype=F64)), rtol=1e-3, atol=0)


def test_a_score_model_needs_denoise_alone(planar: Mixture, generator: torch.Generator) -> Any:
    class Wrapped(ScoreModel):
        def denoise(self, x: Tensor, t: Tensor, **cond: object) -> Tensor:
            return planar.model(self.sde).denoise(x, t)

    sde = VPSDE()
    model = Wrapped(sde)
    t = middle(sde)
    x = torch.randn(3, 2, generator=generator, dtype=F64)
    assert_consistent(model, x, t)
    torch.testing.assert_close(model.score(x, t), planar.model(sde).score(x, t), rtol=1e-9, atol=1e-9)
    with pytest.raises(TypeError, match="denoise"):
        ScoreModel(sde)  # type: ignore[abstract]


def test_buffers_travel_with_the_state(planar: Mixture) -> None:
    model = planar.model(VPSDE())
    other = GaussianMixtureScore(torch.ones(3), torch.randn(3, 2), planar.given + torch.eye(2), VPSDE())
    other.load_state_dict(model.state_dict())
    x, t = torch.ones(1, 2, dtype=F64), torch.tensor(0.4, dtype=F64)
    assert torch.equal(other.score(x, t), model.score(x, t))


class Around(ScoreModel):
    """A model made of another, as a guided one is."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.denoise(x, t, **cond)


def test_a_model_made_of_another_has_its_transform() -> None:
    inner = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.ones(1), VPSDE())
    inner.transform = Affine([1.0, 1000.0], [2.0, 50.0])
    x = torch.tensor([[3.0, 900.0]])
    for model in (inner, Around(inner), Around(Around(inner)), with_sde(inner, VESDE())):
        assert model.transform == inner.transform
        assert model.to_model_space(x).tolist() == [[1.0, -2.0]]
        assert torch.equal(model.to_data_space(model.to_model_space(x)), x)
        assert model.log_det((2,)) == pytest.approx(-math.log(100))
        bare = in_model_space(model)
        assert bare.transform is None
        assert bare.log_det((2,)) == 0
        assert torch.equal(bare.to_model_space(x), x)
    outer = Around(inner)
    outer.transform = Affine(0.0, 2.0)
    assert outer.transform == Affine(0.0, 2.0)
    with pytest.raises(ValueError, match="is of discrete data"):
        outer.transform = Discrete(17)


class Sized(nn.Module):
    """A network that knows its shape and its number of classes."""

    def __init__(self, shape: tuple[int, ...], num_classes: int | None) -> None:
        super().__init__()
        self.shape, self.num_classes = shape, num_classes

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return x


def test_a_model_says_its_shape_and_its_classes() -> None:
    inner = NetworkScore(Sized((2, 3), 5), VPSDE(), NoisePreconditioning())
    for model in (inner, Around(inner), Around(Around(inner)), with_sde(inner, VESDE()), in_model_space(inner)):
        assert model.shape == model.event_shape == (2, 3)
        assert model.classes == 5
        assert model.batch_shape(4) == (4, 2, 3)
    unknown = NetworkScore(nn.Identity(), VPSDE(), NoisePreconditioning())
    assert unknown.shape is None
    assert unknown.classes is None
    outer = Around(unknown)
    outer.shape, outer.classes = [4], 2
    assert (outer.shape, outer.classes) == ((4,), 2)
    exact = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.ones(1), VPSDE())
    assert exact.shape == with_sde(exact, VESDE()).shape == (2,)
    assert exact.classes is None
    known = NetworkScore(nn.Identity(), VPSDE(), NoisePreconditioning(), exact.statistics)
    assert known.shape == (2,)


def test_conditions_are_divided_with_the_batch() -> None:
    labels, scale = torch.tensor([4, 5, 6]), torch.tensor(2.0)
    conditions = Conditions.of({"labels": labels.numpy(), "scale": scale, "text": "a"}, 3)
    assert conditions.rows(1, 9)["labels"].tolist() == [5, 6]
    assert conditions.rows(1, 9).count == 2
    chosen = conditions.select(torch.tensor([2, 0, 0, 1]))
    assert chosen["labels"].tolist() == [6, 4, 4, 5]
    assert chosen["scale"] is scale
    assert chosen["text"] == "a"
    assert chosen.count == 4
    assert conditions.repeat(2)["labels"].tolist() == [4, 5, 6, 4, 5, 6]
    assert conditions.repeat(2, each=True)["labels"].tolist() == [4, 4, 5, 5, 6, 6]
    with pytest.raises(ValueError, match="labels has 3 entries, expected one for each of the 2 samples"):
        Conditions.of({"labels": labels}, 2)


class Shifted(ScoreModel):
    """The exact score of a Gaussian with a mean for each sample."""

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.ones(1), self.sde)
        return model.denoise(x, t) + cond["shift"][:, None]


def test_a_bound_model_counts_its_calls_and_is_divided_with_the_batch() -> None:
    model, shift = Shifted(VPSDE()), torch.tensor([0.0, 1.0, 2.0], dtype=F64)
    bound = BoundModel(model, Conditions({"shift": shift}, 3))
    x, t = torch.ones(3, 2, dtype=F64), torch.tensor(0.4, dtype=F64)
    rows = torch.tensor([2, 0])
    times, one, zero = t[None], torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    assert bound.conditioned
    assert not BoundModel(model, {}).conditioned
    assert torch.equal(bound.denoise(x, t), model.denoise(x, t, shift=shift))
    assert torch.equal(bound.noise(x, t), model.noise(x, t, shift=shift))
    assert torch.equal(bound.prediction(times, one, zero)(x, 0), model.prediction(times, one, zero)(x, 0, shift=shift))
    assert bound.nfe == 3
    part = bound.for_rows(rows)
    assert torch.equal(part.denoise(x[rows], t), model.denoise(x[rows], t, shift=shift[rows]))
    assert (part.nfe, bound.nfe) == (1, 3)
    assert model.for_rows(rows) is model
    inner = NetworkScore(Sized((2, 3), 5), VPSDE(), NoisePreconditioning())
    assert (BoundModel(inner, {}).shape, BoundModel(inner, {}).classes) == ((2, 3), 5)


def test_the_residual_is_the_error_of_the_noise_prediction() -> None:
    sde, g = VPSDE(), torch.Generator().manual_seed(3)
    x0, noise = (torch.randn(4, 2, generator=g, dtype=F64) for _ in range(2))
    t = torch.tensor([0.01, 0.2, 0.6, 0.99], dtype=F64)
    x = sde.perturb(x0, t, noise)
    for preconditioning in (NoisePreconditioning(), EDMPreconditioning(0.7)):
        model = network(sde, preconditioning)
        residual, factor = model.noise_residual(x, t, x0, noise)
        assert factor is not None
        torch.testing.assert_close(factor[:, None] * residual, model.noise(x, t) - noise, rtol=1e-9, atol=1e-9)
        plain, none = Around(model).noise_residual(x, t, x0, noise)
        assert none is None
        torch.testing.assert_close(plain, model.noise(x, t) - noise, rtol=1e-9, atol=1e-9)


def test_the_standard_deviation_is_the_preconditionings_or_the_datas() -> None:
    exact = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.tensor([4.0]), VPSDE())
    assert exact.sigma_data == with_sde(exact, VESDE()).sigma_data == 2.0
    assert NetworkScore(nn.Identity(), VPSDE(), EDMPreconditioning(0.7), exact.statistics).sigma_data == 0.7
    assert NetworkScore(nn.Identity(), VPSDE(), EDMPreconditioning(), exact.statistics).sigma_data == 2.0
    assert NetworkScore(nn.Identity(), VPSDE(), NoisePreconditioning(), exact.statistics).sigma_data == 2.0
    assert NetworkScore(nn.Identity(), VPSDE(), NoisePreconditioning()).sigma_data is None


@pytest.mark.parametrize("name", ["labels", "sed"])
def test_an_exact_score_takes_no_conditions(name: str, planar: Mixture) -> None:
    x, t = torch.zeros(2, 2), torch.tensor(0.5)
    for model in (
        planar.model(VPSDE()),
        EmpiricalScore(planar.means, VPSDE()),
        with_sde(planar.model(VPSDE()), VESDE()),
    ):
        message = f"{name} is no argument of this call, and no condition of {type(model).__name__}, which takes none"
        for ask in (model.denoise, model.score, model.noise, model.velocity):
            with pytest.raises(ValueError, match=message):
                ask(x, t, **{name: torch.tensor([0, 1])})
        with pytest.raises(ValueError, match=message):
            model.conditions({name: 1}, 2, x.device)
        with pytest.raises(ValueError, match=message):
            BoundModel(model, {name: 1}).conditions({name: 1}, 2, x.device)


def test_the_conditions_of_a_network_are_named() -> None:
    for classes, taken in ((None, "none"), (3, "labels")):
        model = NetworkScore(MLP((2,), width=8, num_classes=classes), VPSDE(), NoisePreconditioning())
        with pytest.raises(ValueError, match=f"no condition of the network, which takes {taken}$"):
            model.conditions({"sed": 1}, 2, torch.device("cpu"))
