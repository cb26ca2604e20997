"""Score models around a network."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scoresde.arguments import checked
from scoresde.data.conditions import CONDITIONS
from scoresde.score.learned_variance import MISSING, SharedPrediction
from scoresde.score.linear import Linear, combined
from scoresde.score.model import Prediction, ScoreModel
from scoresde.score.preconditioning import Preconditioning
from scoresde.sde import SDE, expand_to
from scoresde.sde.erasure_sde import learned_rates
from scoresde.statistics import Statistics

__all__ = ["NetworkScore"]


@checked
class NetworkScore(ScoreModel):
    """A score model that is a network under a preconditioning.

    Each prediction is one linear combination of x and the raw output F, with coefficients computed in float64
    in closed form, never a difference of predictions. Rates that the SDE learns (`ErasureVPSDE`) become a part of the
    network.

    Args:
        network: Module that maps (x, c_noise, **cond) to the raw output F of the shape of x, where x `(B, ...)` is
            scaled by c_in and c_noise is `(B,)`. Its attributes `shape` and `num_classes`, where it has them, say the
            shape of a sample and the number of classes. If its attribute `has_unconditional` is True, conditions were
            dropped in training, and it takes `dropped`, `(B,)` boolean, True for samples whose conditions do not count.
            `condition_shapes` has the shapes of its conditions beside labels, by name. If its attribute
            `learn_variance` is True it returns twice the channels, `(B, 2C, ...)` for x of `(B, C, ...)`: F, and o with
            the share v = (o + 1)/2 of log β in the log-variance of a reverse step (`scoresde.score.learned_variance`).
        sde: The forward SDE.
        preconditioning: Scaling of the network's input, and the target of its output.
        statistics: Mean and covariance of the training data.

    Raises:
        ValueError: An SDE with learned rates, and a network that has those of another SDE.
    """

    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        preconditioning: Preconditioning,
        statistics: Statistics | None = None,
    ) -> None:
        super().__init__(sde, statistics)
        if (rates := learned_rates(sde)) is not None:
            rates.join(network)
        self.network = network
        self.preconditioning = (
            preconditioning if statistics is None else preconditioning.with_data_std(float(statistics.std))
        )

    @property
    def normal_at_most_noise(self) -> bool:
        return True

    @property
    def unwrapped(self) -> nn.Module:
        """The network without the wrapper that training in several processes puts around it."""
        module = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        assert isinstance(module, nn.Module)
        return module

    @property
    def learns_variance(self) -> bool:
        """True if the network has a second half of channels for the variances of the reverse steps."""
        return bool(getattr(self.unwrapped, "learn_variance", False))

    @property
    def sigma_data(self) -> float | None:
        """The standard deviation σ_data of the preconditioning, or else that of the statistics; or None."""
        # The preconditioning first: its number is on the host, and goes with the network's input.
        std = self.preconditioning.sigma_data
        return super().sigma_data if std is None else std

    def _own_shape(self) -> tuple[int, ...] | None:
        if getattr(self.unwrapped, "any_size", False):
            return None if self.statistics is None else self.statistics.shape
        shape = getattr(self.unwrapped, "shape", None)
        return shape if isinstance(shape, tuple) else super()._own_shape()

    @property
    def has_unconditional(self) -> bool:
        """True if the network says that its conditions were dropped in training."""
        return bool(getattr(self.unwrapped, "has_unconditional", False))

    @property
    def takes_dropped(self) -> bool:
        """True if the network has an argument of this name, and something in the place of conditions."""
        return self.has_unconditional and "dropped" in (self._known_conditions() or ())

    @property
    def condition_shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shapes that the network says."""
        shapes: Mapping[str, tuple[int | None, ...]] = getattr(self.unwrapped, "condition_shapes", {})
        return shapes

    def _own_classes(self) -> int | None:
        classes = getattr(self.unwrapped, "num_classes", None)
        return None if classes is None else int(classes)

    def _known_conditions(self) -> list[str] | None:
        """The names of the network's conditions; None if it takes any."""
        parameters = list(inspect.signature(self.network.forward).parameters.values())
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return None
        names = [p.name for p in parameters[2:] if p.kind is not p.VAR_POSITIONAL]
        shapes: Mapping[str, Any] | None = getattr(self.unwrapped, "condition_shapes", None)
        if shapes is None:
            return names
        # A network without a condition has the argument, and takes none.
        lacking = {name for name in CONDITIONS if ("tokens" if name == "mask" else name) not in shapes}
        return [name for name in names if name not in lacking]

    def takes_condition(self, name: str) -> bool:
        """True if the network has an argument of this name, and classes if these are labels; or takes any."""
        known = self._known_conditions()
        if name == "labels" and getattr(self.unwrapped, "num_classes", 0) is None:
            return False
        return known is None or name in known

    def _check_names(self, cond: Iterable[str]) -> None:
        known = self._known_conditions()
        if known is None:
            return
        for name in cond:
            if name not in known:
                # A network without classes has the argument, and takes no labels.
                labelled = getattr(self.network, "num_classes", 0) is not None
                lacking = {"labels": not labelled, "dropped": not self.has_unconditional}
                taken = [k for k in known if not lacking.get(k)]
                raise ValueError(
                    f"{name} is no argument of this call, and no condition of the network, which takes "
                    f"{', '.join(taken) or 'none'}"
                )

    def _parts(self) -> list[str]:
        count = sum(p.numel() for p in self.network.parameters())
        return [f"{type(self.network).__name__} of {count:,} parameters", repr(self.sde), repr(self.preconditioning)]

    def raw(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The network's output F, of the shape and dtype of x."""
        return self._halves(self._whole(x, t, cond))[0]

    def _whole(self, x: Tensor, t: Tensor, cond: dict[str, Any]) -> Tensor:
        """All channels of the network's output at times `()` or `(B,)`, in the dtype of x."""
        t = self.sde.check_time(t).double()
        c_noise = self.preconditioning.c_noise(self.sde, t)
        dtype, level_dtype = self._input_dtypes(x)
        c_noise = (
            torch.full((), c_noise.item(), dtype=level_dtype, device=x.device)
            if c_noise.ndim == 0 and c_noise.device.type == "cpu"
            else c_noise.to(x.device, level_dtype)
        )
        return self._evaluate(x, expand_to(self.preconditioning.c_in(self.sde, t), x), c_noise, dtype, cond)

    def _input_dtypes(self, x: Tensor) -> tuple[torch.dtype, torch.dtype]:
        """The dtypes of the network's input and of its noise level."""
        dtype = next((p.dtype for p in self.network.parameters()), x.dtype)
        # A noise level is never bfloat16: 999 t would have steps of 4. The networks cast their features instead.
        return dtype, torch.float64 if dtype == torch.float64 else torch.float32

    def _evaluate(
        self, x: Tensor, c_in: Tensor | float, c_noise: Tensor, dtype: torch.dtype, cond: dict[str, Any]
    ) -> Tensor:
        """All channels at the input c_in x in `dtype` and the noise level c_noise, `()` or `(B,)`."""
        if x.ndim < 2 or x.shape[0] == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, ...) with at least one sample")
        scaled = x if isinstance(c_in, float) and c_in == 1 else c_in * x
        # `to` and `expand` take as long as a kernel even where they change nothing.
        scaled = scaled if scaled.dtype == dtype else scaled.to(dtype)
        raw: Tensor = self.network(scaled, c_noise if c_noise.ndim else c_noise.expand(x.shape[0]), **cond)
        if raw.shape != x.shape or self.learns_variance:
            self._check_channels(raw.shape, x.shape)
        return raw if raw.dtype == x.dtype else raw.to(x.dtype)

    def _check_channels(self, found: torch.Size, given: torch.Size) -> None:
        twice = (given[0], 2 * given[1], *given[2:])
        if self.learns_variance and found != twice:
            lack = " without its second half of channels, for the variances" if found == given else ""
            raise ValueError(
                f"the network returned shape {tuple(found)}{lack}, expected {twice}, since its learn_variance is True"
            )
        if not self.learns_variance and found != given:
            hint = ": a network that learns variances has an attribute learn_variance = True" if found == twice else ""
            raise ValueError(f"the network returned shape {tuple(found)}, expected {tuple(given)} as its input{hint}")

    def _halves(self, whole: Tensor) -> tuple[Tensor, Tensor | None]:
        """The raw output F, and the share v of log β in the log-variance if it is learned."""
        if not self.learns_variance:
            return whole, None
        raw, share = whole.chunk(2, dim=1)
        # A new network returns zeros, and then has the geometric mean of β and β̃.
        return raw, 0.5 * (share + 1)

    def _both(self, x: Tensor, t: Tensor, cond: dict[str, Any]) -> tuple[Tensor, Tensor]:
        raw, share = self._halves(self._whole(x, t, cond))
        return raw, self._known(share)

    def _known(self, share: Tensor | None) -> Tensor:
        if share is None:
            raise ValueError(MISSING)
        return share

    def noise_residual(
        self, x: Tensor, t: Tensor, x0: Tensor, noise: Tensor, **cond: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The error of the raw output F against its target p x₀ + q ε, and the factor from it to that of ε.

            ε̂ − ε = b (F − p x₀ − q ε),    b = α/Δ = α/(α q − σ p).

        Nothing is subtracted but F and its target, so that float32 keeps its accuracy where ε̂ and ε agree to many
        digits, as those of EDM do at large σ.
        """
        target, factor = self._target(t, x0, noise)
        return self.raw(x, t, **cond) - target, factor

    def residual_with_share(
        self, x: Tensor, t: Tensor, x0: Tensor, noise: Tensor, **cond: Any
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        target, factor = self._target(t, x0, noise)
        raw, share = self._both(x, t, cond)
        return raw - target, factor, share

    def _target(self, t: Tensor, x0: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The target of F, and the factor from an error of F to that of the noise prediction."""
        p, q = self.preconditioning.target(self.sde, t)
        alpha = self.sde.alpha(t)
        factor = alpha / (alpha * q - self.sde.sigma(t) * p)
        return expand_to(p, x0) * x0 + expand_to(q, x0) * noise, factor

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        both = self._prediction(times, p, q)

        def predict(x: Tensor, i: int, **cond: Any) -> Tensor:
            return both(x, i, cond)[0]

        return predict

    def prediction_with_share(self, times: Tensor, p: Tensor, q: Tensor) -> SharedPrediction:
        both = self._prediction(times, p, q)

        def predict(x: Tensor, i: int, **cond: Any) -> tuple[Tensor, Tensor]:
            value, share = both(x, i, cond)
            return value, self._known(share)

        return predict

    def _prediction(
        self, times: Tensor, p: Tensor, q: Tensor
    ) -> Callable[[Tensor, int, dict[str, Any]], tuple[Tensor, Tensor | None]]:
        """The prediction at the times by the raw output, and the share v if it is learned."""
        times = self.sde.check_time(times).double()
        own_p, own_q = self.preconditioning.target(self.sde, times)
        alpha, sigma = self.sde.alpha(times), self.sde.sigma(times)
        det = alpha * own_q - sigma * own_p
        on_x, on_output = ((p * own_q - q * own_p) / det).tolist(), ((alpha * q - sigma * p) / det).tolist()
        c_in = self.preconditioning.c_in(self.sde, times).tolist()
        c_noise = self.preconditioning.c_noise(self.sde, times)
        levels: tuple[Tensor, ...] = ()
        dtype = torch.float32

        def predict(x: Tensor, i: int, cond: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
            nonlocal dtype, levels
            if not levels or levels[0].shape != x.shape[:1]:
                dtype, level_dtype = self._input_dtypes(x)
                levels = c_noise.to(x.device, level_dtype)[:, None].expand(-1, x.shape[0] if x.ndim else 1).unbind()
            raw, share = self._halves(self._evaluate(x, c_in[i], levels[i], dtype, cond))
            return combined(on_x[i], x, on_output[i], raw), share

        return predict

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        _, c_skip, c_out, _ = self.preconditioning.coefficients(self.sde, self.sde.check_time(t).double())
        return Linear(c_skip, c_out).of(x, self.raw(x, t, **cond))

    def denoise_with_share(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        _, c_skip, c_out, _ = self.preconditioning.coefficients(self.sde, self.sde.check_time(t).double())
        raw, share = self._both(x, t, cond)
        return Linear(c_skip, c_out).of(x, raw), share

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._noise_terms(t).of(x, self.raw(x, t, **cond))

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        noise = self._noise_terms(t)
        minus_sigma = -self.sde.sigma(self.sde.check_time(t).double())
        return Linear(noise.on_x / minus_sigma, noise.on_output / minus_sigma).of(x, self.raw(x, t, **cond))

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        noise, flow = self._noise_terms(t), self._flow_terms(self.sde.check_time(t).double())
        terms = Linear(flow.on_x + flow.on_output * noise.on_x, flow.on_output * noise.on_output)
        return terms.of(x, self.raw(x, t, **cond))

    def _noise_terms(self, t: Tensor) -> Linear:
        """The noise prediction ε = (α F − p x)/(α q − σ p), by its coefficients."""
        t = self.sde.check_time(t).double()
        p, q = self.preconditioning.target(self.sde, t)
        alpha = self.sde.alpha(t)
        det = alpha * q - self.sde.sigma(t) * p
        return Linear(-p / det, alpha / det)
