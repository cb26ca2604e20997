"""The parts of the likelihood: tolerance in nats, nodes, probes, scalings, the queue."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.likelihood import (
    CovarianceScaling,
    DiagonalScaling,
    LikelihoodError,
    LogLikelihood,
    ScalarScaling,
    decode,
    discrete_elbo,
    elbo,
    encode,
    interpolate,
    log_likelihood,
    solver_error,
)
from scoresde.likelihood.scaling import Scaling, log_determinant
from scoresde.networks import MLP
from scoresde.numerics.ode import BOSH3, DOP853, DORMAND_PRINCE, TSIT5, Status
from scoresde.numerics.trace import Auto, Divergence, Exact, Hutchinson, Probing
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import GaussianMixtureScore, NetworkScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, SubVPSDE
from scoresde.sde.coordinates import Angle, LogSNR, Straight
from scoresde.statistics import Statistics
from tests.problems import correlated

F64 = torch.float64
SDES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE(), "edm": EDMSDE()}


def points(model: GaussianMixtureScore, n: int) -> tuple[Tensor, Tensor]:
    """Draws at t_min, and their log-densities."""
    x = model.sample(n, model.sde.t_min, torch.Generator().manual_seed(7))
    return x, model.log_prob(x, model.sde.t_min)


def prior_error(model: GaussianMixtureScore, latent: Tensor) -> Tensor:
    """What the Gaussian at t_max lacks, which is not the solver's."""
    t = torch.tensor(model.sde.t_max, dtype=F64)
    statistics = model.statistics
    assert statistics is not None
    assert statistics.covariance is not None
    alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
    cover = alpha**2 * statistics.covariance + sigma**2 * torch.eye(latent.shape[1], dtype=F64)
    normal = torch.distributions.MultivariateNormal(alpha * statistics.mean, cover)
    return model.log_prob(latent, t) - normal.log_prob(latent)


def found_error(model: GaussianMixtureScore, x: Tensor, exact: Tensor, **options: Any) -> tuple[Tensor, LogLikelihood]:
    out = log_likelihood(model, x, **{"divergence": Exact(), **options})
    return (out.log_prob + prior_error(model, out.latent) - exact).abs(), out


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_exact_to_a_millionth_of_a_nat(sde: SDE) -> None:
    model = correlated(sde)
    x, exact = points(model, 6)
    error, _ = found_error(model, x, exact, tol=1e-7)
    assert float(error.max()) < 6e-6  # 1e-6 for each dimension


@pytest.mark.parametrize("variable", [None, LogSNR(), Straight(0.5)], ids=repr)
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_the_tolerance_is_in_nats(sde: SDE, variable: Any) -> None:
    """About what the log-density is wrong by, whatever the variable, and less at a smaller one."""
    model = correlated(sde)
    x, exact = points(model, 40)
    errors = [float(found_error(model, x, exact, tol=tol, variable=variable)[0].mean()) for tol in (1e-2, 1e-3, 1e-4)]
    for error, tol in zip(errors, (1e-2, 1e-3, 1e-4), strict=True):
        assert error < 5 * tol
    assert errors[2] < errors[0] / 20


@pytest.mark.parametrize("method", [BOSH3, DORMAND_PRINCE, TSIT5, DOP853], ids=["bosh3", "dopri5", "tsit5", "dop853"])
def test_every_pair(method: Any) -> None:
    model = correlated(VPSDE())
    x, exact = points(model, 20)
    error, out = found_error(model, x, exact, tol=1e-4, method=method, nodes=6)
    assert float(error.max()) < 3e-3
    stages, extra = len(method.stages), len(method.extra)
    steps = out.accepted + out.rejected
    # The first slope and the first step's size take an evaluation each.
    assert torch.equal(out.nfe, 2 + stages * steps + extra * out.accepted + out.divergences)
    assert torch.equal(out.divergences, 6 * out.accepted)


@pytest.mark.filterwarnings("ignore:the solver's error:RuntimeWarning")
def test_steps_are_as_long_as_their_nodes_permit() -> None:
    """Few nodes take more steps for about the same error."""
    model = correlated(EDMSDE())
    x, exact = points(model, 10)
    found = [found_error(model, x, exact, tol=1e-3, method=DORMAND_PRINCE, nodes=m) for m in (1, 4)]
    steps = [float(out.accepted.double().mean()) for _, out in found]
    assert steps[0] > 2 * steps[1]
    for error, _ in found:
        assert float(error.mean()) < 3e-3


@pytest.mark.parametrize("divergence", [Exact(), Auto(0.01)], ids=repr)
def test_the_mode_of_exact_traces_is_chosen_before_them(
    divergence: Divergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for a model, and whatever is chosen the result is the same."""
    model = correlated(VPSDE())
    x, _ = points(model, 10)
    calls: list[tuple[int, int]] = []
    chosen = "forward"

    def cheaper(self: Exact, function: Any, x: Tensor, units: Tensor, worth: float) -> str:
        calls.append((len(function(x)), len(units)))
        return chosen

    monkeypatch.setattr(Exact, "_cheaper", cheaper)
    monkeypatch.setattr(GaussianMixtureScore, "noise_and_trace", lambda *_, **__: None)
    options: dict[str, Any] = {"tol": 1e-3, "divergence": divergence}
    forward = log_likelihood(model, x, **options)
    assert calls == [(512 // 6, 6)]
    again = log_likelihood(model, x, **options)
    assert torch.equal(again.log_prob, forward.log_prob)
    assert len(calls) == 1
    chosen, other = "reverse", correlated(VPSDE())
    reverse = log_likelihood(other, x, **options)
    assert len(calls) == 2
    torch.testing.assert_close(reverse.log_prob, forward.log_prob, rtol=0, atol=1e-10)
    assert torch.equal(reverse.nfe, forward.nfe)


SCALINGS = [ScalarScaling(), DiagonalScaling(), CovarianceScaling(), CovarianceScaling(2)]


@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
def test_scalings_agree(scaling: Scaling) -> None:
    model = correlated(VPSDE())
    x, exact = points(model, 10)
    error, _ = found_error(model, x, exact, tol=1e-5, scaling=scaling)
    assert float(error.max()) < 1e-4


@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
def test_a_scaling_is_a_function_of_its_covariance(scaling: Scaling) -> None:
    model = correlated(VPSDE())
    statistics = model.statistics
    assert statistics is not None
    assert statistics.covariance is not None
    spread = scaling.spread(statistics, 6)
    y = torch.randn(4, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    matrix = spread.apply(spread.values[None], torch.eye(6, dtype=F64))
    torch.testing.assert_close(matrix.trace(), statistics.covariance.trace())
    values = torch.linalg.eigvalsh(matrix)
    torch.testing.assert_close(spread.trace(spread.values.sqrt()[None]), values.sqrt().sum()[None])
    assert log_determinant(spread, spread.values) == pytest.approx(float(values.log().sum()))
    torch.testing.assert_close(
        spread.apply(1 / spread.values[None], y), torch.linalg.solve(matrix, y.mT).mT, rtol=1e-10, atol=1e-10
    )
    if isinstance(scaling, CovarianceScaling) and scaling.rank is None:
        torch.testing.assert_close(matrix, statistics.covariance)
    if isinstance(scaling, DiagonalScaling):
        torch.testing.assert_close(matrix.diagonal(), statistics.covariance.diagonal())


def test_normal_data_stand_still() -> None:
    """With the covariance there is nothing to integrate, and a step is as long as may be."""
    cover = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64)
    model = GaussianMixtureScore(torch.ones(1), torch.tensor([[1.0, -2.0]]), cover[None], VPSDE())
    x, exact = points(model, 5)
    out = log_likelihood(model, x, scaling=CovarianceScaling())
    torch.testing.assert_close(out.log_prob, exact, rtol=0, atol=1e-9)
    assert int(out.accepted.max()) <= 4


PROBES = [
    Hutchinson(1),
    Hutchinson(3),
    Hutchinson(2, "gaussian"),
    Hutchinson(2, "orthogonal"),
    Probing(4),
    Auto(0.3),
]


@pytest.fixture(scope="module")
def wide() -> tuple[GaussianMixtureScore, Tensor, Tensor]:
    """A mixture in 16 dimensions, 300 points, and their log-likelihoods by the exact divergence."""
    model = correlated(VPSDE(), (16,))
    x, _ = points(model, 300)
    return model, x, log_likelihood(model, x, tol=1e-2, divergence=Exact()).log_prob


@pytest.fixture(scope="module")
def exact_in_covariance(wide: tuple[GaussianMixtureScore, Tensor, Tensor]) -> Tensor:
    """Those log-likelihoods as the solver finds them in the other scaling."""
    model, x, _ = wide
    return log_likelihood(model, x, tol=1e-2, divergence=Exact(), scaling=CovarianceScaling()).log_prob


@pytest.mark.parametrize("divergence", PROBES, ids=repr)
@pytest.mark.parametrize("scaling", [ScalarScaling(), CovarianceScaling()], ids=["scalar", "covariance"])
def test_probes_are_unbiased_and_their_error_is_honest(
    wide: tuple[GaussianMixtureScore, Tensor, Tensor],
    exact_in_covariance: Tensor,
    divergence: Divergence,
    scaling: Scaling,
) -> None:
    model, x, exact = wide
    if isinstance(scaling, CovarianceScaling):
        exact = exact_in_covariance
    out = log_likelihood(model, x, tol=1e-2, divergence=divergence, scaling=scaling, seed=3)
    error = out.log_prob - exact
    assert abs(float(error.mean())) < 4 * float(error.std()) / math.sqrt(len(x))
    # Where all steps have the exact trace there is no error.
    random = out.stderr > 0
    inside = float((error.abs() <= 2 * out.stderr)[random].double().mean())
    assert inside > 0.95 - 2 * math.sqrt(0.95 * 0.05 / int(random.sum()))
    ratio = float(out.stderr.square().mean().sqrt() / error.square().mean().sqrt())
    # One probe has the errors of Student's distribution, so that they are larger.
    assert 0.85 < ratio < 1.7
    if isinstance(divergence, Auto):
        assert float(out.stderr.square().mean().sqrt()) < 1.25 * divergence.stderr


def test_auto_spends_where_the_variance_is(wide: tuple[GaussianMixtureScore, Tensor, Tensor]) -> None:
    model, x, _ = wide
    loose, tight = (log_likelihood(model, x[:40], tol=1e-2, divergence=Auto(s)) for s in (0.5, 0.2))
    assert float(tight.stderr.mean()) < float(loose.stderr.mean())
    assert int(tight.products.sum()) > int(loose.products.sum())
    # Less than the same number of probes at every node would take.
    every = log_likelihood(model, x[:40], tol=1e-2, divergence=Hutchinson(8))
    assert float(every.stderr.mean()) > 0.9 * float(tight.stderr.mean()) or int(every.products.sum()) > int(
        tight.products.sum()
    )


@pytest.mark.slow
@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(2), Probing(3), Auto(0.5)], ids=repr)
def test_batch_queue_and_place_do_not_matter(divergence: Divergence) -> None:
    model = correlated(VPSDE())
    x, _ = points(model, 23)
    whole = log_likelihood(model, x, tol=1e-2, divergence=divergence, seed=4)
    for batch_size in (1, 5, 16):
        part = log_likelihood(model, x, tol=1e-2, divergence=divergence, seed=4, batch_size=batch_size)
        for name in ("log_prob", "stderr", "solver_stderr", "latent"):
            torch.testing.assert_close(getattr(part, name), getattr(whole, name), rtol=0, atol=1e-10)
        for name in ("nfe", "divergences", "products", "accepted", "rejected"):
            assert torch.equal(getattr(part, name), getattr(whole, name)), name
    some = log_likelihood(model, x[7:9], tol=1e-2, divergence=divergence, seed=4, first=7)
    torch.testing.assert_close(some.log_prob, whole.log_prob[7:9], rtol=0, atol=1e-10)
    if not isinstance(divergence, Exact):
        other = log_likelihood(model, x, tol=1e-2, divergence=divergence, seed=5)
        assert not torch.allclose(other.log_prob, whole.log_prob, rtol=0, atol=1e-6)


def test_samples_are_told_as_they_are_done() -> None:
    model = correlated(VPSDE())
    x, _ = points(model, 23)
    told: dict[int, float] = {}

    def done(rows: Tensor, values: Tensor, stderr: Tensor) -> None:
        assert len(rows) == len(values) == len(stderr)
        told.update(zip(rows.tolist(), values.tolist(), strict=True))

    out = log_likelihood(model, x, divergence=Exact(), batch_size=6, on_done=done)
    assert [told[i] for i in range(23)] == out.log_prob.tolist()


@pytest.fixture(scope="module")
def network() -> NetworkScore:
    torch.manual_seed(0)
    mlp = MLP((16,), width=32, blocks=2)
    for parameter in mlp.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    statistics = Statistics(torch.zeros(16, dtype=F64), 0.5)
    return NetworkScore(mlp.double(), EDMSDE(0.01, 20.0), EDMPreconditioning(0.5), statistics)


def test_a_network_against_its_exact_divergence(network: NetworkScore) -> None:
    x = 0.5 * torch.randn(100, 16, dtype=F64, generator=torch.Generator().manual_seed(2))
    exact = log_likelihood(network, x, tol=1e-2, divergence=Exact())
    out = log_likelihood(network, x, tol=1e-2, divergence=Hutchinson(1), seed=6)
    error = out.log_prob - exact.log_prob
    inside = float((error.abs() <= 2 * out.stderr).double().mean())
    assert inside > 0.95 - 2 * math.sqrt(0.95 * 0.05 / 100)
    forward = log_likelihood(network, x[:3], tol=1e-2, divergence=Exact("forward"))
    torch.testing.assert_close(forward.log_prob, exact.log_prob[:3], rtol=1e-10, atol=0)


def test_networks_are_followed_in_the_noise_level(network: NetworkScore) -> None:
    """The default variable: the model says whether it is exact, also under another SDE."""
    x = 0.5 * torch.randn(3, 16, dtype=F64, generator=torch.Generator().manual_seed(2))
    default = log_likelihood(network, x, divergence=Exact())
    same = log_likelihood(network, x, divergence=Exact(), variable=LogSNR())
    assert torch.equal(default.log_prob, same.log_prob)
    model = correlated(VPSDE())
    x6, _ = points(model, 2)
    assert model.statistics is not None
    angle = log_likelihood(model, x6, divergence=Exact(), variable=Angle(float(model.statistics.std)))
    assert torch.equal(angle.log_prob, log_likelihood(model, x6, divergence=Exact()).log_prob)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_the_measured_error_of_the_solver_is_its_size(sde: SDE) -> None:
    model = correlated(sde)
    x, exact = points(model, 40)
    for tol in (1e-2, 1e-3):
        true = float(found_error(model, x, exact, tol=tol)[0].square().mean().sqrt())
        found = float(solver_error(model, x, tol=tol).square().mean().sqrt())
        assert 1 / 4 < found / true < 4
    with pytest.raises(ValueError, match="ratio is 1, expected a number between 0 and 1"):
        solver_error(model, x, ratio=1)


def test_missing_statistics_are_told() -> None:
    model = correlated(VPSDE())
    x, exact = points(model, 4)
    model.statistics = None
    with pytest.warns(UserWarning, match=r"does not know the mean and standard deviation of its data"):
        out = log_likelihood(model, x, divergence=Exact(), tol=1e-4)
    assert float((out.log_prob - exact).abs().max()) < 0.1  # the plain prior


def test_the_error_names_sample_and_time() -> None:
    class Broken(ScoreModel):
        def denoise(self, x: Tensor, t: Tensor) -> Tensor:
            return x * torch.where(x[:, :1] > 0, torch.nan, 1.0)

    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ArithmeticError, match=r"for 1 of 2 samples, the first of them sample 11 at t = 1e-05: loosen"):
        log_likelihood(Broken(VPSDE()), x, first=10)


def test_bad_arguments() -> None:
    model = correlated(VPSDE())
    x, _ = points(model, 2)
    with pytest.raises(ValueError, match="tol is 0, expected a positive number of nats"):
        log_likelihood(model, x, tol=0)
    with pytest.raises(ValueError, match=r"got tol=0.1 beside rtol=0.01 and atol=None: give one or the others"):
        log_likelihood(model, x, tol=0.1, rtol=0.01)
    with pytest.raises(ValueError, match="nodes is 0, expected at least 1"):
        log_likelihood(model, x, nodes=0)
    with pytest.raises(ValueError, match="rank is 0, expected at least 1"):
        CovarianceScaling(0)


class Rejecting(torch.nn.Module):
    """A network that is not finite for samples far from 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = MLP((2,), width=8)

    def forward(self, x: Tensor, level: Tensor, **cond: Any) -> Tensor:
        out: Tensor = self.network(x, level)
        return torch.where(x.abs().amax(1, keepdim=True) > 5, torch.nan, out)


def rejecting() -> NetworkScore:
    return NetworkScore(Rejecting(), VPSDE(), EDMPreconditioning(), Statistics.standard((2,)))


LOST = torch.tensor([[0.3, -1.0], [9.0, 0.0], [1.0, 0.5]])


@pytest.mark.parametrize("batch_size", [1, 512])
def test_a_sample_that_is_not_finite_ends_alone(batch_size: int) -> None:
    model, told = rejecting(), []
    with pytest.raises(
        LikelihoodError, match=r"for 1 of 3 samples, the first of them sample 11 at t = 1e-05: "
    ) as error:
        log_likelihood(
            model, LOST, first=10, batch_size=batch_size, on_done=lambda rows, *_: told.extend(rows.tolist())
        )
    assert error.value.samples == [11]
    assert error.value.status.tolist() == [0, int(Status.NOT_FINITE), 0]
    assert sorted(told) == [0, 2]
    alone = log_likelihood(model, LOST[[0, 2]])
    found = error.value.result
    assert bool(found.log_prob[1].isnan())
    torch.testing.assert_close(found.log_prob[[0, 2]], alone.log_prob, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.latent[[0, 2]], alone.latent, rtol=0, atol=1e-3)


def test_codes_and_bounds_of_the_others_are_kept() -> None:
    model = rejecting()
    for way in (encode, decode):
        with pytest.raises(LikelihoodError, match="for 1 of 3 samples, the first of them sample 1") as error:
            way(model, LOST)
        assert error.value.result.isnan().any(1).tolist() == [False, True, False]
        torch.testing.assert_close(error.value.result[[0, 2]], way(model, LOST[[0, 2]]), rtol=0, atol=1e-4)
    for bound in (elbo, discrete_elbo):
        with pytest.raises(LikelihoodError, match="the bound is not finite for 1 of 3 samples") as error:
            bound(model, LOST)
        assert error.value.result.value.isnan().tolist() == [False, True, False]


def test_a_sample_that_is_too_far_is_named() -> None:
    model = rejecting()
    far = LOST.clone()
    far[1, 0] = 1e20
    for ask in (log_likelihood, encode, decode, elbo):
        with pytest.raises(LikelihoodError) as error:
            ask(model, far)
        text = str(error.value)
        assert "sample 1" in text
        assert "which lies 1e+20 standard deviations from the data's mean" in text
        assert "leave out samples that far from the data" in text


def test_a_tolerance_below_the_rounding_of_the_model_is_not_chased() -> None:
    torch.manual_seed(0)
    model = NetworkScore(MLP((2,), width=8), VPSDE(), EDMPreconditioning(), Statistics.standard((2,)))
    # The log-density is about −5e7 nats and float32 tells 8 digits: 1e-4 nats cannot be had, however small the steps.
    x = torch.tensor([[1e4, 0.0]])
    out, double = log_likelihood(model, x), log_likelihood(model.double(), x)
    assert int(out.nfe) < 200
    assert float((out.log_prob / double.log_prob - 1).abs()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_data(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = NetworkScore(MLP((2,), width=8), EDMSDE(), EDMPreconditioning(), Statistics.standard((2,)))
    half = torch.randn(3, 2).to(dtype)
    x = half.float()
    out, same = log_likelihood(model, half), log_likelihood(model, x)
    assert torch.equal(out.log_prob, same.log_prob)
    for found, wanted in (
        (out.latent, same.latent),
        (encode(model, half), encode(model, x)),
        (decode(model, half), decode(model, x)),
        (interpolate(model, half, half.flip(0)), interpolate(model, x, x.flip(0))),
        (elbo(model, half).value, elbo(model, x).value),
    ):
        assert found.dtype == wanted.dtype
        assert found.dtype in (torch.float32, F64)
        assert torch.equal(found, wanted)


def test_autocast_changes_nothing() -> None:
    torch.manual_seed(0)
    model = NetworkScore(MLP((5,), width=8), VPSDE(), EDMPreconditioning(), Statistics.standard((5,)))
    x = torch.randn(3, 5)

    def every() -> list[Tensor]:
        exact, probed = (log_likelihood(model, x, divergence=d).log_prob for d in (Exact(), Hutchinson(2)))
        return [exact, probed, encode(model, x), decode(model, x), elbo(model, x).value]

    plain = every()
    with torch.autocast("cpu", torch.bfloat16):
        for found, wanted in zip(every(), plain, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.slow
def test_a_float32_result_does_not_depend_on_the_batch_size() -> None:
    torch.manual_seed(0)
    model = NetworkScore(MLP((4,), width=64), VPSDE(), EDMPreconditioning(), Statistics.standard((4,)))
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    x = torch.randn(24, 4)
    one, many = (log_likelihood(model, x, batch_size=b, divergence=Exact()) for b in (1, 24))
    apart = (one.log_prob - many.log_prob).abs()
    # Round-off for nearly all; a decision at a border differs seldom, and moves a result by about the tolerance, 4e-4
    assert float(apart.median()) < 1e-5
    assert float(apart.max()) < 4e-3
