"""Options of a solve of the probability flow: how accurately, from where to where, and in which variables."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

from scoresde.arguments import ArgumentError, checked
from scoresde.likelihood.scaling import Scaling
from scoresde.numerics.tableaus import BOSH3, DORMAND_PRINCE, EmbeddedPair
from scoresde.numerics.values import at_least, positive
from scoresde.score import ScoreModel
from scoresde.sde.coordinates import Angle, Coordinate

__all__ = ["BOUND_OPTIONS", "FIXED_STEP_OPTIONS", "FLOW_OPTIONS", "FlowOptions", "PathPlan", "Tolerance"]

_BATCH_SIZE = 512
# Nats for each dimension by which a step along a path may move the log-density before the path's error is corrected,
# for a tolerance of 1 nat for each.
_PATH_SHARE, _NETWORK_PATH_SHARE = 10.0, 3.0
# Factor of the first in a time variable other than the angle, in which data of one width may pass within one step.
_OTHER_VARIABLE = 0.03
# The likeness of two names from which one counts as a misspelling of the other.
_ALIKE = 0.8


@dataclass(frozen=True)
class Tolerance:
    """The error that a step may make: `nats` of the log-density, or `rtol` and `atol` of the state, whose scale is 1.

    An error e of the state at some time moves the resulting log-density by ∇ log p · e, whatever comes after. A step
    may move it by `nats`, measured by the root of Σ (1 + s²) e² with s the score of the state y.

    No step is held to more than the dtype of the model can resolve: the amount by which rounding its input x and its
    output ε to one part in 1/eps moves the log-density, or the state. Such errors do not fall with the step, so that a
    sample far from the data, or data in a narrow band far from 0, would otherwise be followed in ever smaller steps. A
    hundredth of that amount is subtracted from every error estimate. Where less is left, as in noise that is small
    against the data, the estimate consists of rounding, which depends on the size of the batch and must not choose the
    next step.

    Raises:
        ValueError: Numbers that are not positive.
    """

    nats: float | None = None
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        if self.nats is not None:
            positive("tol", self.nats, "a positive number of nats", finite=False)
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"rtol={self.rtol} and atol={self.atol} must be positive")


class PathPlan(NamedTuple):
    """How a path is followed for a density along it.

    Attributes:
        tolerance: Error that a step may make.
        method: Runge-Kutta pair.
        nodes: Gauss-Legendre nodes of a step.
    """

    tolerance: Tolerance
    method: EmbeddedPair
    nodes: int


@checked
@dataclass(frozen=True)
class FlowOptions:
    """Options for solving the probability-flow ODE.

    The functions of `scoresde.likelihood` take each of these by its own name, or all of them as `options`. A keyword
    replaces the value in `options`. A function ignores the options that it has no use for.

    >>> FlowOptions(tol=0.01).tolerance(size=64).nats
    0.01
    >>> FlowOptions().tolerance(size=64).nats  # 1e-4 nats for each dimension
    0.0064
    >>> FlowOptions(rtol=1e-3).tolerance(size=64)
    Tolerance(nats=None, rtol=0.001, atol=1e-05)

    Args:
        tol: How much a step may move the log-density of a sample, in nats; 1e-4 for each dimension if no tolerance is
            given.
        rtol: Relative tolerance of the state, whose scale is 1, instead of `tol`.
        atol: Absolute tolerance of the state, instead of `tol`. If only one of `rtol` and `atol` is given, the other
            is 1e-5.
        t_min: Time of the data, at which a density is taken; the SDE's `t_min` if not given.
        t_max: Time of the codes; the SDE's `t_max` if not given.
        method: Runge-Kutta pair with a dense output, such as those of `scoresde.numerics.ode`; Dormand-Prince if not
            given, but Bogacki-Shampine for the density under an exact score (see `plan`).
        variable: Time variable of the ODE; if not given, log σ̃ for networks, or `LevelRatio` of the data's standard
            deviation if `corrected`, and the `Angle` of that for exact scores.
        scaling: Scaling of the state. If not given, log-densities and codes take `CovarianceScaling()` or
            `ScalarScaling()`, whichever a measurement on the model says (`scoresde.likelihood.suited_scaling`); what
            takes steps of a given number has `ScalarScaling()`.
        nodes: Gauss-Legendre nodes of a step. More than 4 are more than a dense output of order 4 is worth. If not
            given, 3 from a `tol` of 2e-4 nats for each dimension on, where they err no more than 4; otherwise 4. With
            the default method under an exact score 5 at any `tol`.
        batch_size: Number of samples, and of traces, to process at once; 512 if not given.
        corrected: Correct the error that the path of a network's density makes, by its score (`Integral`), and follow
            the path less accurately and in another variable. Whether that is cheaper at equal error depends on the
            network (docs/likelihood.md). The density under an exact score always is corrected.

    Raises:
        ValueError: Nodes or a batch size below 1.
    """

    tol: float | None = None
    rtol: float | None = None
    atol: float | None = None
    t_min: float | None = None
    t_max: float | None = None
    method: EmbeddedPair | None = None
    variable: Coordinate | None = None
    scaling: Scaling | None = None
    nodes: int | None = None
    batch_size: int | None = None
    corrected: bool = False

    def __post_init__(self) -> None:
        for name in ("nodes", "batch_size"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)

    @property
    def pair(self) -> EmbeddedPair:
        """The method, or its default."""
        return DORMAND_PRINCE if self.method is None else self.method

    @property
    def width(self) -> int:
        """The batch size, or its default."""
        return _BATCH_SIZE if self.batch_size is None else self.batch_size

    def tolerance(self, size: int, default: float | None = None) -> Tolerance:
        """The tolerance for samples of `size` elements.

        Args:
            size: Number of elements of a sample.
            default: `rtol` and `atol` where they are not given, also if `tol` is not given either.

        Raises:
            ValueError: Tolerances of both kinds, or that are not positive.
        """
        if self.tol is not None and not (self.rtol is None and self.atol is None):
            raise ValueError(f"got tol={self.tol} beside rtol={self.rtol} and atol={self.atol}: give one or the others")
        if self.tol is not None or (self.rtol is None and self.atol is None and default is None):
            return Tolerance(1e-4 * size if self.tol is None else self.tol)
        other = 1e-5 if default is None else default
        return Tolerance(None, other if self.rtol is None else self.rtol, other if self.atol is None else self.atol)

    def number_of_nodes(self, size: int) -> int:
        """The number of nodes in a step for samples of `size` elements."""
        if self.nodes is not None:
            return self.nodes
        nats = self.tolerance(size).nats
        return 3 if nats is not None and nats >= 2e-4 * size else 4

    def plan(self, size: int, exact: bool) -> PathPlan:
        """How the path of a sample of `size` elements is followed for its density.

        Where errors of the path are corrected (`Integral`), a step may move a log-density by more than `tol`. A
        network's score is only nearly the gradient of its log-densities, so that a part of the errors is left.

        The density under an exact score does not depend on errors of the path at all, only on how well functions along
        it are integrated. So a path of low order and with few steps is enough there. Steps of a pair of order 3 shrink
        as the cube root of what they may move, and the error of 5 nodes falls as their tenth power, so that the square
        root of `tol` is on the safe side.

        Args:
            size: Number of elements of a sample.
            exact: Whether the score is exact.
        """
        tolerance, nodes = self.tolerance(size), self.number_of_nodes(size)
        if tolerance.nats is None or self.method is not None or not (exact or self.corrected):
            return PathPlan(tolerance, self.pair, nodes)
        if not exact:
            return PathPlan(Tolerance(_NETWORK_PATH_SHARE * tolerance.nats), self.pair, nodes)
        share = _PATH_SHARE * math.sqrt(tolerance.nats / size)
        if not isinstance(self.variable, Angle | None):
            share *= _OTHER_VARIABLE
        return PathPlan(Tolerance(share * size), BOSH3, 5 if self.nodes is None else nodes)

    @classmethod
    def split(
        cls,
        function: Callable[..., Any],
        model: ScoreModel,
        options: "FlowOptions | None",
        keywords: Mapping[str, Any],
        names: Iterable[str] | None = None,
    ) -> tuple["FlowOptions", dict[str, Any]]:
        """The options among the keywords of a function, and the others, which are conditions of the model.

        Args:
            function: The function that is called, for messages.
            model: The score model.
            options: The options that the keywords replace; defaults if not given.
            keywords: The keywords that the function has no parameters for.
            names: The options that the function takes; all if not given.

        Raises:
            ArgumentError: A name that looks like a misspelt option, and that the model does not take as a condition.
        """
        known = frozenset(FLOW_OPTIONS if names is None else names)
        conditions = {name: value for name, value in keywords.items() if name not in known}
        takes = sorted(known | _parameters(function))
        for name in conditions:
            near = difflib.get_close_matches(name, takes, 1, _ALIKE)
            if near and not model.takes_condition(name):
                raise ArgumentError(f"{function.__name__} has no argument {name!r}, did you mean {near[0]}?")
        given = {name: value for name, value in keywords.items() if name in known}
        return replace(cls() if options is None else options, **given), conditions


@lru_cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)


FLOW_OPTIONS = tuple(field.name for field in fields(FlowOptions))
"""Options of a solve with steps of its own size."""

FIXED_STEP_OPTIONS = ("t_min", "t_max", "variable", "scaling")
"""Options of a solve in equal steps."""

BOUND_OPTIONS = ("t_min", "t_max", "scaling", "batch_size")
"""Options of a lower bound, which solves no ODE."""
