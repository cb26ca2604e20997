"""Uses of log-densities: the detection of samples of other data, and classification by Bayes' rule.

References:
    Do deep generative models know what they don't know? (Nalisnick et al. 2019), https://arxiv.org/abs/1810.09136
    Detecting out-of-distribution inputs to deep generative models using typicality (Nalisnick et al. 2019),
    https://arxiv.org/abs/1906.02994
"""

import math
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.likelihood.density import log_likelihood
from scoresde.numerics.values import at_least
from scoresde.score import ScoreModel

__all__ = ["auroc", "bayes_classify", "class_log_prob", "typicality"]


@checked
def typicality(values: Tensor, reference: Tensor) -> Tensor:
    """The distance of each value from the reference's mean, in units of the reference's standard deviation.

    Samples of other data can be more probable than any of the model's own (Nalisnick et al. 2019, Do deep generative
    models know what they don't know?). So a value counts by its distance from the usual one, on either side. This is
    the test for typicality of Nalisnick et al. 2019 (Detecting out-of-distribution inputs using typicality, section 3)
    with a batch of one, divided by the standard deviation.

    >>> typicality(torch.tensor([-3.0, 5.0]), reference=torch.tensor([-1.0, 0.0, 1.0])).tolist()
    [3.0, 5.0]

    Args:
        values: Log-densities or bits, `(N,)`; infinite values are infinitely far.
        reference: The same for data held out from training, `(M,)`; those of training data would be too high.

    Returns:
        The distances, `(N,)` float64.

    Raises:
        ValueError: NaN, or a reference with fewer than two values or no spread.
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

    That is the area under the receiver operating characteristic. With F the share of the other set that a score
    exceeds, from its ranks in both sets together and in its own (Sun & Xu 2014),

        area = mean of F over outside,    stderr² = var F(outside)/M + var F(inside)/N

    (DeLong, DeLong & Clarke-Pearson 1988, section 3). For sets that do not overlap the estimated error is 0, which is
    too small.

    >>> auroc(inside=torch.tensor([0.0, 1.0]), outside=torch.tensor([0.5, 2.0]))
    (0.75, 0.3535533905932738)

    Args:
        inside: Scores of samples that should score low, `(N,)`.
        outside: Scores of samples that should score high, `(M,)`, such as the `typicality` of other data.

    Returns:
        The area and its standard error, which is NaN if a set has a single score.

    Raises:
        ValueError: Scores that are NaN, or an empty set.
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
    """The log-densities log p(x | k) at t_min for k = 0, …, classes − 1, `(B, classes)` float64 in nats.

    All classes have the same probes, by seed, sample and node of the path. If the Jacobians of two classes are alike,
    the errors of the probes are alike too and cancel in part in the difference: by a factor of 2 to 4 for mixtures
    whose classes differ by their means, and not at all for classes with other covariances. Classes take different
    steps; if the numbers of steps differ, the probes no longer belong to the same noise level.

    Args:
        model: A score model with a condition of integers `(B,)`.
        x: Samples `(B, ...)` in the data's units, as for `log_likelihood`.
        classes: Number of classes.
        seed: Seed of the probes.
        name: Name of the condition.
        **options: Options of `log_likelihood`, and other conditions.

    Raises:
        ValueError: Fewer than 1 class, or as `log_likelihood`.
        LikelihoodError: As `log_likelihood`.
    """
    at_least("classes", classes, 1)
    if name in options:
        raise ValueError(f"got {name}, expected it to be left out: every class is given in turn")
    columns = []
    for k in range(classes):
        labels = torch.full((len(x),), k, dtype=torch.int64, device=x.device)
        columns.append(log_likelihood(model, x, seed=seed, **{**options, name: labels}).log_prob)
    return torch.stack(columns, 1)


@checked
def bayes_classify(log_prob: Tensor, log_prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The most probable class of each sample, `(B,)` int64, and the probabilities of all classes, `(B, K)` float64.

        p(k | x) = p(x | k) p(k) / Σ_j p(x | j) p(j).

    >>> best, probabilities = bayes_classify(torch.tensor([[0.0, 0.0], [3.0, -40.0]]))
    >>> best.tolist(), probabilities[0].tolist()
    ([0, 0], [0.5, 0.5])

    Args:
        log_prob: log p(x | k) in nats, `(B, K)`, such as those of `class_log_prob`, up to a constant for each sample.
        log_prior: log p(k) in nats, `(K,)`, up to a constant; −∞ rules a class out. If not given, all classes have the
            same prior probability.

    Raises:
        ValueError: Shapes that do not fit, numbers that are NaN or +∞, or a sample to which no class gives a density.
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
    # Twice the number, as an integer; a quotient of integers would be float32.
    twice = torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)
    return twice.double() / (2 * len(others))


def _row(values: Tensor, name: str) -> Tensor:
    """The values in float64.

    Raises:
        ValueError: More than one dimension, no values, or NaN.
    """
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected one dimension with at least one value")
    values = values.double()
    if bool(values.isnan().any()):
        raise ValueError(f"{name} has {int(values.isnan().sum())} values of {len(values)} that are NaN")
    return values
