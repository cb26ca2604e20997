"""Log-densities of samples, against those of Gaussian mixtures."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.likelihood import log_likelihood
from scoresde.numerics.trace import Exact, Hutchinson
from scoresde.sampling import (
    ERSDE,
    RES,
    SEEDS,
    Adaptive,
    AdaptiveSDE,
    Ancestral,
    AutoAdams,
    Churn,
    ConstantTau,
    DPMSolverSinglestep,
    Eta,
    Euler,
    EulerMaruyama,
    Heun,
    IntervalTau,
    KarrasGrid,
    Langevin,
    Multistep,
    Noise,
    Picard,
    PowerScale,
    PredictorCorrector,
    Report,
    Restart,
    RestartInterval,
    Sampler,
    ScipyODE,
    Solver,
    TorchSDE,
    UniformLogSNR,
)
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE
from tests.problems import correlated

F64 = torch.float64
# Solvers, and whether they add noise.
SOLVERS: list[tuple[Solver, bool]] = [
    (Euler(), False),
    (Heun(), False),
    (Heun(churn=Churn(0.0)), False),
    (Heun(churn=Churn(40.0)), True),
    (Multistep(2), False),
    (Multistep(2, tau=0.0), False),
    (Multistep(2, tau=0.5), True),
    (Multistep(1, tau=Eta(0.0)), False),
    (Multistep(1, tau=Eta(0.1)), True),
    (Multistep(2, tau=IntervalTau(0.0)), False),
    (Multistep(2, tau=IntervalTau(1.0)), True),
    (Picard(), False),
    (Picard(Multistep(1, tau=ConstantTau(1.0))), True),
    (AutoAdams(), False),
    (AutoAdams(tau=1.0), True),
    (DPMSolverSinglestep(2), False),
    (RES(), False),
    (SEEDS(), True),
    (SEEDS(tau=0.0), False),
    (ERSDE(), True),
    (ERSDE(scale=PowerScale(1.0)), False),
    (ERSDE(scale=PowerScale(1.5)), True),
    (Adaptive(), False),
    (AdaptiveSDE(), True),
    (ScipyODE(), False),
    (TorchSDE(), True),
    (PredictorCorrector(EulerMaruyama()), True),
    (PredictorCorrector(Ancestral(), Langevin()), True),
    (Restart([RestartInterval(0.1, 1.0, 3)]), True),
]


@pytest.mark.parametrize(("solver", "noisy"), SOLVERS, ids=lambda v: repr(v)[:60])
def test_solvers_know_whether_they_add_noise(solver: Solver, noisy: bool) -> None:
    model = correlated(VPSDE(), (2,))
    draws = []

    def noise(start: float | None = None, stop: float | None = None) -> Tensor:
        draws.append(start)
        return torch.randn(4, 2, dtype=F64, generator=torch.Generator().manual_seed(len(draws)))

    x = noise()
    draws.clear()
    for _ in solver.solve(model, x, UniformLogSNR(12)(model.sde), noise):
        pass
    assert bool(draws) == noisy
    assert solver.stochastic == noisy


@pytest.mark.parametrize("solver", [s for s, noisy in SOLVERS if noisy], ids=lambda v: repr(v)[:60])
def test_noise_is_refused_before_the_first_step(solver: Solver) -> None:
    class Untouched(GaussianMixtureScore, same_field=True):
        def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            raise AssertionError

        denoise = noise

    model = Untouched(torch.ones(1), torch.zeros(1, 2), torch.ones(1), VPSDE())
    with pytest.raises(
        ValueError, match=r"log_prob=True needs a solver of the probability-flow ODE, and .* adds noise"
    ):
        Sampler(solver, UniformLogSNR(12))(model, (2, 2), log_prob=True)


def test_options_without_log_densities_are_refused() -> None:
    for options in ({"tol": 1e-3}, {"divergence": Exact()}):
        with pytest.raises(ValueError, match="give log_prob=True with them, or leave them out"):
            Sampler(Heun(), UniformLogSNR(5))(correlated(VPSDE(), (2,)), (2, 2), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=["vp", "edm"])
@pytest.mark.parametrize("solver", [Heun(), Multistep(3), Adaptive()], ids=lambda v: type(v).__name__)
def test_the_true_density_of_the_samples(solver: Solver, sde: SDE) -> None:
    model = correlated(sde, (2,))
    out = Sampler(solver, KarrasGrid(10))(model, (20, 2), seed=3, log_prob=True, tol=1e-5)
    assert out.log_prob is not None
    assert out.stderr is not None
    assert out.log_prob.dtype == F64
    assert out.log_prob.shape == out.stderr.shape == (20,)
    assert float(out.stderr.max()) == 0  # exact in few dimensions
    # A step may move it by 1e-5; some 40 steps, and the Gaussian at t_max, which the mixture is not quite.
    torch.testing.assert_close(out.log_prob, model.log_prob(out.x, out.times[-1]), rtol=0, atol=4e-4)


def test_the_grids_last_time_counts() -> None:
    model = correlated(VPSDE(), (2,))
    grid = UniformLogSNR(10, t_min=0.2)
    out = Sampler(Heun(), grid)(model, (10, 2), log_prob=True, tol=1e-5)
    assert float(out.times[-1]) == pytest.approx(0.2)
    torch.testing.assert_close(out.log_prob, model.log_prob(out.x, 0.2), rtol=0, atol=4e-4)


def test_in_64_dimensions() -> None:
    model = correlated(VPSDE(), (64,))
    sampler = Sampler(Heun(), KarrasGrid(15))
    exact = sampler(model, (4, 64), log_prob=True, tol=1e-3, divergence=Exact())
    truth = model.log_prob(exact.x, exact.times[-1])
    assert exact.log_prob is not None
    torch.testing.assert_close(exact.log_prob, truth, rtol=0, atol=2e-2)
    probed = sampler(model, (100, 64), log_prob=True, tol=1e-2, divergence=Hutchinson(4))
    assert probed.log_prob is not None
    assert probed.stderr is not None
    z = (probed.log_prob - model.log_prob(probed.x, probed.times[-1])) / probed.stderr
    assert float(probed.stderr.min()) > 0
    # 100 normal numbers: a mean within 4/√100 and a root mean square within 4/√200 of 1; the error bars are estimates.
    assert abs(float(z.mean())) < 0.4
    assert 0.7 < float(z.square().mean().sqrt()) < 1.3


def test_samples_are_those_before_denoising() -> None:
    model, sampler = correlated(VPSDE(), (2,)), Sampler(Heun(), KarrasGrid(8))
    with_density = sampler(model, (5, 2), seed=2, log_prob=True, trajectory=True)
    plain = Sampler(Heun(), KarrasGrid(8), denoise=False)(model, (5, 2), seed=2)
    assert torch.equal(with_density.x, plain.x)
    assert with_density.nfe == plain.nfe
    assert with_density.trajectory is not None
    assert torch.equal(with_density.trajectory[-1], plain.x)
    assert not torch.equal(sampler(model, (5, 2), seed=2).x, plain.x)
    assert plain.log_prob is None
    assert plain.stderr is None


def test_it_is_what_log_likelihood_gives() -> None:
    model, sampler = correlated(VPSDE(), (6,)), Sampler(Heun(), KarrasGrid(8))
    options: dict[str, Any] = {"log_prob": True, "tol": 1e-1, "seed": 4}
    whole = sampler(model, (7, 6), **options)
    assert whole.log_prob is not None
    direct = log_likelihood(model, whole.x, t_min=float(whole.times[-1]), seed=4, tol=1e-1)
    torch.testing.assert_close(whole.log_prob, direct.log_prob, rtol=0, atol=1e-8)
    torch.testing.assert_close(whole.stderr, direct.stderr, rtol=0, atol=1e-8)
    torch.testing.assert_close(whole.solver_stderr, direct.solver_stderr, rtol=0, atol=1e-8)


class Labelled(ScoreModel):
    """A Gaussian for each class, far from the others."""

    def __init__(self) -> None:
        centres = torch.tensor([[-2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], dtype=F64)
        classes = [GaussianMixtureScore(torch.ones(1), c[None], torch.tensor([0.2]), VPSDE()) for c in centres]
        super().__init__(classes[0].sde, correlated(VPSDE(), (2,)).statistics)
        self.parts = classes

    @property
    def dtype(self) -> torch.dtype:
        return F64

    def denoise(self, x: Tensor, t: Tensor, *, label: Tensor, **cond: Any) -> Tensor:
        each = torch.stack([c.denoise(x, t) for c in self.parts])
        return each[label, torch.arange(len(x))]

    def log_prob(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.stack([c.log_prob(x, t) for c in self.parts])[label, torch.arange(len(x))]


@pytest.mark.parametrize("batch_size", [None, 2])
def test_conditions_go_with_their_samples(batch_size: int | None) -> None:
    model, label = Labelled(), torch.tensor([0, 2, 1, 1, 0])
    sampler = Sampler(Heun(), KarrasGrid(15))
    out = sampler(model, (5, 2), log_prob=True, tol=1e-2, batch_size=batch_size, label=label)
    # The prior is that of other data, of which VP's α = 0.007 leaves this much at t_max.
    torch.testing.assert_close(out.log_prob, model.log_prob(out.x, out.times[-1], label), rtol=0, atol=0.1)
    wrong = model.log_prob(out.x, out.times[-1], label.roll(1))
    assert out.log_prob is not None
    assert float((out.log_prob - wrong).abs().max()) > 5


class Stopping(Solver):
    """Heun's steps, and says that some samples did not arrive."""

    def __init__(self, stopped: list[int]) -> None:
        self.stopped = stopped

    @property
    def stochastic(self) -> bool:
        return False

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        start = x
        for state in Heun().solve(model, x, times, noise):
            x = state.clone()
            x[self.stopped] = start[self.stopped]
            yield x
        status = torch.zeros(len(x), dtype=torch.int64)
        status[self.stopped] = 2
        nfe = torch.full((len(x),), 2 * len(times) - 2)
        return Report(nfe, status, torch.where(status == 0, times[-1], times[0]))  # type: ignore[return-value]


def test_a_sample_that_did_not_arrive_has_no_density() -> None:
    model, grid = correlated(EDMSDE(), (2,)), KarrasGrid(8)
    whole = Sampler(Stopping([]), grid)(model, (4, 2), log_prob=True)
    assert whole.log_prob is not None
    with pytest.warns(RuntimeWarning, match="2 of 4 samples stopped"):
        out = Sampler(Stopping([0, 2]), grid)(model, (4, 2), log_prob=True)
    assert out.log_prob is not None
    assert out.stderr is not None
    assert out.solver_stderr is not None
    for values in (out.log_prob, out.stderr, out.solver_stderr):
        assert values.isnan().tolist() == [True, False, True, False]
    torch.testing.assert_close(out.log_prob[[1, 3]], whole.log_prob[[1, 3]], rtol=0, atol=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        none = Sampler(Stopping([0, 1, 2, 3]), grid)(model, (4, 2), log_prob=True)
    assert none.log_prob is not None
    assert bool(none.log_prob.isnan().all())
