"""High-density samples: the reverse SDE down to a noise level, and from there the most likely way on.

From a state x at the time T, the mode y of p(x_t | x_T = x) moves with t along the mode-tracking ODE

    dy/dt = f y − g² ∇ log p_t(y) − ½ g² A⁻¹ ∇ Δ log p_t(y),    A = H − (a²/b²) I,    y(T) = x,

with H = ∇² log p_t(y), and N(a x_t, b² I) the kernel of the forward SDE from t to T. For the mode is where
∇ log p_t(y) + a (x − a y)/b² is 0. With respect to time the first term changes by the Fokker-Planck equation, at
−f ∇ log p − f H y + ½ g² (∇ Δ log p + 2 H ∇ log p), and the second by the backward equation; solved for dy/dt, that
both together stay 0 is the above. At t_min y is the mode of x₀ given x. What is left without third derivatives is the
drift of the reverse SDE, without its noise: exact for normal densities, whose third derivatives vanish.

References:
    Diffusion models as cartoonists: the curious case of high density regions (Karczewski et al. 2025),
    sections 4 and 5, https://arxiv.org/abs/2411.01293
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.jacobian import jacobian_diagonal, jacobian_products
from scoresde.numerics.values import Value, not_negative
from scoresde.sampling.named import DDPM
from scoresde.sampling.predictor_corrector import Ancestral
from scoresde.sampling.solver import Noise, Solver
from scoresde.score import ScoreModel

__all__ = ["HighDensity", "ModeTracking"]


@checked
class HighDensity(Value, Solver):
    """A solver down to a noise level, and below it the reverse SDE without its noise.

    A step without noise is the mean of a step of the posterior with the denoised mean x₀ = E[x₀ | x_t],

        x_s = (a σ_s²/σ_t²) x_t + (α_s b²/σ_t²) x₀,

    with a = α_t/α_s and b² = σ_t² − a² σ_s², one evaluation and of order 1. What is decided at high noise stays that of
    the data; what would be decided by noise below the level, fine detail of images, is replaced by what is most likely.
    The higher the level, the higher the log-density of samples.

    >>> from scoresde.sampling import Sampler, UniformLogSNR
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 16), torch.ones(1), EDMSDE())
    >>> for level in (0.0, 1.0, 10.0):
    ...     out = Sampler(HighDensity(level=level), UniformLogSNR(300))(model, shape=200, seed=0)
    ...     print(level, round(float(out.x.square().mean()), 1))
    0.0 1.0
    1.0 0.5
    10.0 0.0

    Args:
        solver: The solver above the level; `DDPM()` if not given.
        level: The noise level σ/α, in model space, at and below which no noise is added: 0 for the solver alone,
            infinity for none of it.

    Raises:
        ValueError: A negative level.
    """

    def __init__(self, solver: Solver | None = None, level: float = 1.0) -> None:
        not_negative("level", level, "0 or more, in units of σ/α", finite=False)
        self.solver = DDPM() if solver is None else solver
        self.level = float(level)

    @property
    def stochastic(self) -> bool:
        return self.solver.stochastic

    @property
    def draws_white(self) -> bool:
        return self.solver.draws_white

    def general(self) -> "HighDensity":
        return type(self)(self.solver.general(), self.level)

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        above = int((model.sde.noise_level(times) > self.level).sum())
        if above:
            for state in self.solver.solve(model, x, times[: above + 1], noise):
                x = state
                yield x
        if above < len(times) - 1:
            yield from self.without_noise(model, x, times[above:])

    def without_noise(self, model: ScoreModel, x: Tensor, times: Tensor) -> Iterator[Tensor]:
        """Yield the states at times[1], times[2], ... on the way from x without noise."""
        mean = model.prediction(times[:-1], *Ancestral().target(model.sde, times))
        for i in range(len(times) - 1):
            x = mean(x, i)
            yield x


@checked
class ModeTracking(HighDensity):
    """A solver down to a noise level, and below it the mode of x₀ given the state there, by the mode-tracking ODE.

    In y/α and with r = (σ/α)², of which r_t belongs to the state x_t at the level, the ODE is

        d(y/α)/dr = (y/α − m)/r,    m = x₀ − ½ r [r_t/(r_t − r) − J]⁻¹ ∇ tr J,

    with J the Jacobian of x₀ with respect to y/α. The linear part is integrated exactly, m by the mean of both ends of
    a step, to order 2. A step takes the Jacobian twice and its trace's gradient twice: D backward passes each in D
    dimensions, and D² numbers of a sample. Where the mode vanishes or splits on the way, as between two components, the
    matrix in brackets loses an eigenvalue above 0, and the path is not that of a mode from there on.

    The last state is the mode at the last time, so that a sampler should not apply its denoising step.

    >>> from scoresde.sampling import Sampler, UniformLogSNR
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> sde = EDMSDE(0.01, 2.0)
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.2, 0.3]), sde)
    >>> x = torch.tensor([[2.0]], dtype=torch.float64)
    >>> sampler = Sampler(ModeTracking(level=2.0), UniformLogSNR(100), denoise=False)
    >>> mode = sampler(model, x_init=x).x
    >>> slope = model.score(mode, sde.t_min) + (x - mode) / (2.0**2 - 0.01**2)  # of log p(x₀) + log p(x | x₀)
    >>> bool(slope.abs() < 0.01)
    True

    Args:
        solver: The solver above the level; `DDPM()` if not given.
        level: The noise level σ/α, in model space, of the state whose mode is followed; infinity for the first state.

    Raises:
        ValueError: A negative level.
    """

    def without_noise(self, model: ScoreModel, x: Tensor, times: Tensor) -> Iterator[Tensor]:
        alpha = model.sde.alpha(times).tolist()
        r = model.sde.noise_level(times).square().tolist()
        y = x / alpha[0]
        target = self._target(model, y, times[0], alpha[0], r[0], r[0])
        for i in range(len(times) - 1):
            kept = r[i + 1] / r[i]
            guess = torch.lerp(target, y, kept)
            ahead = self._target(model, guess, times[i + 1], alpha[i + 1], r[i + 1], r[0])
            y = torch.lerp((target + ahead) / 2, y, kept)
            yield alpha[i + 1] * y
            if i + 2 < len(times):
                target = self._target(model, y, times[i + 1], alpha[i + 1], r[i + 1], r[0])

    @staticmethod
    def _target(model: ScoreModel, y: Tensor, t: Tensor, alpha: float, r: float, start: float) -> Tensor:
        """m at states y `(B, ...)` over α, for r and its value at the start of the way."""

        def mean(state: Tensor) -> Tensor:
            return model.denoise(alpha * state, t)

        if r == start:  # the bracket is infinite
            return mean(y)
        size = y[0].numel()
        probes = torch.eye(size, dtype=y.dtype, device=y.device).expand(len(y), size, size)
        value, jacobian = jacobian_products(mean, y, probes)
        with torch.enable_grad():
            state = y.detach().requires_grad_()
            trace = jacobian_diagonal(mean, state)[1].sum()
            (slope,) = torch.autograd.grad(trace, state)
        bracket = start / (start - r) * probes - jacobian
        shift = torch.linalg.solve(bracket, slope.flatten(1)[:, :, None])[:, :, 0]
        return torch.sub(value, shift.reshape(y.shape), alpha=0.5 * r)
