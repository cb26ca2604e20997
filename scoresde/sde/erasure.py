"""Chains of discrete states, in which a step erases each value with probability β_t and draws it anew.

With a distribution π over S states, the transition matrices are Q_t = (1 − β_t) I + β_t 1 πᵀ, and products of them are
again of this form, with ᾱ_t = Π (1 − β_s):

    q(x_t = j | x₀ = k) = ᾱ_t δ_jk + (1 − ᾱ_t) π_j.

References:
    Deep unsupervised learning using nonequilibrium thermodynamics (Sohl-Dickstein et al. 2015), appendix B.2,
    https://arxiv.org/abs/1503.03585
    Structured denoising diffusion models in discrete state-spaces (Austin et al. 2021), section 3,
    https://arxiv.org/abs/2107.03006
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.random import SampleNoise
from scoresde.numerics.values import one_of, whole_number
from scoresde.sde.markov import Chain, same_shape
from scoresde.sde.step_distributions import CategoricalStep, given_or_drawn

__all__ = ["BinomialChain", "CategoricalChain", "ErasureChain"]


class ErasureChain(Chain):
    """A chain of discrete states whose steps draw a value anew from π with probability β_t.

    Attributes:
        classes: Number K of the values 0 ... K − 1 of data.
        states: Number S of the values of states, K or more.
    """

    may_end_at_one = True

    classes: int
    states: int

    @property
    @abstractmethod
    def stationary(self) -> Tensor:
        """The distribution π of a value that is drawn anew, `(S,)` float64."""

    @abstractmethod
    def check_states(self, name: str, x: Tensor, among: int) -> None:
        """Check that states are integers below a number.

        Args:
            name: The subject of the message.
            x: The states, which are not looked at on an accelerator.
            among: Number of values that are accepted.

        Raises:
            ValueError: Any other value.
        """

    def draw(self, noise: SampleNoise) -> Tensor:
        """The next draw, uniform on [0, 1)."""
        return noise.uniform()

    def one_hot(self, x: Tensor) -> Tensor:
        """States `(B, ...)` as probabilities `(B, ..., S)`, float64."""
        return torch.nn.functional.one_hot(x.long(), self.states).double()

    def marginal(self, x0: Tensor, t: Tensor | int) -> CategoricalStep:
        self.check_states("x0", x0, self.classes)
        signal = self._per_sample(self.signal(self.check_steps(t)), x0)
        return CategoricalStep(self._mixed(signal, self.one_hot(x0)), x0.dtype)

    def transition(self, x: Tensor, t: Tensor | int) -> CategoricalStep:
        self.check_states("x", x, self.states)
        return CategoricalStep(self._mixed(self._per_sample(1 - self.beta(t), x), self.one_hot(x)), x.dtype)

    def posterior(self, x: Tensor, x0: Tensor, t: Tensor | int) -> CategoricalStep:
        same_shape(x, x0)
        self.check_states("x0", x0, self.classes)
        return self.mean_posterior(x, self.one_hot(x0)[..., : self.classes], t)

    def mean_posterior(self, x: Tensor, probs: Tensor, t: Tensor | int) -> CategoricalStep:
        """The mixture Σ_k p_k q(x_{t−1} | x_t, x₀ = k) of posteriors, by element.

        With the true p(x₀ | x_t) of each element as p it is the reverse step of the chain itself. Austin et al. (2021,
        eq. 4) weight the posteriors by q(x_t | x₀ = k) in addition, which the network has then to divide out.

        Args:
            x: States x_t `(B, ...)`.
            probs: Probabilities p of the values of x₀, `(B, ..., K)`. Of those from which x_t cannot come nothing is
                kept.
            t: Steps, `()` or `(B,)`.
        """
        t = self.check_steps(t)
        self.check_states("x", x, self.states)
        one = self.one_hot(x)
        before, after, beta = (self._per_sample(v, x) for v in (self.signal(t - 1), self.signal(t), self.beta(t)))
        pi = self.stationary.to(x.device)
        own = pi[x.long()][..., None]  # π of x_t itself
        # Columns of the matrices: of Q̄_t over x₀, and of Q_t over x_{t−1}.
        from_data = after * one[..., : self.classes] + (1 - after) * own
        into = (1 - beta) * one + beta * own
        # A value of tiny probability stands for all where the probabilities leave none from which x_t can come.
        weights = torch.where(from_data > 0, probs.double().clamp_min(1e-300), 0.0)
        weights = weights / weights.sum(-1, keepdim=True)
        shares = torch.where(from_data > 0, weights / torch.where(from_data > 0, from_data, 1.0), 0.0)
        data = torch.nn.functional.pad(shares, (0, self.states - self.classes))
        found = into * (before * data + (1 - before) * pi * shares.sum(-1, keepdim=True))
        return CategoricalStep(found / found.sum(-1, keepdim=True), x.dtype)

    def prior(self, like: Tensor) -> CategoricalStep:
        return CategoricalStep(self.stationary.to(like.device).expand(*like.shape, -1), like.dtype)

    def prior_log_prob(self, z: Tensor) -> Tensor:
        self.check_states("z", z, self.states)
        return super().prior_log_prob(z)

    def prior_sample(self, shape: tuple[int, ...], noise: Tensor | torch.Generator | None = None) -> Tensor:
        """Draws `(B, ...)` of the prior, from noise that is uniform on [0, 1)."""
        device = None if noise is None else noise.device
        like = torch.empty(shape, dtype=torch.float64, device=device)
        uniform = given_or_drawn(noise, like, uniform=True)
        return CategoricalStep(self.stationary.to(like.device).expand(*shape, -1)).sample(uniform)

    def _mixed(self, kept: Tensor, one: Tensor) -> Tensor:
        return kept * one + (1 - kept) * self.stationary.to(one.device)

    @staticmethod
    def _per_sample(value: Tensor, x: Tensor) -> Tensor:
        """A number of each sample `()` or `(B,)`, so that it multiplies `(B, ..., S)`."""
        if value.ndim and value.shape != x.shape[:1]:
            raise ValueError(f"t has shape {tuple(value.shape)}, expected () or ({x.shape[0]},)")
        return value.to(x.device).reshape(-1, *[1] * x.ndim)


def _not_among(x: Tensor, among: int) -> float | None:
    """A value of x that is no integer from 0 to `among` − 1; None if there is none, or x is on an accelerator."""
    if x.device.type != "cpu" or x.dtype == torch.bool or not x.numel():
        return None
    wrong = x[~((x >= 0) & (x < among) & (x == x.round() if x.is_floating_point() else True))]
    return float(wrong[0]) if len(wrong) else None


@checked
class BinomialChain(ErasureChain):
    """The chain of bits that are drawn towards 1/2 (Sohl-Dickstein et al. 2015, section 2.2 and appendix B.2).

        q(x_t = 1 | x_{t−1}) = x_{t−1} (1 − β_t) + β_t/2
        q(x_t = 1 | x₀) = x₀ ᾱ_t + (1 − ᾱ_t)/2

    States are 0 and 1, in any dtype, which the samples of the chain have, too.

    Args:
        betas: The shares β_1 ... β_T; the last may be 1, as in `erasure_betas`.

    Raises:
        ValueError: Fewer than two steps, a β that is not between 0 and 1; of the methods, data that are not binary.

    References:
        Sohl-Dickstein et al. 2015, Deep unsupervised learning using nonequilibrium thermodynamics,
            https://arxiv.org/abs/1503.03585

    >>> chain = BinomialChain([0.5, 0.5])
    >>> chain.marginal(torch.tensor([[1, 0]]), 2).probs[..., 1]
    tensor([[0.6250, 0.3750]], dtype=torch.float64)
    """

    classes = 2
    states = 2

    def __init__(self, betas: Tensor | Iterable[float]) -> None:
        super().__init__(betas)

    @property
    def stationary(self) -> Tensor:
        return torch.full((2,), 0.5, dtype=torch.float64)

    def check_states(self, name: str, x: Tensor, among: int) -> None:
        wrong = _not_among(x, 2)
        if wrong is not None:
            raise ValueError(f"{name} has the value {wrong:g}, expected binary data of 0 and 1: threshold it first")


@checked
class CategoricalChain(ErasureChain):
    """The chains of Austin et al. (2021, D3PM) with uniform and with absorbing transitions.

        uniform:      π = 1/K for each of the K classes
        absorbing:    π = 1 for one more state, the mask K, which is never left

    Args:
        betas: The shares β_1 ... β_T; the last may be 1, as in `erasure_betas`.
        classes: Number K of the values 0 ... K − 1 of data, at least 2.
        kind: `"uniform"` or `"absorbing"`.

    Raises:
        ValueError: Fewer than two steps, a β that is not between 0 and 1; of the methods, data that are no integers
            below K.

    References:
        Austin et al. 2021, Structured denoising diffusion models in discrete state-spaces,
            https://arxiv.org/abs/2107.03006

    >>> chain = CategoricalChain([0.5, 1.0], 3, "absorbing")
    >>> chain.marginal(torch.tensor([[2]]), torch.tensor([1])).probs.tolist()
    [[[0.0, 0.0, 0.5, 0.5]]]
    """

    def __init__(
        self, betas: Tensor | Iterable[float], classes: int, kind: Literal["uniform", "absorbing"] = "uniform"
    ) -> None:
        super().__init__(betas)
        one_of("kind", kind, ("uniform", "absorbing"))
        self.classes = whole_number("classes", classes, at_least=2)
        self.kind = kind
        self.states = self.classes + (kind == "absorbing")

    @property
    def stationary(self) -> Tensor:
        if self.kind == "uniform":
            return torch.full((self.classes,), 1 / self.classes, dtype=torch.float64)
        return torch.nn.functional.one_hot(torch.tensor(self.classes), self.states).double()

    def check_states(self, name: str, x: Tensor, among: int) -> None:
        wrong = _not_among(x, among)
        if wrong is not None:
            raise ValueError(f"{name} has the value {wrong:g}, expected integers from 0 to {among - 1}")

    def _settings(self) -> dict[str, object]:
        return {"classes": self.classes, "kind": self.kind}
