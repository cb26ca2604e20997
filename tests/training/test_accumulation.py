"""A batch in parts has the loss, the gradient and the draws of the whole batch."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.data import digits
from scoresde.networks import MLP, UNet
from scoresde.objectives import (
    Criterion,
    DenoisingScoreMatching,
    ImplicitScoreMatching,
    LossHistory,
    SlicedScoreMatching,
    VariationalBound,
)
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE
from scoresde.training import make_trainer
from scoresde.training.accumulation import parts
from scoresde.training.loop import Trainer

DATA = digits()


def unet() -> nn.Module:
    """A network in which everything is random that may be, and whose output is not 0."""
    torch.manual_seed(0)
    network = UNet((1, 8, 8), channels=8, blocks=1, dropout=0.4, num_classes=10, label_dropout=0.3)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3)


def trainer(network: nn.Module, objective: Criterion | None, accumulate: int, **options: Any) -> Trainer:
    objective = copy.deepcopy(objective)  # it may remember
    model = NetworkScore(copy.deepcopy(network), VPSDE(), EDMPreconditioning(0.5))
    given = {"optimizer": sgd, "batch_size": 14, "clip": None, "warmup": 0, "accumulate": accumulate, **options}
    return make_trainer(model, DATA, 3, objective=objective, **given)  # type: ignore[arg-type]


def course(one: Trainer) -> tuple[list[Tensor], list[float], list[float], Tensor]:
    """Weights after three steps, losses, norms of gradients, and the record of losses."""
    steps = one.steps()
    made = [next(steps) for _ in range(2)]
    log = one.record.state()
    record = [log["levels"].flatten(), log["loss"][None].double()]
    record += [value.double().flatten() for value in one.objective.state_dict().values()]
    losses, norms = [float(s.loss) for s in made], [float(s.grad_norm) for s in made]
    return [p.detach() for p in one.bare.parameters()], losses, norms, torch.cat(record)


@pytest.mark.parametrize("accumulate", [2, 5, 14])  # 5 parts of a batch of 14 differ in size
@pytest.mark.parametrize(
    "objective",
    [DenoisingScoreMatching(), SlicedScoreMatching(projections=3), VariationalBound(times=LossHistory(20, history=2))],
    ids=lambda objective: type(objective).__name__,
)
def test_parts_are_the_whole(objective: Criterion, accumulate: int) -> None:
    network = unet()
    whole, split = (course(trainer(network, objective, number)) for number in (1, accumulate))
    start = [p.detach() for p in network.parameters()]
    moved = max(float((p - q).abs().max()) for p, q in zip(whole[0], start, strict=True))
    apart = max(float((p - q).abs().max()) for p, q in zip(whole[0], split[0], strict=True))
    assert apart < 1e-4 * moved
    assert split[1] == pytest.approx(whole[1], rel=1e-5)
    assert split[2] == pytest.approx(whole[2], rel=1e-4)
    torch.testing.assert_close(split[3], whole[3], rtol=1e-4, atol=1e-5)


def test_draws_matter() -> None:
    """Parts that drew their own numbers would be far away: what the test above holds is not met by any draws."""
    network = unet()
    whole = course(trainer(network, DenoisingScoreMatching(), 1))
    one = trainer(network, DenoisingScoreMatching(), 2)
    one.bare._compiled_call_impl = one.bare._call_impl  # as if it were compiled
    own = course(one)
    assert abs(own[1][0] - whole[1][0]) > 1e-3 * whole[1][0]


def test_implicit_score_matching_of_a_perceptron() -> None:
    torch.manual_seed(0)
    network = MLP((1, 8, 8), width=8, blocks=1)
    whole, split = (course(trainer(network, ImplicitScoreMatching(), number)) for number in (1, 3))
    assert split[1] == pytest.approx(whole[1], rel=1e-5)


def test_parts_cover_the_batch() -> None:
    assert [(r.start, r.stop) for r in parts(10, 4)] == [(0, 2), (2, 5), (5, 8), (8, 10)]
    assert [(r.start, r.stop) for r in parts(3, 3)] == [(0, 1), (1, 2), (2, 3)]


def test_more_parts_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"training\.accumulate is 15 parts of the 14 samples .* at most as many"):
        trainer(unet(), None, 15)


def test_the_memory_is_that_of_a_part(tmp_path: Path) -> None:
    """What the pass forward keeps for the pass back, at its largest."""

    def kept(accumulate: int) -> int:
        one = trainer(unet(), DenoisingScoreMatching(), accumulate, batch_size=64)
        now, most, sizes = 0, 0, {}

        def pack(tensor: Tensor) -> Tensor:
            nonlocal now, most
            if tensor.ndim == 4 and tensor.data_ptr() not in sizes:
                sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
                now += sizes[tensor.data_ptr()]
                most = max(most, now)
            return tensor

        original = torch.autograd.backward

        def backward(*args: Any, **kwargs: Any) -> None:
            nonlocal now
            original(*args, **kwargs)
            sizes.clear()
            now = 0

        with pytest.MonkeyPatch.context() as patch, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            patch.setattr(torch.autograd, "backward", backward)
            next(one.steps())
        return most

    assert kept(8) < 0.25 * kept(1)
