"""Distributions of the steps of a chain."""

from collections import defaultdict, deque

import pytest
import torch
from torch import Tensor

from scoresde.objectives import LossHistory, StepTimes, UniformSteps
from scoresde.sde import DDPMSDE, EDMSDE, NCSNSDE, VPSDE

F64 = torch.float64


def evenly(n: int) -> Tensor:
    """Uniforms in the middles of n equal parts."""
    return (torch.arange(n, dtype=F64) + 0.5) / n


def filled(losses: Tensor, history: int = 3, uniform: float = 0.001) -> LossHistory:
    """A history in which step t has had the loss `losses[t - 1]` each time."""
    times = LossHistory(len(losses), history, uniform)
    times.begin(VPSDE(), torch.device("cpu"))
    for _ in range(history):
        times.remember(torch.arange(len(losses)) + 1, losses)
    return times


@pytest.mark.parametrize("times", [UniformSteps(), LossHistory()])
def test_steps_are_those_of_the_sde_and_uniform_at_first(times: StepTimes) -> None:
    for sde in (DDPMSDE(8), NCSNSDE(8)):
        t, correction = times.sample(sde, evenly(16))
        torch.testing.assert_close(t, (torch.arange(16) // 2 + 1).double() / 8)
        torch.testing.assert_close(correction, torch.ones(16, dtype=F64))
        assert torch.equal(times.step(sde, t), torch.arange(16) // 2 + 1)
    assert times.sample(DDPMSDE(8), torch.tensor([0.0, 1.0]))[0].tolist() == [0.125, 1.0]
    # Times of an SDE of another length, and inside its interval.
    t, _ = type(times)(1000).sample(EDMSDE(0.1, 80.0), torch.tensor([0.0, 1.0]))
    assert t.tolist() == [0.1, 80.0]


def test_an_sde_without_a_table_needs_a_number_of_steps() -> None:
    with pytest.raises(
        ValueError, match=r"no table of them: give objective.times.steps, such as 1000, or take sde=ddpm"
    ):
        UniformSteps().sample(VPSDE(), evenly(2))
    with pytest.raises(ValueError, match="steps"):
        UniformSteps(1)
    with pytest.raises(ValueError, match="history"):
        LossHistory(10, history=0)
    with pytest.raises(ValueError, match="uniform"):
        LossHistory(10, uniform=0.0)


def test_a_history_is_unbiased_and_has_less_variance() -> None:
    losses = 10 ** torch.linspace(1, -3, 50, dtype=F64)
    times, sde = filled(losses), VPSDE()
    t, correction = times.sample(sde, evenly(400_000))
    terms = correction * losses[times.step(sde, t) - 1]
    assert float(terms.mean()) == pytest.approx(float(losses.mean()), rel=1e-4)
    assert float(terms.var()) < 0.01 * float(losses.var())


def test_the_probabilities_are_those_of_the_paper() -> None:
    times = LossHistory(3, history=2, uniform=0.3)
    times.begin(VPSDE(), torch.device("cpu"))
    for step, loss in [(1, 1.0), (1, 9.0), (2, 2.0), (1, 3.0), (2, -2.0), (3, 4.0)]:
        times.remember(torch.tensor([step]), torch.tensor([loss]))
        torch.testing.assert_close(times.probabilities(), torch.full((3,), 1 / 3, dtype=F64))
    times.remember(torch.tensor([3]), torch.tensor([0.0]))
    roots = torch.tensor([(81 + 9) / 2, 4.0, 8.0], dtype=F64).sqrt()  # of the last two losses of each
    torch.testing.assert_close(times.probabilities(), 0.7 * roots / roots.sum() + 0.1)


def test_batches_are_remembered_as_one_loss_after_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    times, known = LossHistory(5, history=3), defaultdict[int, deque[float]](lambda: deque(maxlen=3))
    times.begin(VPSDE(), torch.device("cpu"))
    for size in (1, 40, 7, 2, 13):
        steps = torch.randint(1, 6, (size,), generator=generator)
        losses = torch.rand(size, generator=generator)
        losses[losses > 0.9] = torch.inf
        times.remember(steps, losses)
        for step, loss in zip(steps.tolist(), losses.tolist(), strict=True):
            if loss < 1:
                known[step].append(loss)
    wanted = torch.tensor([sorted(known[step]) for step in range(1, 6)], dtype=F64)
    torch.testing.assert_close(times.state_dict()["losses"].sort(1).values, wanted)


def test_a_state_that_is_loaded_goes_on_as_the_first() -> None:
    one = filled(torch.tensor([1.0, 2.0, 4.0]))
    other = LossHistory(3, 3)
    other.begin(VPSDE(), torch.device("cpu"))
    other.load_state_dict(one.state_dict())
    for times in (one, other):
        times.remember(torch.tensor([2, 2]), torch.tensor([5.0, 6.0]))
    assert torch.equal(one.probabilities(), other.probabilities())
    other.begin(VPSDE(), torch.device("cpu"))
    assert not bool(other.state_dict()["counts"].any())


def test_it_is_for_uniforms_of_single_precision_and_steps_of_no_loss() -> None:
    times = filled(torch.zeros(4))
    torch.testing.assert_close(times.probabilities(), torch.full((4,), 0.25, dtype=F64))
    t, _ = filled(torch.tensor([0.0, 0.0, 1.0])).sample(VPSDE(), torch.tensor([1.0]))
    assert float(t) == 1.0
