"""Picard sweeps: against the sequential method, the paper's loop written out, and counts on normal data."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.sampling.adams import Multistep
from scoresde.sampling.grids import KarrasGrid, UniformTime
from scoresde.sampling.picard import Picard
from scoresde.sampling.sampler import Sampler
from scoresde.sampling.samples import Samples
from scoresde.sampling.stochasticity import ConstantTau, Eta, IntervalTau
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE
from scoresde.sde.coordinates import Angle, Coordinate, LogSNR, NoiseLevel, SignalLevel, Straight, Time
from tests.problems import Mixture, gaussian, in_turn, short

F64 = torch.float64
ANCESTRAL = Multistep(1, coordinate=SignalLevel(), tau=Eta(1.0))
METHODS = {
    "ddim": Multistep(1, coordinate=NoiseLevel()),
    "ddpm": ANCESTRAL,
    "velocity": Multistep(2, coordinate=Time(), centre=True),
    "angle": Multistep(3),
    "log_snr": Multistep(3, coordinate=LogSNR(), tau=0.5, centre=True),
    "straight": Multistep(4, coordinate=Straight(), lower_order_final=True),
    "dpmpp_2m_sde": Multistep(
        2, coordinate=SignalLevel(), interpolation=LogSNR(), weights="bh2", tau=ConstantTau(1.0), lower_order_final=True
    ),
    "ipndm": Multistep(4, coordinate=NoiseLevel(), weights="uniform"),
    "interval": Multistep(3, coordinate=SignalLevel(), interpolation=LogSNR(), tau=IntervalTau(1.0, 0.05, 1.0)),
}


class Counting(ScoreModel):
    """Normal data around a label, or a given model, that writes down the rows of every call."""

    def __init__(self, model: GaussianMixtureScore) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model
        self.calls: list[int] = []

    def denoise(self, x: Tensor, t: Tensor, label: Tensor | None = None, **cond: Any) -> Tensor:
        self.calls.append(len(x))
        if label is None:
            return self.model.denoise(x, t)
        assert label.shape == (len(x),)
        alpha = self.sde.alpha(t).to(x).reshape(-1, 1)
        # The mixture moved by the label
        return self.model.denoise(x - alpha * label[:, None], t) + label[:, None]


def draw(solver: Any, model: ScoreModel, steps: int, n: int = 5, **kwargs: Any) -> Samples:
    return Sampler(solver, KarrasGrid(steps), denoise=False)(model, (n, 2), dtype=F64, **kwargs)


@pytest.mark.parametrize(("name", "splitting", "sde"), in_turn(list(METHODS), [None, NoiseLevel()]), ids=short)
def test_without_tolerance_it_is_the_sequential_method(
    sde: SDE, planar: Mixture, name: str, splitting: Coordinate | None
) -> None:
    method = METHODS[name]
    model, steps = planar.model(sde), 11
    wanted = draw(method, model, steps, trajectory=True).trajectory
    for window, tolerance in ((1, 1.0), (4, 0.0), (50, 1e-13)):
        out = draw(Picard(method, window, tolerance, splitting), model, steps, trajectory=True)
        torch.testing.assert_close(out.trajectory, wanted, rtol=1e-10, atol=1e-10)
        assert out.sweeps is not None
        assert int(out.sweeps.max()) <= steps


def test_a_window_of_one_is_sequential(sde: SDE, planar: Mixture) -> None:
    model = Counting(planar.model(sde))
    out = draw(Picard(ANCESTRAL, 1, 10.0), model, 12)
    assert model.calls == [5] * 12
    assert out.sweeps is not None
    assert out.nfe_per_sample is not None
    assert out.sweeps.tolist() == out.nfe_per_sample.tolist() == [12] * 5
    assert Sampler(Picard(ANCESTRAL, 1), KarrasGrid(12))(model, (5, 2)).nfe == 13


@pytest.mark.parametrize(("window", "tolerance"), [(7, 0.05), (64, 1e-3), (3, 0.0)])
def test_it_is_the_papers_loop(planar: Mixture, window: int, tolerance: float) -> None:
    """Algorithm 1 for DDIM, one sample after the other, in x/α, whose step is s' − s times ε."""
    sde = VPSDE()
    model, times, steps = planar.model(sde), KarrasGrid(20)(sde), 20
    alpha, level = sde.alpha(times), sde.sigma(times) / sde.alpha(times)
    spread = alpha[1:] * (level[1:] / level[:-1]) * (level[:-1] ** 2 - level[1:] ** 2).sqrt()  # Ho et al. 2020, eq. 7
    start = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    out = Sampler(Picard(None, window, tolerance, NoiseLevel()), KarrasGrid(20), denoise=False)(model, x_init=start)
    assert out.sweeps is not None
    assert out.nfe_per_sample is not None
    for sample, x in enumerate(start):
        path = [x / alpha[0]]
        front, sweeps, evaluations = 0, 0, 0
        while front < steps:
            guesses = path[front : front + (window if sweeps else 1)][: steps - front]
            eps = [model.noise((a * y)[None], t)[0] for a, y, t in zip(alpha[front:], guesses, times[front:])]  # noqa: B905
            sweeps, evaluations = sweeps + 1, evaluations + len(eps)
            new = path[: front + 1]
            while len(new) <= steps:
                i = len(new) - 1
                new.append(new[i] + (level[i + 1] - level[i]) * eps[min(i - front, len(eps) - 1)])
            stop = front + 1
            while stop < front + len(eps):
                change = alpha[stop] * (new[stop] - path[stop]).square().mean().sqrt()
                if change > tolerance * spread[stop - 1]:
                    break
                stop += 1
            front, path = stop, new
        torch.testing.assert_close(out.x[sample], alpha[-1] * path[-1], rtol=1e-11, atol=1e-11)
        # At no tolerance round-off decides
        if tolerance:
            assert (int(out.sweeps[sample]), int(out.nfe_per_sample[sample])) == (sweeps, evaluations)


@pytest.mark.parametrize(
    "method", [Multistep(1, coordinate=NoiseLevel()), Multistep(2, coordinate=LogSNR()), ANCESTRAL]
)
def test_normal_data_take_one_sweep_of_all_steps(sde: SDE, method: Multistep) -> None:
    """Q does not depend on x there; around the origin it is 0, and the first guesses are right."""
    steps = 30
    for mean, sweeps in ((0.0, 2), (0.7, 3)):
        model = gaussian(sde, (2,), mean)
        out = draw(Picard(method, steps, 1e-7), model, steps)
        assert out.sweeps is not None
        assert out.sweeps.tolist() == [sweeps] * 5
        torch.testing.assert_close(out.x, draw(method, model, steps).x, rtol=1e-8, atol=1e-8)
        if not mean:
            assert out.nfe == steps


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=["vp", "edm"])
@pytest.mark.parametrize("name", ["ddim", "angle", "ddpm"])
def test_sweeps_and_error(planar: Mixture, name: str, sde: SDE) -> None:
    model, steps, method = planar.model(sde), 64, METHODS[name]
    wanted = draw(method, model, steps, 64).x
    before = 0
    for tolerance in (0.1, 0.01, 0.001):
        out = draw(Picard(method, steps, tolerance), model, steps, 64)
        assert out.sweeps is not None
        assert before < int(out.sweeps.sum())
        assert int(out.sweeps.max()) < steps / 4
        before = int(out.sweeps.sum())
        # The data's standard deviation is 1.1
        assert float((out.x - wanted).square().mean(1).sqrt().max()) < tolerance


def test_the_angle_saves_sweeps(planar: Mixture) -> None:
    """The same system, split otherwise."""
    model = planar.model(VPSDE())
    split, own = (draw(Picard(ANCESTRAL, 64, 0.01, c), model, 64, 32).sweeps for c in (None, SignalLevel()))
    assert split is not None
    assert own is not None
    assert float(split.double().mean()) < 0.6 * float(own.double().mean())


@pytest.mark.parametrize("method", [Multistep(3), ANCESTRAL], ids=["angle", "ddpm"])
def test_counts(planar: Mixture, method: Multistep) -> None:
    model = Counting(planar.model(VPSDE()))
    out = draw(Picard(method, 10, 0.02), model, 40)
    assert out.sweeps is not None
    assert out.nfe_per_sample is not None
    assert out.nfe_per_sample.dtype == out.sweeps.dtype == torch.int64
    assert len(model.calls) == int(out.sweeps.max())
    assert sum(model.calls) == int(out.nfe_per_sample.sum())
    assert out.nfe == int(out.nfe_per_sample.max())
    assert max(model.calls) <= 10 * 5
    # With the last denoising, one evaluation more
    whole = Sampler(Picard(method, 10, 0.02), KarrasGrid(40))(model, (5, 2), dtype=F64)
    assert whole.nfe_per_sample is not None
    assert torch.equal(whole.nfe_per_sample, out.nfe_per_sample + 1)


@pytest.mark.parametrize("method", [Multistep(3), ANCESTRAL], ids=["angle", "ddpm"])
def test_a_sample_does_not_depend_on_its_batch(planar: Mixture, method: Multistep) -> None:
    model, solver = planar.model(VPSDE()), Picard(method, 8, 0.05)
    whole = draw(solver, model, 30, 9, seed=4)
    assert whole.sweeps is not None
    assert len(whole.sweeps.unique()) > 1  # samples do move apart
    for size in (1, 4):
        parts = draw(solver, model, 30, 9, seed=4, batch_size=size)
        torch.testing.assert_close(parts.x, whole.x, rtol=0, atol=1e-12)
        for name in ("sweeps", "nfe_per_sample"):
            assert torch.equal(getattr(parts, name), getattr(whole, name))


def test_conditions_follow_their_samples(planar: Mixture) -> None:
    model = Counting(planar.model(VPSDE()))
    label = torch.tensor([-4.0, 0.0, 1.0, 9.0, 0.5], dtype=F64)
    wanted = draw(ANCESTRAL, model, 25, label=label)
    out = draw(Picard(ANCESTRAL, 6, 0.0), model, 25, label=label)
    torch.testing.assert_close(out.x, wanted.x, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(out.x, draw(ANCESTRAL, model, 25).x, atol=0.1)


def test_trajectory_dtype_and_shape() -> None:
    model = Mixture("full", (1, 2, 2)).model(EDMSDE())
    times = UniformTime(9)
    for dtype in (torch.float32, F64):
        out = Sampler(Picard(Multistep(2), 4, 0.1), times, denoise=False)(
            model, (3, 1, 2, 2), dtype=dtype, trajectory=True
        )
        assert out.trajectory is not None
        assert out.trajectory.shape == (10, 3, 1, 2, 2)
        assert out.x.dtype == out.trajectory.dtype == dtype
        assert torch.equal(out.trajectory[-1], out.x)
        # Not a view of the whole path
        assert out.x.untyped_storage().nbytes() == out.x.nbytes


def test_single_precision_without_tolerance(sde: SDE, planar: Mixture) -> None:
    sampler, model = Sampler(Picard(Multistep(3), 16, 0.0), KarrasGrid(40)), planar.model(sde)
    wanted = Sampler(Multistep(3), KarrasGrid(40))(model, (8, 2), dtype=torch.float32).x
    torch.testing.assert_close(sampler(model, (8, 2), dtype=torch.float32).x, wanted, rtol=2e-3, atol=2e-3)


def test_few_steps(planar: Mixture) -> None:
    model = planar.model(VPSDE())
    method = Multistep(4, coordinate=NoiseLevel())
    with pytest.warns(UserWarning, match="order 4 needs at least 4 steps, the grid has 2: the order is lowered"):
        out = draw(Picard(method, 5, 0.0), model, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = draw(method, model, 2).x
    torch.testing.assert_close(out.x, wanted, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="the grid has 2: take more steps or a lower order"):
        draw(Picard(Multistep(3, strict=True), 5), model, 2)
    assert draw(Picard(), model, 1).nfe == 1


def test_bad_arguments() -> None:
    for window in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match=f"window is {window!r}, expected an? (integer|whole number)"):
            Picard(window=window)  # type: ignore[arg-type]
    for tolerance in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"tolerance is {tolerance}, expected a number of at least 0"):
            Picard(tolerance=tolerance)
    with pytest.raises(ValueError, match="the method has corrector=2, expected 0: a sweep has a predictor only"):
        Picard(Multistep(2, corrector=2))
    with pytest.raises(ValueError, match="the method has start='gaussian', expected 'model'"):
        Picard(Multistep(2, start="gaussian"))
    with pytest.raises(ValueError, match="the method has safeguard=True, expected False"):
        Picard(Multistep(2, safeguard=True))
    assert repr(Picard(splitting=Angle(0.5))).startswith("Picard(method=Multistep(order=1")
