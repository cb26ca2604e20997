"""Samplers side by side on one model: error, sample quality, evaluations and seconds, with common noise."""

from scoresde.compare.comparison import Comparison, Trial, ignores_steps, quality, root_mean_square
from scoresde.compare.frame import COLUMNS, METRICS, check_comparable, concat, listing, summarise, table
from scoresde.compare.frontier import frontier, frontiers, pareto
from scoresde.compare.samplers import compare

__all__ = [
    "COLUMNS",
    "METRICS",
    "Comparison",
    "Trial",
    "check_comparable",
    "compare",
    "concat",
    "frontier",
    "frontiers",
    "ignores_steps",
    "listing",
    "pareto",
    "quality",
    "root_mean_square",
    "summarise",
    "table",
]
