"""The Gaussian chain of Sohl-Dickstein et al. (2015) as an SDE, with diffusion rates that can be learned."""

import math

import torch
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.numerics.values import whole_number
from scoresde.sde.chains import DiscreteVPSDE, GaussianChain
from scoresde.sde.tabulated import Levels, LevelTable

__all__ = ["DiffusionRates", "ErasureVPSDE", "learned_rates"]

_LEAST, _REST = 1e-6, 1e-5  # the least β, and what the largest stays below 1


class DiffusionRates(nn.Module):
    """The rates β_1 ... β_T of a chain as parameters: β_1 is fixed, and the others are what is learned.

    Args:
        betas: The rates at the start, `(T,)`.
    """

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        self.register_buffer("first", betas[:1].double())
        share = (betas[1:].double() - _LEAST) / (1 - _LEAST - _REST)
        self.logits = nn.Parameter(share.logit().float())
        self.first: Tensor

    def forward(self) -> Tensor:
        """The rates `(T,)` float64, between 0 and 1.

        In training mode gradients reach the parameters through them. In evaluation mode there is no graph.
        """
        logits = self.logits if self.training else self.logits.detach()
        rest = _LEAST + (1 - _LEAST - _REST) * logits.double().sigmoid()
        return torch.cat((self.first.double(), rest))

    def join(self, network: nn.Module) -> None:
        """Become a part of the network, as `network.rates`, which is trained, saved and moved with it.

        Raises:
            ValueError: A network that has something else of this name.
        """
        if getattr(network, "rates", self) is not self:
            what = "learned rates of another SDE" if isinstance(network.rates, DiffusionRates) else "an attribute rates"
            raise ValueError(
                f"the network has {what} already, expected none: give an SDE with learned rates a network of its own"
            )
        network.add_module("rates", self)


@checked
class ErasureVPSDE(DiscreteVPSDE):
    """The Gaussian chain of Sohl-Dickstein et al. 2015: every step erases an equal share of the data's variance.

        β_t = 1/(T − t + 2) for t ≥ 2,    ᾱ_T about 1/T

    β_1 is small and fixed, since it is the least variance that the model's density can have; there the density of the
    data is no more resolved. If the rates are learned, β_2 ... β_T follow the gradient of the variational bound, for
    which x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε is a function of β with the noise ε held fixed (section 2.4.1 of the paper).
    A `NetworkScore` makes `rates` a part of its network, so that they are trained and saved with it. Everything that
    follows from the SDE has a graph while the model is in training mode, and none in evaluation mode, as after `fit`.

    Args:
        train_steps: Number T of steps.
        beta_1: β_1.
        learned: Whether the other rates are learned; `VariationalBound` is the objective for it.
        t_min: Smallest time that is integrated; 1/T if not given.

    Raises:
        ValueError: Fewer than two steps, or a β_1 that is not between 0 and 1/2.

    References:
        Sohl-Dickstein et al. 2015, Deep unsupervised learning using nonequilibrium thermodynamics,
            https://arxiv.org/abs/1503.03585

    >>> sde = ErasureVPSDE(4, 0.001)
    >>> sde.betas
    [0.001, ..., 0.5] (4)
    """

    def __init__(
        self, train_steps: int = 1000, beta_1: float = 1e-3, learned: bool = False, t_min: float | None = None
    ) -> None:
        train_steps = whole_number("train_steps", train_steps, at_least=2)
        if not (0 < beta_1 < 0.5 and math.isfinite(beta_1)):
            raise ValueError(f"beta_1 is {beta_1}, expected a number between 0 and 1/2")
        rest = 1 / torch.arange(train_steps, 1, -1, dtype=torch.float64)
        self.rates: DiffusionRates | None = None
        table = torch.cat((torch.tensor([beta_1], dtype=torch.float64), rest))
        super().__init__(table.tolist(), t_min)
        if learned:
            self.rates = DiffusionRates(table)

    def __repr__(self) -> str:
        learned = "" if self.rates is None else ", learned=True"
        return f"ErasureVPSDE({len(self._fixed)}, beta_1={self._fixed[0]:g}{learned}, t_min={self.t_min:g})"

    @property
    def betas(self) -> Levels:
        """The rates as numbers."""
        return self._fixed if self.rates is None else Levels(self.rates().detach().tolist())

    @betas.setter
    def betas(self, betas: Levels) -> None:
        self._fixed = betas

    @property
    def _table(self) -> LevelTable:
        if self.rates is None:
            return self._fixed_table
        # Not kept: a graph serves one backward pass, and the rates change from step to step.
        return LevelTable(0.0, -(-self.rates()).log1p())

    @_table.setter
    def _table(self, table: LevelTable) -> None:
        self._fixed_table = table

    def chain(self, steps: int | None = None) -> GaussianChain:
        """The chain of this SDE; that of its own table, with the graph of learned rates, if no steps are given.

        Args:
            steps: Number T of steps at the times t_max i/T.

        Raises:
            ValueError: Fewer than two steps.
        """
        if steps is None and self.rates is not None:
            return GaussianChain(self.rates())
        return super().chain(steps)


def learned_rates(process: object) -> DiffusionRates | None:
    """The rates that a process learns; None for a process without any."""
    return process.rates if isinstance(process, ErasureVPSDE) else None
