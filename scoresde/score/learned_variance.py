"""Variances of the reverse steps that a model has learned beside the means.

A network with twice the channels returns, beside its raw output F, a second half of the shape of x. It is the share v
of log β in the log-variance of a reverse step, the rest being that of β̃ (Nichol & Dhariwal 2021, eq. 15):

    log Σ = v log β + (1 − v) log β̃.

β is the variance of the forward step, which is right where the data are flat, and β̃ that of the posterior, which is
right where they are a point. Since v only says where between the two the variance lies, it serves steps of any grid
under any SDE, strided chains among them, whose β and β̃ are others.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from scoresde.score.optimal_variances import OptimalVariances

__all__ = ["MISSING", "HasVariances", "SharedPrediction"]

MISSING = (
    "the model has no learned variances, for which a network needs a second half of channels: train one with "
    "network.learn_variance=true by objective=hybrid, or take another variance"
)
"""The message where learned variances are asked of a model without any."""

SharedPrediction = Callable[..., tuple[Tensor, Tensor]]
"""A function of a state x, the index of a time and conditions, as `prediction_with_share` returns it."""


class HasVariances(nn.Module):
    """What a score model knows of the variances of its reverse steps: nothing, unless a subclass or a measurement does.

    References:
        Improved denoising diffusion probabilistic models (Nichol & Dhariwal 2021), section 3.1,
        https://arxiv.org/abs/2102.09672
    """

    _optimal_variances: OptimalVariances | None = None

    @property
    def optimal_variances(self) -> OptimalVariances | None:
        """What `scoresde.chains.measure_variances` found for the model, or None; it is not in the state dict."""
        return self._optimal_variances

    @optimal_variances.setter
    def optimal_variances(self, variances: OptimalVariances | None) -> None:
        if not (variances is None or isinstance(variances, OptimalVariances)):
            raise TypeError(f"optimal_variances is {variances!r}, expected those of measure_variances, or None")
        self._optimal_variances = variances

    def measured_variances(self) -> OptimalVariances:
        """The variances that were measured for the model.

        Raises:
            ValueError: None were.
        """
        if self.optimal_variances is None:
            raise ValueError(
                "variance is 'optimal', and the model's errors have not been measured: run `scoresde tune run=DIR "
                "variances=true`, or set model.optimal_variances = measure_variances(model, data)"
            )
        return self.optimal_variances

    @property
    def learns_variance(self) -> bool:
        """True if the model has learned variances for the steps of the reverse process."""
        return False

    def denoise_with_share(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """The denoised mean E[x₀ | x_t = x] and the share v of log β in the log-variance, of the shape of x each.

        Raises:
            ValueError: A model without learned variances.
        """
        raise ValueError(MISSING)

    def residual_with_share(
        self, x: Tensor, t: Tensor, x0: Tensor, noise: Tensor, **cond: Any
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The residual and its factor as of `ScoreModel.noise_residual`, and the share v, by one evaluation.

        Raises:
            ValueError: A model without learned variances.
        """
        raise ValueError(MISSING)

    def prediction_with_share(self, times: Tensor, p: Tensor, q: Tensor) -> SharedPrediction:
        """A function `f(x, i, **cond)` of a prediction as of `ScoreModel.prediction`, and of the share v beside it.

        Raises:
            ValueError: A model without learned variances.
        """
        raise ValueError(MISSING)
