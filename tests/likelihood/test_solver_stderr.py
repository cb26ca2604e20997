"""The error of a log-density that the solver makes, as it is stated, on problems that are hard to integrate."""

import math
import warnings
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from scoresde.data.transforms import Discrete
from scoresde.likelihood import (
    Auto,
    FlowOptions,
    Hutchinson,
    LogLikelihood,
    bits_per_dim,
    density,
    encode,
    log_likelihood,
    solver_error,
)
from scoresde.likelihood.flow import Flow
from scoresde.likelihood.numbering import draw_seed
from scoresde.likelihood.prior import prior_log_prob
from scoresde.networks import MLP
from scoresde.numerics.ode import Solution
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.numerics.tableaus import BOSH3
from scoresde.numerics.trace import Exact
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import GaussianMixtureScore, NetworkScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE
from scoresde.statistics import Statistics
from tests.problems import correlated

F64 = torch.float64
SDES = {"vp": VPSDE(), "edm": EDMSDE()}


def narrow(variances: list[float], sde: SDE) -> GaussianMixtureScore:
    size = len(variances)
    return GaussianMixtureScore(torch.ones(1), torch.zeros(1, size), torch.tensor([variances], dtype=F64), sde)


def tight_modes(sde: SDE) -> GaussianMixtureScore:
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64)
    return GaussianMixtureScore(torch.ones(2), means, torch.full((2,), 1e-8, dtype=F64), sde)


def tails(sde: SDE) -> GaussianMixtureScore:
    """One mean and standard deviations from 0.05 to 16, in 10 dimensions."""
    widths = torch.logspace(math.log10(0.05), math.log10(16), 6, dtype=F64)
    return GaussianMixtureScore(torch.ones(6), torch.zeros(6, 10), widths**2, sde)


def low_rank(sde: SDE) -> GaussianMixtureScore:
    """Components near planes of 4 dimensions in 64."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, 64, 4, dtype=F64, generator=generator) / 8
    covariances = base @ base.mT + 0.01**2 * torch.eye(64, dtype=F64)
    return GaussianMixtureScore(torch.ones(3), 0.5 * torch.randn(3, 64, generator=generator), covariances, sde)


class Learned(ScoreModel):
    """A score that is not known to be exact, and of whose data only the moments are known."""

    def __init__(self, model: GaussianMixtureScore) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.denoise(x, t)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.noise(x, t)


# A problem, the number of points, and the largest error in nats.
HARD = {
    "narrow": (partial(narrow, [1.0, 1e-6]), 24, 0.01),
    "wide and narrow": (partial(narrow, [100.0, 1e-6]), 24, 0.02),
    "tight modes": (tight_modes, 24, 0.01),
    "tails": (tails, 24, 0.02),
    "low rank": (low_rank, 20, 0.2),
}


def errors(
    model: GaussianMixtureScore, count: int, learned: bool = False, **options: Any
) -> tuple[Tensor, LogLikelihood]:
    """Errors of log-densities but for that of the Gaussian at t_max, which is not the solver's."""
    sde = model.sde
    x = model.sample(count, sde.t_min, torch.Generator().manual_seed(3))
    asked = Learned(model) if learned else model
    out = log_likelihood(asked, x, **{"divergence": Exact(), "corrected": learned, **options})
    lacking = model.log_prob(out.latent, sde.t_max) - prior_log_prob(Flow(model, x.shape), out.latent, "matched")
    return (out.log_prob + lacking - model.log_prob(x, sde.t_min)).abs(), out


def outside(error: Tensor, out: LogLikelihood) -> int:
    """The number of samples whose error is above two standard errors."""
    return int((error > 2 * out.solver_stderr).sum())


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("problem", HARD.values(), ids=HARD)
def test_the_truth_lies_within_two_standard_errors(problem: Any, sde: SDE) -> None:
    make, count, largest = problem
    error, out = errors(make(sde), count)
    assert outside(error, out) <= 0.1 * count
    assert float(error.max()) < largest
    assert torch.equal(out.total_stderr, out.solver_stderr)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("problem", HARD.values(), ids=HARD)
def test_the_truth_lies_within_two_standard_errors_of_a_learned_score(problem: Any, sde: SDE) -> None:
    make, count, _ = problem
    error, out = errors(make(sde), count, learned=True)
    assert outside(error, out) <= 0.1 * count
    # The tolerance bounds a step, so that a few points of a path that turns in narrow directions err by more.
    allowed = 1e-3 * out.latent[0].numel() + 0.01
    assert float(error.quantile(0.9)) < allowed
    assert float(error.max()) < 3 * allowed


@pytest.mark.parametrize("tol", [0.001, 0.01])
def test_stated_errors_of_a_learned_score_are_of_the_size_of_the_true_ones(tol: float) -> None:
    """Those of a normal number have a median of 0.67 standard errors."""
    error, out = errors(tails(VPSDE()), 100, learned=True, corrected=False, tol=tol)
    ratio = error / out.solver_stderr
    assert 0.2 < float(ratio.median()) < 0.8
    assert float((ratio <= 2).double().mean()) > 0.93


def test_the_standard_error_of_one_probe_allows_for_how_few_numbers_it_is_found_from() -> None:
    model = correlated(EDMSDE())
    x = model.sample(20, model.sde.t_min, torch.Generator().manual_seed(3)).repeat(20, 1)
    learned = Learned(model)
    wanted = log_likelihood(learned, x[:20], divergence=Exact()).log_prob.repeat(20)
    out = log_likelihood(learned, x, divergence=Hutchinson(1))
    inside = float(((out.log_prob - wanted).abs() <= 2 * out.stderr).double().mean())
    assert inside > 0.95 - 2 * math.sqrt(0.95 * 0.05 / len(x))


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_the_error_of_the_path_of_a_learned_score_is_corrected(sde: SDE) -> None:
    """By the score, which is here the gradient of log p_t, as that of a trained network nearly is."""
    model = correlated(sde)
    error, out = errors(model, 20, learned=True, tol=1.0, nodes=6)
    x = model.sample(20, sde.t_min, torch.Generator().manual_seed(3))
    astray = (model.log_prob(out.latent, sde.t_max) - model.log_prob(encode(model, x, tol=1e-5), sde.t_max)).abs()
    assert float(astray.mean()) > 0.01
    assert float(error.mean()) < float(astray.mean()) / 10


@pytest.mark.parametrize("options", [{"corrected": True}, {"options": FlowOptions(corrected=True)}], ids=repr)
def test_one_probe_does_not_measure_a_corrected_path(options: dict[str, Any]) -> None:
    model = tails(VPSDE())
    x = model.sample(2, VPSDE().t_min, torch.Generator().manual_seed(3))
    with pytest.raises(ValueError, match="the correction of corrected=True does not belong"):
        solver_error(Learned(model), x, **options)
    assert torch.equal(solver_error(model, x, **options), solver_error(model, x))


def test_a_corrected_sample_does_not_depend_on_its_batch_mates() -> None:
    model = Learned(tails(VPSDE()))
    x = model.model.sample(7, VPSDE().t_min, torch.Generator().manual_seed(3))
    whole = log_likelihood(model, x, seed=2, corrected=True)
    part = log_likelihood(model, x[3:5], seed=2, first=3, corrected=True)
    for name in ("log_prob", "stderr", "solver_stderr", "latent"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[3:5], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(part.nfe, whole.nfe[3:5])


@pytest.mark.parametrize("divergence", [Hutchinson(1), Hutchinson(4)], ids=repr)
def test_probes_and_solver_make_one_error(divergence: Hutchinson) -> None:
    error, out = errors(tails(VPSDE()), 100, divergence=divergence)
    assert torch.equal(out.total_stderr, torch.hypot(out.stderr, out.solver_stderr))
    inside = float((error <= 2 * out.total_stderr).double().mean())
    assert inside > 0.95 - 2 * math.sqrt(0.95 * 0.05 / 100)
    # Probes do not disturb what is said of the solver: the paths are the same.
    other = errors(tails(VPSDE()), 100, divergence=divergence, seed=5)[1]
    assert torch.equal(other.solver_stderr, out.solver_stderr)


def test_how_many_probes_there_are_does_not_matter_to_the_solver() -> None:
    """Some steps have an exact trace then, and others not."""
    found = [errors(tails(VPSDE()), 4, divergence=Auto(stderr), tol=0.1)[1] for stderr in (1e-6, 0.1, 10.0)]
    assert bool((found[0].products > found[2].products).all())
    for other in found[1:]:
        assert torch.equal(other.solver_stderr, found[0].solver_stderr)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_errors_of_the_path_do_not_matter_under_an_exact_score(sde: SDE) -> None:
    """Along any path log p changes by the divergence and by what the path moves beside the flow."""
    model = correlated(sde)
    x = model.sample(20, sde.t_min, torch.Generator().manual_seed(7))
    error, out = errors(model, 20, tol=3.0, method=BOSH3, nodes=8)
    true = encode(model, x, tol=1e-5)
    astray = (model.log_prob(out.latent, sde.t_max) - model.log_prob(true, sde.t_max)).abs()
    assert float(astray.mean()) > 0.02
    assert float(error.mean()) < float(astray.mean()) / 20


@pytest.mark.parametrize("corrected", [False, True])
def test_the_stated_error_of_a_network_is_of_the_size_of_its_change(corrected: bool) -> None:
    torch.manual_seed(0)
    mlp = MLP((8,), width=32, blocks=2)
    for parameter in mlp.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    model = NetworkScore(mlp.double(), EDMSDE(0.01, 20.0), EDMPreconditioning(0.5), Statistics(torch.zeros(8), 0.5))
    x = 0.5 * torch.randn(60, 8, dtype=F64, generator=torch.Generator().manual_seed(2))
    fine = log_likelihood(model, x, tol=1e-5, divergence=Exact())
    out = log_likelihood(model, x, tol=3e-3, divergence=Exact(), corrected=corrected)
    error = (out.log_prob - fine.log_prob).abs()
    assert float((error <= 2 * out.solver_stderr).double().mean()) > 0.9
    assert float(fine.solver_stderr.mean()) < float(out.solver_stderr.mean()) / 10


@pytest.mark.filterwarnings("ignore:the solver's error:RuntimeWarning")
def test_a_sample_that_cannot_be_solved_again_keeps_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller tolerance may be out of reach where the first was not."""
    model, rounds, run = tails(VPSDE()), 0, Flow.run
    x = model.sample(6, model.sde.t_min, torch.Generator().manual_seed(3))
    monkeypatch.setattr(density, "_ATTEMPTS", 1)
    wanted = log_likelihood(model, x, tol=0.1, divergence=Exact())

    def astray(flow: Flow, *args: Any, **options: Any) -> Solution:
        nonlocal rounds
        rounds += 1
        return run(flow, *args, **(options if rounds == 1 else {**options, "on_steps": None}))

    for name, value in (("_ATTEMPTS", 3), ("_LIMIT", 0.0), ("_ROUNDINGS", 0.0)):
        monkeypatch.setattr(density, name, value)
    monkeypatch.setattr(Flow, "run", astray)
    done: dict[int, float] = {}

    def on_done(rows: Tensor, values: Tensor, _: Tensor) -> None:
        done.update(zip(rows.tolist(), values.tolist(), strict=True))

    found = log_likelihood(model, x, tol=0.1, divergence=Exact(), on_done=on_done)
    assert rounds == 3
    for name in ("log_prob", "stderr", "solver_stderr", "latent"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    assert done == dict(enumerate(wanted.log_prob.tolist()))


@pytest.mark.parametrize("bound", ["average", "importance"])
def test_bits_have_the_error_of_their_densities(bound: Literal["average", "importance"]) -> None:
    """It is the mean over draws, or of an importance bound their mean by what they contribute to it."""
    model, draws = correlated(VPSDE()), 3
    pixels = torch.arange(24).reshape(4, 6) % 4
    transform = Discrete(4)
    options: dict[str, Any] = {"tol": 1e-2, "divergence": Hutchinson(2)}
    found = bits_per_dim(model, pixels, transform, draws=draws, bound=bound, **options)
    noise = SampleNoise(0, torch.arange(4), (6,), F64, stream=Stream.DEQUANTISATION)
    each = [
        log_likelihood(model, transform.encode(pixels, noise.uniform()), seed=draw_seed(0, k), **options)
        for k in range(draws)
    ]
    logs = torch.stack([out.log_prob - out.stderr**2 / 2 for out in each])
    share = logs.exp() / logs.exp().sum(0) if bound == "importance" else torch.full_like(logs, 1 / draws)
    wanted = (share * torch.stack([out.solver_stderr for out in each])).sum(0)
    torch.testing.assert_close(found.solver_stderr, wanted / (6 * math.log(2)))
    one = bits_per_dim(model, pixels, transform, bound=bound, **options).solver_stderr
    torch.testing.assert_close(one, each[0].solver_stderr / (6 * math.log(2)))


def test_an_error_far_above_the_tolerance_is_told() -> None:
    with pytest.warns(RuntimeWarning, match=r"error of \d+ of 24 log-densities is far above tol=1e-05, up to") as found:
        errors(tails(VPSDE()), 24, tol=1e-5, nodes=2)
    assert found[0].filename == __file__


def test_a_coarse_tolerance_that_many_samples_exceed_is_told_of() -> None:
    """At the default nothing is said, nor where no error is far above the tolerance, nor of exact scores."""
    exact = tails(VPSDE())
    model = Learned(exact)
    x = exact.sample(40, exact.sde.t_min, torch.Generator().manual_seed(3))
    with pytest.warns(
        UserWarning, match=r"tol=0\.01 nats bounds a step, not the result: more than 5% .* than 0\.1 nats"
    ):
        out = log_likelihood(model, x, divergence=Exact(), tol=0.01)
    assert float((out.solver_stderr > 0.1).double().mean()) > 0.05
    assert float(((out.log_prob - exact.log_prob(x, exact.sde.t_min)).abs() > 0.01).double().mean()) > 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_likelihood(model, x, divergence=Exact())
        log_likelihood(exact, x, divergence=Exact(), tol=0.01)
        out = log_likelihood(model, x, divergence=Exact(), tol=10.0)
    assert float((out.solver_stderr > 100).double().mean()) <= 0.05


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_what_is_exact_but_for_rounding_has_the_error_of_rounding(sde: SDE) -> None:
    """Normal data stand still."""
    error, out = errors(narrow([1.0, 1.0, 1.0, 1.0], sde), 40)
    assert float(out.solver_stderr.max()) < 1e-10
    assert outside(error, out) <= 4
