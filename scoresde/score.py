"""Score models: what a network, an exact density or a guided model all look like to a solver."""

import copy
import inspect
import itertools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scoresde.arguments import as_tensor, checked, shown
from scoresde.data.info import DataInfo
from scoresde.data.labels import class_index, listed
from scoresde.data.transforms import Identity, Transform
from scoresde.preconditioning import Preconditioning
from scoresde.sde import SDE, expand_to
from scoresde.statistics import Statistics, at_least_float32

__all__ = [
    "EmpiricalScore",
    "GaussianMixtureScore",
    "NetworkScore",
    "Prediction",
    "ScoreModel",
    "as_conditions",
    "in_model_space",
    "with_sde",
]


# Standard deviations from the model's data, or this part of one, beyond which data are in other units, it seems; and
# of how many samples to say the latter.
_FAR, _SEVERAL = 5.0, 16

Prediction = Callable[..., Tensor]


def _combined(a: float, x: Tensor, b: float, output: Tensor) -> Tensor:
    """a x + b output, without the kernels that a 0 or a 1 saves."""
    if a == 0:
        return output if b == 1 else b * output
    return torch.add(output if b == 1 else b * output, x, alpha=a)


class ScoreModel(nn.Module, ABC):
    """A model of the noised data's density p_t under `sde`.

    A subclass gives `denoise`; the other predictions follow from it (Tweedie's formula, Efron 2011), and a
    subclass that knows one of them more accurately overrides it. x is `(B, ...)`; t is a scalar or `(B,)`.

    The methods of a model, its SDE and its statistics are in model space, where the noise is. What takes data or gives
    samples does so in one of two ways:

    - Continuous data, with a `transform` or without: samplers, likelihoods, codes and comparisons are in the data's
      own units.
    - Discrete data such as pixels: samplers give, and `log_likelihood` and codes take, values of model space;
      `bits_per_dim` takes the integers themselves.

    Either way `model.decode(x)` turns samples into values as the data have them, and `Samples.decoded` has done so.
    (`scoresde.likelihood.encode` and `decode` are something else: the probability flow from data to codes at t_max and
    back.)

    Attributes:
        sde: the forward SDE.
        statistics: mean and covariance of the data in model space, or None where they are not known.
        log_snr_range: the smallest and largest λ = log(α/σ) at which the model may be asked.
    """

    _transform: Transform | None = None
    _info: DataInfo | None = None

    def __init__(self, sde: SDE, statistics: Statistics | None = None) -> None:
        super().__init__()
        self.sde = sde
        self.statistics: Statistics | None = statistics

    @abstractmethod
    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """E[x₀ | x_t = x], of the shape of x."""

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """E[ε | x_t = x] = (x − α D)/σ, of the shape of x."""
        fine = torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma = expand_to(self.sde.alpha(fine), x), expand_to(self.sde.sigma(fine), x)
        return (x - alpha * self.denoise(x, t, **cond)) / sigma

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """∇ₓ log p_t(x) = −ε/σ, of the shape of x."""
        return self.noise(x, t, **cond) / expand_to(-self.sde.sigma(torch.as_tensor(t, dtype=torch.float64)), x)

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Drift of the probability-flow ODE dx/dt = f x − ½ g² score (Song et al. 2021, eq. 13)."""
        drift, pull = self._flow(t)
        return expand_to(drift, x) * x + expand_to(pull, x) * self.noise(x, t, **cond)

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> "Prediction":
        """A function `f(x, i, **cond)` = E[p_i x₀ + q_i ε | x at times_i], one evaluation a call.

        For solvers, which know their times before they start: whatever depends on the time alone is computed
        here, once, in float64.

        Args:
            times: `(n,)` float64 on the CPU, in any order.
            p: `(n,)` float64, weights of x₀; 1 for the data prediction.
            q: `(n,)` float64, weights of ε; 1 for the noise prediction.
        """
        times = self.sde.check_time(times)
        alpha, sigma = self.sde.alpha(times), self.sde.sigma(times)
        # x₀ from ε loses nothing where the signal is the larger, ε from x₀ where the noise is.
        by_noise = ((alpha > sigma) | (p == 0)) & (q != 0)
        on_x = torch.where(by_noise, p / alpha, q / sigma)
        on_output = torch.where(by_noise, q - p * sigma / alpha, p - q * alpha / sigma)
        table = list(zip(times, by_noise.tolist(), on_x.tolist(), on_output.tolist(), strict=True))

        def predict(x: Tensor, i: int, **cond: Any) -> Tensor:
            t, noise, a, b = table[i]
            output = self.noise(x, t, **cond) if noise else self.denoise(x, t, **cond)
            return _combined(a, x, b, output)

        return predict

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The same as `denoise`."""
        return self.denoise(x, t, **cond)

    @property
    def transform(self) -> Transform | None:
        """Map between continuous data and model space; None where they are in model space, or are discrete.

        A model made of another has the other's. It is part of the state dict.
        """
        if self._transform is not None:
            return None if isinstance(self._transform, Identity) else self._transform
        within = (child.transform for child in self.children() if isinstance(child, ScoreModel))
        return next((t for t in within if t is not None), None)

    @transform.setter
    def transform(self, transform: Transform | None) -> None:
        if transform is not None and transform.levels is not None:
            raise ValueError(f"{transform!r} is of discrete data, which bits_per_dim and Transform.decode are for")
        self._transform = Identity() if transform is None else transform

    @property
    def info(self) -> DataInfo | None:
        """Facts about the data that the model is of, such as their transform and classes; None if not known.

        `scoresde.load` and `scoresde.training.fit` set it, and a model made of another has the other's. It is no part
        of the state dict.
        """
        if self._info is not None:
            return self._info
        within = (child.info for child in self.children() if isinstance(child, ScoreModel))
        return next((i for i in within if i is not None), None)

    @info.setter
    def info(self, info: DataInfo | None) -> None:
        if info is not None and info.transform.levels is None:
            self.transform = info.transform
        self._info = info

    def decode(self, x: Tensor | np.ndarray) -> Tensor:
        """Samples `(B, ...)`, as a sampler gives them, a tensor or an array, as values of the data.

        Of discrete data these are the integers, such as pixels: uint8 for up to 256 levels, int32 above. Of continuous
        data they are x itself, which is in their units already.

        Raises:
            ValueError: a model that does not know what its data are, such as that of a run by an older version, or
                samples of discrete data that hold NaN.
        """
        x = as_tensor("x", x)
        info = self.info
        if info is None:
            if self.exact or self.transform is not None:
                return x
            raise ValueError(
                "this model does not know what its data are (its info is None): use the transform of the data, as by "
                "scoresde.data.digits().transform.decode(x), or set model.info = scoresde.data.DataInfo.of(data)"
            )
        return x if info.transform.levels is None else info.transform.decode(x)

    def to_model_space(self, x: Tensor) -> Tensor:
        """Data `(B, ...)` as the model knows them; x itself where there is no transform.

        With a warning where they are far from the data that the model is of.
        """
        transform = self.transform
        if transform is None:
            return x
        encoded = transform.encode(x, dtype=torch.promote_types(x.dtype, torch.float32))
        if self.statistics is not None and x.device.type == "cpu" and x.numel():
            spread = (encoded.detach().double() - self.statistics.mean.cpu()).square().mean().sqrt()
            apart = float(spread / self.statistics.std.cpu())
            if apart > _FAR or (len(x) >= _SEVERAL and apart < 1 / _FAR):
                warnings.warn(
                    f"the root mean square distance of x from the mean of the model's data is {apart:.2g} of their "
                    f"standard deviations: x is expected in the data's units, not as {transform!r} encodes them",
                    UserWarning,
                    stacklevel=3,
                )
        return encoded

    def to_data_space(self, x: Tensor) -> Tensor:
        """The inverse of `to_model_space`."""
        transform = self.transform
        return x if transform is None else transform.decode(x)

    def log_det(self, shape: Sequence[int]) -> float:
        """What log-densities of samples of this shape gain by the change to the data's units, nats."""
        transform = self.transform
        return 0.0 if transform is None else transform.log_det(shape)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._transform is not None and not isinstance(self._transform, Identity):
            plain = self._transform.to_plain()
            for name in plain.keys() - {"transform"}:
                key = f"{prefix}transform.{plain['transform']}.{name}"
                destination[key] = torch.tensor(plain[name], dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        start = f"{prefix}transform."
        found = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(start)}
        if found:
            names = {key.removeprefix(start).split(".")[0] for key in found}
            values = {key.rpartition(".")[2]: value.tolist() for key, value in found.items()}
            self.transform = Transform.from_plain({"transform": ", ".join(names), **values})
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of states: the parameters' (or the exact density's), float32 at least."""
        dtypes = (v.dtype for v in itertools.chain(self.parameters(), self.buffers()))
        first = next((d for d in dtypes if d.is_floating_point), torch.float32)
        return torch.float64 if first == torch.float64 else torch.float32

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """Shape of one sample in model space, as the network, a model inside or the statistics say; None if unknown."""
        own = (getattr(part, "shape", None) for part in (self, *self.children()) if not isinstance(part, Statistics))
        shape = next((s for s in own if isinstance(s, tuple)), None)
        if shape is not None:
            return tuple(shape)
        within = (child.event_shape for child in self.children() if isinstance(child, ScoreModel))
        found = next((s for s in within if s is not None), None)
        return self.statistics.shape if found is None and self.statistics is not None else found

    def batch_shape(self, shape: int | Sequence[int]) -> tuple[int, ...]:
        """`(B, ...)` as it is, or of B alone with the shape of the model's samples.

        Raises:
            ValueError: B alone, and the model does not know the shape of its samples.
        """
        if not isinstance(shape, int):
            return tuple(shape)
        if self.event_shape is None:
            raise ValueError(
                f"shape is {shape}, and the model does not know the shape of a sample: give ({shape}, ...), or the "
                "network an attribute shape"
            )
        return (shape, *self.event_shape)

    def on_device(self, x: Tensor) -> Tensor:
        """x on the device of the model's network; where it is, for an exact score, which follows it."""
        return x if self.exact else x.to(self.device)

    def conditions(self, cond: dict[str, Any], count: int, device: torch.device) -> dict[str, Any]:
        """The conditions of `count` samples as the model takes them; see `as_conditions`.

        Raises:
            ValueError: one that the network does not take, such as a misspelt argument, or as `as_conditions`.
        """
        self._check_names(cond)
        return as_conditions(cond, count, device, self.info)

    def _check_names(self, cond: Iterable[str]) -> None:
        for child in self.children():
            if isinstance(child, ScoreModel):
                child._check_names(cond)

    def check_shape(self, shape: Sequence[int]) -> None:
        """ValueError unless a batch of this shape, `(B, ...)`, is one of the model's samples, where that is known."""
        event = self.event_shape
        if event is None or tuple(shape[1:]) == event:
            return
        if self.exact and tuple(shape[1:]) == (math.prod(event),):
            return
        batch = "B" if tuple(shape) == event else shape[0]
        raise ValueError(
            f"shape is {tuple(shape)}, but a sample of this model has shape {event}: "
            f"expected ({', '.join(map(str, (batch, *event)))})"
            f"{', with B samples' if tuple(shape) == event else ''}"
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters (or the exact density's numbers) are."""
        return next((v.device for v in itertools.chain(self.parameters(), self.buffers())), torch.device("cpu"))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        ends = torch.tensor([self.sde.t_max, self.sde.t_min], dtype=torch.float64)
        low, high = self.sde.log_snr(ends).tolist()
        return low, high

    @property
    def exact(self) -> bool:
        """Whether this is the score of a known density, and not what a network makes of one."""
        return False

    @property
    def conditioned(self) -> bool:
        """Whether conditions are bound, under which `statistics` are not those of the samples."""
        return False

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode within; each part's own mode after."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def __repr__(self) -> str:
        """The parts of the model and what its samples are; the parts' own trees are those of its children."""
        lines = [self._head()]
        shape, info = self.event_shape, self.info
        transform = self.transform if info is None else info.transform
        if transform is None:
            of = "" if self.exact else ", of data that it does not know"
        else:
            by = "" if isinstance(transform, Identity) else f", by {transform!r}"
            of = (
                f" in the data's units{by}"
                if transform.levels is None
                else f" in model space, decoded by {transform!r}"
            )
        if shape is not None:
            lines.append(f"  samples of shape {tuple(shape)}{of}{'' if info is None else f'; data: {info.name}'}")
        conditional = any(getattr(module, "num_classes", None) is not None for module in self.modules())
        if conditional and info is not None and info.num_classes is not None:
            names = info.class_names or tuple(map(str, range(info.num_classes)))
            lines.append(f"  {info.num_classes} classes: {listed(names)}")
        return "\n".join(lines)

    def _head(self) -> str:
        return f"{type(self).__name__}({', '.join(self._parts())})"

    def _parts(self) -> list[str]:
        """The text in brackets in the first line of `repr`."""
        return [*(c._head() for c in self.children() if isinstance(c, ScoreModel)), repr(self.sde)]

    def _flow(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f and g²/(2σ): the velocity is f x + g²/(2σ) ε."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return self.sde.drift_coefficient(t), self.sde.diffusion(t) ** 2 / (2 * self.sde.sigma(t))


def as_conditions(
    cond: dict[str, Any], count: int, device: torch.device, info: DataInfo | None = None
) -> dict[str, Any]:
    """Conditions with NumPy arrays and lists of numbers as tensors on `device`, integers as int64; others as they are.

    `labels` may also be a single class, which all samples are then of, and names of the classes of `info`.

    Raises:
        ValueError: a tensor that has not one entry for each of `count` samples, or labels that are no classes.
    """
    found = {}
    for name, value in cond.items():
        if name == "labels":
            value = _as_labels(value, count, device, info)
        if isinstance(value, np.ndarray | list):
            array = np.asarray(value, dtype=None if _regular(value) else object)
            if array.dtype.kind in "iu":
                value = torch.from_numpy(array.astype(np.int64)).to(device)
            elif array.dtype.kind in "bf":
                value = torch.from_numpy(array.copy()).to(device)
                value = value.to(torch.get_default_dtype()) if value.is_floating_point() else value
        if isinstance(value, Tensor) and value.ndim and len(value) != count:
            raise ValueError(f"{name} has {len(value)} entries, expected one for each of the {count} samples")
        found[name] = value
    return found


def _as_labels(labels: Any, count: int, device: torch.device, info: DataInfo | None) -> Any:
    """Class indices `(count,)` int64 of names and of one class for all; what is no class as it is."""
    if isinstance(labels, list | tuple) and labels and all(isinstance(v, str) for v in labels):
        labels = np.asarray(labels)
    if isinstance(labels, str) or (isinstance(labels, np.ndarray) and labels.dtype.kind in "US"):
        if info is None or info.class_names is None:
            raise ValueError(
                f"labels are {shown(labels)}, and the model knows no names of classes: give indices from 0"
            )
        found = [class_index(str(v), info.class_names) for v in np.ravel(labels)]
        labels = found[0] if isinstance(labels, str) else np.asarray(found).reshape(labels.shape)
    integer = isinstance(labels, Tensor) and not (labels.is_floating_point() or labels.dtype == torch.bool)
    if (isinstance(labels, int | np.integer) and not isinstance(labels, bool)) or (integer and labels.ndim == 0):
        labels = torch.full((count,), int(labels), dtype=torch.int64, device=device)
    elif integer:
        labels = labels.to(device, torch.int64)
    elif isinstance(labels, list | tuple | np.ndarray) and _regular(labels):
        array = np.asarray(labels)
        labels = torch.from_numpy(array.astype(np.int64)).to(device) if array.dtype.kind in "iu" else array
    known = None if info is None else info.num_classes
    if known is not None and isinstance(labels, Tensor) and labels.device.type == "cpu" and labels.ndim == 1:
        wrong = labels[(labels < 0) | (labels >= known)]
        if len(wrong):
            raise ValueError(f"labels hold {wrong[0].item()}, expected 0 to {known - 1}")
    return labels


def _regular(value: Any) -> bool:
    """Whether NumPy makes an array of numbers of it."""
    return isinstance(value, np.ndarray) or all(isinstance(v, int | float | np.number | np.ndarray) for v in value)


@checked
class NetworkScore(ScoreModel):
    """A network under a preconditioning.

    Each prediction is one linear combination of x and the raw output F, with coefficients computed in float64
    in closed form, never a difference of predictions.

    Args:
        network: maps (x, c_noise, **cond) to the raw output F of the shape of x; x is `(B, ...)` scaled by
            c_in, c_noise `(B,)`.
        sde: the forward SDE.
        preconditioning: what the network sees and predicts.
        statistics: mean and covariance of the training data.
    """

    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        preconditioning: Preconditioning,
        statistics: Statistics | None = None,
    ) -> None:
        super().__init__(sde, statistics)
        self.network = network
        self.preconditioning = (
            preconditioning if statistics is None else preconditioning.with_data_std(float(statistics.std))
        )

    def _check_names(self, cond: Iterable[str]) -> None:
        parameters = list(inspect.signature(self.network.forward).parameters.values())
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return
        known = [p.name for p in parameters[2:] if p.kind is not p.VAR_POSITIONAL]
        for name in cond:
            if name not in known:
                raise ValueError(
                    f"{name} is no argument of this call, and no condition of the network, which takes "
                    f"{', '.join(known) or 'none'}"
                )

    def _parts(self) -> list[str]:
        count = sum(p.numel() for p in self.network.parameters())
        return [f"{type(self.network).__name__} of {count:,} parameters", repr(self.sde), repr(self.preconditioning)]

    def raw(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The network's output F, of the shape and dtype of x."""
        t = self.sde.check_time(t).double()
        c_noise = self.preconditioning.c_noise(self.sde, t)
        dtype, fine = self._dtypes(x)
        c_noise = (
            torch.full((), c_noise.item(), dtype=fine, device=x.device)
            if c_noise.ndim == 0 and c_noise.device.type == "cpu"
            else c_noise.to(x.device, fine)
        )
        return self._ask(x, expand_to(self.preconditioning.c_in(self.sde, t), x), c_noise, dtype, cond)

    def _dtypes(self, x: Tensor) -> tuple[torch.dtype, torch.dtype]:
        """Those of the network's input and of its noise level."""
        dtype = next((p.dtype for p in self.network.parameters()), x.dtype)
        # Never bfloat16: 999 t would have steps of 4. The networks cast their features instead.
        return dtype, torch.float64 if dtype == torch.float64 else torch.float32

    def _ask(
        self, x: Tensor, c_in: Tensor | float, c_noise: Tensor, dtype: torch.dtype, cond: dict[str, Any]
    ) -> Tensor:
        if x.ndim < 2 or x.shape[0] == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, ...) with at least one sample")
        scaled = x if isinstance(c_in, float) and c_in == 1 else c_in * x
        # `to` and `expand` take as long as a kernel even where they change nothing.
        scaled = scaled if scaled.dtype == dtype else scaled.to(dtype)
        raw = self.network(scaled, c_noise if c_noise.ndim else c_noise.expand(x.shape[0]), **cond)
        if raw.shape != x.shape:
            raise ValueError(f"the network returned shape {tuple(raw.shape)}, expected {tuple(x.shape)} as its input")
        return raw if raw.dtype == x.dtype else raw.to(x.dtype)

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        times = self.sde.check_time(times).double()
        own_p, own_q = self.preconditioning.target(self.sde, times)
        alpha, sigma = self.sde.alpha(times), self.sde.sigma(times)
        det = alpha * own_q - sigma * own_p
        on_x, on_output = ((p * own_q - q * own_p) / det).tolist(), ((alpha * q - sigma * p) / det).tolist()
        c_in = self.preconditioning.c_in(self.sde, times).tolist()
        c_noise = self.preconditioning.c_noise(self.sde, times)
        levels: tuple[Tensor, ...] = ()
        dtype = torch.float32

        def predict(x: Tensor, i: int, **cond: Any) -> Tensor:
            nonlocal dtype, levels
            if not levels or levels[0].shape != x.shape[:1]:
                dtype, fine = self._dtypes(x)
                levels = c_noise.to(x.device, fine)[:, None].expand(-1, x.shape[0] if x.ndim else 1).unbind()
            return _combined(on_x[i], x, on_output[i], self._ask(x, c_in[i], levels[i], dtype, cond))

        return predict

    def _solved(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) with ε = a x + b F."""
        t = self.sde.check_time(t).double()
        p, q = self.preconditioning.target(self.sde, t)
        alpha = self.sde.alpha(t)
        det = alpha * q - self.sde.sigma(t) * p
        return -p / det, alpha / det

    def _combine(self, a: Tensor, b: Tensor, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return expand_to(a, x) * x + expand_to(b, x) * self.raw(x, t, **cond)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        _, c_skip, c_out, _ = self.preconditioning.coefficients(self.sde, self.sde.check_time(t).double())
        return self._combine(c_skip, c_out, x, t, **cond)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._combine(*self._solved(t), x, t, **cond)

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        a, b = self._solved(t)
        minus_sigma = -self.sde.sigma(self.sde.check_time(t).double())
        return self._combine(a / minus_sigma, b / minus_sigma, x, t, **cond)

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        a, b = self._solved(t)
        drift, pull = self._flow(self.sde.check_time(t).double())
        return self._combine(drift + pull * a, pull * b, x, t, **cond)


class _ExactScore(ScoreModel):
    """What is known of p₀ itself: every noise level may be asked for, under any SDE."""

    shape: tuple[int, ...]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_ExactScore":
        # Half precision is for networks.
        return super()._apply(at_least_float32(fn), recurse)

    @property
    def exact(self) -> bool:
        return True

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def _check(self, x: Tensor, t: Tensor | float) -> Tensor:
        """t in float64, `()` or `(B,)`."""
        if x.ndim < 2 or tuple(x.shape[1:]) not in (self.shape, (math.prod(self.shape),)):
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {', '.join(map(str, self.shape))})")
        t = torch.as_tensor(t, dtype=torch.float64)
        expand_to(t, x)  # the check of its shape
        return t


@checked
class GaussianMixtureScore(_ExactScore):
    """The exact score, density and samples of a Gaussian mixture at every t: ground truth for tests.

    At time t the mixture is Σ w_k N(α μ_k, α² Σ_k + σ² I).

    Args:
        weights: `(K,)`, positive; normalised here.
        means: `(K, ...)`.
        covariances: `(K,)` isotropic variances, `(K, ...)` diagonals, or `(K, D, D)` full covariances, where
            D is the number of elements of a mean. Symmetric and positive semi-definite.
        sde: the forward SDE.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    rotations: Tensor | None

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, sde: SDE) -> None:
        eps = 1e-6 if getattr(covariances, "dtype", None) == torch.float32 else 1e-12
        weights, means, covariances = (torch.as_tensor(v, dtype=torch.float64) for v in (weights, means, covariances))
        if means.ndim < 2 or not bool(means.isfinite().all()):
            raise ValueError(f"means have shape {tuple(means.shape)}, expected finite numbers of shape (K, ...)")
        count = means.shape[0]
        flat = means.reshape(count, -1)
        dim = flat.shape[1]
        if weights.shape != (count,) or not bool((weights > 0).all()):
            raise ValueError(f"expected {count} positive weights, one for each mean, got {weights.tolist()}")
        rotations = None
        if covariances.shape == (count,):
            variances = covariances[:, None].expand(count, dim).contiguous()
        elif covariances.shape == means.shape:
            variances = covariances.reshape(count, dim)
        elif covariances.shape == (count, dim, dim):
            if not torch.allclose(covariances, covariances.mT, atol=1e-10 * float(covariances.abs().max())):
                raise ValueError("covariances are not symmetric; give Σ, not its Cholesky factor")
            variances, rotations = torch.linalg.eigh(covariances)
            # Round-off of a semi-definite matrix; anything more is refused below.
            tolerance = eps * variances.abs().amax(1, keepdim=True)
            variances = torch.where(variances.abs() <= tolerance, torch.zeros_like(variances), variances)
        else:
            raise ValueError(
                f"covariances have shape {tuple(covariances.shape)}, expected ({count},), {tuple(means.shape)} "
                f"or ({count}, {dim}, {dim})"
            )
        if not bool((variances >= 0).all()):
            raise ValueError("covariances are not positive semi-definite")
        weights = weights / weights.sum()
        mean = weights @ flat
        spread = flat - mean
        covariance = torch.einsum("k,ki,kj->ij", weights, spread, spread)
        covariance = covariance + (
            torch.diag(weights @ variances)
            if rotations is None
            else torch.einsum("k,kij,kj,klj->il", weights, rotations, variances, rotations)
        )
        std = covariance.diagonal().mean().sqrt()
        known = Statistics(mean.reshape(means.shape[1:]), std, covariance) if std > 0 else None
        super().__init__(sde, known)
        self.shape = tuple(means.shape[1:])
        self.register_buffer("weights", weights)
        self.register_buffer("means", flat)
        self.register_buffer("variances", variances)
        self.register_buffer("rotations", rotations)

    def _parts(self) -> list[str]:
        return [f"{len(self.weights)} components", repr(self.sde)]

    def _posterior(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Per component, in its own eigenbasis: log joint `(B, K)`, z, variances `(B, K, D)`, α, σ² `(B, 1, 1)`."""
        t = self._check(x, t)
        alpha = self.sde.alpha(t).to(x).reshape(-1, 1, 1)
        sigma = self.sde.sigma(t).to(x).reshape(-1, 1, 1)
        z = x.reshape(x.shape[0], 1, -1) - alpha * self.means.to(x)
        if self.rotations is not None:
            z = torch.einsum("bki,kij->bkj", z, self.rotations.to(x))
        variance = alpha**2 * self.variances.to(x) + sigma**2
        log_density = -0.5 * (z**2 / variance + variance.log() + math.log(2 * math.pi)).sum(2)
        return self.weights.to(x).log() + log_density, z, variance, alpha, sigma

    def _mix(self, log_joint: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """Σ_k r_k U_k z_k in the shape of x."""
        z = log_joint.softmax(1)[:, :, None] * z
        if self.rotations is None:
            return z.sum(1).reshape(x.shape)
        return torch.einsum("bkj,kij->bi", z, self.rotations.to(z)).reshape(x.shape)

    @checked
    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        """log p_t(x) in nats, `(B,)`."""
        return self._posterior(x, t)[0].logsumexp(1)

    @checked
    def sample(self, n: int, t: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        """n draws `(n, ...)` of p_t in float64."""
        if n < 1:
            raise ValueError(f"n is {n}, expected at least one sample")
        device = self.means.device
        t = torch.as_tensor(t, dtype=torch.float64)
        if t.ndim:
            raise ValueError(f"t has shape {tuple(t.shape)}, expected one number")
        k = torch.multinomial(self.weights.double(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], dtype=torch.float64, device=device, generator=generator)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        z = z * (alpha**2 * self.variances[k].double() + sigma**2).sqrt()
        if self.rotations is not None:
            z = torch.einsum("bj,bij->bi", z, self.rotations[k].double())
        return (alpha * self.means[k].double() + z).reshape(n, *self.shape)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        log_joint, z, variance, alpha, _ = self._posterior(x, t)
        gain = alpha * self.variances.to(x) / variance
        centre = (log_joint.softmax(1) @ self.means.to(x)).reshape(x.shape)
        return centre + self._mix(log_joint, gain * z, x)

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        log_joint, z, variance, _, _ = self._posterior(x, t)
        return self._mix(log_joint, -z / variance, x)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        log_joint, z, variance, _, sigma = self._posterior(x, t)
        return self._mix(log_joint, sigma * z / variance, x)


@checked
class EmpiricalScore(_ExactScore):
    """The exact score of a finite data set: p₀ puts weight 1/N on each sample.

    Args:
        data: `(N, ...)`.
        sde: the forward SDE.
        chunk: how many numbers to hold at once; larger batches are worked through in parts.
    """

    data: Tensor

    def __init__(self, data: Tensor, sde: SDE, chunk: int = 2**24) -> None:
        if data.ndim < 2 or data.shape[0] < 1:
            raise ValueError(f"data has shape {tuple(data.shape)}, expected (N, ...) with at least one sample")
        if not bool(data.isfinite().all()):
            raise ValueError("data has values that are not finite; remove them first")
        varies = bool((data != data[0]).any())
        super().__init__(sde, Statistics.estimate(data) if varies else None)
        self.shape = tuple(data.shape[1:])
        self.chunk = chunk
        self.register_buffer("data", data.flatten(1))

    def _parts(self) -> list[str]:
        return [f"{len(self.data)} samples", repr(self.sde)]

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        t = self._check(x, t)
        data = self.data.to(x)
        scaled = x.flatten(1) / expand_to(self.sde.alpha(t), x.flatten(1))
        precision = (2 * self.sde.log_snr(t)).exp().to(x).expand(x.shape[0])
        rows = max(1, self.chunk // data.numel())
        parts = []
        for part, weight in zip(scaled.split(rows), precision.split(rows), strict=True):
            # Not by |x|² − 2 x·y + |y|²: at small σ the distances are small differences of these.
            distance = (part[:, None] - data).square().sum(2)
            parts.append((-0.5 * weight[:, None] * distance).softmax(1) @ data)
        return torch.cat(parts).reshape(x.shape)


class _UnderSDE(ScoreModel):
    """A model trained under one SDE, integrated under another."""

    def __init__(self, model: ScoreModel, sde: SDE) -> None:
        super().__init__(sde, model.statistics)
        self.model = model

    def _head(self) -> str:
        return f"with_sde({self.model._head()}, {self.sde!r})"

    @property
    def exact(self) -> bool:
        return self.model.exact

    def _translate(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The same noised sample in the model's own scale, and its time there."""
        t = self.sde.check_time(t).double()
        inner = self.model.sde
        time = inner.time(self.sde.log_snr(t))
        time = time.clamp(inner.t_min, inner.t_max)  # round-off at the ends
        return expand_to(inner.alpha(time) / self.sde.alpha(t), x) * x, time

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        # With a state of no dimension, the translation of its scale.
        scales, inner_times = self._translate(torch.ones_like(times), times)
        inner = self.model.prediction(inner_times, p, q)
        factors = scales.tolist()

        def predict(x: Tensor, i: int, **cond: Any) -> Tensor:
            return inner(factors[i] * x, i, **cond)

        return predict

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.denoise(*self._translate(x, t), **cond)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.noise(*self._translate(x, t), **cond)


def in_model_space(model: ScoreModel) -> ScoreModel:
    """`model` without its transform: what takes data or gives samples does so in model space."""
    if model.transform is None:
        return model
    bare, info = copy.copy(model), model.info
    bare.transform = None
    if info is not None:
        bare._info = replace(info, transform=Identity())
    return bare


@checked
def with_sde(model: ScoreModel, sde: SDE) -> ScoreModel:
    """`model` integrated under another SDE, by matching the signal-to-noise ratio.

    x_t under one SDE, divided by its α, has the distribution of x_t' under any other, divided by that one's
    α, where the log-SNRs agree (Kingma et al. 2021, section 5.1; Karras et al. 2022, section 3). The interval
    of `sde` is shortened to the noise levels that the model knows.
    """
    if isinstance(model, _ExactScore):
        # p₀ does not know of any SDE, and the model's own may not reach every noise level of this one.
        moved = copy.copy(model)
        # Or a change of dtype or device of the one would be the other's, too.
        moved._buffers, moved._modules = dict(model._buffers), copy.deepcopy(model._modules)
        moved.sde = sde
        return moved
    low, high = model.log_snr_range
    t_min = sde.t_min if math.isinf(high) else max(sde.t_min, _time(sde, high))
    t_max = sde.t_max if math.isinf(low) else min(sde.t_max, _time(sde, low))
    if not t_min < t_max:
        raise ValueError(
            f"{sde} has no noise level in common with the model, whose log-SNR runs from {low:g} to {high:g}"
        )
    return _UnderSDE(model, sde.between(t_min, t_max))


def _time(sde: SDE, log_snr: float) -> float:
    return float(sde.time(torch.tensor(log_snr, dtype=torch.float64)))
