"""AdamW with moments in bfloat16: near AdamW, exact in expectation, in half the memory, and resumed to the bit."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.training import CompactAdamW
from scoresde.training.compact_adam import _rounded


def trained(optimizer: Any, steps: int = 300) -> tuple[Tensor, torch.optim.Optimizer]:
    """Weights after steps on noisy gradients of a quadratic, and the optimiser."""
    weights = torch.nn.Parameter(torch.linspace(-2, 2, 64).reshape(8, 8))
    made, generator = optimizer([weights]), torch.Generator().manual_seed(0)
    for _ in range(steps):
        weights.grad = weights.detach() - 0.5 + 0.3 * torch.randn(8, 8, generator=generator)
        made.step()
    return weights.detach(), made


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.9, 0.999)])
def test_weights_are_those_of_adamw_but_for_the_noise_of_rounding(betas: tuple[float, float]) -> None:
    options: dict[str, Any] = {"lr": 0.01, "betas": betas, "weight_decay": 0.1}
    exact, _ = trained(lambda p: torch.optim.AdamW(p, **options))
    found, _ = trained(lambda p: CompactAdamW(p, **options))
    moved = float((exact - torch.linspace(-2, 2, 64).reshape(8, 8)).std())
    assert 0 < float((found - exact).std()) < 0.02 * moved
    assert abs(float((found - exact).mean())) < 0.005 * moved


def test_one_step_is_that_of_adamw() -> None:
    exact, _ = trained(lambda p: torch.optim.AdamW(p, lr=0.1), 1)
    found, _ = trained(lambda p: CompactAdamW(p, lr=0.1), 1)
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)


def test_rounding_has_the_value_as_its_expectation() -> None:
    value = torch.tensor([1.001, -3.3e-7, 123456.0, 0.0, 0.5])
    rounded = _rounded(value.expand(20000, -1), torch.Generator().manual_seed(0)).double()
    stderr = rounded.std(0) / 20000**0.5
    assert bool(((rounded.mean(0) - value.double()).abs() <= 4 * stderr).all())
    assert rounded[:, 3:].std() > 0
    assert bool((rounded[:, 3:] == value[3:]).all())  # that have few digits
    # A neighbour on either side, and no other.
    assert [len(column.unique()) for column in rounded.T] == [2, 2, 2, 1, 1]


def test_moments_take_half_the_memory_and_are_resumed_to_the_bit() -> None:
    weights, made = trained(CompactAdamW, 5)
    (state,) = made.state.values()
    assert state["exp_avg"].nbytes == state["exp_avg_sq"].nbytes == weights.nbytes // 2
    twin = torch.nn.Parameter(weights.clone())
    other = CompactAdamW([twin])
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    original = made.param_groups[0]["params"][0]
    for _ in range(3):
        for p, optimizer in ((original, made), (twin, other)):
            p.grad = p.detach().sin()
            optimizer.step()
    assert torch.equal(original, twin)


def test_a_skipped_step_changes_nothing() -> None:
    _, made = trained(CompactAdamW, 3)
    (p,) = made.param_groups[0]["params"]
    before = [p.detach().clone(), *(v.clone() for v in made.state[p].values() if isinstance(v, Tensor))]
    p.grad = torch.full_like(p, torch.nan)
    made.found_inf = torch.ones(())  # type: ignore[attr-defined]
    made.step()
    after = [p.detach(), *(v for v in made.state[p].values() if isinstance(v, Tensor))]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(("options", "message"), [({"lr": -1}, "lr is -1"), ({"betas": (0.9, 1.0)}, "betas is")])
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompactAdamW([torch.nn.Parameter(torch.zeros(1))], **options)
