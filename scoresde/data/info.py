"""Facts about a run's data that it stores, so that it can be used without them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from scoresde.data.affine import transform_from_plain
from scoresde.data.base import Data
from scoresde.data.cascades import condition_scales
from scoresde.data.conditions import CONDITIONS, ConditionInfo, condition_infos
from scoresde.data.low_resolution import LowResolution
from scoresde.data.text_info import TextInfo
from scoresde.data.transforms import Transform

__all__ = ["DataInfo"]


@dataclass(frozen=True)
class DataInfo:
    """Facts about a data set that sampling and decoding need; plain values in a file.

    Args:
        name: Name of the data set.
        shape: Shape of one sample.
        transform: The map between raw values and model space, as it was when a model was trained.
        num_classes: Number of classes, or None for data without labels.
        class_names: Name of each class, or None where they have none.
        fingerprint: Digest of the values, the labels, the conditions and the split.
        conditions: Shapes and scales of the conditions beside labels, by name.
        low_resolution: What makes conditions of the samples themselves, for a super-resolution model.
        text: The encoder that made `tokens` of sentences, where that is known.
    """

    name: str
    shape: tuple[int, ...]
    transform: Transform
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    fingerprint: str | None = None
    conditions: Mapping[str, ConditionInfo] = field(default_factory=dict)
    low_resolution: LowResolution | None = None
    text: TextInfo | None = None

    @classmethod
    def of(cls, data: Data) -> "DataInfo":
        """The facts about `data`."""
        conditions, low = condition_infos(data.train_conditions or {}), data.low_resolution
        if low is not None:
            shapes, scales = data.condition_shapes, condition_scales(data, low)
            conditions |= {name: ConditionInfo(shapes[name], *scales[name]) for name in shapes if name in scales}
        return cls(
            data.name,
            data.shape,
            data.transform,
            data.num_classes,
            data.class_names,
            data.fingerprint(),
            conditions,
            low,
            data.text,
        )

    def to_plain(self) -> dict[str, Any]:
        """The facts as values that JSON has."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "transform": self.transform.to_plain(),
            "num_classes": self.num_classes,
            "class_names": None if self.class_names is None else list(self.class_names),
            "fingerprint": self.fingerprint,
            **({"conditions": {name: c.to_plain() for name, c in self.conditions.items()}} if self.conditions else {}),
            **({} if self.low_resolution is None else {"low_resolution": asdict(self.low_resolution)}),
            **({} if self.text is None else {"text": self.text.to_plain()}),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "DataInfo":
        """The inverse of `to_plain`.

        Raises:
            ValueError: A key that is missing, or a value of another kind.
        """
        shape, classes, names = plain.get("shape"), plain.get("num_classes"), plain.get("class_names")
        conditions, low, text = plain.get("conditions", {}), plain.get("low_resolution"), plain.get("text")
        right = {
            "name": isinstance(plain.get("name"), str),
            "shape": isinstance(shape, list) and bool(shape) and all(type(n) is int and n > 0 for n in shape),
            "transform": isinstance(plain.get("transform"), dict),
            "num_classes": classes is None or (type(classes) is int and classes > 0),
            "class_names": names is None or (isinstance(names, list) and all(isinstance(n, str) for n in names)),
            "fingerprint": plain.get("fingerprint") is None or isinstance(plain["fingerprint"], str),
            "conditions": isinstance(conditions, dict)
            and all(name in CONDITIONS and isinstance(c, dict) for name, c in conditions.items()),
            "low_resolution": low is None or (isinstance(low, dict) and low.keys() == {"factor", "augmentation"}),
            "text": text is None or isinstance(text, dict),
        }
        for key, good in right.items():
            if not good:
                raise ValueError(f"{key} is {plain.get(key)!r}, which describes no data")
        return cls(
            plain["name"],
            tuple(plain["shape"]),
            transform_from_plain(plain["transform"]),
            classes,
            None if names is None else tuple(names),
            plain.get("fingerprint"),
            {name: ConditionInfo.from_plain(c) for name, c in conditions.items()},
            None if low is None else LowResolution(**low),
            None if text is None else TextInfo.from_plain(text),
        )
