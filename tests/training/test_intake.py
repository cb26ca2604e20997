"""Data that training from Python takes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from scoresde.data import Data, Discrete, Standardise
from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import Heun, KarrasGrid, Sampler
from scoresde.score import NetworkScore, in_model_space, with_sde
from scoresde.sde import VESDE, VPSDE
from scoresde.training import fit, fitting
from scoresde.training.intake import as_data
from scoresde.training.options import Training

X = np.random.default_rng(0).normal(5, 3, (12, 2))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
LABELS = np.array(["dog", "cat", "eel"] * 4)


def _model(shape: tuple[int, ...] = (2,), classes: int | None = None) -> NetworkScore:
    return NetworkScore(MLP(shape, width=8, blocks=1, num_classes=classes), VPSDE(), EDMPreconditioning())


def _columns(rows: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*rows, strict=True))


class Pictures(Dataset[Any]):
    """Pictures of Pillow with labels, as torchvision has them."""

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> Any:
        return Image.fromarray(PIXELS[index]), index % 3


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(X)


@pytest.mark.parametrize(
    "given",
    [
        X,
        X.tolist(),
        list(X),
        torch.from_numpy(X),
        pd.DataFrame(X),
        TensorDataset(torch.from_numpy(X)),
        DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=5, shuffle=True),
        DataLoader(list(X), batch_size=5, sampler=SequentialSampler(X), collate_fn=lambda rows: np.stack(rows)),  # type: ignore[arg-type]
        (X, LABELS),
    ],
    ids=["array", "lists", "arrays", "tensor", "frame", "data set", "loader", "own batches", "with labels"],
)
def test_samples_of_any_kind_are_the_same_data(given: Any) -> None:
    data = as_data(_model(), given, "auto")
    assert torch.equal(data.train, torch.from_numpy(X))
    assert data.train_labels is None
    assert isinstance(data.transform, Standardise)


@pytest.mark.parametrize(
    "given",
    [
        (X, LABELS),
        (torch.from_numpy(X), LABELS.tolist()),
        (pd.DataFrame(X), pd.Series(LABELS)),
        list(zip(X, LABELS, strict=True)),
        DataLoader(list(zip(X, LABELS, strict=True)), batch_size=5, collate_fn=_columns),  # type: ignore[arg-type]
    ],
    ids=["arrays", "tensor and list", "frames", "pairs", "own batches"],
)
def test_labels_of_any_kind_keep_their_names(given: Any) -> None:
    data = as_data(_model(classes=3), given, "auto")
    assert torch.equal(data.train, torch.from_numpy(X))
    assert data.class_names == ("cat", "dog", "eel")
    assert data.train_labels is not None
    assert data.train_labels.tolist() == [1, 0, 2] * 4


def test_integers_in_range_are_indices_and_others_are_names() -> None:
    y = np.arange(12) % 2 + 1
    assert as_data(_model(classes=3), (X, y), "auto").train_labels.tolist() == y.tolist()  # type: ignore[union-attr]
    data = as_data(_model(classes=3), (X, 10.0 * y), "auto")
    assert data.class_names == ("10", "20", "class 2")
    assert data.train_labels.tolist() == (y - 1).tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "shape", "expected"),
    [
        (PIXELS, (3, 4, 4), PIXELS.transpose(0, 3, 1, 2)),
        (PIXELS.transpose(0, 3, 1, 2), (3, 4, 4), PIXELS.transpose(0, 3, 1, 2)),
        (PIXELS[..., 0], (1, 4, 4), PIXELS[:, None, :, :, 0]),
        (PIXELS[..., 0].reshape(6, 16), (1, 4, 4), PIXELS[:, None, :, :, 0]),
        (Pictures(), (3, 4, 4), PIXELS.transpose(0, 3, 1, 2)),
        ([Image.fromarray(p) for p in PIXELS], (3, 4, 4), PIXELS.transpose(0, 3, 1, 2)),
        (PIXELS[:, 0, 0, 0].astype(float), (1,), PIXELS[:, 0, 0, :1].astype(float)),
    ],
    ids=["channels last", "channels first", "grey", "rows", "data set", "list", "numbers"],
)
def test_samples_have_the_networks_shape(given: Any, shape: tuple[int, ...], expected: np.ndarray) -> None:
    data = as_data(_model(shape), given, "auto")
    assert torch.equal(data.train, torch.from_numpy(np.ascontiguousarray(expected)))
    assert data.transform == Discrete(256) or data.transform.levels is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a.npz", "data is 'a.npz', expected an array, .*: a file is read by scoresde.data.npz"),
        (None, "data is None, expected an array, tensor or data frame"),
        (iter([1]), "data is a list_iterator, expected an array"),
        (Endless(), "without a length, expected .*: make a list of its items"),
        (np.arange(12).reshape(6, 2), "dtype int64, and only uint8 is taken for pixels"),
        (X[:, :1], r"samples of data have shape \(1,\), and the network is made for \(2,\)"),
        ([[1.0, 2.0], [3.0]], "whose parts have different shapes"),
        ([{"image": X[0]}], r"items of data are mappings with image, expected x or \(x, label\)"),
        (TensorDataset(torch.ones(3, 2), torch.ones(3, 2)), r"items of data are .*, expected x or \(x, label\)"),
        ([(X[0], 1), (X[0, :1], 1)], r"samples of data have the shapes \(1,\), \(2,\), expected one"),
        (([[1.0, 2.0], [3.0]], [0, 1]), "whose parts have different shapes"),
        ([(X[0], 1), (X[1],)], r"and others of another length, expected x or \(x, label\)"),
        (X[:0], "data is empty"),
        (X.astype(complex), "data is complex: give the real and the imaginary part"),
        (np.array([["a", "b"]]), "dtype <U1, expected numbers"),
        (X * np.nan, "24 of 24 are NaN"),
    ],
)
def test_other_data_are_refused_in_a_line(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        as_data(_model(), given, "auto")
    assert "\n" not in str(caught.value)


def test_labels_that_are_not_the_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes=2 and data has 3 classes"):
        as_data(_model(classes=2), (X, LABELS), "auto")
    for given in (X, Data("mine", torch.from_numpy(X), torch.from_numpy(X))):
        with pytest.raises(ValueError, match=r"num_classes=2 and \w+ has no labels: give \(samples, labels\)"):
            as_data(_model(classes=2), given, "auto")
    with pytest.raises(ValueError, match=r"12 samples and labels of shape \(3,\)"):
        as_data(_model(classes=2), (X, [0, 1, 0]), "auto")


def test_a_loader_is_drawn_from_as_it_says_and_gives_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.tensor([1.0] + [0.0] * 11)
    loader = DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=4, sampler=WeightedRandomSampler(weights, 12))
    assert torch.equal(as_data(_model(), loader, "none").train, torch.from_numpy(X[:1]).expand(12, 2))
    sizes = []
    monkeypatch.setattr(
        fitting,
        "Training",
        lambda **options: sizes.append(options["batch_size"]) or Training(**options),  # type: ignore[func-returns-value]
    )
    fit(_model(), DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=4), 1, progress=False)
    fit(_model(), DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=4), 1, batch_size=3, progress=False)
    assert sizes == [4, 3]


def test_a_model_knows_its_data_and_decodes_its_samples() -> None:
    model = _model((3, 4, 4), classes=3)
    fit(model, Pictures(), 2, batch_size=4, progress=False)
    assert repr(model).splitlines()[1:] == [
        "  samples of shape (3, 4, 4) in model space, decoded by Discrete(levels=256, low=-1.0, high=1.0); data: data",
        "  3 classes: 0, 1, 2",
    ]
    assert repr(model).startswith("NetworkScore(MLP of 1,728 parameters, VPSDE(")
    sampler = Sampler(Heun(), KarrasGrid(2))
    for made in (model, with_sde(model, VESDE())):
        out = sampler(made, 4, labels=1)
        assert out.labels is not None
        assert out.labels.tolist() == [1] * 4
        assert out.decoded.dtype == torch.uint8
        assert torch.equal(out.decoded, Discrete(256).decode(out.x))
        assert torch.equal(made.decode(out.x), out.decoded)
        assert torch.equal(made.decode(out.x.numpy()), out.decoded)
    more = 255 - PIXELS
    fit(model, (more, np.zeros(6, dtype=int)), 1, batch_size=4, progress=False)
    with pytest.raises(ValueError, match="the model is of integers under Discrete"):
        fit(model, (more.astype(float), np.zeros(6, dtype=int)), 1, progress=False)


def test_samples_of_continuous_data_are_in_their_units() -> None:
    model = _model(classes=3)
    fit(model, (X, LABELS), 2, batch_size=4, progress=False)
    assert "in the data's units, by Standardise(mean=" in repr(model)
    assert repr(model).endswith("3 classes: cat, dog, eel")
    sampler = Sampler(Heun(), KarrasGrid(2))
    out = sampler(model, 2, labels=["dog", "cat"])
    assert torch.equal(out.x, sampler(model, 2, labels=[1, 0]).x)
    assert torch.equal(sampler(model, 2, labels="dog").x, sampler(model, 2, labels=1).x)
    assert out.decoded is out.x
    assert model.decode(out.x) is out.x
    bare = in_model_space(model)
    assert bare.decode(out.x) is out.x
    assert bare.info is not None
    assert bare.info.transform.levels is None
    for wrong, message in (
        ("cow", "label is 'cow', expected one of the classes cat"),
        (3, "hold 3, expected 0"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler(model, 2, labels=wrong)
    with pytest.raises(ValueError, match="sed is no argument of this call, and no condition of the network"):
        sampler(model, 2, labels=1, sed=3)


def test_a_model_that_does_not_know_its_data_says_so() -> None:
    model = _model()
    assert repr(model).endswith("samples of shape (2,), of data that it does not know")
    with pytest.raises(ValueError, match="does not know what its data are .*: use the transform of the data"):
        model.decode(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="labels are 'dog', and the model knows no names"):
        Sampler(Heun(), KarrasGrid(2))(model, 2, labels="dog")
