"""A data set: raw training and test values, their labels and conditions, and the transform into model space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data.affine import Identity, Standardise
from scoresde.data.cache import Cache
from scoresde.data.checked_rows import CheckedRows
from scoresde.data.conditions import checked_conditions, of_rows
from scoresde.data.labels import class_index, listed
from scoresde.data.low_resolution import LowResolution
from scoresde.data.rows import Rows, Values, blocks, is_lazy, taken
from scoresde.data.text_info import TextInfo
from scoresde.data.transforms import Transform
from scoresde.extras import need
from scoresde.storage.digests import digest

__all__ = ["Data", "check_seed", "split_indices"]


@checked
@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set, checked once.

    Values are raw: what the files hold, stored as uint8 where 256 levels suffice. `transform.encode` maps a
    batch of them into model space. They are tensors in memory, or `Rows`, which are read when they are asked for and
    checked then: `data.train[indices]` and `len(data.train)` do for both.

    Args:
        name: For messages and file names.
        train: `(N, *shape)`, a tensor or `Rows`; integers for a discrete transform, floating point for a continuous
            one.
        test: `(M, *shape)`.
        transform: Its `levels` say whether values are integers. If not given the data are continuous, and standardised
            by the moments of the training data (see `scoresde.data.continuous`).
        train_labels: `(N,)` integers 0 .. num_classes-1; kept as int64.
        test_labels: `(M,)`; given exactly when `train_labels` is.
        num_classes: Taken from the names, or from the largest label, when None.
        rows: `(N + M,)`, the row of its source that each training and then each test sample is, for sources that
            are split; None keeps them in this order.
        class_names: What the classes are called, in the order of their indices; "0", "1", ... when None.
        mixture: Weights `(K,)`, means `(K, *shape)` and covariances `(K, D, D)` of the Gaussian mixture that raw values
            are drawn from, where it is known.
        train_conditions: Conditions of the training samples beside labels, by name, in their own units: `vector`
            `(N, k)`, `image` `(N, C, ...)`, `tokens` `(N, L, d)` with a `mask` `(N, L)`, True for tokens that count.
        test_conditions: The same of the test samples; given exactly when `train_conditions` is.
        low_resolution: What makes conditions of the samples themselves; see `super_resolution_data`.
        text: The encoder that made `tokens` of sentences, where that is known.

    Raises:
        ValueError: An empty split, shapes that differ, NaN or infinite values, values outside the transform's
            levels, all training values equal, labels of the wrong shape, type or range, names that are not as many as
            classes, or not unique, or conditions of the wrong shape, type or number (see `checked_conditions`).
    """

    name: str
    train: Values
    test: Values
    transform: Transform = None  # type: ignore[assignment]  # filled in at once
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    num_classes: int | None = None
    rows: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    mixture: tuple[Tensor, Tensor, Tensor] | None = None
    train_conditions: Mapping[str, Tensor] | None = None
    test_conditions: Mapping[str, Tensor] | None = None
    low_resolution: LowResolution | None = None
    text: TextInfo | None = None

    def __post_init__(self) -> None:
        fitted = self.transform is not None
        if not fitted:
            object.__setattr__(self, "transform", Identity())  # for the checks
        for split in ("train", "test"):
            object.__setattr__(self, split, self._checked_values(split))
        if self.train.shape[1:] != self.test.shape[1:]:
            raise ValueError(
                f"{self.name}: train and test samples differ in shape, {self.shape} and {tuple(self.test.shape[1:])}"
            )
        self._check_not_constant()
        if not fitted:
            object.__setattr__(self, "transform", Standardise.fit(self.train))
        self._check_labels()
        self._check_conditions()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train.shape[1:])

    @property
    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of a sample's conditions beside its label, by name, with those that `low_resolution` makes."""
        own = {name: tuple(values.shape[1:]) for name, values in (self.train_conditions or {}).items()}
        return own if self.low_resolution is None else self.low_resolution.shapes(own, self.shape)

    def conditions(self, split: str) -> dict[str, Tensor]:
        """The conditions of the samples of a split beside labels, `(N, ...)` each, by name.

        Those that `low_resolution` makes are without noise, at level 0.

        Args:
            split: train, or else the test data.
        """
        values, own = (self.train, self.train_conditions) if split == "train" else (self.test, self.test_conditions)
        low = self.low_resolution
        return dict(own or {}) if low is None else low.clean(own or {}, values[:], self.transform)

    def fingerprint(self) -> str:
        """Sixteen characters that are the same exactly when the values, the labels, the conditions and the split are.

        The transform does not enter: a model has its own. What makes conditions of the samples does. Samples that are
        read when they are asked for are read once for it, and the result is kept beside them.
        """
        parts = {name: getattr(self, name) for name in ("train", "test", "train_labels", "test_labels")}
        if (low := self.low_resolution) is not None:
            parts["low_resolution"] = torch.tensor([low.factor, low.augmentation], dtype=torch.float64)
        for split in ("train", "test"):
            for name, values in (getattr(self, f"{split}_conditions") or {}).items():
                parts[f"{split}.{name}"] = values
        parts = {name: value for name, value in parts.items() if value is not None}
        lazy = {name: value.identity for name, value in parts.items() if is_lazy(value)}
        if not lazy or None in lazy.values():
            return digest(parts)[:16]
        rest = digest({name: value for name, value in parts.items() if name not in lazy})
        cache = Cache(next(value for value in parts.values() if is_lazy(value)), lazy, rest)
        known = cache.value("fingerprint")
        if not isinstance(known, str):
            known = digest(parts)[:16]
            cache.keep_value("fingerprint", known)
        return known

    def whole(self) -> tuple[Tensor, Tensor | None]:
        """All samples `(N + M, *shape)` and their labels `(N + M,)`, in the order of their source where it is known."""
        values, labels = torch.cat((self.train[:], self.test[:])), None
        if self.train_labels is not None and self.test_labels is not None:
            labels = torch.cat((self.train_labels, self.test_labels))
        if self.rows is None:
            return values, labels
        order = self.rows.argsort()
        return values[order], None if labels is None else labels[order]

    def whole_conditions(self) -> dict[str, Tensor] | None:
        """Conditions of all samples `(N + M, ...)` by name, in the order of `whole`; None where there are none."""
        if self.train_conditions is None or self.test_conditions is None:
            return None
        both = {name: torch.cat((v, self.test_conditions[name])) for name, v in self.train_conditions.items()}
        return both if self.rows is None else of_rows(both, self.rows.argsort())

    def of_class(self, index: int) -> "Data":
        """The samples of one class; labels and names stay what they are.

        Raises:
            ValueError: Data without labels, or without samples of this class in either part.
        """
        if self.train_labels is None or self.test_labels is None or self.class_names is None:
            raise ValueError(f"{self.name} has no labels")
        of_train, of_test = self.train_labels == index, self.test_labels == index
        if not (of_train.any() and of_test.any()):
            raise ValueError(
                f"{self.name} has {int(of_train.sum())} training and {int(of_test.sum())} test samples of class "
                f"{self.class_names[index]}: expected some of both"
            )
        return replace(
            self,
            train=taken(self.train, of_train),
            test=taken(self.test, of_test),
            train_labels=self.train_labels[of_train],
            test_labels=self.test_labels[of_test],
            rows=None,
            mixture=None,
            train_conditions=of_rows(self.train_conditions, of_train),
            test_conditions=of_rows(self.test_conditions, of_test),
        )

    def __repr__(self) -> str:
        classes = "no labels" if self.num_classes is None else f"{self.num_classes} classes"
        given = ", ".join(f"{name} {tuple(v.shape[1:])}" for name, v in (self.train_conditions or {}).items())
        return (
            f"Data({self.name}: {len(self.train)} train, {len(self.test)} test, shape {self.shape}, "
            f"{classes}, {f'{given}, ' if given else ''}{self.transform})"
        )

    def with_classes(self, names: Sequence[str]) -> "Data":
        """The same data with classes counted in the order of `names`, such as those that a model was trained with.

        A class of the data is found by its name, or by its index if it is called by one (see `class_index`).

        Raises:
            ValueError: Data without labels, or with a class that `names` lacks.
        """
        if self.train_labels is None or self.test_labels is None or self.class_names is None:
            raise ValueError(f"{self.name} has no labels, expected the classes {listed(names)}")
        found, missing = [], []
        for name in self.class_names:
            try:
                found.append(class_index(name, names))
            except ValueError:
                missing.append(name)
        if missing:
            raise ValueError(f"{self.name} has the classes {listed(missing)}, expected those of {listed(names)}")
        places = torch.tensor(found)
        return replace(
            self,
            train_labels=places[self.train_labels],
            test_labels=places[self.test_labels],
            num_classes=len(names),
            class_names=tuple(names),
        )

    def _check_not_constant(self) -> None:
        first = self.train[:1].flatten()[0]
        for part in blocks(self.train, len(self.train) if isinstance(self.train, Tensor) else 256):
            if not bool(part.min() == part.max() == first):
                return
        raise ValueError(f"{self.name}: constant data, every training value is {first.item()}")

    def _checked_values(self, split: str) -> Values:
        values: Values = getattr(self, split)
        where = f"{self.name}: {split} data"
        if values.ndim < 2:
            hint = "; x[:, None] makes a sample of each number" if values.ndim == 1 else ""
            raise ValueError(f"{where} must be (N, *shape), got shape {tuple(values.shape)}{hint}")
        if values.numel() == 0:
            raise ValueError(f"{where} is empty, shape {tuple(values.shape)}")
        if values.is_complex() or values.dtype == torch.bool:
            raise ValueError(f"{where} has dtype {values.dtype}, expected integers or floating point")
        levels = self.transform.levels
        if levels is None and not values.is_floating_point():
            raise ValueError(
                f"{where} has dtype {values.dtype} under a continuous transform: a density over integers is "
                "unbounded; use Discrete(levels), or convert to floating point if the values are measurements"
            )
        if isinstance(values, Rows):
            return CheckedRows(values, self.transform, where)
        assert isinstance(values, Tensor)
        try:
            self.transform.check(values)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if levels is None:
            return values
        return values.to(torch.uint8 if levels <= 256 else torch.int32)

    def _check_labels(self) -> None:
        if (self.train_labels is None) != (self.test_labels is None):
            raise ValueError(f"{self.name}: give labels for both train and test data, or for neither")
        if self.train_labels is None or self.test_labels is None:
            for name in ("num_classes", "class_names"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{self.name}: {name}={getattr(self, name)} needs labels")
            return
        classes = self.num_classes
        if classes is None and self.class_names is not None:
            classes = len(self.class_names)
        for split, labels in (("train", self.train_labels), ("test", self.test_labels)):
            count = len(getattr(self, split))
            where = f"{self.name}: {split} labels"
            if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
                raise ValueError(f"{where} have dtype {labels.dtype}, expected integers")
            if labels.shape != (count,):
                raise ValueError(f"{where} must have shape ({count},), got {tuple(labels.shape)}")
            if classes is None:
                classes = int(labels.max()) + 1
            least, most = int(labels.min()), int(labels.max())
            if least < 0 or most >= classes:
                wrong = least if least < 0 else most
                raise ValueError(f"{where} must lie in 0..{classes - 1}, got {wrong}")
            object.__setattr__(self, f"{split}_labels", labels.to(torch.int64))
        assert classes is not None
        object.__setattr__(self, "num_classes", classes)
        names = tuple(map(str, range(classes) if self.class_names is None else self.class_names))
        if len(names) != classes or len(set(names)) < classes:
            raise ValueError(f"{self.name}: class_names must be {classes} different names, got {listed(names)}")
        object.__setattr__(self, "class_names", names)

    def _check_conditions(self) -> None:
        given = (self.train_conditions, self.test_conditions)
        if (given[0] is None) != (given[1] is None):
            raise ValueError(f"{self.name}: give conditions for both train and test data, or for neither")
        shapes = None
        for split, conditions in zip(("train", "test"), given, strict=True):
            where = f"{self.name}: the {split} data"
            made = checked_conditions(conditions, len(getattr(self, split)), where, shapes)
            shapes = {name: tuple(values.shape[1:]) for name, values in made.items()}
            object.__setattr__(self, f"{split}_conditions", made or None)


def check_seed(seed: int, name: str = "seed") -> None:
    """Refuse a seed with which two loads of the data could differ.

    Raises:
        ValueError: None, a negative number, or anything else that is no integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(
            f"{name} must be an integer of at least 0, so that every load draws the same samples, got {seed!r}"
        )


def split_indices(
    n: int, test_size: int | float, seed: int, stratify: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """Indices of the training and test samples, drawn as scikit-learn's `train_test_split` draws them.

    Args:
        n: Number of samples.
        test_size: A count (int) or a fraction below 1 (float), rounded up as scikit-learn does.
        seed: Its `random_state`, an integer.
        stratify: `(n,)` labels whose proportions both parts keep.

    Raises:
        ValueError: A test size that is no number or leaves either part empty, or a seed that is no integer.
    """
    check_seed(seed)
    if seed >= 2**32:
        raise ValueError(f"seed must be below 2**32, got {seed}")
    if isinstance(test_size, bool) or not isinstance(test_size, Real) or not np.isfinite(test_size):
        raise ValueError(f"test_size is {test_size!r}, expected a count (an integer) or a fraction between 0 and 1")
    count = int(test_size) if isinstance(test_size, Integral) else int(np.ceil(test_size * n))
    if not 0 < count < n:
        raise ValueError(
            f"test_size={test_size} leaves {n - count} training and {count} test samples of {n}; "
            "give a fraction between 0 and 1, or a count below the number of samples"
        )
    if stratify is None:
        # The same as `train_test_split`, without the two seconds that it takes to import.
        order = np.random.RandomState(seed).permutation(n)
        return torch.from_numpy(order[count:]), torch.from_numpy(order[:count])
    need("a split that keeps the shares of classes", "sklearn")
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(n), test_size=count, random_state=seed, stratify=stratify)
    return torch.from_numpy(train), torch.from_numpy(test)
