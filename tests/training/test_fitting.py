"""Training from Python."""

import functools
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scoresde.data import digits
from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE
from scoresde.training import Fit, fit
from scoresde.training.loop import Trainer


def _model(shape: tuple[int, ...] = (2,), width: int = 16) -> NetworkScore:
    torch.manual_seed(0)
    return NetworkScore(MLP(shape, width=width, blocks=1), VPSDE(), EDMPreconditioning())


@pytest.fixture
def x() -> Tensor:
    return 3 + 0.5 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0))


def _weights(model: NetworkScore) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_loss_falls_and_the_model_learns_the_data(x: Tensor) -> None:
    model = _model()
    found = fit(model, x, 200, batch_size=64, log_every=20, progress=False)
    assert found.steps == list(range(20, 201, 20))
    assert found.loss[-1] < 0.5 * found.loss[0]
    assert len(found.log_snr) == len(found.loss_by_log_snr) > 10
    assert found.skipped == 0
    assert found.seconds > 0
    assert not model.training
    # The data are symmetric about 3, up to a standard error of 0.025, and so is the best guess; their spread is 0.5.
    t = model.sde.time(torch.tensor(1.0, dtype=torch.float64))
    guess = model.denoise(3 * model.sde.alpha(t).float().expand(1, 2), t).detach()
    assert guess[0].tolist() == pytest.approx([3, 3], abs=0.15)
    assert repr(found).startswith("Fit(200 steps, loss ")


def test_statistics_of_the_data_are_filled_in_and_saved_with_the_model(x: Tensor) -> None:
    model = _model()
    fit(model, x, 1, progress=False)
    assert model.statistics is not None
    assert model.preconditioning.sigma_data == pytest.approx(float(model.statistics.std))  # type: ignore[attr-defined]
    assert torch.allclose(model.statistics.mean, x.double().mean(0))
    assert "statistics.mean" in model.state_dict()


def test_same_seed_same_weights_and_the_caller_keeps_its_random_numbers(x: Tensor) -> None:
    first, second, other = _model(), _model(), _model()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    fit(first, x, 5, progress=False)
    assert torch.equal(torch.rand(1), expected)
    fit(second, x, 5, progress=False)
    fit(other, x, 5, seed=1, progress=False)
    assert torch.equal(_weights(first), _weights(second))
    assert not torch.equal(_weights(first), _weights(other))


def test_a_directory_goes_on_where_it_was(x: Tensor, tmp_path: Path) -> None:
    whole, parts = _model(), _model()
    options = {"final_lr": 1.0, "warmup": 0, "log_every": 1, "progress": False}
    fit(whole, x, 6, **options)
    fit(_model(), x, 3, run_dir=tmp_path, **options)
    rest = fit(parts, x, 6, run_dir=tmp_path, **options)
    assert rest.steps == [4, 5, 6]
    assert torch.equal(_weights(whole), _weights(parts))
    assert fit(_model(), x, 6, run_dir=tmp_path, **options) == Fit([], [], [], [], 0, rest.seconds)


def test_data_sets_other_optimisers_and_bad_options() -> None:
    data = digits(labels=False)
    found = fit(
        _model(data.shape), data, 3, optimizer=functools.partial(torch.optim.SGD, lr=1e-3), batch_size=8, progress=False
    )
    assert found.steps == [3]
    with pytest.raises(ValueError, match="training.steps is 0, expected a whole number of at least 1"):
        fit(_model(data.shape), data, 0)
    with pytest.raises(TypeError, match="batch"):
        fit(_model(data.shape), data, 1, batch=3)
    with pytest.raises(ValueError, match="constant data"):
        fit(_model(), torch.zeros(5, 2), 1)


def test_an_interruption_leaves_the_average_so_far(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    before = _weights(model)
    stop = Trainer._stop_requested
    monkeypatch.setattr(Trainer, "_stop_requested", lambda self: signal.SIGINT if self.step == 3 else stop(self))
    with pytest.raises(KeyboardInterrupt, match="training stopped after step 3 of 50"):
        fit(model, x, 50, progress=False)
    assert not model.training
    assert bool(_weights(model).isfinite().all())
    assert not torch.equal(_weights(model), before)
