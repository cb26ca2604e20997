"""Labels of a user's own data, which count the classes of the run, whatever the file has of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from scoresde.data import Data, DataInfo
from scoresde.options.errors import ConfigError
from scoresde.runs.given import given_data
from scoresde.training.moments import data_statistics


def points(n: int) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (("1", "2", "3"), [3, 1, 3, 3], [2, 0, 2, 2]),  # fewer classes than the run's
        (("cat", "dog", "owl"), ["owl", "cat", "owl", "cat"], [2, 0, 2, 0]),
        (("cat", "dog", "owl"), [2, 1, 1, 2], [2, 1, 1, 2]),  # by index, where names are no numbers
    ],
)
def test_labels_are_found_by_name(
    tmp_path: Path, names: tuple[str, ...], labels: list[int | str], expected: list[int]
) -> None:
    own = Data(
        "own", points(6), points(3), train_labels=torch.arange(6) % 3, test_labels=torch.arange(3), class_names=names
    )
    info, statistics = DataInfo.of(own), data_statistics(own, dequantise=False)
    np.savez(tmp_path / "a.npz", x=points(4), y=np.array(labels))
    node = {"_target_": "scoresde.data.npz", "path": str(tmp_path / "a.npz"), "label_key": "y", "test_size": 1}
    data, _ = given_data(info, OmegaConf.create({"data": node}), statistics, True, own)
    assert data.test_labels is not None
    assert (data.test_labels.tolist(), data.class_names) == (expected, names)
    assert torch.equal(data.test, points(4))
    np.savez(tmp_path / "a.npz", x=points(4), y=np.array([7, 7, 1, 1]))
    with pytest.raises(ConfigError, match=r"labels of .*a.npz: a has the classes 7, expected those of"):
        given_data(info, OmegaConf.create({"data": node}), statistics, True, own)
    data, _ = given_data(info, OmegaConf.create({"data": node}), statistics, False, own)
    assert data.test_labels is None
