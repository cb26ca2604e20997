"""Write points.npz: points of eight Gaussians on a ring, each as the integers of its cell on a grid of 16 by 16."""

from pathlib import Path

import numpy as np
from torch import Tensor

from scoresde.data import eight_gaussians


def cells(x: Tensor) -> np.ndarray:
    """The integers of the cells that points in [-1.5, 1.5]² lie in."""
    return np.clip(np.floor((x.numpy() + 1.5) / 3 * 16), 0, 15).astype(np.uint8)


if __name__ == "__main__":
    data = eight_gaussians(n_train=2000, n_test=400, seed=0, std=0.1, labels=False)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), x_train=cells(data.train), x_test=cells(data.test))
