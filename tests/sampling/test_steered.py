"""Steered samples against densities that are known: Gaussians, whose powers, products and tilts are Gaussians again."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from scoresde.guidance import ClassifierFree, GuidedTarget, ProductTarget, RewardTarget, Target, TemperedTarget
from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import (
    DDPM,
    NonFiniteError,
    Sampler,
    SteeredSampler,
    SteeredSamples,
    UniformLogSNR,
)
from scoresde.score import GaussianMixtureScore, NetworkScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE, SubVPSDE
from tests.problems import F64, correlated, gaussian

SDES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE(0.01, 20.0), "edm": EDMSDE(0.01, 20.0), "cosine": CosineSDE()}
GRID = UniformLogSNR(100)


def fine(sde: SDE, step: float = 0.08) -> UniformLogSNR:
    """Times at equal steps in log SNR, of the same length under every SDE: sub-VP ends at far less noise."""
    least, most = sde.log_snr(torch.tensor([sde.t_max, sde.t_min_sampling], dtype=F64)).tolist()
    return UniformLogSNR(math.ceil((most - least) / step))


def power(model: GaussianMixtureScore, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, precision times mean, and log-density at 0, of the noised Gaussian at t_min, to the power p."""
    t = torch.tensor(model.sde.t_min_sampling, dtype=F64)
    alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
    precision = 1 / (alpha**2 * model.variances[0] + sigma**2)
    return p * precision, p * precision * alpha * model.means[0], p * model.log_prob(torch.zeros(1, 2, dtype=F64), t)[0]


def product(*factors: tuple[GaussianMixtureScore, float], tilt: Tensor | None = None) -> tuple[Tensor, Tensor, float]:
    """Mean and variance `(2,)`, and log Z, of a product of powers of Gaussians at t_min, times e^(tilt · x)."""
    precision, linear, level = (torch.stack(v).sum(0) for v in zip(*(power(*f) for f in factors), strict=True))
    linear = linear if tilt is None else linear + tilt
    variance = 1 / precision
    log_z = level + 0.5 * (linear**2 * variance + (2 * math.pi * variance).log()).sum()
    return linear * variance, variance, float(log_z)


def check(
    out: SteeredSamples, mean: Tensor, variance: Tensor, log_z: float, slack: float, slack_z: float | None = None
) -> None:
    """Compare weighted moments and log Z with the truth, to 3.5 standard errors and the error of the steps."""
    found, error = out.mean(out.x)
    assert bool(((found - mean).abs() < 3.5 * error + slack).all()), (found, mean, error)
    found, error = out.mean((out.x.double() - mean).square())
    assert bool(((found / variance - 1).abs() < 3.5 * error / variance + slack).all()), (found, variance, error)
    assert abs(out.log_normaliser - log_z) < 3.5 * out.log_normaliser_stderr + (slack if slack_z is None else slack_z)


def two(sde: SDE) -> tuple[GaussianMixtureScore, GaussianMixtureScore]:
    return gaussian(sde, mean=(0.5, -0.3), variance=(0.3, 0.5)), gaussian(sde, mean=0.1, variance=1.0)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_the_model_itself_is_its_own_sampler_with_equal_weights(sde: SDE) -> None:
    model = correlated(sde)
    steered = SteeredSampler(UniformLogSNR(20), TemperedTarget(1.0), particles=8, order=1)(model, 2, seed=3, dtype=F64)
    plain = Sampler(DDPM(), UniformLogSNR(20))(model, 16, seed=3, dtype=F64)
    torch.testing.assert_close(steered.x, plain.x, rtol=1e-9, atol=1e-9)
    assert steered.nfe == plain.nfe
    torch.testing.assert_close(steered.ess, torch.ones(21, 2, dtype=F64))
    torch.testing.assert_close(steered.log_weights, torch.zeros(16, dtype=F64), rtol=0, atol=1e-12)
    # So is the power of the sum of a product of one model with itself, and guidance of scale 1.
    for target in (ProductTarget([model], [0.75], power=0.25), GuidedTarget(1.0, gaussian(sde, (6,)))):
        same = SteeredSampler(UniformLogSNR(20), target, particles=8, order=1)(model, 2, seed=3, dtype=F64)
        torch.testing.assert_close(same.x, plain.x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(same.log_weights, torch.zeros(16, dtype=F64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_guidance_samples_from_the_density_that_it_is_named_after(sde: SDE) -> None:
    given, every = two(sde)
    truth = product((given, 3.0), (every, -2.0))
    sampler = SteeredSampler(fine(sde), GuidedTarget(3.0, every), particles=250, denoise=False)
    check(sampler(given, 8, seed=0, dtype=F64), *truth, slack=0.03)


@pytest.mark.parametrize(("order", "ramp"), [(1, None), (1, 0.5), (2, 0.5)])
def test_exact_densities_leave_no_error_of_the_steps(order: int, ramp: float | None) -> None:
    given, every = two(SDES["edm"])
    truth = product((given, 2.0), (every, -1.0))
    target = GuidedTarget(2.0, every)
    options = {"particles": 2000, "order": order, "ramp": ramp, "denoise": False}
    exact = SteeredSampler(UniformLogSNR(40), target, densities="exact", **options)(given, 8, seed=0, dtype=F64)
    # Without them, order 1 errs by 12 % in the variance. Few particles count here, so that errors have heavy tails.
    check(exact, *truth, slack=0.06, slack_z=0.02)


def test_the_error_of_the_steps_falls_by_the_order() -> None:
    given, every = two(SDES["edm"])
    truth = product((given, 2.0), (every, -1.0))[2]
    for order, least in ((1, 1.6), (2, 3.0)):
        errors = []
        for steps in (16, 32):
            sampler = SteeredSampler(
                UniformLogSNR(steps), GuidedTarget(2.0, every), particles=2500, order=order, denoise=False
            )
            errors.append(abs(sampler(given, 2, seed=1, dtype=F64).log_normaliser - truth))
        assert errors[0] > least * errors[1], (order, errors)


@pytest.mark.parametrize(
    ("powers", "ramp"),
    [((1.0, 1.0), 0.5), ((1.0, -0.4), 0.5), ((0.7, 0.3), None), ((1.6, 0.0), 0.5), ((1.6, 0.0), None)],
)
def test_products_and_quotients_and_powers(powers: tuple[float, float], ramp: float | None) -> None:
    one, other = two(SDES["ve"])
    target = ProductTarget([other], powers[1:], powers[0]) if powers[1] else TemperedTarget(powers[0])
    truth = product((one, powers[0]), (other, powers[1]))
    out = SteeredSampler(UniformLogSNR(100), target, particles=300, ramp=ramp, denoise=False)(one, 8, seed=0, dtype=F64)
    # A sum of powers other than 1 has a larger error of the steps in log Z, of 0.16 for a sum of 2.
    check(out, *truth, slack=0.03, slack_z=0.03 if sum(powers) == 1 else 0.2)


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("guided", [False, True])
def test_rewards_tilt_the_target(guided: bool, gradient: bool) -> None:
    given, every = two(SDES["vp"])
    tilt = torch.tensor([1.0, -0.5], dtype=F64)
    base = GuidedTarget(2.0, every) if guided else None
    factors = [(given, 2.0), (every, -1.0)] if guided else [(given, 1.0)]
    target = RewardTarget(lambda x: x @ tilt, base, gradient)
    out = SteeredSampler(GRID, target, particles=250, denoise=False)(given, 8, seed=0, dtype=F64)
    check(out, *product(*factors, tilt=tilt), slack=0.04)


def test_the_gradient_steers_where_weights_alone_lose_particles() -> None:
    model = gaussian(SDES["vp"], mean=0.0, variance=1.0)
    least = [
        float(SteeredSampler(GRID, RewardTarget(lambda x: 3 * x[:, 0], gradient=g), 500, 0.0)(model, seed=0).ess.min())
        for g in (True, False)
    ]
    assert least[0] > 0.7 > 0.1 > least[1]


def test_groups_are_functions_of_the_seed_and_their_index() -> None:
    given, every = two(SDES["edm"])
    sampler = SteeredSampler(UniformLogSNR(20), GuidedTarget(3.0, every), particles=50, resample_at=0.9)
    whole = sampler(given, 4, seed=5, dtype=F64)
    for other in (sampler(given, 4, seed=5, dtype=F64, batch_size=60), sampler(given, 2, seed=5, dtype=F64, first=2)):
        start = len(whole.x) - len(other.x)
        torch.testing.assert_close(other.x, whole.x[start:])
        torch.testing.assert_close(other.log_weights, whole.log_weights[start:])
    assert not torch.equal(sampler(given, 4, seed=6, dtype=F64).x, whole.x)


def test_ancestors_say_where_particles_came_from() -> None:
    given, every = two(SDES["edm"])
    sampler = SteeredSampler(UniformLogSNR(40), GuidedTarget(5.0, every), 30, ramp=None, denoise=False)
    out = sampler(given, 2, seed=0, trajectory=True, dtype=F64)
    assert out.trajectory is not None
    path = out.lineage()
    assert path.shape == (41, 2, 30)
    moved = (out.ancestors != torch.arange(30)).flatten(1).any(1)
    assert torch.equal(moved, (out.ess[:-1] < 0.5).any(1))
    assert moved.any()
    states = out.trajectory.unflatten(1, (2, 30))
    # States are near those of their ancestors, and not of the slots that these came to.
    parents = states[:-1].gather(2, out.ancestors.long()[..., None].expand(-1, -1, -1, 2))
    copied = (out.ancestors != torch.arange(30)) & (given.sde.log_snr(out.times[1:]) > 0)[:, None, None]
    assert copied.any()
    near, far = ((states[1:] - start)[copied].square().mean() for start in (parents, states[:-1]))
    assert near < 0.3 * far


def test_conditions_are_of_groups_and_the_network_is_asked_without_them() -> None:
    torch.manual_seed(0)
    network = MLP((2,), width=16, blocks=1, num_classes=3, label_dropout=0.1).eval()
    model = NetworkScore(network, EDMSDE(), EDMPreconditioning(0.5))
    sampler = SteeredSampler(UniformLogSNR(5), GuidedTarget(2.0), particles=4)
    out = sampler(model, 3, labels=[0, 1, 2], seed=0)
    assert out.labels is not None
    assert out.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert out.nfe == 12  # two at each of six times
    torch.testing.assert_close(sampler(model, 1, labels=2, seed=0, first=2).x, out.x[8:])
    with pytest.raises(ValueError, match="guidance needs a condition"):
        sampler(model, seed=0)
    never = NetworkScore(MLP((2,), width=16, blocks=1, num_classes=3), EDMSDE(), EDMPreconditioning(0.5))
    with pytest.raises(ValueError, match="for which this model was not trained"):
        sampler(never, labels=1)


def test_equal_weights_after_resampling() -> None:
    given, every = two(SDES["edm"])
    out = SteeredSampler(GRID, GuidedTarget(2.0, every), 500, resample_at=0.0)(given, 4, seed=0, dtype=F64)
    mean = torch.stack([out.resample(seed) for seed in range(20)]).mean((0, 1))
    found, error = out.mean(out.x)
    assert bool(((mean - found).abs() < error).all())  # groups count alike, so not the same to round-off
    assert out.ess.shape == (101, 4)
    assert torch.equal(out.lineage()[0], torch.arange(500).expand(4, -1))
    alone = SteeredSampler(GRID, GuidedTarget(2.0, every), 10)(given, seed=0)
    assert math.isnan(alone.log_normaliser_stderr)
    assert bool(alone.mean(alone.x)[1].isnan().all())
    with pytest.raises(ValueError, match=r"expected \(10, \.\.\.\)"):
        alone.mean(torch.ones(3))


class Opaque(ScoreModel):
    """A model whose density is not known, in units of its own."""

    def denoise(self, x: Tensor, t: Tensor, **cond: object) -> Tensor:
        return 0 * x


def test_errors_say_what_to_do() -> None:
    sde = SDES["edm"]
    given, every = two(sde)
    with pytest.raises(ValueError, match="resample_at is 1.5, expected a share"):
        SteeredSampler(GRID, TemperedTarget(), resample_at=1.5)
    with pytest.raises(ValueError, match="ramp is 0"):
        SteeredSampler(GRID, TemperedTarget(), ramp=0.0)
    with pytest.raises(ValueError, match="particles is 0"):
        SteeredSampler(GRID, TemperedTarget(), particles=0)
    with pytest.raises(ValueError, match="power is -1"):
        TemperedTarget(-1.0)
    with pytest.raises(ValueError, match="2 powers for 1 other models"):
        ProductTarget([every], [1.0, 2.0])
    with pytest.raises(ValueError, match="scale is nan"):
        GuidedTarget(math.nan)
    with pytest.raises(ValueError, match="no model of positive power"):
        SteeredSampler(GRID, ProductTarget([every], [-1.0], power=0.0), 4)(given)
    with pytest.raises(ValueError, match="give powers whose sum is positive"):
        SteeredSampler(GRID, ProductTarget([every], [-2.0]), 4, ramp=None)(given)
    with pytest.raises(ValueError, match=r"ClassifierFree\(.*\) has the field of no density"):
        SteeredSampler(GRID, TemperedTarget(), 4)(ClassifierFree(given, 3.0, every))
    with pytest.raises(ValueError, match="which Opaque does not"):
        SteeredSampler(GRID, TemperedTarget(2.0), 4, densities="exact")(Opaque(sde), shape=(2,))
    with pytest.raises(
        ValueError, match=r"the reward is of shape \(4, 2\), expected one number for each sample, \(4,\)"
    ):
        SteeredSampler(GRID, RewardTarget(lambda x: x), 4)(given)
    with pytest.raises(ValueError, match="base has a reward"):
        RewardTarget(lambda x: x[:, 0], RewardTarget(lambda x: x[:, 0]))
    with pytest.raises(NonFiniteError, match="the reward, which has to be finite"):
        SteeredSampler(GRID, RewardTarget(lambda x: x[:, 0] * math.inf, gradient=False), 4)(given)
    assert issubclass(GuidedTarget, Target)


def test_rewards_are_of_samples_in_the_units_of_the_data() -> None:
    from scoresde.data.affine import Affine

    model = gaussian(SDES["vp"], mean=0.0, variance=1.0)
    model.transform = Affine(3.0, 2.0)  # x = (raw − 3)/2
    seen: list[Tensor] = []

    def reward(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x[:, 0]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = SteeredSampler(GRID, RewardTarget(reward), 300)(model, 4, seed=0, dtype=F64)
    mean, error = out.mean(out.x)
    truth = torch.tensor([3.0 + 2 * 2, 3.0], dtype=F64)  # N(3, 4) e^x
    assert bool(((mean - truth).abs() < 3.5 * error + 0.1).all())
    torch.testing.assert_close(seen[-1], out.x)
