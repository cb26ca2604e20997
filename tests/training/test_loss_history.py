"""Training whose noise levels follow from the losses so far."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.data import two_moons
from scoresde.networks import MLP
from scoresde.objectives import DenoisingScoreMatching, Hybrid, Loss, LossHistory, Objective
from scoresde.preconditioning import NoisePreconditioning
from scoresde.score import NetworkScore
from scoresde.sde import DDPMSDE
from scoresde.training import sharing
from scoresde.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from scoresde.training.loop import Trainer
from scoresde.training.options import Training

DATA = two_moons(n_train=200, n_test=8)
STEPS = 8  # of the chain, so that a history is full after a few steps of training


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def history() -> LossHistory:
    return LossHistory(history=3)


def make(run_dir: Path | None, objective: Objective | None = None, **options: Any) -> Trainer:
    torch.manual_seed(0)
    network = MLP(DATA.shape, width=16, blocks=1, dropout=0.2, learn_variance=True)
    model = NetworkScore(network, DDPMSDE(STEPS, 0.01, 0.5), NoisePreconditioning())
    settings: dict[str, Any] = {"steps": 12, "batch_size": 32, "warmup": 3, "log_every": 4, "checkpoint_every": None}
    adamw = torch.optim.AdamW
    training = Training(**{**settings, **options})
    return Trainer(model, objective or Hybrid(times=history()), DATA, lambda p: adamw(p, 1e-2), training, run_dir)


def state(run_dir: Path) -> dict[str, Any]:
    path = latest_checkpoint(run_dir / "checkpoints")
    assert path is not None
    return load_checkpoint(path)


@pytest.mark.parametrize(
    "make_objective", [lambda: Hybrid(times=history()), lambda: DenoisingScoreMatching(None, history())]
)
def test_a_resumed_training_has_the_weights_and_the_history_of_one_without_interruption(
    tmp_path: Path, make_objective: Any
) -> None:
    whole = make(tmp_path / "whole", make_objective())
    whole.fit(progress=False)
    parts = make(tmp_path / "parts", make_objective())
    for step in parts.steps():
        if step.step == 7:
            break
    parts.save()
    assert bool((parts.objective.state_dict()["counts"] >= 3).all())  # the steps are no longer uniform
    again = make(tmp_path / "parts", make_objective())
    again.fit(progress=False)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    for part in ("objective", "network", "ema"):
        one, other = (state(tmp_path / run)[part] for run in ("whole", "parts"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), part
    assert state(tmp_path / "whole")["objective"]["counts"].sum() == 12 * 32


def test_an_objective_begins_anew_with_each_training(tmp_path: Path) -> None:
    objective = Hybrid(times=history())
    first, second = (make(None, objective) for _ in range(2))
    first.fit(progress=False)
    second = make(None, objective)
    assert not bool(objective.state_dict()["counts"].any())
    second.fit(progress=False)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_a_checkpoint_without_its_history_is_refused(tmp_path: Path) -> None:
    make(tmp_path, DenoisingScoreMatching()).fit(progress=False)
    with pytest.raises(ValueError, match=r"the objective's (counts|losses) is missing"):
        make(tmp_path).fit(progress=False)
    known = state(tmp_path)
    known["objective"] = {"losses": torch.zeros(STEPS, 2), "counts": torch.zeros(STEPS, dtype=torch.int64)}
    step = known.pop("step")
    save_checkpoint(tmp_path / "checkpoints", step, {k: v for k, v in known.items() if k != "format"}, 1)
    with pytest.raises(ValueError, match="the objective's losses is float32"):
        make(tmp_path).fit(progress=False)


class Spoilt(Hybrid):
    """Has a loss that is not finite at its third call in training."""

    calls = 0

    def __call__(self, model: Any, x0: Tensor, generator: Any = None, **given: Any) -> Loss:
        loss = super().__call__(model, x0, generator, **given)
        self.calls += model.training
        return loss._replace(value=loss.value * math.nan) if self.calls == 3 else loss


def test_a_step_that_is_skipped_and_held_out_losses_are_not_remembered() -> None:
    objective = Spoilt(times=history())
    trainer = make(None, objective)
    trainer.fit(progress=False)
    assert trainer.skipped == 1
    assert objective.state_dict()["counts"].sum() == 11 * 32


def test_the_samples_of_several_processes_come_in_the_order_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.arange(12)
    parts = [batch[rank::3] for rank in range(3)]
    monkeypatch.setattr(sharing, "gather", lambda value: torch.cat(parts))
    three: Any = SimpleNamespace(num_processes=3)
    assert torch.equal(sharing.in_batch_order(parts[0], three), batch)
    assert sharing.in_batch_order(batch, SimpleNamespace(num_processes=1)) is batch  # type: ignore[arg-type]


def test_a_model_that_the_objective_cannot_train_is_rejected_at_once(tmp_path: Path) -> None:
    model = NetworkScore(MLP(DATA.shape, width=16, blocks=1), DDPMSDE(STEPS), NoisePreconditioning())
    with pytest.raises(ValueError, match="network.learn_variance=true"):
        Trainer(model, Hybrid(), DATA, torch.optim.AdamW, Training(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
