import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.data.transforms import Discrete
from scoresde.interop import wrap
from scoresde.likelihood import Exact, log_likelihood
from scoresde.preconditioning import LogLevel
from scoresde.sampling import DiscreteTime, Heun, KarrasGrid, Sampler
from scoresde.score import GaussianMixtureScore, NetworkScore
from scoresde.sde import DDPMSDE, EDMSDE, SDE, VPSDE, DiscreteVESDE, DiscreteVPSDE

MEANS, WEIGHTS, STDS = [[-1.0, 0.5], [1.5, 0.0]], [0.3, 0.7], [0.3, 0.5]


def truth(sde: SDE) -> GaussianMixtureScore:
    return GaussianMixtureScore(WEIGHTS, MEANS, [s**2 for s in STDS], sde)


def asked(model: GaussianMixtureScore, what: str, x: Tensor, t: Tensor) -> Tensor:
    """What a network that has learned this mixture would return."""
    data, noise = model.denoise(x, t), model.noise(x, t)
    alpha, sigma = (v[:, None].to(x) for v in (model.sde.alpha(t.double()), model.sde.sigma(t.double())))
    return {
        "data": data,
        "noise": noise,
        "velocity": alpha * noise - sigma * data,
        "flow": noise - data,
        "score": -noise / sigma,
    }[what]


@pytest.mark.parametrize("what", ["data", "noise", "velocity", "flow", "score"])
def test_a_function_of_every_kind_is_the_model_that_it_is_of(what: Any) -> None:
    exact = truth(VPSDE())
    model = wrap(lambda x, t: asked(exact, what, x, t), what, sde=VPSDE(), shape=(2,))
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.05, 1, 50)
    for name in ("score", "noise", "denoise", "velocity"):
        found, expected = getattr(model, name)(x, t), getattr(exact, name)(x, t)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4), name


def test_it_is_sampled_and_has_a_likelihood() -> None:
    exact = truth(EDMSDE(0.002, 3000.0))
    model = wrap(lambda x, sigma: exact.denoise(x, sigma), "data", sigma_range=(0.002, 3000.0), shape=(2,))
    sampler = Sampler(Heun(), KarrasGrid(20))
    x = torch.tensor(MEANS)
    start = 3000 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    drawn, expected = (sampler(m, x_init=start).x for m in (model, exact))
    assert torch.allclose(drawn, expected.to(drawn.dtype), atol=1e-3)
    with pytest.warns(UserWarning, match="does not know the mean and standard deviation"):
        found = log_likelihood(model, x, divergence=Exact())
    known = exact.log_prob(x, torch.tensor(0.002))
    assert torch.allclose(found.log_prob, known.double(), atol=2e-3)


def test_a_table_gives_indices_and_its_own_levels() -> None:
    chain = DDPMSDE(50, 1e-3, 0.2)
    bars = chain.alpha(torch.arange(1, 51, dtype=torch.float64) / 50) ** 2
    seen: list[Tensor] = []

    def noise(x: Tensor, step: Tensor) -> Tensor:
        seen.append(step)
        return 0 * x

    for given in ({"alphas_cumprod": bars}, {"betas": chain.betas}, {"sde": chain}):
        model = wrap(noise, "noise", shape=(2,), **given)  # type: ignore[arg-type]
        assert isinstance(model.sde, DiscreteVPSDE)
        assert torch.allclose(torch.tensor(model.sde.betas), torch.tensor(chain.betas), rtol=1e-6)
        seen.clear()
        Sampler(Heun(), DiscreteTime(5, train_steps=50))(model, 3, seed=0)
        assert all(torch.equal(step, step.round()) and 0 <= step.min() <= step.max() <= 49 for step in seen)
        assert max(float(step.max()) for step in seen) == 49
    sigmas = torch.linspace(math.log(50), math.log(0.01), 10).exp().tolist()
    model = wrap(noise, "noise", sigmas=sigmas, shape=(2,))
    assert isinstance(model.sde, DiscreteVESDE)
    seen.clear()
    for i, sigma in enumerate(sigmas):
        model.noise(torch.zeros(1, 2), model.sde.time(torch.tensor(-math.log(sigma))))
        assert seen[-1].tolist() == [i], "in the order in which they were given"


class Output:
    """What diffusers' models return."""

    def __init__(self, sample: Tensor) -> None:
        self.sample = sample


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Output:
        assert class_labels is not None
        return Output(self.weight * sample + class_labels[:, None])


def test_a_module_of_diffusers_with_labels() -> None:
    network = Network()
    model = wrap(
        network, "noise", betas=[0.1, 0.2, 0.3], shape=(2,), classes=4, conditions={"labels": "class_labels"},
        transform=Discrete(256),
    )  # fmt: skip
    assert isinstance(model, NetworkScore)
    assert (model.shape, model.classes) == ((2,), 4)
    assert model.info is not None
    assert model.info.transform == Discrete(256)
    assert not model.training
    x = torch.ones(2, 2)
    noise = model.noise(x, torch.tensor(1.0), labels=torch.tensor([0, 3]))
    assert torch.allclose(noise, torch.tensor([[1.0, 1.0], [4.0, 4.0]]))
    assert list(model.parameters()) == [network.weight]


def test_levels_of_other_kinds() -> None:
    seen: list[float] = []

    def function(x: Tensor, level: Tensor) -> Tensor:
        seen.append(float(level[0]))
        return x

    expected = {"time": 2.0, "sigma": 2.0, "log_sigma": math.log(2)}
    for level, value in expected.items():
        wrap(function, "noise", sigma_range=(0.1, 10.0), level=level).noise(torch.ones(1, 2), torch.tensor(2.0))  # type: ignore[arg-type]
        assert math.isclose(seen[-1], value, rel_tol=1e-6)
    wrap(function, "noise", sigma_range=(0.1, 10.0), level=LogLevel(0.25)).noise(torch.ones(1, 2), torch.tensor(2.0))
    assert math.isclose(seen[-1], math.log(2) / 4, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "exactly one of sde, sigmas, sigma_range, alphas_cumprod, betas, got none"),
        ({"sde": VPSDE(), "betas": [0.1, 0.2]}, "got sde and betas"),
        ({"sigma_range": [1.0, 2.0, 3.0]}, "sigma_range has 3 values"),
        ({"alphas_cumprod": [0.9, 0.95]}, "alphas_cumprod does not decrease"),
        ({"sigma_range": [1.0, 2.0], "level": "index"}, "level is 'index', and sigma_range has no table"),
        ({"sde": VPSDE(), "transform": Discrete(256)}, "a transform needs the shape"),
    ],
)
def test_what_cannot_be_wrapped(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        wrap(lambda x, t: x, "noise", **arguments)
    with pytest.raises(TypeError, match="returned a list, expected a tensor of shape"):
        wrap(lambda x, t: [x], "noise", sde=VPSDE()).noise(torch.ones(1, 2), torch.tensor(0.5))
