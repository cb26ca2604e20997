"""Log-densities of samples, for a sampler that is called with `log_prob=True` or `log_prob="path"`."""

import math
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde.numerics.ode import Status
from scoresde.sampling.path_density import PathDensity, WatchedModel
from scoresde.sampling.samples import Samples
from scoresde.score import ScoreModel, in_model_space

__all__ = ["path_density", "warn_of_long_steps", "with_log_prob"]

# The longest step in log SNR, at noise below the data's standard deviation, up to which the error of a density along a
# path is as large as is said: the truth lay within two errors for 87 to 100 % of samples, and for down to 0 % above.
_LONGEST = 0.5


def with_log_prob(model: ScoreModel, samples: Samples, **options: Any) -> Samples:
    """Samples in model space with their log-densities under the probability-flow ODE at the last of their times.

    A sample that did not arrive at that time gets NaN.

    Args:
        model: The score model.
        samples: The samples, without the denoising step.
        **options: Further arguments of `log_likelihood`, and the conditions.
    """
    # Late, since most samplers need no likelihood, and importing it takes as long as all of this package.
    from scoresde.likelihood.density import log_likelihood

    x = samples.x
    status = torch.zeros(len(x), device=x.device) if samples.status is None else samples.status
    arrived = status == Status.ARRIVED
    if not bool(arrived.any()):
        unknown = torch.full((len(x),), math.nan, dtype=torch.float64, device=x.device)
        return replace(samples, log_prob=unknown, stderr=unknown.clone(), solver_stderr=unknown.clone())
    # The ODE is solved for the whole batch, so samples that did not arrive are replaced by one that did.
    filled = torch.where(arrived.reshape(-1, *[1] * (x.ndim - 1)), x, x[arrived][:1])
    density = log_likelihood(in_model_space(model), filled, t_min=float(samples.times[-1]), **options)
    return replace(
        samples,
        log_prob=_where(arrived, density.log_prob),
        stderr=_where(arrived, density.stderr),
        solver_stderr=_where(arrived, density.solver_stderr),
    )


def warn_of_long_steps(model: ScoreModel, times: Tensor) -> None:
    """Warn if steps of a path `(n + 1,)` are so long that its density errs by more than `solver_stderr` tells."""
    log_snr = model.sde.log_snr(times)
    steps = log_snr.diff()[log_snr[1:] > -math.log(model.data_std)]
    longest = float(steps.max()) if len(steps) else 0.0
    if longest > _LONGEST:
        warnings.warn(
            f'log_prob="path" with steps of up to {longest:.2g} in log SNR: densities may err by far more than '
            f"solver_stderr, which holds for steps of at most {_LONGEST}; take more of them, or another grid, such as "
            "UniformLogSNR(200)",
            UserWarning,
            stacklevel=5,  # past Sampler.__call__, the check of its arguments and the wrapper of no_grad
        )


def path_density(model: WatchedModel, x: Tensor, times: Tensor) -> PathDensity:
    """The log-density along a path of the reverse SDE that starts at x, `(B, ...)`, at the first of its times.

    There it is that of the Gaussian with the data's moments, or of N(0, σ² I) if they are unknown.
    """
    from scoresde.likelihood.flow import Flow
    from scoresde.likelihood.options import FlowOptions
    from scoresde.likelihood.prior import prior_log_prob

    flow = Flow(model, x.shape, options=FlowOptions(t_min=float(times[-1]), t_max=float(times[0])), device=x.device)
    return PathDensity(model, x, times, prior_log_prob(flow, x.flatten(1).double(), "matched"))


def _where(arrived: Tensor, values: Tensor) -> Tensor:
    return torch.where(arrived, values, math.nan)
