"""The loop around every solver."""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde import objectives, progress
from scoresde.likelihood import decode, encode, log_likelihood
from scoresde.networks import MLP
from scoresde.objectives import DenoisingScoreMatching
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import (
    ERSDE,
    SEEDS,
    Adaptive,
    Ancestral,
    AnnealedLangevin,
    DataStraight,
    Euler,
    EulerMaruyama,
    ExplicitTimes,
    Heun,
    KarrasGrid,
    Langevin,
    Multistep,
    NoCorrector,
    NoiseLevel,
    NonFiniteError,
    NoPredictor,
    PredictorCorrector,
    ReverseDiffusion,
    SampleNoise,
    Sampler,
    ScipyODE,
    Solver,
    TorchSDE,
    UniformLogSNR,
    UniformTime,
)
from scoresde.score import GaussianMixtureScore, NetworkScore, ScoreModel, with_sde
from scoresde.sde import SDE, VESDE, VPSDE, SubVPSDE
from scoresde.statistics import Statistics
from tests.problems import blobs

F64 = torch.float64
SOLVERS = [
    Euler(),
    Heun(),
    PredictorCorrector(EulerMaruyama()),
    PredictorCorrector(ReverseDiffusion(), Langevin(steps=2)),
    PredictorCorrector(Ancestral(), AnnealedLangevin()),
    PredictorCorrector(NoPredictor(), Langevin()),
]


class Watched(ScoreModel):
    """A model that counts calls and rows, and keeps what it was called with."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model
        self.calls = 0
        self.rows = 0
        self.seen: list[dict[str, Any]] = []
        self.modes: set[tuple[bool, bool]] = set()

    def _note(self, x: Tensor, cond: dict[str, Any]) -> None:
        self.calls += 1
        self.rows += len(x)
        self.seen.append(cond)
        self.modes.add((self.training, torch.is_grad_enabled()))

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._note(x, cond)
        return self.model.denoise(x, t)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_states_on_the_way_do_not_depend_on_the_batch_size(solver: Solver) -> None:
    shape = (1, 2, 2)
    model = blobs(VPSDE(), shape)
    sampler = Sampler(solver, UniformTime(10))
    whole = sampler(model, (7, *shape), seed=4, trajectory=True)
    assert whole.x.shape == (7, *shape)
    assert whole.x.dtype == F64
    for size in (1, 3):
        parts = sampler(model, (7, *shape), seed=4, batch_size=size, trajectory=True)
        # Round-off of sums whose order depends on the batch, through ten contracting steps.
        torch.testing.assert_close(parts.x, whole.x, rtol=0, atol=1e-10)
        torch.testing.assert_close(parts.trajectory, whole.trajectory, rtol=0, atol=1e-9)
        assert parts.nfe == whole.nfe


@pytest.mark.parametrize(
    ("solver", "each"),
    [
        (Euler(), 1),
        (Heun(), 2),
        (PredictorCorrector(EulerMaruyama()), 1),
        (PredictorCorrector(Ancestral(), Langevin(steps=3)), 4),
        (PredictorCorrector(NoPredictor(), AnnealedLangevin(steps=2)), 2),
    ],
    ids=repr,
)
@pytest.mark.parametrize("denoise", [True, False])
def test_nfe_is_the_true_count(solver: Solver, each: int, denoise: bool) -> None:
    model = Watched(blobs(VPSDE()))
    out = Sampler(solver, UniformTime(6), denoise=denoise)(model, (5, 3))
    assert out.nfe == model.calls == 6 * each + denoise
    model = Watched(blobs(VPSDE()))
    out = Sampler(solver, UniformTime(6), denoise=denoise)(model, (5, 3), batch_size=2)
    assert out.nfe == 6 * each + denoise
    assert model.rows == 5 * out.nfe
    assert model.calls == 3 * out.nfe


@pytest.mark.parametrize("solver", [ScipyODE(rtol=1e-3), TorchSDE(), TorchSDE("srk")], ids=repr)
def test_nfe_of_external_solvers(solver: Solver) -> None:
    model = Watched(blobs(VPSDE()))
    assert Sampler(solver, UniformTime(6))(model, (5, 3)).nfe == model.calls > 6


def test_trajectory() -> None:
    sampler = Sampler(Heun(), UniformTime(8))
    model = blobs(VPSDE())
    z = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    out = sampler(model, x_init=z, trajectory=True)
    assert out.trajectory is not None
    assert out.trajectory.shape == (9, 4, 3)
    assert torch.equal(out.times, UniformTime(8)(model.sde))
    assert torch.equal(out.trajectory[0], z)
    torch.testing.assert_close(model.denoise(out.trajectory[-1], out.times[-1]), out.x, rtol=0, atol=1e-14)
    raw = Sampler(Heun(), UniformTime(8), denoise=False)(model, x_init=z, trajectory=True)
    assert raw.trajectory is not None
    assert torch.equal(raw.trajectory[-1], raw.x)
    assert raw.nfe == out.nfe - 1
    # A run that stops on the way has the same states up to there.
    half = Sampler(Heun(), UniformTime(4, t_min=float(out.times[4])), denoise=False)(model, x_init=z)
    torch.testing.assert_close(half.x, out.trajectory[4], rtol=0, atol=1e-10)
    assert sampler(model, x_init=z).trajectory is None
    assert repr(out) == "Samples(x=(4, 3), nfe=17, steps=8)"


def test_x_init_is_used_and_left_alone() -> None:
    model = blobs(VPSDE())
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    before = z.clone()
    out = Sampler(PredictorCorrector(ReverseDiffusion(), Langevin()), UniformTime(5))(model, x_init=z)
    assert torch.equal(z, before)
    assert out.x.dtype == torch.float32
    double = Sampler(Euler(), UniformTime(5))(model, x_init=z, dtype=F64)
    assert double.x.dtype == F64


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(sigma_max=3.0)], ids=["vp", "ve"])
def test_prior_has_the_moments_of_the_noised_data(sde: SDE) -> None:
    model = blobs(sde)
    z = Sampler(Euler(), UniformTime(1))(model, (20_000, 3), trajectory=True).trajectory
    assert z is not None
    assert model.statistics is not None
    t = torch.tensor(1.0, dtype=F64)
    variance = float(sde.alpha(t) ** 2 * model.statistics.std**2 + sde.sigma(t) ** 2)
    # 4 standard errors of a mean and of a pooled variance
    error = (z[0].mean(0) - sde.alpha(t) * model.statistics.mean).abs().max()
    assert error < 4 * (variance / 20_000) ** 0.5
    assert abs(float(z[0].var(0).mean()) / variance - 1) < 4 * (2 / 60_000) ** 0.5


def test_prior_without_statistics_is_the_plain_one() -> None:
    model = blobs(VESDE(sigma_max=3.0))
    model.statistics = None
    z = Sampler(Euler(), UniformTime(1))(model, (3, 3), trajectory=True, seed=2).trajectory
    assert z is not None
    torch.testing.assert_close(z[0], 3.0 * SampleNoise(2, torch.arange(3), (3,), F64)(), rtol=1e-12, atol=0)


def test_denoise_step() -> None:
    model = blobs(VPSDE())
    noisy = Sampler(Euler(), UniformTime(5), denoise=False)(model, (4, 3))
    clean = Sampler(Euler(), UniformTime(5))(model, (4, 3))
    torch.testing.assert_close(model.denoise(noisy.x, noisy.times[-1]), clean.x, rtol=0, atol=1e-14)


def test_conditions_are_split_with_the_batch() -> None:
    model = Watched(blobs(VPSDE()))
    labels = torch.arange(5)
    sampler = Sampler(Euler(), UniformTime(2))
    sampler(model, (5, 3), batch_size=2, labels=labels, scale=1.5, flag=torch.tensor(3.0))
    got = [c["labels"].tolist() for c in model.seen]
    assert got == [[0, 1]] * 3 + [[2, 3]] * 3 + [[4]] * 3
    assert all(c["scale"] == 1.5 and c["flag"].ndim == 0 for c in model.seen)


def test_labels_of_the_wrong_length() -> None:
    with pytest.raises(ValueError, match=r"labels.*4.*5"):
        Sampler(Euler(), UniformTime(2))(Watched(blobs(VPSDE())), (5, 3), labels=torch.arange(4))


def test_non_finite() -> None:
    class Diverges(Watched):
        def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            out = super().denoise(x, t).clone()
            out[1] = torch.nan
            return out

    with pytest.raises(NonFiniteError, match=r"^1 of 3 samples are not finite after Sampler\(Euler") as error:
        Sampler(Euler(), UniformTime(3))(Diverges(blobs(VPSDE())), (3, 3))
    # What is finite is not lost.
    assert error.value.x is not None
    assert error.value.x.isfinite().all(1).tolist().count(True) == 2


def test_a_start_that_is_too_far_is_named() -> None:
    z = torch.zeros(3, 3, dtype=F64)
    z[2] = 1e200
    for solver in (Euler(), Adaptive()):
        with pytest.raises(NonFiniteError, match="sample 2 of x_init, which lies .*e.2.. standard deviations from the"):
            Sampler(solver, UniformTime(3))(blobs(VPSDE()), x_init=z)


def test_a_non_finite_sample_does_not_touch_its_mates() -> None:
    z = torch.zeros(3, 3, dtype=F64)
    z[1] = torch.inf

    class Keeps(Euler):
        last: Tensor

        def solve(self, *args: Any) -> Iterator[Tensor]:
            for x in super().solve(*args):
                Keeps.last = x
                yield x

    with pytest.raises(NonFiniteError, match="1 of 3"):
        Sampler(Keeps(), UniformTime(3))(blobs(VPSDE()), x_init=z)
    assert bool(Keeps.last[[0, 2]].isfinite().all())


def test_bad_arguments() -> None:
    sampler, model = Sampler(Euler(), UniformTime(3)), blobs(VPSDE())
    z = torch.zeros(2, 3)
    for arguments in ({}, {"shape": (2, 3), "x_init": z}):
        with pytest.raises(ValueError, match="either shape"):
            sampler(model, **arguments)  # type: ignore[arg-type]
    for shape in ((0, 3), (2,), (2, 0), (-1, 3)):
        with pytest.raises(ValueError, match="at least one sample"):
            sampler(model, shape)
    with pytest.raises(ValueError, match="at least one sample"):
        sampler(model, x_init=z[:0])
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        sampler(model, (2, 3), batch_size=0)
    with pytest.raises(ValueError, match="outside"):
        Sampler(Euler(), UniformTime(3, t_max=2.0))(model, (2, 3))


def test_integer_x_init_is_refused_or_promoted() -> None:
    z = torch.ones(2, 3, dtype=torch.int64)
    out = Sampler(Euler(), UniformTime(3))(blobs(VPSDE()), x_init=z)
    assert out.x.is_floating_point()


def test_network_is_called_in_its_own_dtype() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.dtypes: set[torch.dtype] = set()

        def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
            self.dtypes |= {x.dtype, c_noise.dtype}
            assert c_noise.shape == (len(x),)
            out: Tensor = self.layer(x)
            return out

    network = Linear()
    model = NetworkScore(network, VPSDE(), EDMPreconditioning())
    assert Sampler(Heun(), UniformTime(4))(model, (2, 3)).x.dtype == torch.float32
    z = torch.zeros(2, 3, dtype=F64)
    assert Sampler(Heun(), UniformTime(4))(model, x_init=z).x.dtype == F64
    assert network.dtypes == {torch.float32}


def test_repr_names_every_part() -> None:
    sampler = Sampler(PredictorCorrector(ReverseDiffusion(), Langevin(snr=0.2)), UniformTime(10), denoise=False)
    assert repr(sampler) == (
        "Sampler(PredictorCorrector(predictor=ReverseDiffusion(), corrector=Langevin(snr=0.2, steps=1)), "
        "UniformTime(steps=10), denoise=False)"
    )
    assert repr(PredictorCorrector(Ancestral(), NoCorrector())).startswith(
        "PredictorCorrector(predictor=Ancestral(variance='posterior')"
    )


def test_progress_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_has_bars", lambda: True)
    Sampler(Euler(), UniformTime(3))(blobs(VPSDE()), (4, 3), batch_size=2, progress=True)
    assert "6/6" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [PredictorCorrector(Ancestral()), Multistep(2, tau=1.0), Multistep(1, tau=1.0), SEEDS(2), ERSDE(2)],
    ids=["ancestral", "multistep 2", "multistep 1", "seeds", "er-sde"],
)
def test_a_finer_grid_refines_the_same_trajectory(solver: Solver) -> None:
    """On a Brownian path successive refinements come closer at strong order 1; white noise starts afresh."""
    # Wide components: no trajectory is on the edge between two of them.
    means = torch.tensor([[0.8, 0.0, 0.3], [-0.5, 0.4, -0.6]], dtype=F64)
    model = GaussianMixtureScore(torch.ones(2), means, torch.full((2,), 0.5), VPSDE(t_min=1e-3))

    def end(steps: int, noise: str) -> Tensor:
        return Sampler(solver, UniformLogSNR(steps), noise=noise)(model, (64, 3), seed=3).x  # type: ignore[arg-type]

    found = [end(steps, "brownian") for steps in (24, 48, 96, 192)]
    first, *_, last = (float((a - b).square().mean().sqrt()) for a, b in itertools.pairwise(found))
    assert 3 < first / last < 6, (first, last)
    assert float((end(96, "white") - end(192, "white")).square().mean().sqrt()) > 10 * last
    torch.testing.assert_close(
        Sampler(solver, UniformLogSNR(24), noise="brownian")(model, (64, 3), seed=3, batch_size=20).x,
        found[0],
        rtol=0,
        atol=1e-12,
    )


def test_unknown_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="noise is 'pink', expected 'white' or 'brownian'"):
        Sampler(Euler(), UniformTime(3), noise="pink")  # type: ignore[arg-type]


# SDEs on which nothing is left of the data long before t_max


@pytest.mark.parametrize("make", [VPSDE, SubVPSDE])
@pytest.mark.parametrize(("beta_min", "beta_max", "t_max"), [(0.1, 20.0, 10.0), (1e-4, 0.02, 1000.0)])
@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(PredictorCorrector(Ancestral()), UniformTime(500)),
        Sampler(PredictorCorrector(Ancestral()), ExplicitTimes([1.0, 0.5])),
        Sampler(Multistep(order=2), DataStraight(30)),
        Sampler(Heun(NoiseLevel()), KarrasGrid(200)),
    ],
    ids=["ancestral", "ancestral from t_max", "multistep", "heun"],
)
def test_much_more_noise_than_needed(make: Any, beta_min: Any, beta_max: Any, t_max: Any, sampler: Any) -> None:
    sde = make(beta_min, beta_max, t_max=t_max)
    model = GaussianMixtureScore([1.0], [[1.0, -1.0]], [0.04], sde).float()
    if isinstance(sampler.grid, ExplicitTimes):
        # One long step from t_max to where the grids begin.
        times = UniformTime(500)(sde, model.statistics).tolist()
        sampler = Sampler(sampler.solver, ExplicitTimes([sde.t_max, *times]))
    x = sampler(model, (2000, 2), seed=3).x
    assert x.dtype == torch.float32
    # Four standard errors, and what steps of this length leave.
    assert ((x.mean(0) - torch.tensor([1.0, -1.0])).abs() < 4 * 0.2 / math.sqrt(2000) + 0.01).all()
    assert ((x.std(0) / 0.2 - 1).abs() < 4 / math.sqrt(4000) + 0.05).all()


# The state is float32 at least, the network alone may be half


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_start_in_half_precision_is_followed_in_float32(dtype: Any) -> None:
    model = GaussianMixtureScore([1.0], [[0.0, 0.0]], [0.25], VESDE(sigma_max=1e4))
    sampler = Sampler(Heun(NoiseLevel()), KarrasGrid(200))
    x_init = (1e4 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))).to(dtype)
    out = sampler(model, x_init=x_init)
    assert out.x.dtype == torch.float32
    torch.testing.assert_close(out.x, sampler(model, x_init=x_init.float()).x, rtol=0, atol=0)
    # Four standard errors, and half a percent of the method's.
    assert ((out.x.std(0) / 0.5 - 1).abs() < 4 / math.sqrt(8000) + 0.005).all()
    with pytest.raises(ValueError, match=f"dtype is {dtype}, expected float32 or float64"):
        sampler(model, (2, 2), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision_has_a_state_in_float32(dtype: Any) -> None:
    statistics = Statistics.estimate(1e6 + 0.5 * torch.randn(100, 2, dtype=F64))
    network = MLP((2,), width=16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    model = NetworkScore(network, VPSDE(), EDMPreconditioning(), statistics)
    mean = statistics.mean.clone()
    sampler = Sampler(Multistep(order=2), UniformLogSNR(10))
    fine = sampler(model, (8, 2)).x - mean
    model.to(dtype)
    assert next(model.parameters()).dtype == dtype
    # Its mean is no number of float16.
    assert torch.equal(model.statistics.mean, mean)
    half = sampler(model, (8, 2)).x
    assert half.dtype == torch.float32
    assert ((half - mean - fine).abs() < 0.01 * mean).all()


# What it is called with


def conditional() -> NetworkScore:
    network = MLP((2,), width=16, num_classes=4)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    return NetworkScore(network, VPSDE(), EDMPreconditioning(0.5))


@pytest.mark.parametrize(
    "labels", [np.array([0, 1, 3]), np.array([0, 1, 3], dtype=np.uint8), [0, 1, 3], [np.int64(0), 1, 3]], ids=repr
)
def test_labels_may_be_arrays_and_lists(labels: Any) -> None:
    model, sampler = conditional(), Sampler(Heun(), UniformTime(3))
    wanted = sampler(model, (3, 2), labels=torch.tensor([0, 1, 3]))
    torch.testing.assert_close(sampler(model, (3, 2), labels=labels, batch_size=2).x, wanted.x)
    x = torch.zeros(3, 2)
    exact = log_likelihood(model, x, labels=torch.tensor([0, 1, 3]), tol=1).log_prob
    assert torch.equal(log_likelihood(model, x, labels=labels, tol=1).log_prob, exact)
    loss = DenoisingScoreMatching()(model, x, u=torch.full((3,), 0.5), noise=x + 1, labels=labels)
    assert loss.value.isfinite()
    with pytest.raises(ValueError, match="labels has 3 entries, expected one for each of the 4 samples"):
        sampler(model, (4, 2), labels=labels)
    with pytest.raises(ValueError, match="this network needs labels|labels"):
        sampler(model, (4, 2))


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 64), (4, 1, 8, 9)])
def test_a_shape_that_is_not_the_model_s_is_refused(shape: Any) -> None:
    wanted = rf"shape is {re.escape(str(shape))}, but a sample of this model has shape \(1, 8, 8\): expected \(4, 1, 8"
    network = NetworkScore(MLP((1, 8, 8), width=8), VPSDE(), EDMPreconditioning(0.5))
    known = NetworkScore(nn.Identity(), VPSDE(), EDMPreconditioning(), Statistics.standard((1, 8, 8)))
    for model in (network, known, with_sde(network, VESDE())):
        with pytest.raises(ValueError, match=wanted):
            Sampler(Heun(), UniformTime(2))(model, shape)
        with pytest.raises(ValueError, match=wanted):
            Sampler(Heun(), UniformTime(2))(model, x_init=torch.zeros(shape))
        for function in (log_likelihood, encode, decode):
            with pytest.raises(ValueError, match=wanted):
                function(model, torch.zeros(shape))
        with pytest.raises(ValueError, match=wanted):
            DenoisingScoreMatching()(model, torch.zeros(shape))


def test_a_distribution_of_times_is_no_grid_and_a_grid_no_distribution() -> None:
    with pytest.raises(TypeError, match=r"grid is UniformLogSNR\(.*: write UniformLogSNR.* of scoresde.sampling, not"):
        Sampler(Heun(), objectives.UniformLogSNR())
    with pytest.raises(TypeError, match=r"grid is Heun\(.*such as scoresde.sampling.KarrasGrid\(32\)"):
        Sampler(Heun(), Heun())
    with pytest.raises(TypeError, match=r"solver is UniformTime\(steps=3\), expected a Solver"):
        Sampler(UniformTime(3), Heun())
    with pytest.raises(TypeError, match=r"times is UniformTime\(steps=5\).*of scoresde.objectives, not"):
        DenoisingScoreMatching(times=UniformTime(5))
    with pytest.raises(TypeError, match="weighting is UniformTime"):
        DenoisingScoreMatching(objectives.UniformTime())
