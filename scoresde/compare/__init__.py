"""Samplers side by side on one model: error, sample quality, evaluations and seconds, with common noise."""

from scoresde.extras import need as _need

_need("scoresde.compare", "matplotlib", "PIL", "pandas")

from scoresde.compare.choose import listing, table
from scoresde.compare.comparison import Comparison, Trial, ignores_steps
from scoresde.compare.exact import ExactReference, marginal
from scoresde.compare.frame import COLUMNS, COMPARED, METRICS, check_comparable, concat, summarise
from scoresde.compare.frontier import frontier, frontiers, pareto
from scoresde.compare.measures import quality, root_mean_square
from scoresde.compare.samplers import compare

__all__ = [
    "COLUMNS",
    "COMPARED",
    "METRICS",
    "Comparison",
    "ExactReference",
    "Trial",
    "check_comparable",
    "compare",
    "concat",
    "frontier",
    "frontiers",
    "ignores_steps",
    "listing",
    "marginal",
    "pareto",
    "quality",
    "root_mean_square",
    "summarise",
    "table",
]
