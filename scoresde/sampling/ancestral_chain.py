"""The sampler of discrete chains: their own steps, all or some of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scoresde.arguments import checked
from scoresde.chains import ChainSamples, DiscreteChainModel, sample_chain
from scoresde.numerics.values import Value, whole_number

__all__ = ["ChainSampler"]


@checked
class ChainSampler(Value):
    """Ancestral samples of a discrete chain, from its prior and by its steps, or by fewer that span it.

    Args:
        steps: Number of steps, at most the chain's, evenly spread over it (a strided chain, as in Nichol & Dhariwal
            2021, section 4); all of them if not given.

    Raises:
        ValueError: Fewer than two steps; when called, more than the chain has.

    References:
        Sohl-Dickstein et al. 2015, Deep unsupervised learning using nonequilibrium thermodynamics,
            https://arxiv.org/abs/1503.03585
    """

    def __init__(self, steps: int | None = None) -> None:
        self.steps = None if steps is None else whole_number("steps", steps, at_least=2)

    def __call__(
        self,
        model: DiscreteChainModel,
        shape: int | Sequence[int],
        *,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        trajectory: bool = False,
        progress: bool = False,
        **cond: Any,
    ) -> ChainSamples:
        """Draw samples, as `sample_chain`.

        Args:
            model: The model of the reverse steps.
            shape: The number of samples and the shape of one, or the number alone.
            seed: Seed of the noise.
            first: Index of the first sample.
            batch_size: Number of samples to work on at once; all if not given.
            trajectory: Whether to keep the state after every step.
            progress: Whether to show a progress bar.
            **cond: Conditions of the model.

        Raises:
            ValueError: More steps than the chain has, or what `sample_chain` rejects.
        """
        options: dict[str, Any] = {"seed": seed, "first": first, "batch_size": batch_size}
        return sample_chain(self.of(model), shape, trajectory=trajectory, progress=progress, **options, **cond)

    def of(self, model: DiscreteChainModel) -> DiscreteChainModel:
        """The model with the chain of the steps that are taken.

        Raises:
            ValueError: More steps than the chain has.
        """
        chain, steps = model.chain, self.steps
        if steps is None or steps == chain.steps:
            return model
        if steps > chain.steps:
            raise ValueError(f"steps is {steps}, expected at most the {chain.steps} of the chain")
        taken = [round(i * chain.steps / steps) for i in range(1, steps + 1)]
        thin = DiscreteChainModel(model.network, chain.thinned(taken), model.statistics)
        thin.info = model.info
        return thin

    def in_run(self, directory: Path) -> "ChainSampler":
        """The sampler itself, which has no files in a run's directory."""
        return self

    def __repr__(self) -> str:
        return f"ChainSampler(steps={self.steps})"
