"""Settings of the default solver that were measured to suit a model, by number of steps."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from scoresde.arguments import checked
from scoresde.numerics.values import one_of, positive

__all__ = ["StepRule", "StepRules"]

_FORMAT = "scoresde-steps-1"


@checked
@dataclass(frozen=True)
class StepRule:
    """An Adams method and a time grid.

    Attributes:
        coordinate: What is interpolated: the velocity in the `Angle` of the data's standard deviation, the velocity in
            the `Straight` coordinate that the grid is even in, or the data prediction, as a polynomial in the log-SNR.
        order: The number of values that the predictor uses, 1 to 4.
        corrector: The number of earlier values that the corrector uses, 0 (none) to 4.
        bend: The noise level σ/α at which the grid bends, as a share of the largest standard deviation of the data.
        top: The share of the steps that is even in log(1 + (σ/α)/d), for d the level of the bend; 0 to below 1.
        narrow: The share of the steps at noise levels where narrow directions of the data count, as for `DataStraight`;
            0 to below 1. `top` is a share of the others.
        safeguard: Whether the method has the safeguard of `Multistep`.

    Raises:
        ValueError: A setting outside its range.
    """

    coordinate: Literal["angle", "straight", "data"]
    order: int
    corrector: int
    bend: float
    top: float
    narrow: float = 0.0
    safeguard: bool = False

    def __post_init__(self) -> None:
        one_of("coordinate", self.coordinate, ("angle", "straight", "data"))
        if self.order not in (1, 2, 3, 4) or self.corrector not in (0, 1, 2, 3, 4):
            raise ValueError(f"the orders are {self.order} and {self.corrector}, expected 1 to 4 and 0 to 4")
        positive("bend", self.bend)
        for name, share in (("top", self.top), ("narrow", self.narrow)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} is {share}, expected a share from 0 to below 1")


@checked
@dataclass(frozen=True)
class StepRules:
    """The rules of a model for some numbers of steps, and what it took to measure them.

    Attributes:
        rules: A rule for each number of steps that was measured.
        starts: The number of starts that were solved from.
        evaluations: The number of evaluations of the model, each of one sample.
        seconds: The time that it took.

    Raises:
        ValueError: No rule, or one for a number of steps below 1.

    >>> rules = StepRules({8: StepRule("angle", 2, 2, 0.3, 0.0), 20: StepRule("straight", 4, 3, 0.2, 0.1)})
    >>> rules.at(12).order, rules.at(30).order
    (2, 4)
    """

    FILE: ClassVar[str] = "steps.json"
    """The name of the file in the directory of a run."""

    rules: Mapping[int, StepRule]
    starts: int = 0
    evaluations: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.rules or not all(isinstance(n, int) and n >= 1 for n in self.rules):
            raise ValueError(f"rules are for {list(self.rules)} steps, expected at least one number, each at least 1")

    def at(self, steps: int) -> StepRule:
        """The rule of the largest number of steps that is not above `steps`, or else of the smallest."""
        below = [n for n in self.rules if n <= steps]
        return self.rules[max(below) if below else min(self.rules)]

    def joined(self, other: "StepRules") -> "StepRules":
        """The rules of both; of the other where both have one. What they took is added."""
        return StepRules(
            {**self.rules, **other.rules},
            max(self.starts, other.starts),
            self.evaluations + other.evaluations,
            self.seconds + other.seconds,
        )

    def to_json(self) -> str:
        """The text of the file."""
        rules = {str(n): asdict(self.rules[n]) for n in sorted(self.rules)}
        content = {"format": _FORMAT, "starts": self.starts, "evaluations": self.evaluations, "seconds": self.seconds}
        return json.dumps({**content, "rules": rules}, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file, which `load` reads."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "StepRules":
        """Read a file that `save` wrote; reading it executes nothing, whoever it is from.

        Raises:
            ValueError: A file of another format, or one whose numbers are outside their ranges.
        """
        from scoresde.storage.bounded import read_json

        try:
            content: dict[str, Any] = read_json(Path(path), dict)
            if content.pop("format") != _FORMAT:
                raise ValueError
            content["rules"] = {int(n): StepRule(**rule) for n, rule in content["rules"].items()}
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a file of step rules: make it anew, by `scoresde tune run=DIR steps=all`"
            ) from error
