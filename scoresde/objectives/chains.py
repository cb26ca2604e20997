"""The variational bound of a discrete chain, by one step of it for each sample.

References:
    Deep unsupervised learning using nonequilibrium thermodynamics (Sohl-Dickstein et al. 2015), eq. 14,
    https://arxiv.org/abs/1503.03585
    Structured denoising diffusion models in discrete state-spaces (Austin et al. 2021), eqs. 1 and 5,
    https://arxiv.org/abs/2107.03006
"""

from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.chains import DiscreteChainModel
from scoresde.numerics.values import at_least, described
from scoresde.objectives.base import Criterion, Loss
from scoresde.objectives.tensors import normal
from scoresde.sde import BinomialChain, CategoricalStep
from scoresde.sde.erasure import ErasureChain

__all__ = ["ChainLoss", "check_states"]


@checked
class ChainLoss(Criterion):
    """T E_t KL(q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t))/D in nats per element, with t uniform on 1 ... T.

    It is the negative variational bound of a discrete chain, without the constant divergence of q(x_T | x₀) from the
    prior. At step 1 the posterior is the data themselves, and the divergence is −log p(x₀ | x₁).

    `per_sample` of the loss is the divergence of each sample's step over D, and `log_snr` is ½ log(ᾱ/(1 − ᾱ)).

    Args:
        cross_entropy: Weight of E[−log p(x₀ | x_t)]/D beside the bound (Austin et al. 2021, eq. 5, for which they take
            0.001 to 0.01).

    Raises:
        ValueError: A negative weight; when called, data that are not the states of the chain.

    References:
        Sohl-Dickstein et al. 2015, Deep unsupervised learning using nonequilibrium thermodynamics,
            https://arxiv.org/abs/1503.03585
        Austin et al. 2021, Structured denoising diffusion models in discrete state-spaces,
            https://arxiv.org/abs/2107.03006
    """

    def __init__(self, cross_entropy: float = 0.0) -> None:
        at_least("cross_entropy", cross_entropy, 0.0)
        self.cross_entropy = cross_entropy

    def __repr__(self) -> str:
        return described(self)

    def __call__(
        self,
        model: DiscreteChainModel,
        x0: Tensor,
        generator: torch.Generator | None = None,
        *,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        **cond: Any,
    ) -> Loss:
        """The loss of `model` on a batch.

        Args:
            model: The model to train.
            x0: States `(B, ...)`.
            generator: Generator of the uniforms and the noise that are not given.
            u: Uniforms in [0, 1], `(B,)`, that choose the steps.
            noise: Standard normal noise `(B, ...)`, whose distribution function chooses the states.
            **cond: Conditions for the model.

        Raises:
            ValueError: Shapes that do not fit, or data that are not the states of the chain.
        """
        model.check_batch(x0)
        chain, size = model.chain, len(x0)
        if u is None:
            device = x0.device if generator is None else generator.device
            u = torch.rand(size, generator=generator, device=device, dtype=torch.float64)
        elif u.shape != (size,):
            raise ValueError(f"u has shape {tuple(u.shape)}, expected ({size},), one uniform for each sample")
        if noise is None:
            noise = normal(x0.shape, x0.float(), generator)
        t = (u.double() * chain.steps).floor().long().clamp(0, chain.steps - 1) + 1
        x = chain.perturb(x0, t, torch.special.ndtr(noise.double()))
        probs = model.probabilities(x, t, **cond)
        dims = x0[0].numel()
        divergence = chain.mean_posterior(x, probs, t).kl_from(chain.posterior(x, x0, t)) / dims
        value = chain.steps * divergence.mean()
        if self.cross_entropy:
            value = value - self.cross_entropy * (CategoricalStep(probs, x0.dtype).log_prob(x0) / dims).mean()
        dtype = torch.float64 if x0.dtype == torch.float64 else torch.float32
        return Loss(value.to(dtype), divergence.detach().to(dtype), model.log_snr(t).to(x0.device, dtype))


def check_states(chain: ErasureChain, levels: int | None, name: str) -> None:
    """Check that data can be the states of a chain.

    Args:
        chain: The chain.
        levels: Number of values of the data; None for continuous data.
        name: Name of the data.

    Raises:
        ValueError: Continuous data, or another number of values than the chain has.
    """
    if levels == chain.classes:
        return
    what = "continuous" if levels is None else f"of {levels} levels"
    wanted = "binary data" if isinstance(chain, BinomialChain) else f"data of {chain.classes} classes"
    remedy = "threshold them first" if isinstance(chain, BinomialChain) else f"set sde.classes={levels}"
    raise ValueError(
        f"{name} is {what}, and {type(chain).__name__} takes {wanted}: "
        + (remedy if levels is not None else "take a Gaussian chain, which is an SDE, such as sde=ddpm")
    )
