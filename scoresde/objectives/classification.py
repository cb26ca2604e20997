"""Cross-entropy of a classifier of noised samples."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import described
from scoresde.objectives.base import Criterion, Loss
from scoresde.objectives.tensors import at_least_float32, normal
from scoresde.objectives.times import Times, UniformLogSNR
from scoresde.score import NoisyClassifier
from scoresde.sde.erasure_sde import learned_rates

__all__ = ["CrossEntropy"]


@checked
class CrossEntropy(Criterion):
    """E[−log p(c | x_t)] in nats with x_t = α x₀ + σ ε, for a `NoisyClassifier` (Dhariwal & Nichol 2021, section 4.1).

    The distribution of the times is a part of the loss: each noise level counts as often as it is drawn, without the
    corrections by which a score's loss becomes an integral over t. `per_sample` is the cross-entropy of each sample.

    Args:
        times: Distribution of the times; if not given, λ = log(α/σ) is uniform: guidance asks at all levels.

    References:
        Dhariwal & Nichol 2021, Diffusion models beat GANs on image synthesis, https://arxiv.org/abs/2105.05233
    """

    def __init__(self, times: Times | None = None) -> None:
        self.times = UniformLogSNR() if times is None else times

    def __repr__(self) -> str:
        return described(self)

    def begin(self, model: Any) -> None:
        """Make ready to train a classifier.

        Raises:
            ValueError: A model that is no classifier, or an SDE whose rates are learned.
        """
        if not isinstance(model, NoisyClassifier):
            raise ValueError(f"CrossEntropy trains a NoisyClassifier, and the model is a {type(model).__name__}")
        if learned_rates(model.sde) is not None:
            raise ValueError(
                "rates of the SDE are learned through VariationalBound alone: take the SDE with learned=False "
                "(sde.learned=false) for a classifier"
            )
        self.times.begin(model.sde, model.device)

    def remember(self, steps: Tensor, losses: Tensor) -> None:
        self.times.remember(steps, losses)

    def state_dict(self) -> dict[str, Tensor]:
        return self.times.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.times.load_state_dict(state)

    def __call__(
        self,
        model: NoisyClassifier,
        x0: Tensor,
        generator: torch.Generator | None = None,
        *,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        labels: Tensor | None = None,
        **cond: Any,
    ) -> Loss:
        """The loss of `model` on a batch.

        Args:
            model: The classifier to train.
            x0: Data `(B, ...)` in model space.
            generator: Generator of the uniforms and the noise that are not given.
            u: Uniforms in [0, 1], `(B,)`, that choose the times.
            noise: Standard normal noise ε, `(B, ...)`.
            labels: Classes, `(B,)` int64.
            **cond: Nothing.

        Raises:
            ValueError: No labels, others of another shape, or other conditions.
        """
        if labels is None or labels.shape != x0.shape[:1]:
            found = "missing" if labels is None else f"of shape {tuple(labels.shape)}"
            raise ValueError(f"labels are {found}, expected the class of each sample, ({len(x0)},)")
        if cond:
            raise ValueError(f"a classifier takes no {', '.join(cond)}: leave it out")
        x0 = at_least_float32(x0)
        if u is None:
            device = x0.device if generator is None else generator.device
            u = torch.rand(len(x0), generator=generator, device=device, dtype=torch.float64)
        elif u.shape != x0.shape[:1]:
            raise ValueError(f"u has shape {tuple(u.shape)}, expected ({len(x0)},), one uniform for each sample")
        noise = normal(x0.shape, x0, generator) if noise is None else noise
        t, _ = self.times.sample(model.sde, u)
        logits = model(model.sde.perturb(x0, t, noise), t)
        losses = F.cross_entropy(logits.to(x0.dtype), labels, reduction="none")
        loss = Loss(losses.mean(), losses.detach(), model.sde.log_snr(t).to(losses))
        if not self.times.remembers:
            return loss
        return loss._replace(steps=self.times.step(model.sde, t), losses=losses.detach())
