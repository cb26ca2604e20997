"""Divergences: exact against autograd, probes against their own statistics."""

import gc
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.networks import UNet
from scoresde.numerics.trace import _CHEAPER, Auto, Divergence, Exact, Hutchinson, Known, Probing
from scoresde.sde import VPSDE

F64 = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
SHAPE = (2, 3)


def field(x: Tensor) -> Tensor:
    """Nonlinear, with a dense Jacobian that is not symmetric; every sample on its own."""
    flat = x.flatten(1)
    matrix = torch.linspace(-1, 1, 36, dtype=x.dtype).reshape(6, 6)
    return (torch.sin(flat @ matrix) + flat * flat.roll(1, 1)).reshape(x.shape)


def jacobians(function: Any, x: Tensor) -> Tensor:
    """`(B, D, D)` by autograd, one sample at a time."""
    return torch.stack(
        [torch.autograd.functional.jacobian(lambda v: function(v[None])[0], row).reshape(row.numel(), -1) for row in x]
    )


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
@pytest.mark.parametrize("chunk", [None, 1, 4, 100])
def test_exact_is_the_trace(x: Tensor, mode: Any, chunk: int | None) -> None:
    found = Exact(mode, chunk).traces(field, x, 0, torch.arange(5))
    torch.testing.assert_close(found.value, jacobians(field, x).diagonal(dim1=1, dim2=2).sum(1))
    assert found.variance is not None
    assert found.variance.tolist() == [0.0] * 5
    assert found.products == 6


def test_exact_halves_its_chunk_where_memory_runs_out(x: Tensor) -> None:
    class Limited(Exact):
        def _diagonal(self, function: Any, x: Tensor, units: Tensor | None = None) -> tuple[Tensor, Tensor]:
            if self.chunk is None or self.chunk > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super()._diagonal(function, x)

    divergence = Limited()
    with pytest.warns(RuntimeWarning) as caught:
        found = divergence.traces(field, x, 0, torch.arange(5))
    assert len(caught) == 2
    assert "not enough memory for 6 products at once at 5 points: continuing with 3" in str(caught[0].message)
    assert divergence.chunk == 1
    torch.testing.assert_close(found.value, jacobians(field, x).diagonal(dim1=1, dim2=2).sum(1))

    def broken(v: Tensor) -> Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        Exact().traces(broken, x, 0, torch.arange(5))


def test_exact_works_on_what_memory_holds(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return Counted.apply(gradient)

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
            pass

        @staticmethod
        def vmap(info: Any, dims: Any, x: Tensor) -> tuple[Tensor, int]:
            seen.append(info.batch_size)
            return x.clone(), dims[0]

    monkeypatch.setattr("scoresde.numerics.trace._VALUES", 5 * 6 * 4)
    found = Exact().traces(lambda v: field(Watched.apply(v)), x, 0, torch.arange(5))
    torch.testing.assert_close(found.value, jacobians(field, x).diagonal(dim1=1, dim2=2).sum(1))
    assert seen == [4, 2]


class Owner:
    """What a measurement is remembered by."""


clock = [0.0]


class Slow(torch.autograd.Function):
    """sin x, whose products with its Jacobian take the time of `clock` and have the factor that it is told."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, reverse: float, forward: float, factor: float) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, ctx.reverse, ctx.forward, ctx.factor = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        clock[0] += ctx.reverse
        return ctx.saved_tensors[0].cos() * gradient, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        if math.isnan(ctx.forward):
            raise NotImplementedError("no forward derivative")
        clock[0] += ctx.forward
        return ctx.factor * ctx.saved_tensors[0].cos() * tangent


MODES = {
    "forward is cheaper": (1.0, 0.8, 1.0, "forward"),
    "reverse is cheaper": (1.0, 1.1, 1.0, "reverse"),
    "forward is hardly cheaper": (1.0, 0.95, 1.0, "reverse"),
    "forward is wrong": (1.0, 0.1, 1 + 1e-6, "reverse"),
    "forward is not there": (1.0, math.nan, 1.0, "reverse"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MODES)
def test_the_cheaper_mode_is_found_out_once(x: Tensor, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reverse, forward, factor, expected = MODES[case]
    monkeypatch.setattr("scoresde.numerics.trace._clock", lambda device: clock[0])
    calls = []

    def function(v: Tensor) -> Tensor:
        calls.append(v)
        return Slow.apply(v, reverse, forward, factor)  # type: ignore[no-any-return]

    owner = Owner()
    chosen = Exact(chunk=4).for_field(function, x, owner, 1000)
    assert (chosen.mode, chosen.chunk) == (expected, 4)
    torch.testing.assert_close(chosen.traces(function, x, 0, torch.arange(5)).value, x.cos().flatten(1).sum(1))
    calls.clear()
    assert Exact().for_field(function, x[:2], owner, 1000).mode == expected
    assert not calls
    # Another shape, dtype or model is another question; a mode that is given is none.
    for other, whose in ((x.float(), owner), (x[:, :1], owner), (x, Owner())):
        calls.clear()
        Exact().for_field(function, other, whose, 1000)
        assert calls
    given = Exact("forward")
    assert given.for_field(function, x, Owner(), 1000) is given
    count = len(_CHEAPER)
    del owner, whose
    gc.collect()
    assert len(_CHEAPER) < count


def test_nothing_is_tried_where_there_is_nothing_to_gain(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scoresde.numerics.trace._clock", lambda device: clock[0])

    def function(v: Tensor) -> Tensor:
        return Slow.apply(v, 1.0, 0.1, 1.0)  # type: ignore[no-any-return]

    owner = Owner()
    # All products at 5 points take a second: 14 traces take 2.8, 16 take 3.2.
    assert Exact().for_field(function, x, owner, 14).mode == "reverse"
    assert not _CHEAPER[owner]
    assert Exact().for_field(function, x, owner, 16).mode == "forward"

    def broken(v: Tensor) -> Tensor:
        raise RuntimeError("not here")

    assert Exact().for_field(broken, x, Owner(), 10**9).mode == "reverse"
    probes = Hutchinson(3)
    assert probes.for_field(broken, x, owner, 10**9) is probes


MATRICES = {
    "symmetric": lambda a: a + a.mT,
    "general": lambda a: a,
    "trace": lambda a: 0.1 * (a + a.mT) + torch.diag(torch.linspace(1, 3, a.shape[0], dtype=F64)),
}
DIVERGENCES = [
    Hutchinson(1),
    Hutchinson(4),
    Hutchinson(1, "gaussian"),
    Hutchinson(4, "gaussian"),
    Hutchinson(1, "orthogonal"),
    Hutchinson(4, "orthogonal"),
    Probing(4),
]


def variance_of(divergence: Divergence, matrix: Tensor) -> float:
    """In closed form."""
    size = len(matrix)
    s = (matrix + matrix.mT) / 2
    off = s - torch.diag(s.diagonal())
    if isinstance(divergence, Probing):
        colours = divergence.colouring((size,))
        return 2 * float(off[colours[:, None] == colours].square().sum())
    assert isinstance(divergence, Hutchinson)
    k = divergence.probes
    if divergence.kind == "rademacher":
        return 2 * float(off.square().sum()) / k
    if divergence.kind == "gaussian":
        return 2 * float(s.square().sum()) / k
    # The second moment of the Haar measure on frames.
    spread = float(s.square().sum() - s.trace() ** 2 / size)
    return 2 * size * (size - k) / (k * (size - 1) * (size + 2)) * spread


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
def test_probes_are_unbiased_and_know_their_error(divergence: Divergence, kind: str) -> None:
    matrix = MATRICES[kind](torch.randn(16, 16, dtype=F64, generator=torch.Generator().manual_seed(2)))
    count = 4000
    found = divergence.traces(lambda v: v @ matrix.mT, torch.zeros(count, 16, dtype=F64), 0, torch.arange(count))
    truth, variance = float(matrix.trace()), variance_of(divergence, matrix)
    assert abs(float(found.value.mean()) - truth) < 4 * math.sqrt(variance / count)
    # A variance has relative standard error √(κ − 1)/√n, with a kurtosis below 6 for a quadratic form.
    assert abs(float(found.value.var()) / variance - 1) < 4 * math.sqrt(5 / count)
    if kind == "general":
        return  # the estimates of the variance take the matrix as symmetric
    if found.variance is not None:
        told = float(found.variance.mean())
    else:
        assert found.terms is not None
        torch.testing.assert_close(found.terms.sum(1), found.value)
        # Half of the variance in all, between points of which the mean is the same.
        told = 2 * float(found.terms.var(0).sum())
    assert told == pytest.approx(variance, rel=0.1)


def test_orthogonal_probes_of_all_directions_are_exact(x: Tensor) -> None:
    found = Hutchinson(6, "orthogonal").traces(field, x, 0, torch.arange(5))
    torch.testing.assert_close(found.value, jacobians(field, x).diagonal(dim1=1, dim2=2).sum(1))
    assert found.variance is not None
    assert float(found.variance.max()) == 0


@pytest.mark.parametrize("divergence", [*DIVERGENCES, Auto()], ids=repr)
def test_what_is_known_does_not_disturb(divergence: Divergence) -> None:
    matrix = torch.randn(16, 16, dtype=F64, generator=torch.Generator().manual_seed(2))
    matrix = matrix + matrix.mT
    known = Known(lambda u: u @ matrix, matrix.trace().expand(10))
    found = divergence.traces(lambda v: v @ matrix, torch.zeros(10, 16, dtype=F64), 0, torch.arange(10), known)
    torch.testing.assert_close(found.value, matrix.trace().expand(10))
    noise = found.terms if found.variance is None else found.variance
    assert noise is not None
    assert float(noise.abs().max()) < 1e-10


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
def test_probes_belong_to_the_index(divergence: Divergence) -> None:
    x = torch.randn(5, 16, dtype=F64, generator=torch.Generator().manual_seed(0))

    def curved(v: Tensor) -> Tensor:
        return torch.sin(v @ torch.linspace(-1, 1, 256, dtype=F64).reshape(16, 16))

    whole = divergence.traces(curved, x, 3, torch.arange(5)).value
    part = divergence.traces(curved, x[2:4], 3, torch.arange(2, 4)).value
    torch.testing.assert_close(part, whole[2:4], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(divergence.traces(curved, x, 4, torch.arange(5)).value, whole)


def test_colours_tile_the_plane() -> None:
    colours = Probing(16).colouring((3, 8, 8))
    assert torch.equal(colours[0], colours[2])
    assert sorted(colours[0, :4, :4].flatten().tolist()) == list(range(16))
    assert torch.equal(colours[0, 4:, :4], colours[0, :4, :4])
    six = Probing(6).colouring((1, 4, 6))[0]  # 2 × 3
    assert sorted(six[:2, :3].flatten().tolist()) == list(range(6))
    assert torch.equal(six[:2, 3:], six[:2, :3])
    assert Probing(3).colouring((5,)).tolist() == [0, 1, 2, 0, 1]
    assert Probing(2).colouring((2, 3)).tolist() == [[0, 1, 0], [0, 1, 0]]


def test_hutchinson_is_exact_where_there_is_nothing_to_estimate() -> None:
    found = Hutchinson().traces(lambda v: 3 * v, torch.zeros(10, 8, dtype=F64), 0, torch.arange(10))
    torch.testing.assert_close(found.value, torch.full((10,), 24.0, dtype=F64))
    assert found.terms is not None
    assert float(found.terms.var(0).max()) < 1e-12


@pytest.fixture(scope="module")
def network() -> UNet:
    torch.manual_seed(0)
    network = UNet((1, 4, 4), channels=8, multipliers=(1, 2), blocks=1, attention=(-1,), head_channels=8)
    for parameter in network.parameters():  # the last layers start at zero
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return network.double().eval()


@pytest.mark.parametrize("divergence", [Exact(), Exact(chunk=5), Exact("forward")], ids=repr)
def test_attention(network: UNet, divergence: Divergence) -> None:
    x = torch.randn(2, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
    level = torch.full((2,), 0.3, dtype=F64)

    def function(v: Tensor) -> Tensor:
        out: Tensor = network(v, level[: len(v)])
        return out

    jacobian = jacobians(function, x)
    assert jacobian.abs().max() > 1e-3
    trace = divergence.traces(function, x, 0, torch.arange(2)).value
    torch.testing.assert_close(trace, jacobian.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(), Hutchinson(3), Probing(2)], ids=repr)
def test_no_graph_is_kept(x: Tensor, divergence: Divergence) -> None:
    with torch.no_grad():
        found = divergence.traces(field, x.requires_grad_(), 0, torch.arange(5))
    assert not found.value.requires_grad


def test_score_models_differentiate(x: Tensor) -> None:
    """The trace of the noise prediction of unit normal data: ε = σ x under VP, so D σ."""
    from scoresde.score import GaussianMixtureScore

    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, *SHAPE), torch.ones(1), VPSDE())
    t = torch.full((5,), 0.4, dtype=F64)
    for divergence in (Exact(), Exact("forward"), Hutchinson(), Probing(2)):
        found = divergence.traces(lambda v: model.noise(v, t), x, 0, torch.arange(5))
        torch.testing.assert_close(found.value, 6 * model.sde.sigma(t))


def test_small_events_use_the_exact_trace() -> None:
    assert isinstance(Hutchinson().for_shape((4,)), Exact)
    assert isinstance(Hutchinson().for_shape((5,)), Hutchinson)
    assert isinstance(Hutchinson(16).for_shape((4, 4)), Exact)
    assert isinstance(Hutchinson(16).for_shape((17,)), Hutchinson)
    assert isinstance(Probing(16).for_shape((1, 4, 4)), Exact)
    assert isinstance(Auto().for_shape((2,)), Exact)
    exact = Exact(chunk=3)
    assert exact.for_shape((1000,)) is exact


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="probes is 0, expected at least 1"):
        Hutchinson(0)
    with pytest.raises(ValueError, match="kind is 'uniform', expected 'rademacher', 'gaussian' or 'orthogonal'"):
        Hutchinson(1, "uniform")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chunk is 0, expected at least 1"):
        Exact(chunk=0)
    with pytest.raises(ValueError, match="mode is 'backward', expected 'auto', 'reverse' or 'forward'"):
        Exact("backward")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="colours is 0, expected at least 1"):
        Probing(0)
    with pytest.raises(ValueError, match="stderr is 0, expected a positive number of nats"):
        Auto(0)
    assert repr(Hutchinson(3)) == "Hutchinson(probes=3, kind='rademacher')"
    assert repr(Auto(0.5)) == "Auto(stderr=0.5)"


@pytest.mark.parametrize("divergence", [Exact("reverse"), Exact("forward"), Hutchinson(1), Hutchinson(2)], ids=repr)
def test_derivatives_are_taken_outside_autocast(divergence: Divergence) -> None:
    torch.manual_seed(0)
    # In which batched derivatives of a normalisation layer would mix dtypes.
    network = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 3))
    x, indices = torch.randn(4, 3), torch.arange(4)
    wanted = divergence.traces(network, x, 0, indices).value
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(divergence.traces(network, x, 0, indices).value, wanted)
        assert torch.is_autocast_enabled("cpu")
