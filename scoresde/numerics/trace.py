"""The trace of a field's Jacobian J at many points: exact, or estimated with random probes.

For a probe u with E[u uᵀ] = I, uᵀJu has mean tr J (Hutchinson 1989). Probes here are fresh at every point: along a
path their errors average, while one probe for the whole path (Grathwohl et al. 2019; Song et al. 2021) repeats its
own. A vector-Jacobian product Jᵀu costs about a forward evaluation beside the one that all products at a point share.
"""

import math
import time
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde.arguments import checked
from scoresde.numerics.random import SampleNoise, Stream

__all__ = ["Auto", "Divergence", "Exact", "Hutchinson", "Known", "Probing", "Traces"]

Function = Callable[[Tensor], Tensor]
ProbeKind = Literal["rademacher", "gaussian", "orthogonal"]

Mode = Literal["auto", "reverse", "forward"]

# Numbers in the vectors of the products that are computed at once: 16 MiB in float32, of which a network that makes
# some hundred of each takes some GiB.
_VALUES = 2**22
# Products at a point that are timed, and the seconds of all traces below which the other mode is not: it takes up to
# one on its first call alone, so that for few points or dimensions there is nothing to gain.
_TIMED, _WORTH = 64, 3.0
# Of the reverse mode's time that the forward mode must do with, lest chance choose.
_MARGIN = 0.9
# The cheaper mode for a model's shapes, dtypes and devices.
_CHEAPER: "weakref.WeakKeyDictionary[object, dict[tuple[Any, ...], Literal['reverse', 'forward']]]" = (
    weakref.WeakKeyDictionary()
)


@dataclass(frozen=True)
class Known:
    """A matrix that J is near to, to be taken out of the estimate: a control variate.

    Attributes:
        product: maps vectors `(n, K, D)`, K for each point, to their products with it.
        trace: `(n,)` float64.
    """

    product: Callable[[Tensor], Tensor]
    trace: Tensor


@dataclass(frozen=True)
class Traces:
    """Traces at n points.

    Attributes:
        value: `(n,)` float64.
        variance: `(n,)` float64, an unbiased estimate of the variance of value if J is symmetric, as the Jacobian of an
            exact score is; None where neighbouring points are needed to tell, from `terms`.
        terms: `(n, D)` float64 that value is the sum of. Their means change slowly from point to point and their
            scatter about these is independent, with half of the variance of value in all.
        products: vector-Jacobian products at each point.
    """

    value: Tensor
    variance: Tensor | None
    terms: Tensor | None
    products: int


class Divergence(ABC):
    """A way to compute traces."""

    def for_shape(self, shape: tuple[int, ...]) -> "Divergence":
        """What to use for samples of this shape: this, or what costs no more and is better.

        Raises:
            ValueError: it cannot be used.
        """
        return self

    def for_field(self, function: Function, x: Tensor, owner: object, traces: int) -> "Divergence":
        """What to use for many traces of a field: this, or what is the same and measured to be cheaper.

        Args:
            function: as for `traces`.
            x: `(n, ...)`, a few of the points.
            owner: the model whose field it is; what was measured is remembered as long as it lives.
            traces: about how many there will be.
        """
        return self

    @abstractmethod
    def products(self, size: int) -> int:
        """Vector-Jacobian products at once for a trace in `size` dimensions."""

    @abstractmethod
    def traces(self, function: Function, x: Tensor, seed: int, indices: Tensor, known: Known | None = None) -> Traces:
        """tr ∂function/∂x at every point.

        Args:
            function: maps `(n, ...)` to the same shape, each point by itself.
            x: `(n, ...)`, the points.
            seed: of the probes.
            indices: `(n,)` int64; the probes at a point are a function of the seed and its index.
            known: a matrix for each point that is near its Jacobian.
        """

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({values})"


@checked
class Exact(Divergence):
    """The exact trace: D products with the unit vectors, batched.

    Args:
        mode: `"reverse"`, vector-Jacobian products; `"forward"`, Jacobian-vector products, which need less memory but a
            forward derivative of every operation, on a CPU mostly at several times the time; `"auto"`, what a
            likelihood measures to be cheaper for its model and device, once for each (`for_field`). A call of `traces`
            that nothing was measured for is in reverse.
        chunk: how many products to compute at once; if not given, as many as hold 2²² numbers. It is halved where
            memory runs out.
    """

    def __init__(self, mode: Mode = "auto", chunk: int | None = None) -> None:
        if mode not in ("auto", "reverse", "forward"):
            raise ValueError(f"mode is {mode!r}, expected 'auto', 'reverse' or 'forward'")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk is {chunk}, expected at least 1")
        self.mode: Mode = mode
        self.chunk = chunk

    def for_field(self, function: Function, x: Tensor, owner: object, traces: int) -> "Exact":
        """In the cheaper mode, if that is to be found out."""
        if self.mode != "auto":
            return self
        known = _CHEAPER.setdefault(owner, {})
        key = tuple(x.shape[1:]), x.dtype, x.device
        if key not in known:
            size = x[0].numel()
            units = torch.linspace(0, size - 1, min(size, _TIMED), device=x.device).long()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mode = self._cheaper(function, x, units, _WORTH * len(x) * len(units) / (traces * size))
            if mode is None:
                return Exact("reverse", self.chunk)
            known[key] = mode
        return Exact(known[key], self.chunk)

    def products(self, size: int) -> int:
        return size if self.chunk is None else min(self.chunk, size)

    def traces(self, function: Function, x: Tensor, seed: int, indices: Tensor, known: Known | None = None) -> Traces:
        size = x[0].numel()
        while True:
            try:
                return Traces(
                    self._diagonal(function, x).double().sum(0), torch.zeros(len(x)).to(x).double(), None, size
                )
            except (torch.OutOfMemoryError, RuntimeError) as error:
                chunk = min(self._at_once(x), size)
                if not (isinstance(error, torch.OutOfMemoryError) or "memory" in str(error)) or chunk == 1:
                    raise
                self.chunk = chunk // 2
                warnings.warn(
                    f"not enough memory for {chunk} products at once at {len(x)} points: going on with {self.chunk}; "
                    "set chunk, or a smaller batch_size",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _at_once(self, x: Tensor) -> int:
        return max(1, _VALUES // x.numel()) if self.chunk is None else self.chunk

    def _diagonal(self, function: Function, x: Tensor, units: Tensor | None = None) -> Tensor:
        """`(D, n)`, or the entries with the numbers `units` `(k,)` alone."""
        places = torch.arange(x[0].numel(), device=x.device)

        # Made where it is needed, since all of them are a D × D matrix.
        def vector(i: Tensor) -> Tensor:
            return (places == i).to(x.dtype).reshape(x.shape[1:])

        # The fused attention kernels have no batching rule for their derivative.
        with _without_autocast(x), sdpa_kernel(SDPBackend.MATH):
            if self.mode == "forward":

                def entry(i: Tensor) -> Tensor:
                    unit = vector(i)
                    column = torch.func.jvp(function, (x,), (unit.expand_as(x),))[1]
                    return (column * unit).flatten(1).sum(1)

            else:
                _, pull = torch.func.vjp(function, x)  # type: ignore[misc]

                def entry(i: Tensor) -> Tensor:
                    unit = vector(i)
                    (row,) = pull(unit.expand_as(x))
                    return (row * unit).flatten(1).sum(1)

            found = torch.func.vmap(entry, chunk_size=self._at_once(x))(places if units is None else units)
            return _kept(found)

    def _cheaper(
        self, function: Function, x: Tensor, units: Tensor, worth: float
    ) -> Literal["reverse", "forward"] | None:
        """The mode that computes some entries in less time.

        Reverse where the forward mode does not know an operation or finds something else; None where the reverse mode
        takes less than `worth` seconds or fails, for which the forward mode is not tried.
        """
        reverse, forward = Exact("reverse", self.chunk), Exact("forward", self.chunk)

        def timed(exact: Exact) -> float:
            start = _clock(x.device)
            exact._diagonal(function, x, units)
            return _clock(x.device) - start

        # The first call of each warms up.
        try:
            truth = reverse._diagonal(function, x, units)
            spent = timed(reverse)
        except RuntimeError:
            return None  # the trace itself will tell, or take smaller chunks
        if spent < worth:
            return None
        try:
            found = forward._diagonal(function, x, units)
        except RuntimeError:
            return "reverse"
        # Half of the digits: far more than round-off, and less than an error in a derivative's rule.
        allowed = math.sqrt(torch.finfo(x.dtype).eps) * float(truth.abs().max())
        if not bool(((found - truth).abs() <= allowed).all()):
            return "reverse"
        # In turns, and the least of each, which is what other work on the machine disturbs least.
        turns = [(timed(forward), timed(reverse)) for _ in range(2)]
        least = min(spent, *(t[1] for t in turns))
        return "forward" if min(t[0] for t in turns) < _MARGIN * least else "reverse"


def _clock(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _kept(result: Tensor) -> Tensor:
    """With the graph that a derivative leaves behind only where one is wanted."""
    return result if torch.is_grad_enabled() else result.detach()


def _without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Leave torch.autocast, in which batched derivatives of normalisation layers mix dtypes."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def _products(function: Function, x: Tensor, probes: Tensor) -> Tensor:
    """Jᵀu `(n, K, D)` for probes `(n, K, D)`."""
    count = probes.shape[1]
    shaped = probes.reshape(*probes.shape[:2], *x.shape[1:])
    if count == 1:
        with _without_autocast(x):
            _, pull = torch.func.vjp(function, x)  # type: ignore[misc]
            return _kept(pull(shaped[:, 0])[0].flatten(1)[:, None])
    with _without_autocast(x), sdpa_kernel(SDPBackend.MATH):
        _, pull = torch.func.vjp(function, x)  # type: ignore[misc]
        (products,) = torch.func.vmap(pull, in_dims=1, out_dims=1)(shaped)
    return _kept(products.flatten(2))


def _probed(function: Function, x: Tensor, probes: Tensor, known: Known | None) -> tuple[Tensor, Tensor]:
    """(J − known)ᵀu and u, float64 `(n, K, D)`."""
    products, flat = _products(function, x, probes).double(), probes.double()
    return products if known is None else products - known.product(flat), flat


@checked
class Hutchinson(Divergence):
    """The mean of uᵀJu over independent probes.

    Rademacher probes, of signs, do without the diagonal of J in their variance, 2 Σ_{i≠j} J_ij² for symmetric J;
    Gaussian ones have 2 Σ_ij J_ij². Orthogonal ones, K at right angles and of length √D, have (D − K)/(D − 1) of the
    variance of K that are independent and uniform on the sphere: none for K = D.

    Args:
        probes: K.
        kind: `"rademacher"`, `"gaussian"` or `"orthogonal"`.
    """

    def __init__(self, probes: int = 1, kind: ProbeKind = "rademacher") -> None:
        if probes < 1:
            raise ValueError(f"probes is {probes}, expected at least 1")
        if kind not in ("rademacher", "gaussian", "orthogonal"):
            raise ValueError(f"kind is {kind!r}, expected 'rademacher', 'gaussian' or 'orthogonal'")
        self.probes = probes
        self.kind: ProbeKind = kind

    def for_shape(self, shape: tuple[int, ...]) -> Divergence:
        # As many products as there are dimensions give the trace itself.
        return Exact() if math.prod(shape) <= max(4, self.probes) else self

    def products(self, size: int) -> int:
        return self.probes

    def traces(self, function: Function, x: Tensor, seed: int, indices: Tensor, known: Known | None = None) -> Traces:
        size, count = x[0].numel(), self.probes
        noise = SampleNoise(seed, indices, (count, size), x.dtype, x.device, stream=Stream.PROBES)
        if self.kind == "rademacher":
            probes = noise.signs()
        else:
            probes = noise()
            if self.kind == "orthogonal":
                probes = torch.linalg.qr(probes.mT)[0].mT * math.sqrt(size)
        products, flat = _probed(function, x, probes, known)
        terms = flat * products
        each = terms.sum(2)
        value, variance = each.mean(1), None
        norm = products.square().sum(2).mean(1)  # E‖Jᵀu‖² = Σ_ij J_ij²
        if self.kind == "rademacher" and count > 1:
            # The mean of a term is its diagonal entry for every probe at the point.
            variance = 2 * terms.var(dim=1).sum(1) / count
        elif self.kind == "gaussian":
            variance = 2 * norm / count
        elif self.kind == "orthogonal":
            share = 2 * size * (size - count) / (count * (size - 1) * (size + 2))
            # value² is (tr J)² and the variance.
            variance = share / (1 - share / size) * (norm - value**2 / size).clamp_min(0)
        if known is not None:
            value = value + known.trace
        return Traces(value, variance, terms.mean(1) if variance is None else None, count)


@checked
class Probing(Divergence):
    """Rademacher probes on the pixels of one colour at a time, so that only pairs of a colour disturb the estimate.

    Entries of J decay with distance for local networks and natural images, and pixels of one colour are far apart
    (Tang & Saad 2012). In an image `(C, H, W)` the colours tile the plane in blocks of a × b = colours, all channels of
    a pixel alike; elsewhere elements take turns along the last axis. The variance is told by neighbouring points of a
    path, and too large where these are far apart and the noise is small.

    Args:
        colours: number of colours, and of products.
    """

    def __init__(self, colours: int = 16) -> None:
        if colours < 1:
            raise ValueError(f"colours is {colours}, expected at least 1")
        self.colours = colours

    def for_shape(self, shape: tuple[int, ...]) -> Divergence:
        return Exact() if math.prod(shape) <= self.colours else self

    def products(self, size: int) -> int:
        return self.colours

    def colouring(self, shape: tuple[int, ...]) -> Tensor:
        """The colour of every element, int64 of this shape."""
        if len(shape) < 3:
            return (torch.arange(shape[-1]) % self.colours).expand(shape)
        down = next(a for a in range(math.isqrt(self.colours), 0, -1) if self.colours % a == 0)
        across = self.colours // down
        rows, columns = torch.arange(shape[-2])[:, None] % down, torch.arange(shape[-1]) % across
        return (rows * across + columns).expand(shape)

    def traces(self, function: Function, x: Tensor, seed: int, indices: Tensor, known: Known | None = None) -> Traces:
        shape = tuple(x.shape[1:])
        signs = SampleNoise(seed, indices, (math.prod(shape),), x.dtype, x.device, stream=Stream.PROBES).signs()
        mine = self.colouring(shape).flatten().to(x.device) == torch.arange(self.colours, device=x.device)[:, None]
        products, flat = _probed(function, x, signs[:, None] * mine, known)
        terms = (flat * products).sum(1)
        value = terms.sum(1)
        return Traces(value if known is None else value + known.trace, None, terms, self.colours)


@checked
class Auto(Divergence):
    """Rademacher probes where the variance is, until the log-likelihood of a sample has the asked standard error.

    Two probes at every point of the path tell how the variance is spread over it; others are given in proportion to
    its root times the point's weight, which is the cheapest way (Neyman 1934). Where half as many as there are
    dimensions would be needed, the exact trace is taken.

    Args:
        stderr: in nats.
    """

    def __init__(self, stderr: float = 0.5) -> None:
        if not stderr > 0:
            raise ValueError(f"stderr is {stderr}, expected a positive number of nats")
        self.stderr = stderr
        self._pilot = Hutchinson(2)

    def for_shape(self, shape: tuple[int, ...]) -> Divergence:
        return Exact() if math.prod(shape) <= 4 else self

    def products(self, size: int) -> int:
        return self._pilot.probes

    def traces(self, function: Function, x: Tensor, seed: int, indices: Tensor, known: Known | None = None) -> Traces:
        """Of two probes; the likelihood asks for more."""
        return self._pilot.traces(function, x, seed, indices, known)
