"""What log-densities are used for: telling samples of other data apart, and classification by Bayes' rule."""

import math
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.likelihood.density import log_likelihood
from scoresde.score import ScoreModel

__all__ = ["auroc", "bayes_classify", "class_log_prob", "typicality"]


@checked
def typicality(values: Tensor, reference: Tensor) -> Tensor:
    """Distance `(N,)` float64 of each value from the reference's mean, in units of the reference's standard deviation.

    Samples of other data can be more probable than any of the model's own (Nalisnick et al. 2019, Do deep generative
    models know what they don't know?), so that a value counts by how far it is from the usual one on either side:
    the test for typicality of Nalisnick et al. 2019 (Detecting out-of-distribution inputs using typicality, section
    3) with a batch of one, for which −E[log p] is the entropy, divided by the spread.

    Args:
        values: `(N,)` log-densities or bits; infinite ones are infinitely far.
        reference: `(M,)` the same of data held out from training; of training data they would be too high.

    Raises:
        ValueError: values that are not numbers, or a reference with fewer than two values or no spread.
    """
    values, reference = _row(values, "values"), _row(reference, "reference").to(values.device)
    if len(reference) < 2 or not bool(reference.isfinite().all()):
        raise ValueError(
            f"reference has {int(reference.isfinite().sum())} finite values of {len(reference)}, expected "
            "at least 2 and all of them"
        )
    std = float(reference.std())
    if not std > 0:
        raise ValueError("reference has the same value everywhere, expected a spread")
    return (values - reference.mean()).abs() / std


@checked
def auroc(inside: Tensor, outside: Tensor) -> tuple[float, float]:
    """The probability that a score of `outside` exceeds one of `inside`, ties counting half, and its standard error.

    That is the area under the curve of hits over false alarms. With F the share of the other set that a score exceeds,
    from its ranks in both sets together and in its own (Sun & Xu 2014),

        area = mean of F over outside,    stderr² = var F(outside)/M + var F(inside)/N

    (DeLong, DeLong & Clarke-Pearson 1988, section 3). Sets that do not overlap leave nothing to estimate an error
    from: it is then 0, and too small.

    Args:
        inside: `(N,)` scores of what should score low.
        outside: `(M,)` scores of what should score high, such as `typicality` of other data.

    Returns:
        The area and its standard error, which is not a number where a set has a single score.

    Raises:
        ValueError: scores that are not numbers, or none.
    """
    inside, outside = _row(inside, "inside"), _row(outside, "outside").to(inside.device)
    above = _exceeded(outside, inside)
    below = _exceeded(inside, outside)
    if min(len(inside), len(outside)) < 2:
        return above.mean().item(), math.nan
    return above.mean().item(), math.sqrt(float(above.var() / len(outside) + below.var() / len(inside)))


@checked
def class_log_prob(
    model: ScoreModel, x: Tensor, classes: int, *, seed: int, name: str = "labels", **options: Any
) -> Tensor:
    """Log-densities log p(x | k) at t_min for k = 0, …, classes − 1, `(B, classes)` float64, nats.

    Every class has the same probes, of the same seed, sample and node of the path. Where the Jacobians of two classes
    are alike, what the probes err by is too, and drops out of the difference in part: by a factor of 2 to 4 for
    mixtures whose classes differ by their means, and not at all for classes with other covariances. Classes take
    different steps; where their numbers differ, probes no longer meet at the same noise level.

    Args:
        model: a score model with a condition of whole numbers `(B,)`.
        x: `(B, ...)` in the data's units, as for `log_likelihood`.
        classes: number of classes.
        seed: of the probes.
        name: of the condition.
        **options: those of `log_likelihood`, other conditions among them.

    Raises:
        ValueError: fewer than 1 class, or as `log_likelihood`.
        ArithmeticError: as `log_likelihood`.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}, expected at least 1")
    if name in options:
        raise ValueError(f"got {name}, expected it to be left out: every class is given in turn")
    columns = []
    for k in range(classes):
        labels = torch.full((len(x),), k, dtype=torch.int64, device=x.device)
        columns.append(log_likelihood(model, x, seed=seed, **{**options, name: labels}).log_prob)
    return torch.stack(columns, 1)


@checked
def bayes_classify(log_prob: Tensor, log_prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The most probable class `(B,)` int64 of each sample, and the probabilities `(B, K)` float64 of all.

    p(k | x) = p(x | k) p(k) / Σ_j p(x | j) p(j).

    Args:
        log_prob: `(B, K)` nats, log p(x | k), as of `class_log_prob`; up to a constant for each sample.
        log_prior: `(K,)` nats, up to a constant; −∞ rules a class out. All classes alike if not given.

    Raises:
        ValueError: shapes that do not fit, numbers that are NaN or +∞, or a sample that no class gives a density.
    """
    if log_prob.ndim != 2 or log_prob.shape[1] < 1:
        raise ValueError(f"log_prob has shape {tuple(log_prob.shape)}, expected (B, K) with at least one class")
    joint = log_prob.double()
    if log_prior is not None:
        if log_prior.shape != joint.shape[1:]:
            raise ValueError(
                f"log_prior has shape {tuple(log_prior.shape)}, expected ({joint.shape[1]},), one for each class"
            )
        joint = joint + log_prior.to(joint)
    # NaN also where +∞ met −∞.
    if bool((joint.isnan() | joint.isposinf()).any()):
        raise ValueError("log_prob or log_prior has values that are NaN or +inf, expected numbers or -inf")
    lost = joint.isneginf().all(1).nonzero()[:, 0]
    if len(lost):
        raise ValueError(f"no class has a positive probability for {len(lost)} samples, the first is {int(lost[0])}")
    return joint.argmax(1), joint.softmax(1)


def _exceeded(scores: Tensor, others: Tensor) -> Tensor:
    """The share of `others` that each of the scores exceeds, ties counting half."""
    ordered = others.sort().values
    # Twice the number, in whole numbers; their quotient would be float32.
    twice = torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)
    return twice.double() / (2 * len(others))


def _row(values: Tensor, name: str) -> Tensor:
    """In float64; ValueError for what is not a row of numbers."""
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected one dimension with at least one value")
    values = values.double()
    if bool(values.isnan().any()):
        raise ValueError(f"{name} has {int(values.isnan().sum())} values of {len(values)} that are NaN")
    return values
