"""Score models: the interface of networks, exact densities and guided models to a solver."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import as_tensor
from scoresde.data.affine import Identity, transform_from_plain
from scoresde.data.info import DataInfo
from scoresde.data.transforms import Transform
from scoresde.numerics.modes import evaluating
from scoresde.score.conditions import Conditions
from scoresde.score.learned_variance import HasVariances
from scoresde.score.linear import Linear, combined
from scoresde.score.promises import keep_own
from scoresde.score.samples_text import sample_lines
from scoresde.score.step_rules import StepRules
from scoresde.score.units import warn_of_units
from scoresde.sde import SDE, expand_to
from scoresde.statistics import Statistics

__all__ = ["Prediction", "ScoreModel"]

# The factor of the standard deviations of data whose moments may not be those of the model's samples: that of
# `scoresde.guidance` for a scale of 4.
_UNKNOWN = 4 ** (1 / 3)

Prediction = Callable[..., Tensor]
"""A function of a state x, the index of a time and conditions, as `ScoreModel.prediction` returns it."""


class ScoreModel(HasVariances, ABC):
    """A model of the noised data's density p_t under an SDE.

    A subclass gives `denoise`, the denoised mean D = E[x₀ | x_t]. The other predictions follow from it (Tweedie's
    formula, Efron 2011):

        noise ε = (x − α D)/σ,    score ∇ log p_t = −ε/σ,    velocity dx/dt = f x + g²/(2σ) ε.

    A subclass that knows one of them more accurately overrides it. x is `(B, ...)`; t is a scalar or `(B,)`.

    Solvers and likelihoods assume of a model only what it promises: see `exact`, `normal_at_most_noise`, `narrowest`,
    `is_score` and `step_statistics`. A class that overrides the field of one which has promised something, such as a
    subclass of `NetworkScore` with a `denoise` of its own, has none of its promises, and its other predictions follow
    from the one that it overrides. With `class Mine(NetworkScore, same_field=True)` it keeps them.

    The methods of a model, its SDE and its statistics are in model space, where the noise is. The functions that take
    data or give samples do so in one of two ways:

    - Continuous data, with a `transform` or without: samplers, likelihoods, codes and comparisons are in the data's
      own units.
    - Discrete data such as pixels: samplers give, and `log_likelihood` and codes take, values in model space;
      `bits_per_dim` takes the integers themselves.

    In both cases `model.decode(x)` turns samples into values of the data, as `Samples.decoded` does.
    (`scoresde.likelihood.encode` and `decode` are something else: the probability flow from data to codes at t_max and
    back.)

    Args:
        sde: The forward SDE.
        statistics: Mean and covariance of the data in model space, if they are known.

    Attributes:
        sde: The forward SDE.
        statistics: Mean and covariance of the data in model space, or None.
    """

    _transform: Transform | None = None
    _info: DataInfo | None = None
    _shape: tuple[int, ...] | None = None
    _classes: int | None = None
    _step_rules: StepRules | None = None

    def __init__(self, sde: SDE, statistics: Statistics | None = None) -> None:
        super().__init__()
        self.sde = sde
        self.statistics: Statistics | None = statistics

    def __init_subclass__(cls, same_field: bool = False, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if not same_field:
            keep_own(cls, ScoreModel)

    @abstractmethod
    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The denoised mean E[x₀ | x_t = x], of the shape of x."""

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The noise prediction E[ε | x_t = x] = (x − α D)/σ, of the shape of x."""
        fine = torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma = expand_to(self.sde.alpha(fine), x), expand_to(self.sde.sigma(fine), x)
        return (x - alpha * self.denoise(x, t, **cond)) / sigma

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The score ∇ₓ log p_t(x) = −ε/σ, of the shape of x."""
        return self.noise(x, t, **cond) / expand_to(-self.sde.sigma(torch.as_tensor(t, dtype=torch.float64)), x)

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The velocity dx/dt = f x − ½ g² score of the probability-flow ODE (Song et al. 2021, eq. 13)."""
        return self._flow_terms(t).of(x, self.noise(x, t, **cond))

    def noise_and_trace(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor] | None:
        """The noise prediction, and the trace of its Jacobian `(B,)` float64 in closed form; None if there is none."""
        return None

    def noise_residual(
        self, x: Tensor, t: Tensor, x0: Tensor, noise: Tensor, **cond: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The error of the noise prediction at x = α x₀ + σ ε, as a residual and a factor of it.

        Args:
            x: Noised samples `(B, ...)`.
            t: Times `(B,)`.
            x0: Data `(B, ...)`.
            noise: The noise ε `(B, ...)` in x.
            **cond: Conditions for the model.

        Returns:
            The residual, of the shape of x, and the factor `(B,)` by which it is multiplied to give ε̂ − ε; None for 1.
        """
        return self.noise(x, t, **cond) - noise, None

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> "Prediction":
        """A function `f(x, i, **cond)` = E[p_i x₀ + q_i ε | x at times_i], with one evaluation for each call.

        It is for solvers, which know their times before they start: the numbers that depend on time alone are computed
        once, in float64.

        Args:
            times: Times `(n,)`, float64 on the CPU, in any order.
            p: Weights of x₀, `(n,)` float64; 1 for the data prediction.
            q: Weights of ε, `(n,)` float64; 1 for the noise prediction.
        """
        times = self.sde.check_time(times)
        alpha, sigma = self.sde.alpha(times), self.sde.sigma(times)
        # x₀ from ε loses no digits where the signal is larger than the noise, ε from x₀ where it is smaller.
        by_noise = ((alpha > sigma) | (p == 0)) & (q != 0)
        on_x = torch.where(by_noise, p / alpha, q / sigma)
        on_output = torch.where(by_noise, q - p * sigma / alpha, p - q * alpha / sigma)
        table = list(zip(times, by_noise.tolist(), on_x.tolist(), on_output.tolist(), strict=True))

        def predict(x: Tensor, i: int, **cond: Any) -> Tensor:
            t, noise, a, b = table[i]
            output = self.noise(x, t, **cond) if noise else self.denoise(x, t, **cond)
            return combined(a, x, b, output)

        return predict

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The same as `denoise`."""
        return self.denoise(x, t, **cond)

    @property
    def transform(self) -> Transform | None:
        """The map between continuous data and model space; None if they are in model space, or are discrete.

        A model around another has the transform of that one. It is part of the state dict.
        """
        if self._transform is not None:
            return None if isinstance(self._transform, Identity) else self._transform
        within = (part.transform for part in self._models_inside())
        return next((t for t in within if t is not None), None)

    @transform.setter
    def transform(self, transform: Transform | None) -> None:
        if transform is not None and transform.levels is not None:
            raise ValueError(f"{transform!r} is of discrete data, which bits_per_dim and Transform.decode are for")
        self._transform = Identity() if transform is None else transform

    @property
    def info(self) -> DataInfo | None:
        """Facts about the model's data, such as their transform and classes; None if not known.

        `scoresde.load` and `scoresde.training.fit` set it, and a model around another has the info of that one. It is
        not part of the state dict.
        """
        if self._info is not None:
            return self._info
        within = (part.info for part in self._models_inside())
        return next((i for i in within if i is not None), None)

    @info.setter
    def info(self, info: DataInfo | None) -> None:
        if info is not None and info.transform.levels is None:
            self.transform = info.transform
        self._info = info

    def decode(self, x: Tensor | np.ndarray) -> Tensor:
        """The values of the data for samples `(B, ...)` of a sampler.

        For discrete data these are the integers, such as pixels: uint8 for up to 256 levels, int32 above. For
        continuous data they are x itself, which is in their units already.

        Raises:
            ValueError: A model that does not know its data, such as that of a run by an older version, or samples of
                discrete data that hold NaN.
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
        """Data `(B, ...)` in model space; x itself if there is no transform.

        A warning says if they are far from the model's data.
        """
        transform = self.transform
        if transform is None:
            return x
        encoded = transform.encode(x, dtype=torch.promote_types(x.dtype, torch.float32))
        warn_of_units(encoded, transform, self.statistics, stacklevel=3)
        return encoded

    def to_data_space(self, x: Tensor) -> Tensor:
        """The inverse of `to_model_space`."""
        transform = self.transform
        return x if transform is None else transform.decode(x)

    def log_det(self, shape: Sequence[int]) -> float:
        """The change of the log-densities of samples of this shape from model space to the data's units, in nats."""
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
            self.transform = transform_from_plain({"transform": ", ".join(names), **values})
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of states: the parameters' (or the exact density's), float32 at least."""
        dtypes = (v.dtype for v in itertools.chain(self.parameters(), self.buffers()))
        first = next((d for d in dtypes if d.is_floating_point), torch.float32)
        return torch.float64 if first == torch.float64 else torch.float32

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape `(...)` of one sample in model space; None if unknown.

        It can be set. Otherwise the network, a model inside or the statistics say it.
        """
        return self._own_shape() if self._shape is None else self._shape

    @shape.setter
    def shape(self, shape: Sequence[int] | None) -> None:
        self._shape = None if shape is None else tuple(shape)

    def _own_shape(self) -> tuple[int, ...] | None:
        parts = (child for child in self.children() if not isinstance(child, Statistics))
        shape = next((s for s in (getattr(part, "shape", None) for part in parts) if isinstance(s, tuple)), None)
        return self.statistics.shape if shape is None and self.statistics is not None else shape

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """Former name of `shape`."""
        return self.shape

    @property
    def classes(self) -> int | None:
        """Number of classes that `labels` choose from; None if the model takes no labels.

        It can be set. Otherwise the network or a model inside says it.
        """
        return self._own_classes() if self._classes is None else self._classes

    @classes.setter
    def classes(self, classes: int | None) -> None:
        self._classes = classes

    def _own_classes(self) -> int | None:
        within = (part.classes for part in self._models_inside())
        return next((c for c in within if c is not None), None)

    @property
    def condition_shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        """Shapes of the conditions beside labels that the model takes, by name, of one sample; None for a free size.

        These are `vector` `(k,)`, `image` `(C, ...)` and `tokens` `(L, d)`; empty where the model does not say. The
        network or a model inside says it.
        """
        within = (part.condition_shapes for part in self._models_inside())
        return next((shapes for shapes in within if shapes), {})

    @property
    def has_unconditional(self) -> bool:
        """True if the model was trained for samples without their conditions beside those with them.

        It then takes no conditions for a whole batch, which is without.
        """
        return False

    @property
    def takes_dropped(self) -> bool:
        """True if it takes a condition `dropped` `(B,)`, True for samples whose other conditions do not count."""
        return False

    def batch_shape(self, shape: int | Sequence[int]) -> tuple[int, ...]:
        """The shape `(B, ...)` of a batch, from that shape or from B alone.

        Raises:
            ValueError: B alone for a model that does not know the shape of its samples.
        """
        if not isinstance(shape, int):
            return tuple(shape)
        if self.shape is None:
            raise ValueError(
                f"shape is {shape}, and the model does not know the shape of a sample: give ({shape}, ...), or the "
                "network an attribute shape"
            )
        return (shape, *self.shape)

    def sample_shape(self, shape: Sequence[int] | None) -> tuple[int, ...]:
        """The shape of a sample: the one that is given, or else that of the model.

        Raises:
            ValueError: None for a model that does not know it, one without elements, or another than the model's.
        """
        if shape is None:
            if self.shape is None:
                raise ValueError("the model does not know the shape of a sample: give shape=(...)")
            return self.shape
        given = tuple(shape)
        if not given or min(given) < 1:
            raise ValueError(f"shape is {given}, expected the shape of a sample, with at least one element")
        if self.shape is not None and not self._fits(given, self.shape):
            raise ValueError(f"shape is {given}, but a sample of this model has shape {self.shape}: leave shape out")
        return given

    @property
    def data_std(self) -> float:
        """The standard deviation of the data in model space, or 1 if the model does not know it."""
        return 1.0 if self.statistics is None else float(self.statistics.std)

    @property
    def sigma_data(self) -> float | None:
        """The standard deviation of the data for which a network is preconditioned, or that of the data; or None."""
        return None if self.statistics is None else float(self.statistics.std)

    def on_device(self, x: Tensor) -> Tensor:
        """x on the device of the model's network; unchanged for an exact score, which follows the device of x."""
        return x if self.exact else x.to(self.device)

    def conditions(self, cond: Mapping[str, Any], count: int, device: torch.device) -> Conditions:
        """The conditions of `count` samples as the model takes them; see `Conditions`.

        Raises:
            ValueError: A condition that the network does not take, such as a misspelt argument, or as `as_conditions`.
        """
        self._check_names(cond)
        return Conditions.of(cond, count, device, self.info, self.shape)

    def for_rows(self, rows: Tensor) -> "ScoreModel":
        """The model for the samples `rows` `(b,)` of its batch, which may repeat; itself if none are bound."""
        return self

    def conditioned_on(self, names: Iterable[str]) -> bool:
        """True if samples have other statistics than `statistics` when they are given conditions of these names."""
        return bool(list(names)) or self.conditioned

    def takes_condition(self, name: str) -> bool:
        """True if the model may take a condition of this name: True also for a model that does not say."""
        inner = [child.takes_condition(name) for child in self.children() if isinstance(child, ScoreModel)]
        return all(inner) if inner else not self.exact

    def _check_names(self, cond: Iterable[str]) -> None:
        for child in self.children():
            # A model around an exact score may have conditions of its own.
            if isinstance(child, ScoreModel) and not child.exact:
                child._check_names(cond)

    def check_shape(self, shape: Sequence[int]) -> None:
        """Check that `(B, ...)` is the shape of a batch of the model's samples, if that is known.

        Raises:
            ValueError: Another shape.
        """
        event = self.shape
        if event is None or self._fits(tuple(shape[1:]), event):
            return
        batch = "B" if tuple(shape) == event else shape[0]
        raise ValueError(
            f"shape is {tuple(shape)}, but a sample of this model has shape {event}: "
            f"expected ({', '.join(map(str, (batch, *event)))})"
            f"{', with B samples' if tuple(shape) == event else ''}"
        )

    def _fits(self, given: tuple[int, ...], event: tuple[int, ...]) -> bool:
        """True for the shape of a sample, which an exact score also takes as a vector."""
        return given == event or (self.exact and given == (math.prod(event),))

    @property
    def device(self) -> torch.device:
        """The device of the parameters, or of the numbers of an exact density."""
        return next((v.device for v in itertools.chain(self.parameters(), self.buffers())), torch.device("cpu"))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """The smallest and the largest λ = log(α/σ) at which the model may be evaluated."""
        ends = torch.tensor([self.sde.t_max, self.sde.t_min], dtype=torch.float64)
        low, high = self.sde.log_snr(ends).tolist()
        return low, high

    @property
    def exact(self) -> bool:
        """True for the exact score of a known density, False for a network."""
        return False

    @property
    def narrowest(self) -> float:
        """A standard deviation that the data have at least in every direction and mode; 0 where none is known."""
        return 0.0

    @property
    def step_rules(self) -> StepRules | None:
        """What `scoresde.sampling.measure_steps` found to suit the model, or None; it is not in the state dict."""
        return self._step_rules

    @step_rules.setter
    def step_rules(self, rules: StepRules | None) -> None:
        if not (rules is None or isinstance(rules, StepRules)):
            raise TypeError(f"step_rules is {rules!r}, expected the StepRules of measure_steps, or None")
        self._step_rules = rules

    @property
    def evaluation_size(self) -> int | None:
        """The numbers that one evaluation of one sample works on, for an exact score; None for a network."""
        return None

    @property
    def normal_at_most_noise(self) -> bool:
        """True if `statistics` are known to be those of the model's own samples, whatever it was made of.

        Where noise is far larger than the data, the prediction is then that of a normal density with these moments. A
        model around others, such as a guided one, may have statistics that are not its own.
        """
        return False

    @property
    def step_statistics(self) -> Statistics | None:
        """The moments by which grids and solvers place their steps; None if none are known.

        They are `statistics` if these are known to be of the model's own samples. Otherwise they are the widest of
        those of the model and of the models that are parts of it, and wider by 4^⅓: the field of a guided model bends
        where noise is larger than the data's spread tells, and a step too many there costs less than one too few.
        """
        if self.normal_at_most_noise:
            return self.statistics
        parts = [part for part in self._models_inside() if part.shape == self.shape]
        known = [m.statistics.widened(_UNKNOWN) for m in (self, *parts) if m.statistics is not None]
        known += [part.step_statistics for part in parts if part.step_statistics is not None]
        return max(known, key=lambda statistics: statistics.largest_std, default=None)

    @property
    def is_score(self) -> bool:
        """True if `score` is the gradient of the log-density of some data with noise, as `denoise` has it by its name.

        A guided model says False: its field is that of no noised density, so that log-likelihoods have no meaning. So
        does a model that has several others as parts, unless its class says otherwise: what it makes of them is not
        known. One around a single model says what that one says. A model that guides without such parts, such as by
        two networks of its own, or that changes the field of a single one, has to say False itself.
        """
        inside = list(self._models_inside())
        return len(inside) < 2 and all(model.is_score for model in inside)

    @property
    def conditioned(self) -> bool:
        """True if conditions are bound, under which the samples have other statistics than `statistics`."""
        return False

    def _models_inside(self) -> Iterator["ScoreModel"]:
        """The score models that are parts of this one."""
        return (child for child in self.children() if isinstance(child, ScoreModel))

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluation mode inside the block; afterwards each module is in the mode that it had."""
        return evaluating(self)

    def __repr__(self) -> str:
        """The parts of the model, and the shape, units and classes of its samples."""
        info = self.info
        transform = self.transform if info is None else info.transform
        return "\n".join([self._head(), *sample_lines(self.shape, transform, info, self.exact, self.classes)])

    def _head(self) -> str:
        return f"{type(self).__name__}({', '.join(self._parts())})"

    def _parts(self) -> list[str]:
        """The text in brackets in the first line of `repr`."""
        return [*(part._head() for part in self._models_inside()), repr(self.sde)]

    def _flow_terms(self, t: Tensor) -> Linear:
        """The velocity f x + g²/(2σ) ε, by its coefficients."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return Linear(self.sde.drift_coefficient(t), self.sde.diffusion(t) ** 2 / (2 * self.sde.sigma(t)))
