from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scoresde.training.ema import EMA, Decay, HalfLife, PowerFunction, Profile


def one_weight(value: float) -> nn.Linear:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def set_weight(module: nn.Linear, value: float) -> None:
    with torch.no_grad():
        module.weight.fill_(value)


def weights_of(profile: Profile, steps: int) -> np.ndarray:
    """What the parameters after step 1, ..., steps count in the average after the last."""
    decays = np.array([profile.decay(step) for step in range(1, steps + 1)])
    after = np.append(np.cumprod(decays[::-1])[::-1][1:], 1.0)
    return (1 - decays) * after


@pytest.mark.parametrize("steps", [1, 7, 500])
def test_a_weight_halves_in_a_half_life(steps: int) -> None:
    module = one_weight(1.0)
    ema = EMA(module, HalfLife(steps, ramp_up=None))
    set_weight(module, 0.0)
    for step in range(1, 2 * steps + 1):
        ema.update(step)
        if step in (steps, 2 * steps):
            assert float(ema.average[0]) == pytest.approx(0.5 ** (step // steps), rel=1e-4)


def test_ramp_up_is_a_part_of_the_steps_so_far() -> None:
    profile = HalfLife(500, ramp_up=0.05)
    assert profile.decay(20) == pytest.approx(0.5)  # a half-life of one step
    assert profile.decay(200) == pytest.approx(0.5**0.1)
    assert profile.decay(10_000) == profile.decay(10_001) == pytest.approx(0.5 ** (1 / 500))
    # Without it the first weights would still count 2^(-100/500) of the average after 100 steps.
    started = np.prod([profile.decay(step) for step in range(1, 101)])
    assert started < 1e-6


def test_decay_is_that_of_the_papers() -> None:
    assert Decay(0.9999, ramp_up=False).decay(1) == 0.9999
    # score_sde: (1 + n)/(10 + n) after n steps, until it is the rate, here after 89,990 steps.
    assert Decay(0.9999).decay(1) == 2 / 11
    assert Decay(0.9999).decay(80_000) == 80_001 / 80_010
    assert Decay(0.9999).decay(100_000) == 0.9999


@pytest.mark.parametrize("relative_std", [0.02, 0.1, 0.25])
def test_power_function_has_its_relative_width(relative_std: float) -> None:
    steps = 20_000
    profile = PowerFunction(relative_std)
    weights = weights_of(profile, steps)
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    place = np.arange(1, steps + 1) / steps
    mean = (weights * place).sum()
    std = np.sqrt((weights * (place - mean) ** 2).sum())
    # The weights are those of the density (γ + 1) t^γ on [0, 1], cut into `steps` pieces: an error of O(1/steps).
    assert std == pytest.approx(relative_std, rel=2e-3)
    assert mean == pytest.approx((profile.gamma + 1) / (profile.gamma + 2), abs=2 / steps)


def test_power_function_as_karras_et_al_tabulate_it() -> None:
    # Karras et al. 2024, section 3.1: σ_rel of 0.05 and 0.10 are γ of about 16.97 and 6.94.
    assert PowerFunction(0.05).gamma == pytest.approx(16.97, abs=0.01)
    assert PowerFunction(0.10).gamma == pytest.approx(6.94, abs=0.01)
    assert PowerFunction(0.1).decay(1) == 0  # the initial weights are forgotten at once
    assert PowerFunction(0.1).decay(100) == pytest.approx(0.99 ** (6.94 + 1), rel=1e-4)


@pytest.mark.parametrize("profile", [HalfLife(3, None), HalfLife(50, 0.2), Decay(0.8), PowerFunction(0.1)])
def test_average_is_the_weighted_sum(profile: Profile) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=30)
    module = one_weight(0.0)
    ema = EMA(module, profile)
    for step, value in enumerate(values, start=1):
        set_weight(module, value)
        ema.update(step)
    expected = (weights_of(profile, 30) * values).sum()
    assert float(ema.average[0]) == pytest.approx(expected, abs=1e-6)


def test_state_round_trip_and_copy() -> None:
    module = nn.Linear(3, 2)
    ema = EMA(module, HalfLife(2, None))
    before = [p.detach().clone() for p in module.parameters()]
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1.0)
    ema.update(1)
    assert list(ema.state_dict()) == ["weight", "bias"]
    state = {name: value.clone() for name, value in ema.state_dict().items()}
    other = EMA(nn.Linear(3, 2), HalfLife(2, None))
    other.load_state_dict(state)
    target = nn.Linear(3, 2)
    other.copy_to(target)
    for start, average, copied in zip(before, ema.average, target.parameters(), strict=True):
        torch.testing.assert_close(average, start + (1 - 0.5**0.5), rtol=0, atol=1e-6)
        assert torch.equal(copied, average)
        assert copied.requires_grad
    # Loading copied the values: the two averages go separate ways.
    other.update(2)
    assert all(torch.equal(ema.state_dict()[name], value) for name, value in state.items())


def test_a_state_of_another_network_is_refused() -> None:
    ema = EMA(nn.Linear(2, 2), HalfLife())
    with pytest.raises(ValueError, match="the average's bias is missing"):
        ema.load_state_dict(EMA(nn.Sequential(nn.Linear(2, 2)), HalfLife()).state_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HalfLife(0), "half-life of 0 steps"),
        (lambda: HalfLife(float("nan")), "half-life of nan"),
        (lambda: HalfLife(10, ramp_up=0), "ramp_up is 0, expected a positive fraction or null"),
        (lambda: Decay(1.0), "rate is 1.0, expected a decay between 0 and 1"),
        (lambda: Decay(float("nan")), "rate is nan"),
        (lambda: PowerFunction(0), "relative_std is 0, expected between 0 and 0.2887"),
        (lambda: PowerFunction(0.3), "relative_std is 0.3"),
    ],
)
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
