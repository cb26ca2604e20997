"""The mean loss at each noise level."""

import torch
from torch import Tensor

__all__ = ["loss_by_noise_level"]


def loss_by_noise_level(log_snr: Tensor, per_sample: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss in bins of the noise level, without waiting for the device.

    >>> log_snr, loss = torch.tensor([0.5, 1.5, 1.8]), torch.tensor([4.0, 1.0, 3.0])
    >>> mean, count = loss_by_noise_level(log_snr, loss, edges=torch.tensor([0.0, 1.0, 2.0]))
    >>> mean.tolist(), count.tolist()
    ([4.0, 2.0], [1, 2])

    Args:
        log_snr: λ of each sample, `(B,)`.
        per_sample: Loss of each sample, `(B,)`.
        edges: Edges of the bins, increasing, `(K + 1,)`. A bin holds its lower edge, and the last one its upper edge
            too, as in `numpy.histogram`. Samples outside all bins are left out.

    Returns:
        The means `(K,)` in float64, NaN for an empty bin, and the counts `(K,)`, int64.

    Raises:
        ValueError: Shapes that do not fit.
    """
    if edges.ndim != 1 or len(edges) < 2:
        raise ValueError(f"edges has shape {tuple(edges.shape)}, expected (K + 1,) with K at least 1")
    if log_snr.ndim != 1 or log_snr.shape != per_sample.shape:
        raise ValueError(
            f"log_snr has shape {tuple(log_snr.shape)}, per_sample {tuple(per_sample.shape)}, expected (B,)"
        )
    edges = edges.to(log_snr)
    # By comparison: adding into bins has no fixed order on a GPU.
    member = (log_snr[:, None] >= edges[:-1]) & (log_snr[:, None] < edges[1:])
    member[:, -1] |= log_snr == edges[-1]
    values = per_sample.detach().double()[:, None]
    count = member.sum(0)
    return torch.where(member, values, torch.zeros_like(values)).sum(0) / count, count
