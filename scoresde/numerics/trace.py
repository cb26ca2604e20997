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
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.jacobian import Function, jacobian_diagonal, jacobian_products
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.numerics.values import at_least, described, one_of, positive

__all__ = ["Auto", "Divergence", "Exact", "Hutchinson", "Known", "Probing", "Traces"]

ProbeKind = Literal["rademacher", "gaussian", "orthogonal"]

Mode = Literal["auto", "reverse", "forward"]

# Elements of the vectors of the products that are computed at once: 16 MiB in float32, for which a network with some
# hundred activations of this size takes some GiB.
_VALUES = 2**22
# Products at a point that are timed, and the seconds that all traces must take in reverse mode before forward mode is
# timed too: its first call alone takes up to one, so that there is nothing to gain for few points or dimensions.
_TIMED, _WORTH = 64, 3.0
# Forward mode is chosen only if it takes less than this fraction of reverse mode's time, so that timing noise does not
# decide.
_MARGIN = 0.9
# The cheaper mode for a model's shapes, dtypes and devices.
_CHEAPER: "weakref.WeakKeyDictionary[object, dict[tuple[Any, ...], Literal['reverse', 'forward']]]" = (
    weakref.WeakKeyDictionary()
)


@dataclass(frozen=True)
class Known:
    """A known matrix near J at each point, which is taken out of the estimate as a control variate.

    Attributes:
        product: Function from vectors `(n, K, D)`, K for each point, to their products with the matrix.
        trace: Trace of the matrix, `(n,)` float64.
    """

    product: Callable[[Tensor], Tensor]
    trace: Tensor


@dataclass(frozen=True)
class Traces:
    """Traces at n points.

    Attributes:
        value: Traces, `(n,)` float64.
        variance: Unbiased estimate of the variance of `value` if J is symmetric, as the Jacobian of an exact score is,
            `(n,)` float64; None if it has to be estimated from the `terms` of neighbouring points.
        terms: Terms whose sum is `value`, `(n, D)` float64. Their means change slowly from point to point, and their
            scatter about these is independent, with half of the variance of `value` in all.
        products: Number of vector-Jacobian products at each point.
        field: The field itself, `(n, D)`, which comes with its derivative.
    """

    value: Tensor
    variance: Tensor | None
    terms: Tensor | None
    products: int
    field: Tensor


class Divergence(ABC):
    """A way to compute traces."""

    def for_shape(self, shape: tuple[int, ...]) -> "Divergence":
        """The divergence to use for samples of this shape: this one, or one that costs no more and is better.

        Raises:
            ValueError: A shape for which it cannot be used.
        """
        return self

    def for_field(self, function: Function, x: Tensor, owner: object, traces: int) -> "Divergence":
        """The divergence to use for many traces of a field: this one, or an equal one that is measured to be cheaper.

        Args:
            function: The field, as for `traces`.
            x: A few of the points, `(n, ...)`.
            owner: The model whose field it is; measurements are remembered as long as it lives.
            traces: Approximate number of traces.
        """
        return self

    @abstractmethod
    def products(self, size: int) -> int:
        """Number of vector-Jacobian products that a trace in `size` dimensions computes at once."""

    @abstractmethod
    def traces(self, function: Function, x: Tensor, seed: int, indices: Tensor, known: Known | None = None) -> Traces:
        """The trace of ∂function/∂x at every point.

        Args:
            function: Function from `(n, ...)` to the same shape, each point by itself.
            x: The points, `(n, ...)`.
            seed: Seed of the probes.
            indices: Indices of the points, `(n,)` int64; the probes at a point depend on the seed and its index alone.
            known: A matrix near the Jacobian at each point.
        """

    def __repr__(self) -> str:
        return described(self)


@checked
class Exact(Divergence):
    """The exact trace: D products with the unit vectors, batched.

    Args:
        mode: `"reverse"`, vector-Jacobian products; `"forward"`, Jacobian-vector products, which need less memory but a
            forward derivative of every operation, on a CPU mostly at several times the time; `"auto"`, the mode that a
            likelihood measures to be cheaper for its model and device, once for each (`for_field`), and no products
            at all where the model has the trace in closed form, as mixtures do. A call of `traces` without a
            measurement is in reverse mode.
        chunk: Number of products to compute at once; if not given, as many as hold 2²² elements. It is halved if memory
            runs out.

    Raises:
        ValueError: An unknown mode, or a chunk below 1.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> Exact().traces(lambda x: x**2, x, seed=0, indices=torch.arange(2)).value.tolist()
    [6.0, 14.0]
    """

    def __init__(self, mode: Mode = "auto", chunk: int | None = None) -> None:
        one_of("mode", mode, ("auto", "reverse", "forward"))
        if chunk is not None:
            at_least("chunk", chunk, 1)
        self.mode: Mode = mode
        self.chunk = chunk

    def for_field(self, function: Function, x: Tensor, owner: object, traces: int) -> "Exact":
        """The exact trace in the cheaper mode, which `mode="auto"` measures."""
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
                field, diagonal = self._diagonal(function, x)
                value = diagonal.double().sum(0)
                return Traces(value, torch.zeros_like(value), None, size, field.flatten(1))
            except (torch.OutOfMemoryError, RuntimeError) as error:
                chunk = min(self._at_once(x), size)
                if not (isinstance(error, torch.OutOfMemoryError) or "memory" in str(error)) or chunk == 1:
                    raise
                self.chunk = chunk // 2
                warnings.warn(
                    f"not enough memory for {chunk} products at once at {len(x)} points: continuing with {self.chunk}; "
                    "set chunk, or a smaller batch_size",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _at_once(self, x: Tensor) -> int:
        return max(1, _VALUES // x.numel()) if self.chunk is None else self.chunk

    def _diagonal(self, function: Function, x: Tensor, units: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The field, and the diagonal entries of J, `(D, n)`, or those of the indices `units` `(k,)`, `(k, n)`."""
        return jacobian_diagonal(function, x, units, forward=self.mode == "forward", chunk=self._at_once(x))

    def _cheaper(
        self, function: Function, x: Tensor, units: Tensor, worth: float
    ) -> Literal["reverse", "forward"] | None:
        """The mode that computes some entries in less time.

        Reverse if the forward mode lacks an operation or gives other values; None if the reverse mode takes less than
        `worth` seconds or fails, for which the forward mode is not tried.
        """
        reverse, forward = Exact("reverse", self.chunk), Exact("forward", self.chunk)

        def timed(exact: Exact) -> float:
            start = _clock(x.device)
            exact._diagonal(function, x, units)
            return _clock(x.device) - start

        # The first call of each warms up.
        try:
            truth = reverse._diagonal(function, x, units)[1]
            spent = timed(reverse)
        except RuntimeError:
            return None  # the trace itself will raise, or take smaller chunks
        if spent < worth:
            return None
        try:
            found = forward._diagonal(function, x, units)[1]
        except RuntimeError:
            return "reverse"
        # Half of the digits: far more than round-off, and less than an error in a derivative's rule.
        allowed = math.sqrt(torch.finfo(x.dtype).eps) * float(truth.abs().max())
        if not bool(((found - truth).abs() <= allowed).all()):
            return "reverse"
        # Timed in turns; the least time of each is what other work on the machine disturbs least.
        turns = [(timed(forward), timed(reverse)) for _ in range(2)]
        least = min(spent, *(t[1] for t in turns))
        return "forward" if min(t[0] for t in turns) < _MARGIN * least else "reverse"


def _clock(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _probed(function: Function, x: Tensor, probes: Tensor, known: Known | None) -> tuple[Tensor, Tensor, Tensor]:
    """The field `(n, D)`, and products (J − known)ᵀu and probes u, float64 `(n, K, D)`."""
    field, products = jacobian_products(function, x, probes)
    products, flat = products.double(), probes.double()
    return field.flatten(1), products if known is None else products - known.product(flat), flat


@checked
class Hutchinson(Divergence):
    """The mean of uᵀJu over independent probes u (Hutchinson 1989).

    For symmetric J the variance of a Rademacher probe, of signs, is 2 Σ_{i≠j} J_ij², without the diagonal; that of a
    Gaussian probe is 2 Σ_ij J_ij². Orthogonal probes, K at right angles and of length √D, have (D − K)/(D − 1) of the
    variance of K that are independent and uniform on the sphere: none for K = D.

    Args:
        probes: Number K of probes.
        kind: Distribution of the probes, `"rademacher"`, `"gaussian"` or `"orthogonal"`.

    Raises:
        ValueError: Fewer than one probe, or an unknown kind.
    """

    def __init__(self, probes: int = 1, kind: ProbeKind = "rademacher") -> None:
        at_least("probes", probes, 1)
        one_of("kind", kind, ("rademacher", "gaussian", "orthogonal"))
        self.probes = probes
        self.kind: ProbeKind = kind

    def for_shape(self, shape: tuple[int, ...]) -> Divergence:
        # D products give the trace itself.
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
        field, products, flat = _probed(function, x, probes, known)
        terms = flat * products
        each = terms.sum(2)
        value, variance = each.mean(1), None
        norm = products.square().sum(2).mean(1)  # E‖Jᵀu‖² = Σ_ij J_ij²
        if self.kind == "rademacher" and count > 1:
            # Every probe at a point has the same mean of a term, the entry on the diagonal.
            variance = 2 * terms.var(dim=1).sum(1) / count
        elif self.kind == "gaussian":
            variance = 2 * norm / count
        elif self.kind == "orthogonal":
            share = 2 * size * (size - count) / (count * (size - 1) * (size + 2))
            # The expectation of value² is (tr J)² plus the variance.
            variance = share / (1 - share / size) * (norm - value**2 / size).clamp_min(0)
        if known is not None:
            value = value + known.trace
        return Traces(value, variance, terms.mean(1) if variance is None else None, count, field)


@checked
class Probing(Divergence):
    """Rademacher probes on the pixels of one colour at a time, so that only pairs of a colour disturb the estimate.

    Entries of J decay with distance for local networks and natural images, and pixels of one colour are far apart
    (Tang & Saad 2012). In an image `(C, H, W)` the colours tile the plane in blocks of a × b = colours, all channels of
    a pixel alike; elsewhere elements take turns along the last axis. The variance is estimated from neighbouring points
    of a path, and is too large where these are far apart and the noise is small.

    Args:
        colours: Number of colours, and of products.

    Raises:
        ValueError: Fewer than one colour.
    """

    def __init__(self, colours: int = 16) -> None:
        at_least("colours", colours, 1)
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
        field, products, flat = _probed(function, x, signs[:, None] * mine, known)
        terms = (flat * products).sum(1)
        value = terms.sum(1)
        return Traces(value if known is None else value + known.trace, None, terms, self.colours, field)


@checked
class Auto(Divergence):
    """Rademacher probes where the variance is, until the log-likelihood of a sample has a given standard error.

    Two probes at every point of the path show how the variance is spread over it; further probes go to the points in
    proportion to its root times the point's weight, which is the cheapest allocation (Neyman 1934). Where more than D/2
    would be needed in D dimensions, the exact trace is taken.

    Args:
        stderr: Standard error in nats.

    Raises:
        ValueError: A standard error that is not positive.
    """

    def __init__(self, stderr: float = 0.5) -> None:
        positive("stderr", stderr, "a positive number of nats", finite=False)
        self.stderr = stderr
        self._pilot = Hutchinson(2)

    def for_shape(self, shape: tuple[int, ...]) -> Divergence:
        return Exact() if math.prod(shape) <= 4 else self

    def products(self, size: int) -> int:
        return self._pilot.probes

    def traces(self, function: Function, x: Tensor, seed: int, indices: Tensor, known: Known | None = None) -> Traces:
        """Traces from two probes; the likelihood adds more."""
        return self._pilot.traces(function, x, seed, indices, known)
