"""The chain that a score model is the reverse of, for its bound beside the likelihood of the probability flow."""

from scoresde.arguments import checked
from scoresde.chains import GaussianChainModel
from scoresde.score import ScoreModel
from scoresde.sde import SDE, DiscreteVPSDE, GaussianChain

__all__ = ["own_chain", "steps_of"]

_STEPS = 1000  # of an SDE without a table


def steps_of(sde: SDE) -> GaussianChain:
    """The chain of an SDE: that of its table, or of 1000 steps.

    Raises:
        ValueError: An SDE that does not preserve variance.
    """
    return GaussianChain(sde.betas) if isinstance(sde, DiscreteVPSDE) else GaussianChain.of(sde, _STEPS)


@checked
def own_chain(model: ScoreModel) -> GaussianChainModel:
    """The reverse of the chain of a model's SDE by the model, with the best variances that it has.

    These are learned ones, or those that `measure_variances` found, or else the large ones, β.

    Args:
        model: The score model.

    Raises:
        ValueError: An SDE that does not preserve variance.
    """
    if model.learns_variance:
        return GaussianChainModel(model, steps_of(model.sde), "learned")
    return GaussianChainModel(model, steps_of(model.sde), "large" if model.optimal_variances is None else "optimal")
