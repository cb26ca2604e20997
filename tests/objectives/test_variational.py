"""The bound of a chain as an objective, against divergences of normal distributions written out."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from scoresde.networks import MLP
from scoresde.objectives import DenoisingScoreMatching, Hybrid, LossHistory, UniformSteps, VariationalBound
from scoresde.preconditioning import EDMPreconditioning, NoisePreconditioning, Preconditioning
from scoresde.score import GaussianMixtureScore, NetworkScore
from scoresde.sde import DDPMSDE, SDE, VESDE, VPSDE

F64 = torch.float64
STEPS = 20


def model_of(
    sde: SDE | None = None, learn: bool = True, preconditioning: Preconditioning | None = None
) -> NetworkScore:
    torch.manual_seed(0)
    network = MLP((3,), width=16, blocks=1, learn_variance=learn).double()
    nn.init.normal_(network.output.weight, std=0.1)
    return NetworkScore(network, sde or DDPMSDE(STEPS, 0.01, 0.4), preconditioning or NoisePreconditioning())


def batch(n: int = 2 * STEPS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    u = (torch.arange(n, dtype=F64) + 0.5) / n
    x0, noise = (torch.randn(n, 3, generator=generator, dtype=F64) for _ in range(2))
    return {"x0": x0, "u": u, "noise": noise}


def written_out(model: NetworkScore, x0: Tensor, u: Tensor, noise: Tensor, kind: str) -> Tensor:
    """L_t of each sample in bits per dimension, from the formulas of Ho et al. and Nichol & Dhariwal."""
    assert isinstance(model.sde, DDPMSDE)
    beta = torch.tensor(model.sde.betas, dtype=F64)
    signal = torch.cat((torch.ones(1, dtype=F64), (1 - beta).cumprod(0)))
    values = []
    for i in range(len(x0)):
        t = int(u[i] * STEPS) + 1
        b, now, before = beta[t - 1], signal[t], signal[t - 1]
        x = now.sqrt() * x0[i] + (1 - now).sqrt() * noise[i]
        denoised, second = model.denoise_with_share(x[None], torch.tensor([t / STEPS], dtype=F64))

        def mean(of: Tensor, x: Tensor = x, b: Tensor = b, now: Tensor = now, before: Tensor = before) -> Tensor:
            return before.sqrt() * b / (1 - now) * of + (1 - b).sqrt() * (1 - before) / (1 - now) * x

        posterior = b * (1 - before) / (1 - now)
        least = posterior if t > 1 else beta[1] * (1 - signal[1]) / (1 - signal[2])
        share = {"learned": second[0], "forward": torch.ones(3, dtype=F64), "posterior": torch.zeros(3, dtype=F64)}[
            kind
        ]
        model_step = Normal(mean(denoised[0]), (share * b.log() + (1 - share) * least.log()).exp().sqrt())
        if t == 1:
            value = -model_step.log_prob(x0[i])
        else:
            value = kl_divergence(Normal(mean(x0[i]), posterior.sqrt()), model_step)
        values.append(value.mean() / math.log(2))
    return torch.stack(values)


@pytest.mark.parametrize("kind", ["learned", "forward", "posterior"])
@pytest.mark.parametrize("preconditioning", [NoisePreconditioning(), EDMPreconditioning(0.7)])
def test_the_bound_is_that_of_the_papers(kind: Any, preconditioning: Preconditioning) -> None:
    model, given = model_of(preconditioning=preconditioning), batch()
    loss = VariationalBound(variance=kind)(model, **given)
    terms = written_out(model, **given, kind=kind)
    torch.testing.assert_close(loss.value, STEPS * terms.mean(), rtol=1e-8, atol=0)
    own = VariationalBound(LossHistory(), variance=kind)(model, **given)
    assert own.losses is not None
    assert own.steps is not None
    torch.testing.assert_close(own.losses, STEPS * terms, rtol=1e-8, atol=0)
    assert own.steps.tolist() == [i // 2 + 1 for i in range(2 * STEPS)]
    squares = DenoisingScoreMatching(times=UniformSteps())(model, **given).per_sample
    torch.testing.assert_close(loss.per_sample, squares)


def test_the_loss_in_single_precision_is_that_in_double() -> None:
    model, given = model_of(DDPMSDE(1000)), batch(1000)
    fine = VariationalBound(LossHistory())(model, **given).losses
    single = {name: value.float() if name != "u" else value for name, value in given.items()}
    coarse = VariationalBound(LossHistory())(model.float(), **single).losses
    assert fine is not None
    assert coarse is not None
    torch.testing.assert_close(coarse.double(), fine, rtol=2e-4, atol=1e-6)


def test_the_bound_of_an_exact_chain_is_the_entropy_of_the_data() -> None:
    # The reverse of every step is normal with variance β for data of unit variance, so that the bound is tight.
    sde = VPSDE()
    model = GaussianMixtureScore([1.0], [[0.0, 0.0]], [1.0], sde)
    generator = torch.Generator().manual_seed(0)
    n = 40_000
    x0 = torch.randn(n, 2, dtype=F64, generator=generator)
    u = (torch.arange(n, dtype=F64) + 0.5) / n
    objective = VariationalBound(LossHistory(10), variance="forward")
    loss = objective(model, x0, generator, u=u)
    last = sde.chain(10).marginal(x0, torch.tensor(10))
    prior = float(sde.chain(10).prior(x0).kl_from(last).mean()) / (2 * math.log(2))
    assert loss.losses is not None
    error = float(loss.losses.reshape(10, -1).var(1).mean()) ** 0.5 / math.sqrt(n)
    assert abs(float(loss.value) + prior - 0.5 * math.log2(2 * math.pi * math.e)) < 4 * error
    assert error < 0.02


def gradients(model: NetworkScore, value: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the output layer's weights for the mean and for the variance."""
    model.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    assert isinstance(model.network, MLP)
    assert model.network.output.weight.grad is not None
    first, second = model.network.output.weight.grad.clone().chunk(2)
    return first, second


def test_the_mean_has_no_gradient_of_the_bound_in_the_hybrid_loss() -> None:
    model, given = model_of(), batch()
    of_mean, of_variance = gradients(model, Hybrid(0.25)(model, **given).value)
    simple, nothing = gradients(model, DenoisingScoreMatching(times=UniformSteps())(model, **given).value)
    torch.testing.assert_close(of_mean, simple, rtol=1e-10, atol=1e-14)
    assert not bool(nothing.any())
    bound_mean, bound_variance = gradients(model, VariationalBound()(model, **given).value)
    torch.testing.assert_close(of_variance, 0.25 * bound_variance, rtol=1e-10, atol=1e-14)
    assert float(bound_mean.norm()) > 0.01  # of L_vlb alone the mean has one


def test_the_hybrid_loss_is_the_sum_of_its_parts() -> None:
    model, given = model_of(), batch()
    parts = [objective(model, **given).value for objective in (DenoisingScoreMatching(), VariationalBound())]
    parts[0] = DenoisingScoreMatching(times=UniformSteps())(model, **given).value
    torch.testing.assert_close(Hybrid(0.1)(model, **given).value, parts[0] + 0.1 * parts[1])


def test_a_fixed_variance_gives_the_share_no_gradient_and_needs_none() -> None:
    given = batch()
    plain = model_of(learn=False)
    assert VariationalBound()(plain, **given).value == VariationalBound(variance="forward")(plain, **given).value
    with pytest.raises(ValueError, match="the model has no learned variances"):
        VariationalBound(variance="learned")(plain, **given)
    with pytest.raises(ValueError, match="needs a second half of channels: train one with network.learn_variance=true"):
        Hybrid()(plain, **given)


def test_what_cannot_be_trained_is_rejected_at_the_beginning() -> None:
    for objective in (Hybrid(), VariationalBound(variance="learned")):
        with pytest.raises(ValueError, match="network.learn_variance=true"):
            objective.begin(model_of(learn=False))
    with pytest.raises(ValueError, match="does not preserve variance"):
        VariationalBound(UniformSteps(10)).begin(model_of(VESDE()))
    with pytest.raises(ValueError, match="give objective.times.steps"):
        Hybrid().begin(model_of(VPSDE()))
    with pytest.raises(ValueError, match="bound"):
        Hybrid(bound=0.0)
    with pytest.raises(ValueError, match="variance is 'small'"):
        VariationalBound(variance="small")  # type: ignore[arg-type]
    Hybrid(times=UniformSteps(10)).begin(model_of(VPSDE()))


def test_importance_sampling_leaves_the_expectation_and_takes_variance() -> None:
    model, n = model_of(), 6000
    times = LossHistory(history=10)
    objective = VariationalBound(times)
    objective.begin(model)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(n, 3, dtype=F64, generator=generator)
    uniform = VariationalBound(LossHistory())(model, x0, torch.Generator().manual_seed(1))
    assert uniform.losses is not None
    warm = objective(model, x0[:400], generator)
    assert warm.steps is not None
    assert warm.losses is not None
    objective.remember(warm.steps, warm.losses)
    assert float(times.probabilities().max()) > 2 / STEPS
    drawn = objective(model, x0, torch.Generator().manual_seed(2))
    assert drawn.losses is not None
    assert drawn.steps is not None
    weighted = drawn.losses / (STEPS * times.probabilities()[drawn.steps - 1])
    torch.testing.assert_close(drawn.value, weighted.mean().detach())
    error = float((weighted.var() + uniform.losses.var()) / n) ** 0.5
    assert abs(float(weighted.mean()) - float(uniform.losses.mean())) < 4 * error
    assert float(weighted.var()) < float(uniform.losses.var())
