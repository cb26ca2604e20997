"""Training from Python."""

import functools
import math
import signal
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scoresde.data import Affine, Data, Identity, Standardise, continuous, digits, eight_gaussians
from scoresde.likelihood import decode, elbo, encode, log_likelihood
from scoresde.networks import MLP
from scoresde.objectives import VariationalBound
from scoresde.preconditioning import EDMPreconditioning, NoisePreconditioning, Preconditioning
from scoresde.sampling import Heun, KarrasGrid, Sampler
from scoresde.score import NetworkScore
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE, ErasureVPSDE, FlowSDE, SubVPSDE
from scoresde.statistics import Statistics
from scoresde.training import Fit, fit, make_trainer
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
    # Two modes: one normal mode is what a new network knows, once it is standardised.
    x = 2 + 0.1 * (x - 3) + 2 * (torch.arange(len(x)) % 2)[:, None]
    found = fit(model, x, 400, batch_size=64, log_every=20, progress=False)
    assert found.steps == list(range(20, 401, 20))
    assert sum(found.loss[-5:]) / 5 < 0.75 * found.loss[0]
    assert len(found.log_snr) == len(found.loss_by_log_snr) > 10
    assert found.skipped == 0
    assert found.seconds > 0
    assert not model.training
    # The data are symmetric about their mean, which is 0 in model space, and so is the best guess.
    t = model.sde.time(torch.tensor(1.0, dtype=torch.float64))
    guess = model.denoise(torch.zeros(1, 2), t).detach()
    assert guess[0].tolist() == pytest.approx([0, 0], abs=0.3)
    assert repr(found).startswith("Fit(400 steps, loss ")


def test_statistics_of_the_data_are_filled_in_and_saved_with_the_model(x: Tensor) -> None:
    model = _model()
    fit(model, x, 1, progress=False)
    assert model.statistics is not None
    assert model.preconditioning.sigma_data == pytest.approx(float(model.statistics.std))  # type: ignore[attr-defined]
    assert model.transform == Standardise.fit(x)
    assert torch.allclose(model.statistics.mean, model.transform.encode(x).double().mean(0))
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
    with pytest.raises(ValueError, match="training.steps is 0, expected an integer of at least 1"):
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


SCALES = [
    ([1.0, 1.0], [0.0, 0.0]),
    ([1e-6, 1e-6], [0.0, 0.0]),
    ([1e6, 1e6], [0.0, 0.0]),
    ([1.0, 1.0], [1e6, 1e6]),
    ([700.0, 0.01], [101_325.0, 0.6]),
]


@pytest.mark.parametrize(("scale", "offset"), SCALES, ids=str)
def test_data_of_any_scale_and_offset_give_the_same_model(scale: list[float], offset: list[float]) -> None:
    """The same in units of the scale, and not merely as good: the network sees the same numbers."""
    generator = torch.Generator().manual_seed(0)
    # Two unlike channels, so that every case is standardised by channel.
    unit = torch.randn(300, 2, dtype=torch.float64, generator=generator) * torch.tensor([1.0, 3.0]) + 0.5
    factor, shift = (torch.tensor(v, dtype=torch.float64) for v in (scale, offset))
    reference, model = _model(), _model()
    options = {"batch_size": 64, "progress": False}
    fit(reference, unit, 40, **options)
    fit(model, shift + factor * unit, 40, **options)
    x, log_det = unit[:16], float(factor.log().sum())
    expected, found = log_likelihood(reference, x), log_likelihood(model, shift + factor * x)
    # An offset of 1e6 costs float64 ten of its sixteen digits.
    assert torch.allclose(found.log_prob + log_det, expected.log_prob, atol=1e-3)
    assert torch.allclose(found.latent, expected.latent, atol=1e-3)
    bounds = [elbo(m, v, draws=8).value for m, v in ((reference, x), (model, shift + factor * x))]
    assert torch.allclose(bounds[1] + log_det, bounds[0], atol=1e-3)
    sampler = Sampler(Heun(), KarrasGrid(8))
    draws = [sampler(m, (32, 2), trajectory=True, log_prob=False) for m in (reference, model)]
    assert torch.allclose((draws[1].x - shift) / factor, draws[0].x.double(), atol=2e-3)
    assert draws[0].trajectory is not None
    assert draws[1].trajectory is not None
    assert torch.allclose((draws[1].trajectory - shift) / factor, draws[0].trajectory.double(), atol=2e-3, rtol=1e-3)
    back = decode(model, encode(model, shift + factor * x))
    assert torch.allclose((back - shift) / factor, x, atol=1e-3)


@pytest.mark.parametrize(
    "sde", [SubVPSDE(), VESDE(), CosineSDE(), EDMSDE(), FlowSDE()], ids=lambda sde: type(sde).__name__
)
@pytest.mark.parametrize("preconditioning", [EDMPreconditioning(), NoisePreconditioning()], ids=["edm", "noise"])
def test_every_sde_is_indifferent_to_scale_and_offset(x: Tensor, sde: SDE, preconditioning: Preconditioning) -> None:
    found = []
    for scale, offset in ((1.0, 0.0), (1e-6, 1e-3), (1e6, 1e9)):
        torch.manual_seed(0)
        model = NetworkScore(MLP((2,), width=8, blocks=1), sde, preconditioning)
        raw = offset + scale * x.double()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(model, raw, 5, batch_size=32, progress=False)
        found.append(log_likelihood(model, raw[:3]).log_prob + 2 * math.log(scale))
    assert torch.allclose(found[1], found[0], atol=1e-3)
    assert torch.allclose(found[2], found[0], atol=1e-3)


def test_samples_come_with_the_log_density_in_their_own_units(x: Tensor) -> None:
    model = _model()
    fit(model, 1000 * x, 5, progress=False)
    out = Sampler(Heun(), KarrasGrid(8))(model, (4, 2), log_prob=True, dtype=torch.float64)
    assert out.log_prob is not None
    again = log_likelihood(model, out.x, t_min=float(out.times[-1])).log_prob
    assert torch.allclose(out.log_prob, again, atol=1e-6)
    assert float(out.x.mean()) == pytest.approx(3000, abs=1000)


def test_what_a_model_is_of_settles_its_space(x: Tensor) -> None:
    data = Data("mine", x, x[:1], Affine(3.0, 0.5))
    model = _model()
    fit(model, data, 1, progress=False)
    assert model.transform == Affine(3.0, 0.5)
    fit(model, 2 * x, 1, progress=False)  # further training does not move the space of what was learnt
    assert model.transform == Affine(3.0, 0.5)
    with pytest.raises(ValueError, match=r"the model is of data under Affine.* and other has Standardise"):
        fit(model, Data("other", x, x[:1]), 1, progress=False)
    known = _model()
    known.statistics = Statistics.estimate(x)
    fit(known, x, 1, progress=False)
    assert known.transform is None
    raw = _model()
    fit(raw, x, 1, standardise="none", progress=False)
    assert raw.transform is None
    assert raw.statistics is not None
    assert torch.allclose(raw.statistics.mean, x.double().mean(0))
    for standardise in ("all", "channel"):
        chosen = _model()
        fit(chosen, x, 1, standardise=standardise, progress=False)  # type: ignore[arg-type]
        assert chosen.transform == continuous(x, standardise)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="the space of this one is settled by its transform: leave it out"):
            fit(chosen, x, 1, standardise=standardise, progress=False)  # type: ignore[arg-type]
    fit(raw, x, 1, standardise="none", progress=False)
    with pytest.raises(ValueError, match="settled by its statistics"):
        fit(raw, x, 1, standardise="all", progress=False)
    toy = _model()
    fit(toy, eight_gaussians(n_train=50, n_test=5), 1, progress=False)
    assert toy.transform is None
    pixels = _model((1, 8, 8))
    fit(pixels, digits(), 1, batch_size=4, progress=False)
    assert pixels.transform is None
    with pytest.raises(ValueError, match="standardise='all' is for samples, and mine is a data set"):
        fit(_model(), data, 1, standardise="all", progress=False)
    assert Identity() == continuous(x, "none")


def test_the_transform_is_in_the_state_dict(x: Tensor) -> None:
    model, other = _model(), _model()
    fit(model, torch.stack((x, 1000 * x), 1).reshape(-1, 2), 1, progress=False)
    state = model.state_dict()
    other.statistics = Statistics.standard((2,), covariance=True)
    other.load_state_dict(state)
    assert other.transform == model.transform
    assert torch.equal(other.to_model_space(x), model.to_model_space(x))
    assert math.isfinite(other.log_det((2,)))
    fresh = _model()
    assert not any(key.startswith("transform") for key in fresh.state_dict())


def test_data_in_other_units_than_the_models_are_told_of(x: Tensor) -> None:
    model = _model()
    raw = 1000 + 20 * (x - 3)
    fit(model, raw, 1, progress=False)
    assert model.transform is not None
    sampler = Sampler(Heun(), KarrasGrid(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_likelihood(model, raw[:20])
        samples = sampler(model, (20, 2), trajectory=True).x
        sampler(model, x_init=model.sde.prior_sample((20, 2), torch.Generator().manual_seed(0)))
    with pytest.warns(UserWarning, match=r"x_init is 1e.03 standard deviations from what the model expects at t = 1: "):
        sampler(model, x_init=raw[:20])
    with pytest.warns(UserWarning, match=r"distance of x from the mean .* is 98 of their standard deviations: x is"):
        log_likelihood(model, model.transform.encode(raw[:20]))
    with pytest.warns(UserWarning, match="are decoded, where standardised data have 1"):
        model.transform.decode(samples)
    small = _model()
    fit(small, 1e-3 * x, 1, progress=False)
    assert small.transform is not None
    with pytest.warns(UserWarning, match="of their standard deviations: x is expected in the data's units"):
        encode(small, small.transform.encode(1e-3 * x[:20]))


def test_a_loop_of_ones_own_trains_as_fit_does(tmp_path: Path) -> None:
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) + 5
    options = {"batch_size": 16, "log_every": 1, "seed": 3}
    one, other = _model(), _model()
    fitted = fit(one, x, 6, progress=False, **options)
    trainer = make_trainer(other, x, 6, **options)
    with torch.random.fork_rng():
        losses = [float(step.loss) for step in trainer.steps()]
    assert losses == fitted.loss
    assert torch.equal(_weights(one), _weights(other))
    assert not other.training
    assert other.transform == one.transform
    with pytest.raises(ValueError, match="^there is no folder for checkpoints: give run_dir$"):
        trainer.save()
    with pytest.raises(ValueError, match="^the trainer writes no checkpoints: give run_dir$"):
        _ = trainer.checkpoints
    with pytest.raises(ValueError, match="lr is -1"):
        make_trainer(_model(), x, 6, lr=-1)


def test_rates_of_an_sde_are_learned_with_the_network(x: Tensor) -> None:
    sde = ErasureVPSDE(10, learned=True)
    start = sde.betas
    network = MLP((2,), width=16, blocks=1, learn_variance=True)
    model = NetworkScore(network, sde, EDMPreconditioning())
    assert "network.rates.logits" in model.state_dict()
    t = torch.tensor([0.3, 0.9])
    assert sde.alpha(t).requires_grad
    fit(model, x, 30, objective=VariationalBound(), lr=0.03, batch_size=64, progress=False)
    assert sde.betas[0] == start[0]
    assert all(abs(a - b) > 1e-4 for a, b in zip(sde.betas[1:], start[1:], strict=True))
    # What follows from the SDE has no graph any more, and goes to NumPy as that of any other.
    assert sde.alpha(t).numpy().shape == (2,)
    assert sde.perturb(torch.ones(2, 2), t).numpy().shape == (2, 2)
    assert sde.chain().betas.numpy().tolist() == list(sde.betas)
    assert sde.chain().perturb(torch.ones(2, 2), torch.tensor(3)).numpy().shape == (2, 2)
    # The same SDE may have another model of the same network, and another SDE may not.
    NetworkScore(network, sde, EDMPreconditioning())
    with pytest.raises(ValueError, match="the network has learned rates of another SDE already"):
        NetworkScore(network, ErasureVPSDE(10, learned=True), EDMPreconditioning())


def test_rates_are_learned_through_the_bound_alone(x: Tensor) -> None:
    model = NetworkScore(MLP((2,), width=16, blocks=1), ErasureVPSDE(10, learned=True), EDMPreconditioning())
    message = r"DenoisingScoreMatching is the objective, and rates .* VariationalBound alone: .*learned=False"
    with pytest.raises(ValueError, match=message):
        fit(model, x, 1, progress=False)
    fit(NetworkScore(MLP((2,), width=16, blocks=1), ErasureVPSDE(10), EDMPreconditioning()), x, 1, progress=False)
