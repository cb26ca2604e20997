"""How often a classifier of noised samples is right, by noise level."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.means import mean_and_error
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.numerics.values import at_least
from scoresde.score import NoisyClassifier

__all__ = ["NoisyAccuracy", "noisy_accuracy"]


@dataclass(frozen=True)
class NoisyAccuracy:
    """Accuracy and cross-entropy of a classifier at noise levels; every sample is noised once at each.

    Attributes:
        log_snr: Noise levels λ = log(α/σ), `(L,)` float64, from noise to data.
        right: Whether the most probable class is the sample's, `(B, L)`.
        surprise: −log p(c | x_t) of the right class in nats, `(B, L)` float64.
    """

    log_snr: Tensor
    right: Tensor
    surprise: Tensor

    @property
    def n(self) -> int:
        """Number of samples B."""
        return len(self.right)

    @property
    def accuracy(self) -> Tensor:
        """The share of samples whose most probable class is theirs, `(L,)`."""
        return self.right.double().mean(0)

    @property
    def accuracy_stderr(self) -> Tensor:
        """The standard error of `accuracy` from the choice of samples and their noise, `(L,)`."""
        return _errors(self.right.double())

    @property
    def cross_entropy(self) -> Tensor:
        """The mean of `surprise`, `(L,)` nats."""
        return self.surprise.mean(0)

    @property
    def cross_entropy_stderr(self) -> Tensor:
        """The standard error of `cross_entropy`, `(L,)` nats."""
        return _errors(self.surprise)

    @property
    def mean_accuracy(self) -> tuple[float, float]:
        """The mean of `accuracy` over the levels, and its standard error over samples."""
        return mean_and_error(self.right.double().mean(1))

    @property
    def mean_cross_entropy(self) -> tuple[float, float]:
        """The mean of `cross_entropy` over the levels, in nats, and its standard error over samples."""
        return mean_and_error(self.surprise.mean(1))

    def __repr__(self) -> str:
        mean, error = self.mean_accuracy
        return f"NoisyAccuracy({mean:.3f} ± {error:.3f} over {len(self.log_snr)} noise levels, n={self.n})"


def _errors(values: Tensor) -> Tensor:
    """Standard errors of the means of columns, NaN for a single row."""
    return values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.full_like(values[0], math.nan)


@checked
@torch.no_grad()
def noisy_accuracy(
    classifier: NoisyClassifier, x: Tensor, labels: Tensor, *, levels: int = 11, seed: int = 0, batch_size: int = 1024
) -> NoisyAccuracy:
    """The accuracy of a classifier of noised samples, by noise level.

    >>> from scoresde.networks import MLPClassifier
    >>> from scoresde.preconditioning import EDMPreconditioning
    >>> from scoresde.sde import VPSDE
    >>> new = NoisyClassifier(MLPClassifier((2,), 2, width=8), VPSDE(), EDMPreconditioning(1.0))
    >>> noisy_accuracy(new, torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), levels=2).cross_entropy
    tensor([0.6931, 0.6931], dtype=torch.float64)

    Args:
        classifier: The classifier.
        x: Samples `(B, ...)` in model space.
        labels: Their classes, `(B,)` int64.
        levels: Number of noise levels, evenly spaced in λ over the interval of the classifier's SDE.
        seed: The noise of sample i is a function of the seed and of i.
        batch_size: Number of samples to work on at once.

    Raises:
        ValueError: Fewer than two levels, no samples, or labels that are not one class for each.
    """
    at_least("levels", levels, 2)
    at_least("batch_size", batch_size, 1)
    if labels.shape != x.shape[:1] or not len(x) or labels.is_floating_point():
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected a class of each sample, ({len(x)},)")
    if int(labels.min()) < 0 or int(labels.max()) >= classifier.num_classes:
        raise ValueError(
            f"labels hold {int(labels.min())} to {int(labels.max())}, expected 0 to {classifier.num_classes - 1}"
        )
    low, high = classifier.log_snr_range
    grid = torch.linspace(low, high, levels, dtype=torch.float64)
    sde, device = classifier.sde, classifier.device
    times = sde.time(grid).clamp(sde.t_min, sde.t_max)
    surprise, right = [], []
    own = classifier.under(sde)  # whatever states it is for
    with classifier.evaluating():
        for start in range(0, len(x), batch_size):
            part = x[start : start + batch_size].to(device)
            true = labels[start : start + batch_size].to(device)
            indices = torch.arange(start, start + len(part))
            noise = SampleNoise(seed, indices, tuple(part.shape[1:]), part.dtype, device, Stream.CLASSIFIER_NOISE)
            logits = [own(sde.perturb(part, t, noise()), t).double() for t in times]
            surprise.append(torch.stack([F.cross_entropy(y, true, reduction="none") for y in logits], 1).cpu())
            right.append(torch.stack([y.argmax(1) == true for y in logits], 1).cpu())
    return NoisyAccuracy(grid, torch.cat(right), torch.cat(surprise))
