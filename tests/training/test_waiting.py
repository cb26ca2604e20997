"""Loops do not wait for an accelerator, but where they show a number or have to know one."""

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from scoresde.data import digits
from scoresde.networks import MLP, UNet
from scoresde.objectives import DenoisingScoreMatching, Loss
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import (
    DPMSolverPP,
    EDMHeun,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    Sampler,
    Solver,
    UniformTime,
)
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE
from scoresde.training.batches import Batches
from scoresde.training.loop import Trainer
from scoresde.training.options import Training
from tests.elsewhere import DEVICE, elsewhere


class Counting(DenoisingScoreMatching):
    """Notes how often the device was waited for before each step."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits
        self.counts: list[int] = []

    def __call__(self, model: Any, x0: Tensor, generator: Any = None, **given: Any) -> Loss:
        self.counts.append(len(self.waits))
        return super().__call__(model, x0, generator, **given)


@pytest.mark.parametrize("options", [{}, {"clip": None, "flip": True, "channels_last": True, "stratified": False}])
def test_steps_of_training_wait_for_the_device_where_they_log(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = cast(Any, SimpleNamespace(device=DEVICE, num_processes=1, process_index=0, is_main_process=True))
    training = Training(steps=15, batch_size=6, log_every=5, checkpoint_every=None, **options)
    network = UNet((1, 8, 8), channels=4, blocks=1, dropout=0.1, num_classes=10, label_dropout=0.1)
    model = NetworkScore(network, VPSDE(), EDMPreconditioning(0.5))
    adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
    with elsewhere(monkeypatch) as waits:
        objective = Counting(waits)
        Trainer(model, objective, digits(), adam, training, accelerator=here, held_out=False).fit(progress=False)
    changed = [step for step in range(1, 15) if objective.counts[step] != objective.counts[step - 1]]
    # The first step looks whether it is finite, since a fused optimiser that skips it is left without a state.
    assert changed == [1, 5, 10]
    assert objective.counts[1] == 1


@pytest.mark.parametrize(("free", "kept"), [(10**9, True), (10**5, False)])
def test_data_that_fit_are_kept_on_the_device(free: int, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data, training = digits(), Training(batch_size=6)
    here, there = (cast(Any, SimpleNamespace(device=d, num_processes=1, process_index=0)) for d in ("cpu", DEVICE))
    here.device = torch.device("cpu")
    expected = Batches(data, training, here, conditional=True)(3)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (free, 2 * free))
    with elsewhere(monkeypatch) as waits:
        batches = Batches(data, training, there, conditional=True)
        assert (batches._train.device == DEVICE) == kept
        assert (batches._train_conditions["labels"].device == DEVICE) == kept
        batch = batches(3)
        assert waits == []
        assert batch.x0.device == batch.conditions["labels"].device == DEVICE
        torch.testing.assert_close(batch.x0.cpu(), expected.x0, rtol=0, atol=0)
        assert torch.equal(batch.conditions["labels"].cpu(), expected.conditions["labels"])


@pytest.mark.parametrize(
    "solver",
    [EDMHeun(), DPMSolverPP(2), PredictorCorrector(EulerMaruyama(), Langevin(snr=0.16))],
    ids=repr,
)
def test_more_steps_of_a_sampler_do_not_wait_more_often(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    model = NetworkScore(MLP((2,), width=8, blocks=1), VPSDE(), EDMPreconditioning(0.5)).eval()
    counts = []
    with elsewhere(monkeypatch) as waits:
        model.to(DEVICE)
        for steps in (4, 9):
            before = len(waits)
            Sampler(solver, UniformTime(steps))(model, shape=(3, 2), seed=0)
            counts.append(len(waits) - before)
    assert counts[0] == counts[1]


def test_the_device_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    with elsewhere(monkeypatch) as waits:
        x = torch.arange(3.0, device=DEVICE).requires_grad_()
        (x.square().sum() * 2).backward()
        assert not waits
        assert x.grad is not None
        assert x.grad.cpu().tolist() == [0, 4, 8]
        assert float(x.detach()[1]) == 1
        torch.zeros(3).copy_(x.detach())
        x.detach()[x.detach() > 0]
    assert waits == ["_to_copy", "_local_scalar_dense", "copy_", "index by a mask"]
