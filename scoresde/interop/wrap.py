"""Somebody's own function or network as a score model, in one line."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.data import DataInfo
from scoresde.data.transforms import Transform
from scoresde.score import NetworkScore
from scoresde.score.noise_inputs import Level, LogLevel, NoiseInput, TableIndex, Time
from scoresde.score.preconditioning import (
    FlowPreconditioning,
    Preconditioning,
    UnscaledDataPreconditioning,
    UnscaledNoisePreconditioning,
    UnscaledScorePreconditioning,
    UnscaledVelocityPreconditioning,
)
from scoresde.sde import EDMSDE, SDE, DiscreteVESDE, DiscreteVPSDE

__all__ = ["wrap"]

Predicts = Literal["noise", "data", "velocity", "flow", "score"]
_KINDS: dict[str, Callable[[NoiseInput], Preconditioning]] = {
    "noise": UnscaledNoisePreconditioning,
    "data": UnscaledDataPreconditioning,
    "velocity": UnscaledVelocityPreconditioning,
    "flow": FlowPreconditioning,
    "score": UnscaledScorePreconditioning,
}


@checked
def wrap(
    function: Callable[..., Any],
    predicts: Predicts,
    *,
    sde: SDE | None = None,
    sigmas: Iterable[float] | None = None,
    sigma_range: Sequence[float] | None = None,
    alphas_cumprod: Iterable[float] | Tensor | None = None,
    betas: Iterable[float] | Tensor | None = None,
    level: Literal["time", "index", "sigma", "log_sigma"] | NoiseInput | None = None,
    shape: Sequence[int] | None = None,
    classes: int | None = None,
    transform: Transform | None = None,
    conditions: Mapping[str, str] | None = None,
) -> NetworkScore:
    """A function of noised samples and of how much noise there is, as a score model for every sampler and likelihood.

    The function is called as `function(x, level, **conditions)` with x `(B, ...)` = α x₀ + σ ε and the level `(B,)`. It
    returns a tensor of the shape of x, or an object with such a tensor as its `sample`, as diffusers' models do. A
    module becomes a part of the model, with its parameters and its device.

    Exactly one of `sde`, `sigmas`, `sigma_range`, `alphas_cumprod` and `betas` says how much noise there is. With a
    table the SDE has its noise levels at the times 1/N, 2/N, ..., 1. Between them the function is given numbers in
    between: `log_likelihood` and solvers of free steps ask for them, `DiscreteTime(steps, train_steps=N)` does not.

    >>> import torch
    >>> model = wrap(lambda x, sigma: x / (1 + sigma[:, None] ** 2), "data", sigma_range=(0.002, 80), shape=(2,))
    >>> model.score(torch.ones(1, 2), torch.tensor(1.0))
    tensor([[-0.5000, -0.5000]])

    Args:
        function: The function.
        predicts: What it returns: "noise", the mean of ε; "data", the denoised mean of x₀; "velocity", that of
            α ε − σ x₀ (v prediction); "flow", that of ε − x₀; "score", ∇ log p_t(x).
        sde: The forward SDE.
        sigmas: A table of noise levels σ, with α = 1, in the order of their indices.
        sigma_range: The smallest and the largest σ, with α = 1, of a function that is trained for all between.
        alphas_cumprod: The table ᾱ of a chain, from its first step, such as a scheduler's of diffusers.
        betas: The table β of a chain.
        level: What the function is given as the level: "time", the SDE's t; "index", the place in the table, from 0;
            "sigma", σ/α; "log_sigma", its logarithm; or a `NoiseInput`. By default the index where there is a table, σ
            with `sigma_range`, and the time with `sde`.
        shape: Shape of one sample; without it samplers need the shape of a batch.
        classes: Number of classes, for a function that takes labels.
        transform: The map between the data and x: `Discrete(256)` for images that are [−1, 1] here, say.
        conditions: Names of the function's conditions by the names here, such as {"labels": "class_labels"}.

    Raises:
        ValueError: Several descriptions of the noise or none, a table that is in no order, or an index without a table.

    References:
        Salimans & Ho 2022, Progressive distillation for fast sampling of diffusion models (v prediction),
            https://arxiv.org/abs/2202.00512
    """
    known = {
        "sde": sde, "sigmas": sigmas, "sigma_range": sigma_range, "alphas_cumprod": alphas_cumprod, "betas": betas
    }  # fmt: skip
    given = [name for name, value in known.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"expected exactly one of {', '.join(known)}, got {' and '.join(given) or 'none'}")
    process, index = _process(given[0], known[given[0]])
    network = _Function(function, shape, classes, dict(conditions or {}))
    model = NetworkScore(network, process, _KINDS[predicts](_level(level, index, given[0])))
    if transform is not None:
        if shape is None:
            raise ValueError("a transform needs the shape of a sample: give shape=(...)")
        model.info = DataInfo("the data of a wrapped function", tuple(shape), transform, classes)
    return model.eval()


def _process(name: str, value: Any) -> tuple[SDE, TableIndex | None]:
    """The SDE, and the place in its table if there is one."""
    if name == "sde":
        steps = len(getattr(value, "betas", None) or getattr(value, "sigmas", None) or ())
        return value, TableIndex(steps) if steps else None
    numbers = value.tolist() if isinstance(value, Tensor) else [float(v) for v in value]
    if name == "sigma_range":
        if len(numbers) != 2:
            raise ValueError(f"sigma_range has {len(numbers)} values, expected the smallest and the largest σ")
        return EDMSDE(*numbers), None
    if name == "sigmas":
        return DiscreteVESDE(numbers), TableIndex(len(numbers), descending=numbers[0] > numbers[-1])
    return DiscreteVPSDE(numbers if name == "betas" else _betas(numbers)), TableIndex(len(numbers))


def _betas(alphas_cumprod: list[float]) -> list[float]:
    """The table β of a table ᾱ, which may be float32's numbers."""
    before = [1.0, *alphas_cumprod[:-1]]
    betas = [1 - after / earlier for earlier, after in zip(before, alphas_cumprod, strict=True)]
    if not all(0 < beta < 1 for beta in betas):
        raise ValueError("alphas_cumprod does not decrease from below 1 to above 0 at every step, as ᾱ of a chain does")
    return betas


def _level(level: Any, index: TableIndex | None, described_by: str) -> NoiseInput:
    """The noise input of a preconditioning."""
    if isinstance(level, NoiseInput):
        return level
    if level is None:
        level = "sigma" if described_by == "sigma_range" else "time" if index is None else "index"
    if level == "index" and index is None:
        raise ValueError(f"level is 'index', and {described_by} has no table: give sigmas, alphas_cumprod or betas")
    choices: dict[str, NoiseInput | None] = {
        "time": Time(), "index": index, "sigma": Level(), "log_sigma": LogLevel()
    }  # fmt: skip
    found = choices[level]
    assert found is not None
    return found


class _Function(nn.Module):
    """The function as a network."""

    def __init__(
        self, function: Callable[..., Any], shape: Sequence[int] | None, classes: int | None, names: dict[str, str]
    ) -> None:
        super().__init__()
        self.function = function
        self.shape = None if shape is None else tuple(shape)
        self.num_classes = classes
        self.names = names

    def forward(self, x: Tensor, level: Tensor, **cond: Any) -> Tensor:
        found = self.function(x, level, **{self.names.get(name, name): value for name, value in cond.items()})
        out = found if isinstance(found, Tensor) else getattr(found, "sample", found)
        if not isinstance(out, Tensor):
            raise TypeError(
                f"the wrapped function returned a {type(found).__name__}, expected a tensor of shape {tuple(x.shape)}"
            )
        return out
