"""Divergences: exact against autograd, probes against their own statistics."""

import math

import pytest
import torch
from torch import Tensor

from scoresde.divergence import Divergence, Exact, Hutchinson
from scoresde.networks import UNet
from scoresde.sde import VPSDE

F64 = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
SHAPE = (2, 3)


def field(x: Tensor) -> Tensor:
    """Nonlinear, with a dense Jacobian that is not symmetric; every sample on its own."""
    flat = x.flatten(1)
    matrix = torch.linspace(-1, 1, 36, dtype=x.dtype).reshape(6, 6)
    return (torch.sin(flat @ matrix) + flat * flat.roll(1, 1)).reshape(x.shape)


def jacobians(function, x: Tensor) -> Tensor:
    """`(B, D, D)` by autograd, one sample at a time."""
    return torch.stack(
        [torch.autograd.functional.jacobian(lambda v: function(v[None])[0], row).reshape(row.numel(), -1) for row in x]
    )


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("chunk", [None, 1, 4, 6, 100])
def test_exact_is_the_trace(x: Tensor, chunk: int | None) -> None:
    divergence = Exact(chunk)
    assert divergence.probes_for(x, 0, torch.arange(5)) is None
    value, tape = divergence.evaluate(field, x, None)
    torch.testing.assert_close(value, field(x))
    trace, stderr = divergence.read(tape, None)
    torch.testing.assert_close(trace, jacobians(field, x).diagonal(dim1=1, dim2=2).sum(1))
    assert stderr.tolist() == [0.0] * 5
    assert tape.dtype == F64


@pytest.mark.parametrize("probes", [1, 3])
def test_hutchinson_is_the_transposed_product(x: Tensor, probes: int) -> None:
    divergence = Hutchinson(probes)
    u = divergence.probes_for(x, 7, torch.arange(5))
    assert u.shape == (5, probes, *SHAPE)
    assert set(u.unique().tolist()) == {-1.0, 1.0}
    value, tape = divergence.evaluate(field, x, u)
    torch.testing.assert_close(value, field(x))
    jacobian, flat = jacobians(field, x), u.flatten(2)
    torch.testing.assert_close(tape.reshape(5, probes, 6), torch.einsum("bij,bki->bkj", jacobian, flat))
    trace, _ = divergence.read(tape, u)
    torch.testing.assert_close(trace, torch.einsum("bki,bij,bkj->bk", flat, jacobian, flat).mean(1))


def test_probes_belong_to_the_sample(x: Tensor) -> None:
    u = Hutchinson(2).probes_for(x, 3, torch.arange(5))
    assert torch.equal(Hutchinson(2).probes_for(x[2:4], 3, torch.arange(2, 4)), u[2:4])
    assert not torch.equal(Hutchinson(2).probes_for(x, 4, torch.arange(5)), u)
    assert not torch.equal(u[:, 0], u[:, 1])


MATRICES = {
    "symmetric": lambda a: a + a.mT,
    "general": lambda a: a,
    "trace": lambda a: 0.1 * (a + a.mT) + torch.diag(torch.linspace(1, 3, a.shape[0], dtype=F64)),
}


def estimates(matrix: Tensor, probes: int, count: int) -> tuple[Tensor, Tensor]:
    size = len(matrix)
    points = torch.zeros(count, size, dtype=F64)
    divergence: Divergence = Hutchinson(probes)
    u = divergence.probes_for(points, 0, torch.arange(count))
    _, tape = divergence.evaluate(lambda v: v @ matrix.mT, points, u)
    return divergence.read(tape, u)


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("probes", [1, 4])
def test_hutchinson_is_unbiased_and_knows_its_error(kind: str, probes: int) -> None:
    matrix = MATRICES[kind](torch.randn(16, 16, dtype=F64, generator=torch.Generator().manual_seed(2)))
    count = 4000
    trace, stderr = estimates(matrix, probes, count)
    symmetric = (matrix + matrix.mT) / 2
    off = symmetric - torch.diag(symmetric.diagonal())
    truth, variance = float(matrix.trace()), 2 * float(off.square().sum()) / probes
    error = math.sqrt(variance / count)
    assert abs(float(trace.mean()) - truth) < 4 * error
    # A variance has relative standard error √(κ − 1)/√n, with a kurtosis below 6 for a quadratic form.
    assert abs(float(trace.var()) / variance - 1) < 4 * math.sqrt(5 / count)
    # The estimated variance is on the large side: by the antisymmetric part and, for a single probe, by the
    # scatter of the diagonal.
    antisymmetric = (matrix - matrix.mT) / 2
    excess = 2 * float(antisymmetric.square().sum()) / probes
    if probes == 1:
        scatter = matrix.diagonal().square().sum() - matrix.trace() ** 2 / 16
        excess = (excess + 2 * float(scatter)) / (1 - 2 / 16)
    assert float(stderr.square().mean()) == pytest.approx(variance + excess, rel=0.15)
    assert float(stderr.square().mean()) > 0.97 * variance


def test_hutchinson_is_exact_where_there_is_nothing_to_estimate() -> None:
    trace, stderr = estimates(3 * torch.eye(8, dtype=F64), 1, 10)
    torch.testing.assert_close(trace, torch.full((10,), 24.0, dtype=F64))
    assert float(stderr.max()) < 1e-6


@pytest.mark.parametrize("size", [1, 2])
def test_standard_error_in_few_dimensions(size: int) -> None:
    matrix = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=F64)[:size, :size]
    _, stderr = estimates(matrix, 1, 50)
    assert bool(stderr.isfinite().all())


@pytest.fixture(scope="module")
def network() -> UNet:
    torch.manual_seed(0)
    network = UNet((1, 4, 4), channels=8, multipliers=(1, 2), blocks=1, attention=(-1,), head_channels=8)
    for parameter in network.parameters():  # the last layers start at zero
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return network.double().eval()


@pytest.mark.parametrize("divergence", [Exact(), Exact(5), Hutchinson(1), Hutchinson(2)], ids=repr)
def test_attention(network: UNet, divergence: Divergence) -> None:
    x = torch.randn(2, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
    level = torch.full((2,), 0.3, dtype=F64)

    def function(v: Tensor) -> Tensor:
        out: Tensor = network(v, level[: len(v)])
        return out

    u = divergence.probes_for(x, 0, torch.arange(2))
    with torch.no_grad():
        value, tape = divergence.evaluate(function, x, u)
        torch.testing.assert_close(value, function(x))
    jacobian = jacobians(function, x)
    assert jacobian.abs().max() > 1e-3
    trace = divergence.read(tape, u)[0]
    wanted = (
        jacobian.diagonal(dim1=1, dim2=2).sum(1)
        if u is None
        else torch.einsum("bki,bij,bkj->bk", u.flatten(2), jacobian, u.flatten(2)).mean(1)
    )
    torch.testing.assert_close(trace, wanted, rtol=1e-8, atol=1e-10)


def test_no_graph_is_kept(x: Tensor) -> None:
    x = x.requires_grad_()
    for divergence in (Exact(), Hutchinson()):
        u = divergence.probes_for(x, 0, torch.arange(5))
        with torch.no_grad():
            value, tape = divergence.evaluate(field, x, u)
        assert not value.requires_grad
        assert not tape.requires_grad


def test_score_models_differentiate_both_ways(x: Tensor) -> None:
    """The trace of the noise prediction of unit normal data: ε = σ x under VP, so D σ."""
    from scoresde.score import GaussianMixtureScore

    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, *SHAPE), torch.ones(1), VPSDE())
    t = torch.full((5,), 0.4, dtype=F64)
    wanted = 6 * model.sde.sigma(t)
    for divergence in (Exact(), Hutchinson()):
        u = divergence.probes_for(x, 0, torch.arange(5))
        trace, stderr = divergence.read(divergence.evaluate(lambda v: model.noise(v, t), x, u)[1], u)
        torch.testing.assert_close(trace, wanted)
        assert float(stderr.max()) < 1e-6


def test_small_events_use_the_exact_trace() -> None:
    assert isinstance(Hutchinson().for_size(4), Exact)
    assert isinstance(Hutchinson().for_size(5), Hutchinson)
    assert isinstance(Hutchinson(16).for_size(16), Exact)
    assert isinstance(Hutchinson(16).for_size(17), Hutchinson)
    exact = Exact(3)
    assert exact.for_size(1000) is exact


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="probes is 0, expected at least 1"):
        Hutchinson(0)
    with pytest.raises(ValueError, match="chunk is 0, expected at least 1"):
        Exact(0)
    assert repr(Hutchinson(3)) == "Hutchinson(probes=3)"
    assert repr(Exact()) == "Exact()"
