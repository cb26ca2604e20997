"""Gaussian reverse steps around any score model."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.chains.model import ChainModel
from scoresde.data.info import DataInfo
from scoresde.numerics.values import expand_to, one_of
from scoresde.score import Conditions, ScoreModel, with_sde
from scoresde.score.exact import ExactScore
from scoresde.score.learned_variance import MISSING
from scoresde.sde import GaussianChain, GaussianStep
from scoresde.sde.markov import StepTable, check_of_steps

__all__ = ["GaussianChainModel", "Variance"]

Variance = Callable[[Tensor, Tensor], Tensor]
"""A function of states x_t `(B, ...)` and steps `(B,)` that gives the variances of the reverse steps."""

# By how much log(α/σ) of the chain may leave the range of the model, which is then asked at its own end.
_SLACK = 0.1


@checked
class GaussianChainModel(ChainModel[GaussianChain]):
    """The Gaussian reverse steps of a score model, whatever SDE it was trained under (Ho et al. 2020, eq. 6 and 7).

    With the denoised mean D = E[x₀ | x_t] of the score model,

        p(x_{t−1} | x_t) = N(√ᾱ_{t−1} β_t/(1 − ᾱ_t) D + √(1 − β_t) (1 − ᾱ_{t−1})/(1 − ᾱ_t) x_t, b_t).

    The mean is that of the true reverse step if D is exact. Its variance is between the two choices of Ho et al.:

        large: b_t = β_t, right for data of unit variance;    small: b_t = β̃_t, right for a point.

    At step 1, where β̃_1 is 0, the small variance is β̃_2. Two more are the model's own:

        learned: log b_t = v log β_t + (1 − v) log β̃_t with a network's v for each element (Nichol & Dhariwal 2021);
        optimal: the best for the model's mean, by its measured errors (Analytic-DPM, Bao et al. 2022a, 2022b).

    The chain and the model meet at equal log-SNR, so that a model of a VE or EDM SDE runs in a chain as well.

    Args:
        model: The score model.
        chain: The chain.
        variance: `"large"`, `"small"`, `"learned"`, `"optimal"`, one variance `(T,)` for each step, or a function of
            states x_t `(B, ...)` and steps t `(B,)` that gives variances `(B,)` or `(B, ...)`.

    Raises:
        ValueError: A chain whose noise levels the model does not know, variances that are not positive, or a model that
            has learned none, or none that were measured, where these are asked for.

    References:
        Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239
        Nichol & Dhariwal 2021, Improved denoising diffusion probabilistic models, https://arxiv.org/abs/2102.09672
        Bao et al. 2022a, Analytic-DPM: an analytic estimate of the optimal reverse variance in diffusion probabilistic
            models, https://arxiv.org/abs/2201.06503
        Bao et al. 2022b, Estimating the optimal covariance with imperfect mean in diffusion probabilistic models,
            https://arxiv.org/abs/2206.07309
    """

    def __init__(
        self,
        model: ScoreModel,
        chain: GaussianChain,
        variance: Literal["large", "small", "learned", "optimal"] | Tensor | Variance = "large",
    ) -> None:
        super().__init__(chain)
        self.model, self._times, self._scales = _met(model, chain)
        self.variance = variance
        self._table: StepTable | None = None
        if isinstance(variance, str) and variance == "learned":
            if not model.learns_variance:
                raise ValueError(MISSING)
            low, high = (_table(chain, kind)(torch.arange(1, chain.steps + 1)).log() for kind in ("small", "large"))
            self._logs = StepTable(torch.cat((low[:1], low))), StepTable(torch.cat((low[:1], high - low)))
        elif isinstance(variance, str) and variance == "optimal":
            self._table = _table(chain, _optimal(self.model, chain))
        elif not callable(variance):
            self._table = _table(chain, variance)

    def moments(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """The denoised mean D `(B, ...)` and the variances b_t, which broadcast to it, by one evaluation.

        Args:
            x: States x_t `(B, ...)`.
            t: Steps `(B,)`.
            **cond: Conditions for the network.
        """
        if isinstance(self.variance, str) and self.variance == "learned":
            denoised, share = self.model.denoise_with_share(*self.in_sde(x, t), **cond)
            low, rise = (expand_to(logs(self.chain.check_steps(t)), x) for logs in self._logs)
            return denoised, (low + rise * share).exp()
        denoised = self.denoise(x, t, **cond)
        if self._table is not None:
            return denoised, expand_to(self._table(self.chain.check_steps(t)), x)
        assert callable(self.variance)
        variance = self.variance(x, t)
        return denoised, expand_to(variance, x) if variance.ndim == 1 else variance

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The denoised mean E[x₀ | x_t = x], of the shape of x, for steps t `(B,)`."""
        return self.model.denoise(*self.in_sde(x, t), **cond)

    def in_sde(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The state of equal log-SNR under the SDE of `self.model`, and its time `(B,)`, float64.

        Args:
            x: States x_t `(B, ...)` of the chain.
            t: Steps `(B,)`.
        """
        t = self.chain.check_steps(t)
        return expand_to(self._scales(t), x) * x, self._times(t)

    @property
    def nominal_variances(self) -> Tensor:
        """Variances b_t of the steps, `(T,)` float64 on the CPU; β_t where they depend on the state."""
        t = torch.arange(1, self.chain.steps + 1)
        return self.chain.beta(t).detach() if self._table is None else self._table(t)

    def reverse(self, x: Tensor, t: Tensor, **cond: Any) -> GaussianStep:
        denoised, variance = self.moments(x, t, **cond)
        return GaussianStep(self.chain.posterior(x, denoised, t).mean, variance)

    @property
    def shape(self) -> tuple[int, ...] | None:
        return self.model.shape

    @property
    def info(self) -> DataInfo | None:
        return self.model.info

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def draws_last(self) -> bool:
        """False: the last step of algorithm 2 of Ho et al. (2020) adds no noise."""
        return False

    def conditions(self, cond: Mapping[str, Any], count: int) -> Conditions:
        return self.model.conditions(cond, count, self.device)

    def check_batch(self, x: Tensor) -> None:
        super().check_batch(x)
        if not x.is_floating_point():
            raise ValueError(
                f"x has dtype {x.dtype}, expected floating point: chain_bits_per_dim takes pixels, and "
                "model.info.transform.encode(pixels) their place in model space"
            )

    def to_model_space(self, x: Tensor) -> Tensor:
        return self.model.to_model_space(x)

    def to_data_space(self, x: Tensor) -> Tensor:
        return self.model.to_data_space(x)

    def log_det(self, shape: tuple[int, ...]) -> float:
        return self.model.log_det(shape)

    def extra_repr(self) -> str:
        named = self.variance if isinstance(self.variance, str) else "given"
        return f"{self.chain!r}, variance={named!r}"


def _met(model: ScoreModel, chain: GaussianChain) -> tuple[ScoreModel, StepTable, StepTable]:
    """The model, its times at the steps of the chain, and the factors of the chain's states in its own scale.

    Raises:
        ValueError: A chain whose noise levels the model does not know.
    """
    t = torch.arange(1, chain.steps + 1)
    log_snr = chain.log_snr(t).detach()
    if isinstance(model, ExactScore) and model.exact:
        # p₀ does not depend on an SDE, and the model's own SDE may not reach every noise level of the chain.
        model = with_sde(model, chain.sde())
    else:
        low, high = model.log_snr_range
        if log_snr[0] > high + _SLACK or log_snr[-1] < low - _SLACK:
            raise ValueError(
                f"the chain's noise levels run from log-SNR {float(log_snr[0]):.3g} to {float(log_snr[-1]):.3g}, and "
                f"those of the model under {model.sde} from {high:.3g} to {low:.3g}: take a chain with the same ends, "
                "such as VPSDE(...).chain(1000)"
            )
        log_snr = log_snr.clamp(low, high)
    times = model.sde.time(log_snr).clamp(model.sde.t_min, model.sde.t_max)
    scales = model.sde.alpha(times) / chain.alpha(t).detach()
    start = times.new_zeros(1)  # step 0 is never asked for
    return model, StepTable(torch.cat((start, times))), StepTable(torch.cat((start, scales)))


def _optimal(model: ScoreModel, chain: GaussianChain) -> Tensor:
    """The best variances of the steps for the model's mean, `(T,)` float64."""
    t = torch.arange(1, chain.steps + 1)
    on_data, _, least = (v.detach() for v in chain.posterior_terms(t))
    return model.measured_variances().step_variances(least, on_data, chain.log_snr(t))


def _table(chain: GaussianChain, variance: str | Tensor) -> StepTable:
    """The variances of the steps.

    Raises:
        ValueError: A word that is not known, or not one positive variance for each step.
    """
    if isinstance(variance, str):
        one_of("variance", variance, ("large", "small", "learned", "optimal"))
        t = torch.arange(1, chain.steps + 1)
        # At step 1 the posterior is a point.
        variance = chain.beta(t) if variance == "large" else chain.posterior_terms(t.clamp_min(2))[2]
    variance = variance.to("cpu", torch.float64)
    check_of_steps("variance", variance, chain.steps)
    return StepTable(torch.cat((variance.new_zeros(1), variance)))
