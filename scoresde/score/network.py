"""Score models around a network."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scoresde.arguments import checked
from scoresde.score.model import Prediction, ScoreModel, combined
from scoresde.score.preconditioning import Preconditioning
from scoresde.sde import SDE, expand_to
from scoresde.statistics import Statistics

__all__ = ["NetworkScore"]


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

    @property
    def unwrapped(self) -> nn.Module:
        """The network without the wrapper that training in several processes puts around it."""
        module = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        assert isinstance(module, nn.Module)
        return module

    def _own_shape(self) -> tuple[int, ...] | None:
        shape = getattr(self.unwrapped, "shape", None)
        return shape if isinstance(shape, tuple) else super()._own_shape()

    def _own_classes(self) -> int | None:
        classes = getattr(self.unwrapped, "num_classes", None)
        return None if classes is None else int(classes)

    def _known_conditions(self) -> list[str] | None:
        """The names of the network's conditions; None if it takes any."""
        parameters = list(inspect.signature(self.network.forward).parameters.values())
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return None
        return [p.name for p in parameters[2:] if p.kind is not p.VAR_POSITIONAL]

    def takes_condition(self, name: str) -> bool:
        """True if the network has an argument of this name, or takes any."""
        known = self._known_conditions()
        return known is None or name in known

    def _check_names(self, cond: Iterable[str]) -> None:
        known = self._known_conditions()
        if known is None:
            return
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
            return combined(on_x[i], x, on_output[i], self._ask(x, c_in[i], levels[i], dtype, cond))

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
