"""Classifier-free guidance and its kin: the published formulas, in every prediction, and what solvers may assume."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.guidance import AdaptiveProjected, AutoGuidance, ClassifierFree, Given
from scoresde.likelihood import log_likelihood
from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import (
    DDPM,
    AutoAdams,
    AutoSDE,
    DataLogSNR,
    DataStraight,
    DPMSolverPP,
    EDMHeun,
    KarrasGrid,
    Sampler,
    UniformLogSNR,
    UniPC,
)
from scoresde.sampling.plain_rule import guided_rule, plain_rule, usual_rule
from scoresde.score import GaussianMixtureScore, NetworkScore, ScoreModel, StepRules, with_sde
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, FlowSDE
from tests.guidance.pairs import classes, network
from tests.problems import F64, generator, rms, true_ends

SDES = {"vp": VPSDE(), "edm": EDMSDE(), "flow": FlowSDE()}


def plain(weak: Tensor, strong: Tensor, u: Tensor, w: float) -> Tensor:
    return weak + w * (strong - weak)


def rescaled(weak: Tensor, strong: Tensor, u: Tensor, w: float) -> Tensor:
    """Lin et al. 2024, algorithm 2."""
    guided = plain(weak, strong, u, w)
    return 0.7 * guided * (strong.std(1, keepdim=True) / guided.std(1, keepdim=True)) + 0.3 * guided


def zero_star(weak: Tensor, strong: Tensor, u: Tensor, w: float) -> Tensor:
    """Fan et al. 2025, of velocities ε − x₀ with the state (1 − τ) x₀ + τ ε and τ = σ/(α + σ) in u."""
    state, tau = u[:, :-1], u[:, -1:]
    v_weak, v_strong = ((state - mean) / tau for mean in (weak, strong))
    best = (v_strong * v_weak).sum(1, keepdim=True) / v_weak.square().sum(1, keepdim=True)
    return state - tau * ((1 - w) * best * v_weak + w * v_strong)


def projected(weak: Tensor, strong: Tensor, u: Tensor, w: float) -> Tensor:
    """Sadat et al. 2025, algorithm 1 without momentum, with η = 0.25 and r = 0.1."""
    difference = strong - weak
    difference = difference * (0.1 / difference.norm(dim=1, keepdim=True)).clamp(max=1)
    unit = strong / strong.norm(dim=1, keepdim=True)
    parallel = (difference * unit).sum(1, keepdim=True) * unit
    return strong + (w - 1) * (difference - parallel + 0.25 * parallel)


KINDS: dict[str, tuple[Callable[..., ScoreModel], Callable[..., Tensor]]] = {
    "plain": (ClassifierFree, plain),
    "rescale": (lambda *a, **o: ClassifierFree(*a, rescale=0.7, **o), rescaled),
    "zero star": (lambda *a, **o: ClassifierFree(*a, zero_star=True, **o), zero_star),
    "apg": (lambda *a, **o: AdaptiveProjected(*a, parallel=0.25, threshold=0.1, **o), projected),
    "auto": (lambda m, w, u, **o: AutoGuidance(m, u, w, **o), plain),
}


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_prediction_is_that_of_the_published_formula(kind: str, sde: SDE) -> None:
    make, formula = KINDS[kind]
    one, both = classes(sde, 5)
    model = make(one, 3.5, both)
    times = sde.time(-torch.tensor([0.02, 0.4, 1.5, 12.0], dtype=F64).log())
    p, q = torch.tensor([1.0, 0.0, -0.6, 0.3], dtype=F64), torch.tensor([0.0, 1.0, 0.8, 2.0], dtype=F64)
    predict = model.prediction(times, p, q)
    for i, t in enumerate(times):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        x = both.sample(6, t, generator(i))
        tau = sigma / (alpha + sigma)
        u = torch.cat((x / (alpha + sigma), tau.expand(6, 1)), 1)
        mean = formula(both.denoise(x, t), one.denoise(x, t), u, 3.5)
        noise = (x - alpha * mean) / sigma
        torch.testing.assert_close(model.denoise(x, t), mean)
        torch.testing.assert_close(model.noise(x, t), noise, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(model.score(x, t), -noise / sigma, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(predict(x, i), p[i] * mean + q[i] * noise, rtol=1e-5, atol=1e-9)
        # A batch may have a time for each sample, and another SDE has the same field at the same noise.
        torch.testing.assert_close(model.denoise(x, t.expand(6)), mean)
        other = VESDE(0.01, 50.0)
        moved = with_sde(model, other)
        torch.testing.assert_close(moved.denoise(x / alpha, other.time(sde.log_snr(t))), mean, rtol=1e-6, atol=1e-9)


SOLVERS = {
    "default": Sampler(AutoAdams(), DataStraight(9)),
    "default sde": Sampler(AutoSDE(), DataLogSNR(9)),
    "unipc": Sampler(UniPC(3), UniformLogSNR(8)),
    "dpm": Sampler(DPMSolverPP(2), KarrasGrid(8)),
    "heun": Sampler(EDMHeun(), KarrasGrid(6)),
    "ddpm": Sampler(DDPM(), UniformLogSNR(8)),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_scale_1_is_the_conditional_model_and_scale_0_the_unconditional_one(kind: str, solver: str) -> None:
    one, both = classes(VPSDE(), 3)
    for model in (one, both):  # the rules of exact scores are measured at first use, which takes its time
        model.step_rules = StepRules({9: plain_rule(9)})
    made = KINDS[kind][0]
    for scale, same in ((1.0, one), (0.0, both)):
        guided = made(one, scale, both)
        out, alone = (SOLVERS[solver](m, 5, seed=3) for m in (guided, same))
        assert out.nfe == alone.nfe
        assert torch.equal(out.times, alone.times)
        torch.testing.assert_close(out.x, alone.x, rtol=1e-6, atol=1e-6)
        assert guided.is_score
    assert not made(one, 2.0, both).is_score


@pytest.mark.parametrize("kind", ["plain", "rescale", "zero star", "apg"])
def test_a_network_is_asked_once_in_a_step_and_for_the_condition_alone_outside_of_the_interval(kind: str) -> None:
    model, net = network()
    labels = torch.tensor([0, 1, 1, 0])
    guided, apart = (KINDS[kind][0](model, 3.0, None, interval=(0.2, 5.0), batched=b) for b in (True, False))
    grid = KarrasGrid(12)
    level = model.sde.noise_level(grid(model.sde)[:-1])
    inside = ((level >= 0.2) & (level <= 5)).tolist()
    assert 0 < sum(inside) < len(inside)
    sampler = Sampler(DPMSolverPP(2), grid, denoise=False)
    out = sampler(guided, 4, seed=0, labels=labels)
    assert net.calls == [8 if within else 4 for within in inside]
    assert out.nfe == 12
    net.calls.clear()
    two = sampler(apart, 4, seed=0, labels=labels)
    assert net.calls == [4 for within in inside for _ in range(1 + within)]
    torch.testing.assert_close(out.x, two.x, rtol=1e-5, atol=1e-5)
    # Other labels in the same tensor are other labels.
    labels.copy_(1 - labels)
    torch.testing.assert_close(sampler(guided, 4, seed=0, labels=labels).x, sampler(apart, 4, seed=0, labels=labels).x)
    outside = sampler(KINDS[kind][0](model, 3.0, None, interval=(1e-3, 2.1e-3)), 4, seed=0, labels=labels).x
    torch.testing.assert_close(outside, sampler(model, 4, seed=0, labels=labels).x)


def test_a_batch_of_times_some_of_which_are_outside_of_the_interval() -> None:
    model, _ = network()
    labels, x = torch.tensor([0, 1, 1]), torch.randn(3, 3, generator=generator())
    t = torch.tensor([0.1, 1.0, 40.0])
    guided = ClassifierFree(model, 3.0, interval=(0.2, 5.0), rescale=0.5)
    found = guided.denoise(x, t, labels=labels)
    for i in range(3):
        torch.testing.assert_close(found[i : i + 1], guided.denoise(x[i : i + 1], t[i], labels=labels[i : i + 1]))
    torch.testing.assert_close(found[[0, 2]], model.denoise(x[[0, 2]], t[[0, 2]], labels=labels[[0, 2]]))


def test_models_under_different_sdes_and_a_negative_condition() -> None:
    model, _ = network()
    other, _ = network(VPSDE(), seed=1)
    labels, x, t = torch.tensor([0, 1]), torch.randn(2, 3), torch.tensor(0.7)
    weaker = with_sde(other, EDMSDE())
    guided = AutoGuidance(model, other, 1.5)
    expected = torch.lerp(weaker.denoise(x, t, labels=labels), model.denoise(x, t, labels=labels), 1.5)
    torch.testing.assert_close(guided.denoise(x, t, labels=labels), expected)
    assert guided.log_snr_range[1] <= model.log_snr_range[1]
    away = ClassifierFree(Given(model, labels=1), 2.0, Given(model, labels=0))
    ones = torch.ones(2, dtype=torch.int64)
    expected = torch.lerp(model.denoise(x, t, labels=0 * ones), model.denoise(x, t, labels=ones), 2.0)
    torch.testing.assert_close(away.denoise(x, t), expected)
    assert Sampler(EDMHeun(), KarrasGrid(3))(away, 2, seed=0).x.isfinite().all()
    with pytest.raises(ValueError, match="labels is given for all samples of this model: leave it out"):
        away.conditions({"labels": [0, 1]}, 2, torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": math.nan}, "scale is nan, expected a finite number"),
        ({"interval": (5.0, 0.2)}, r"interval is \[5.0, 0.2\], expected two noise levels"),
        ({"interval": (1.0,)}, r"interval is \[1.0\], expected two noise levels"),
        ({"interval": (100.0, 200.0)}, r"no noise level σ/α of this model lies in it: they run from 0.002 to 80"),
        ({"rescale": 1.5}, "rescale is 1.5, expected a share from 0 to 1"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassifierFree(network()[0], **options)


def test_what_cannot_be_guided() -> None:
    model = network(label_dropout=0.0)[0]
    with pytest.raises(ValueError, match="for which this model was not trained: train with network.label_dropout=0.1"):
        ClassifierFree(model)
    guided = ClassifierFree(network()[0])
    sampler = Sampler(EDMHeun(), KarrasGrid(3))
    with pytest.raises(ValueError, match="guidance needs a condition, such as labels"):
        sampler(guided, 2)
    with pytest.raises(ValueError, match="sed is no argument"):
        sampler(guided, 2, sed=1)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\)"):
        sampler(guided, 2, labels=7)
    one, both = classes(EDMSDE(), 3)
    with pytest.raises(ValueError, match=r"samples have shapes \(3,\) and \(2,\)"):
        ClassifierFree(one, 2.0, classes(EDMSDE(), 2)[1])
    with pytest.raises(ValueError, match="the model takes 2 classes and the weaker one none"):
        AutoGuidance(network()[0], both)


# ---------------------------------------------------------------- what a subclass does not promise


class Naive(ScoreModel):
    """Guidance as a user may write it, with the statistics of the data and no word about what they are of."""

    def __init__(self, one: ScoreModel, both: ScoreModel, scale: float, known: ScoreModel | None = None) -> None:
        super().__init__(one.sde, None if known is None else known.statistics)
        self.one, self.both, self.scale = one, both, scale

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        weak = self.both.denoise(x, t)
        return weak + self.scale * (self.one.denoise(x, t) - weak)


class Rash(Naive):
    """The same with the promise that the statistics are those of the samples, which is false."""

    normal_at_most_noise = True


@pytest.mark.parametrize("sde", [EDMSDE(), VPSDE()], ids=["edm", "vp"])
def test_guidance_by_hand_errs_as_little_as_that_of_the_package(sde: SDE) -> None:
    """At scale 4, of a model with the statistics of either part or of none, which are not those of its samples."""
    one, both = classes(sde)
    x = both.sample(256, sde.t_max, generator(1))
    guided, rash = ClassifierFree(one, 4.0, both), Rash(one, both, 4.0, both)
    true = true_ends(guided, x)
    for steps, most in ((10, 4e-2), (20, 7e-3)):
        sampler = Sampler(AutoAdams(), DataStraight(steps), denoise=False)
        for model in (guided, *(Naive(one, both, 4.0, known) for known in (None, one, both))):
            found = rms(sampler(model, x_init=x).x - true)
            assert found < most
            assert found < 0.4 * rms(sampler(rash, x_init=x).x - true)
        assert most < 0.8 * rms(Sampler(UniPC(3), UniformLogSNR(steps), denoise=False)(guided, x_init=x).x - true)


def test_steps_follow_the_widest_of_the_parts_of_a_model_that_promises_nothing() -> None:
    one, both = classes(EDMSDE())
    assert one.statistics is not None
    assert both.statistics is not None
    largest = max(one.statistics.largest_std, both.statistics.largest_std)
    for known in (None, one, both):
        found = Naive(one, both, 4.0, known).step_statistics
        assert found is not None
        assert found.largest_std == pytest.approx(4 ** (1 / 3) * largest)
    within = ClassifierFree(one, 64.0, both)
    found = Naive(one, within, 1.0).step_statistics
    assert found is not None
    assert found.largest_std == pytest.approx(4 * largest)
    assert Naive(network()[0], both, 4.0).step_statistics is None  # those of samples of another shape are not taken


def test_the_rule_of_the_default_is_that_of_scores_only_where_a_model_says_what_its_samples_are() -> None:
    one, both = classes(EDMSDE())
    for steps in (5, 10, 20):
        assert usual_rule(both, steps) == plain_rule(steps)
        for model in (Naive(one, both, 4.0), ClassifierFree(one, 4.0, both)):
            assert usual_rule(model, steps) == guided_rule(steps) != plain_rule(steps)
        assert usual_rule(ClassifierFree(one, 1.0, both), steps) == plain_rule(steps)


def test_a_model_with_others_as_parts_has_a_likelihood_only_if_it_says_so() -> None:
    one, both = classes(EDMSDE())

    class Marked(Naive):
        is_score = True

    class Alone(ScoreModel):
        def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return 0.1 * x

    x = torch.zeros(1, 2, dtype=F64)
    with pytest.raises(ValueError, match=r"Naive has no likelihood: .* says is_score = True"):
        log_likelihood(Naive(one, both, 4.0), x)
    expected = log_likelihood(one, x, tol=0.01).log_prob
    torch.testing.assert_close(
        log_likelihood(Marked(one, both, 1.0), x, tol=0.01).log_prob, expected, rtol=0, atol=0.05
    )
    assert Alone(EDMSDE()).is_score


def test_a_class_that_overrides_the_field_of_another_has_none_of_its_promises() -> None:
    one, both = classes(VPSDE())

    class Guided(GaussianMixtureScore):
        def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return 4 * one.denoise(x, t) - 3 * super().denoise(x, t)

    class GuidedByNoise(GaussianMixtureScore):
        def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return 4 * one.noise(x, t) - 3 * super().noise(x, t)

    class Same(GaussianMixtureScore, same_field=True):
        def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return super().denoise(x, t)

    parts = both.weights, both.means, both.variances[:, 0], both.sde
    true = ClassifierFree(one, 4.0, both)
    times = torch.tensor([0.9, 0.2], dtype=F64)
    x = both.sample(4, 0.5, generator())
    for made in (Guided(*parts), GuidedByNoise(*parts)):
        promised = (made.exact, made.normal_at_most_noise, made.narrowest, made.is_score)
        assert not any(promised)
        assert made.noise_and_trace(x, times[0]) is None
        assert made.log_snr_range != both.log_snr_range
        for ask in ("denoise", "noise", "score", "velocity"):
            expected = getattr(true, ask)(x, times[1])
            torch.testing.assert_close(getattr(made, ask)(x, times[1]), expected, rtol=1e-6, atol=1e-8)
        for p in (0.0, 1.0):
            ones = torch.full((2,), p, dtype=F64), torch.full((2,), 1 - p, dtype=F64)
            found, expected = (m.prediction(times, *ones)(x, 0) for m in (made, true))
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        moved = with_sde(made, EDMSDE(0.01, 50.0))
        level = VPSDE().noise_level(times[1])
        scaled = x / VPSDE().alpha(times[1])
        torch.testing.assert_close(moved.denoise(scaled, level), true.denoise(x, times[1]), rtol=1e-6, atol=1e-8)
    same = Same(*parts)
    assert same.exact
    assert same.normal_at_most_noise
    with pytest.raises(TypeError, match="overrides score, of which solvers ask nothing: override denoise"):

        class Lost(NetworkScore):
            def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
                return x

    class Raw(NetworkScore):
        def raw(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return 2 * super().raw(x, t)

    inner, _ = network()
    raw = Raw(inner.network, inner.sde, inner.preconditioning)
    z, t = torch.ones(2, 3), torch.tensor([1.0], dtype=F64)
    predicted = raw.prediction(t, torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64))(z, 0)
    torch.testing.assert_close(predicted, raw.denoise(z, t[0]))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_learned_variances_are_those_of_the_conditional_model(rescale: float, batched: bool) -> None:
    torch.manual_seed(0)
    net = MLP((3,), width=16, blocks=1, num_classes=2, label_dropout=0.1, learn_variance=True)
    with torch.no_grad():
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.1)
    model = NetworkScore(net, VPSDE(), EDMPreconditioning(0.5)).eval()
    guided = ClassifierFree(model, 3.0, interval=(0.2, 5.0), rescale=rescale, batched=batched)
    assert guided.learns_variance
    x, labels = torch.randn(4, 3, generator=generator()), torch.tensor([0, 1, 1, 0])
    times = torch.tensor([0.9, 0.3, 1e-3], dtype=F64)
    p, q = torch.tensor([1.0, 0.3, 0.0], dtype=F64), torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    predict, mean = guided.prediction_with_share(times, p, q), guided.prediction(times, p, q)
    for i, t in enumerate(times):
        share = model.denoise_with_share(x, t, labels=labels)[1]
        torch.testing.assert_close(predict(x, i, labels=labels), (mean(x, i, labels=labels), share))
        found = guided.denoise_with_share(x, t, labels=labels)
        torch.testing.assert_close(found, (guided.denoise(x, t, labels=labels), share))
    out = Sampler(DDPM("learned"), UniformLogSNR(5))(guided, 4, seed=0, labels=labels)
    assert out.x.isfinite().all()
