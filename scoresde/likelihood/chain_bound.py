"""The variational bound of a Markov chain, term by term.

A model p(x_{t−1} | x_t) of the reverse steps of a chain, started from the prior π, has at data x₀ a log-likelihood of
at least −(L_T + Σ_{t≥2} L_{t−1} + L_0) (Sohl-Dickstein et al. 2015, eq. 10 to 14, written as in Ho et al. 2020, eq. 5):

    L_T = KL(q(x_T | x₀) ‖ π)
    L_{t−1} = E KL(q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t))
    L_0 = −E log p(x₀ | x₁)

Every term after the first takes one evaluation of the model for each noise. Of the sum over t, either all terms are
evaluated, or some, drawn with probabilities w_t and divided by them (Nichol & Dhariwal 2021, section 3.3); the draws
are stratified, one in each of n parts of equal probability.

References:
    Deep unsupervised learning using nonequilibrium thermodynamics (Sohl-Dickstein et al. 2015),
    https://arxiv.org/abs/1503.03585
    Denoising diffusion probabilistic models (Ho et al. 2020), https://arxiv.org/abs/2006.11239
    Improved denoising diffusion probabilistic models (Nichol & Dhariwal 2021), https://arxiv.org/abs/2102.09672
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.chains import ChainModel
from scoresde.likelihood.chain_control import NormalControl
from scoresde.likelihood.chain_steps import ChosenSteps, drawn_steps, every_step
from scoresde.likelihood.errors import LikelihoodError
from scoresde.likelihood.numbering import NOISES, noise_number
from scoresde.numerics.html import mean_with_error, rms, table
from scoresde.numerics.means import independent_error, mean_and_error
from scoresde.numerics.ode import Status
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.numerics.values import at_least
from scoresde.progress import Progress
from scoresde.score import Conditions
from scoresde.sde import StepDistribution

__all__ = ["ChainBound", "Reconstruction", "chain_bound", "chain_terms", "chosen_steps"]

Reconstruction = Callable[[StepDistribution, Tensor], Tensor]
"""A function of p(x₀ | x₁) and the indices of the samples `(b,)` that gives log p of the data, `(b,)` in nats."""


@dataclass(frozen=True)
class ChainBound:
    """Lower bounds on log-likelihoods under a chain's model, and their terms, in nats.

    Attributes:
        value: Unbiased estimates of the bounds, `(B,)` float64: minus the sum of prior, steps and reconstruction, in
            the units of the data.
        stderr: Standard errors of `value` from noise and from the draws of t, `(B,)`. The expectation of their squares
            is no less than the true variance.
        prior: L_T of each sample, `(B,)`.
        reconstruction: L_0, `(B,)`.
        steps: The means over the samples of L_{t−1} for t = 2 ... T, `(T − 1,)`; NaN for steps that were not drawn.
        steps_stderr: Standard errors of `steps`, over samples and noise, `(T − 1,)`.
        nfe: Evaluations of the model for each sample.
    """

    value: Tensor
    stderr: Tensor
    prior: Tensor
    reconstruction: Tensor
    steps: Tensor
    steps_stderr: Tensor
    nfe: int

    @property
    def mean(self) -> float:
        """The mean of the bounds over the samples."""
        return float(self.value.mean())

    @property
    def mean_stderr(self) -> float:
        """The standard error of the mean over the population of samples: their scatter, of which the noise is part."""
        return mean_and_error(self.value)[1]

    @property
    def draw_stderr(self) -> float:
        """The standard error of the mean for these samples, from noise and from the draws of t alone."""
        return independent_error(self.stderr)

    def __repr__(self) -> str:
        return (
            f"ChainBound({self.mean:.4f} ± {self.mean_stderr:.4f} nats, n={len(self.value)}, draw stderr "
            f"{self.draw_stderr:.2g} of the mean, nfe {self.nfe})"
        )

    def _repr_html_(self) -> str:
        rows = [
            ("mean over samples", f"{mean_with_error(self.value)} nats"),
            ("standard error from draws", f"{rms(self.stderr):.2g} nats a sample, RMS"),
            ("prior, L_T", f"{float(self.prior.mean()):.4g} nats"),
            ("reconstruction, L_0", f"{float(self.reconstruction.mean()):.4g} nats"),
            ("samples, steps", f"{len(self.value)}, {len(self.steps) + 1}"),
            ("evaluations a sample", str(self.nfe)),
        ]
        return table("Lower bound of a chain on the log-likelihood", rows)


@checked
@torch.no_grad()
def chain_bound(
    model: ChainModel[Any],
    x: Tensor,
    *,
    evaluations: int | None = None,
    weights: Tensor | None = None,
    draws: int = 1,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 1024,
    control: bool = True,
    progress: bool = False,
    **cond: Any,
) -> ChainBound:
    """The variational bound of a chain's model on the log-likelihood of data.

    For continuous data it is a bound on a density, in their own units, and for those of a discrete chain on a
    probability. `chain_bits_per_dim` is for pixels under a Gaussian chain.

    >>> from scoresde.chains import GaussianChainModel
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> exact = GaussianMixtureScore([1.0], [[0.0]], [1.0], VPSDE())
    >>> model = GaussianChainModel(exact, VPSDE().chain(100))
    >>> out = chain_bound(model, torch.tensor([[0.5]]))
    >>> bool(abs(out.value - exact.log_prob(torch.tensor([[0.5]]), 0.0)) < 1e-6), out.nfe
    (True, 101)

    Args:
        model: The model of the reverse steps.
        x: Data `(B, ...)`, continuous data in their own units.
        evaluations: Number of evaluations for each sample at steps that are drawn, two of them at least at step 1; all
            T steps are evaluated if not given, and step 1 twice, as is step 2 of a chain of two.
        weights: Weights of the steps 1 ... T by which they are drawn, `(T,)`, such as those of `pilot_weights` or of
            a history of losses; those of `step_weights` if not given.
        draws: Number of noises at every step, where all are evaluated. With one, the differences between neighbouring
            steps count as noise in the standard error, which is then too large for a chain of few steps.
        seed: Seed of noise and steps. Those of a sample depend on the seed and on the sample's index alone.
        first: Index of the first sample.
        batch_size: Number of states to evaluate at once.
        control: Whether to subtract the error of denoising of normal data with the model's statistics, whose
            expectation is known (`scoresde.likelihood.chain_control`).
        progress: Whether to show a progress bar.
        **cond: Conditions of the model; tensors of length B are divided with the batch.

    Raises:
        ValueError: Data that the chain does not have, numbers below 1, weights that are not positive, or an absorbing
            chain that leaves values unmasked at its end.
        LikelihoodError: A bound that is not finite. The error holds the bounds of the other samples.
    """
    data = model.to_model_space(x.to(model.device))
    chosen = chosen_steps(model, len(data), evaluations, weights, draws, seed, first)
    terms = chain_terms(model, data, chosen, None, seed, first, batch_size, control, progress, cond)
    return terms.bound(model.log_det(tuple(x.shape[1:])), first)


@dataclass(frozen=True)
class ChainTerms:
    """The evaluated terms of the bounds of B samples, n for each.

    Attributes:
        prior: L_T, `(B,)`.
        values: Values of the terms in nats, `(B, n)`.
        chosen: Their steps.
        total: Number T of steps of the chain.
    """

    prior: Tensor
    values: Tensor
    chosen: ChosenSteps
    total: int

    def bound(self, log_det: float, first: int) -> ChainBound:
        """The bounds, with the change of log-densities to the data's units.

        Raises:
            LikelihoodError: A bound that is not finite.
        """
        weighted = self.values * self.chosen.shares
        value = -(self.prior + weighted.sum(1)) + log_det
        broken = (~value.isfinite()).nonzero()[:, 0]
        value = value.index_fill(0, broken, math.nan)
        means, errors = self._by_step()
        seen = self.values[:, : self.chosen.begun].mean(1)
        stderr = self.chosen.variance(weighted).sqrt()
        out = ChainBound(value, stderr, self.prior, seen, means, errors, self.values.shape[1])
        if len(broken):
            raise LikelihoodError(
                f"the bound is not finite for {len(broken)} of {len(value)} samples, the first of them sample "
                f"{first + int(broken[0])}: check the model for values that are not finite, and for data that it gives "
                "no probability",
                [first + i for i in broken.tolist()],
                torch.zeros_like(value, dtype=torch.int64).index_fill(0, broken, int(Status.NOT_FINITE)),
                out,
            )
        return out

    def _by_step(self) -> tuple[Tensor, Tensor]:
        """The means of the terms of the steps 2 ... T over samples and noises, and their standard errors."""
        place, values = self.chosen.steps.flatten() - 1, self.values.flatten()
        zeros = values.new_zeros(self.total)
        count = zeros.index_add(0, place, torch.ones_like(values))
        mean = zeros.index_add(0, place, values) / count
        square = zeros.index_add(0, place, (values - mean[place]).square())
        return mean[1:], (square / (count - 1).clamp_min(0) / count).sqrt()[1:]


def chosen_steps(
    model: ChainModel[Any],
    count: int,
    evaluations: int | None,
    weights: Tensor | None,
    draws: int,
    seed: int,
    first: int,
) -> ChosenSteps:
    """The steps at which `count` samples are evaluated; args and errors are those of `chain_bound`."""
    at_least("draws", draws, 1)
    if evaluations is not None:
        if draws != 1:
            raise ValueError(f"draws is {draws} beside evaluations={evaluations}, which counts noises itself")
        return drawn_steps(model, evaluations, weights, seed, first, count)
    if weights is not None:
        raise ValueError("weights are for steps that are drawn: give the number of evaluations, too")
    return every_step(model.chain.steps, draws, count)


def chain_terms(
    model: ChainModel[Any],
    data: Tensor,
    chosen: ChosenSteps,
    reconstruction: Reconstruction | None,
    seed: int,
    first: int,
    batch_size: int,
    control: bool,
    progress: bool,
    cond: dict[str, Any],
) -> ChainTerms:
    """The terms of the bound for data in model space; args and errors are those of `chain_bound`.

    Args:
        model: The model of the reverse steps.
        data: Data `(B, ...)` in model space.
        chosen: The steps.
        reconstruction: The log-probability of the data given x₁; that of `data` under the model's last step if None.
        seed: Seed of the noise.
        first: Index of the first sample.
        batch_size: Number of states to evaluate at once.
        control: Whether to subtract the error of denoising of normal data.
        progress: Whether to show a progress bar.
        cond: Conditions of the model.
    """
    at_least("batch_size", batch_size, 1)
    model.check_batch(data)
    if data.is_floating_point() and not bool(data.isfinite().all()):
        raise ValueError("x has values that are not finite: remove those samples first")
    conditions = model.conditions(cond, len(data))
    steps = chosen.steps.to(data.device)
    if steps.shape[1] >= NOISES:
        raise ValueError(f"{steps.shape[1]} evaluations for each sample are more than the {NOISES - 1} there can be")
    work = _Work(model, data, reconstruction, conditions, NormalControl.of(model) if control else None, seed, first)
    values = torch.empty(steps.numel(), dtype=torch.float64, device=data.device)
    bar = Progress(math.ceil(len(values) / batch_size), "bound", "batch", shown=progress)
    with model.evaluating(), bar:
        for start in range(0, len(values), batch_size):
            part = torch.arange(start, min(start + batch_size, len(values)), device=data.device)
            rows, number = part // steps.shape[1], part % steps.shape[1]
            values[start : start + len(part)] = work(rows, number, steps[rows, number])
            bar.update()
    last = model.chain.marginal(work.data, torch.full((len(data),), model.chain.steps, device=data.device))
    prior = model.chain.prior(work.data).kl_from(last)
    if bool(prior.isinf().any()):
        raise ValueError(
            f"{model.chain!r} does not end in its prior, which gives no probability to what is left of the data: let "
            "its last β be 1, as that of erasure_betas is"
        )
    moved = replace(chosen, steps=steps, shares=chosen.shares.to(data.device))
    return ChainTerms(prior, values.reshape(steps.shape), moved, model.chain.steps)


class _Work:
    """The evaluation of terms: samples, steps and noises in, nats out."""

    def __init__(
        self,
        model: ChainModel[Any],
        data: Tensor,
        reconstruction: Reconstruction | None,
        conditions: Conditions,
        control: NormalControl | None,
        seed: int,
        first: int,
    ) -> None:
        self.model, self.conditions, self.control = model, conditions, control
        # The two means of a KL divergence nearly agree, so that they are taken in float64.
        self.data = data.double() if data.is_floating_point() else data
        self.reconstruction = reconstruction
        self.seed, self.first = seed, first

    def __call__(self, rows: Tensor, number: Tensor, t: Tensor) -> Tensor:
        """The terms `(b,)` of samples `rows` at steps t, with their noises `number`, less the control."""
        chain, x0 = self.model.chain, self.data[rows]
        index = noise_number(self.first + rows, number)
        shape = tuple(x0.shape[1:])
        noise = SampleNoise(self.seed, index, shape, torch.float64, x0.device, stream=Stream.CHAIN_NOISE)
        x = chain.perturb(x0, t, chain.draw(noise))
        step = self.model.reverse(x, t, **self.conditions.select(rows))
        at_first = t == 1
        # Step 1 has no divergence, and what stands in its place must be finite.
        posterior = chain.posterior(x, x0, t.clamp_min(2))
        if self.reconstruction is None:
            log_prob = step.log_prob(x0)
        else:
            log_prob = torch.where(at_first, self.reconstruction(step, rows), 0.0)
        value = torch.where(at_first, -log_prob, step.kl_from(posterior))
        if self.control is None:
            return value
        known = self.control(x0, x, t)
        return value - (known if self.reconstruction is None else torch.where(at_first, 0.0, known))
