import pytest
import torch

from scoresde.storage.digests import digest, is_intact


def test_the_order_and_the_layout_do_not_matter() -> None:
    w = torch.arange(24.0).reshape(2, 3, 2, 2)
    one = {"a": w, "b": torch.ones(2)}
    other = {"b": torch.ones(2, requires_grad=True), "a": w.contiguous(memory_format=torch.channels_last)}
    assert digest(one) == digest(other)
    assert len(digest({})) == 64


@pytest.mark.parametrize(
    "other",
    [
        {"v": torch.zeros(2, 3)},
        {"w": torch.zeros(3, 2)},
        {"w": torch.zeros(6)},
        {"w": torch.zeros(2, 3, dtype=torch.int32)},
        {"w": torch.zeros(2, 3, dtype=torch.bfloat16)},
        {"w": -torch.zeros(2, 3)},
        {"w": torch.zeros(2, 3), "b": torch.zeros(0)},
        {},
    ],
)
def test_names_dtypes_shapes_and_bytes_matter(other: dict[str, torch.Tensor]) -> None:
    assert digest(other) != digest({"w": torch.zeros(2, 3)})


def test_intact() -> None:
    tensors = {"w": torch.ones(3)}
    assert is_intact(tensors, None)
    assert is_intact(tensors, {"format": "x"})
    assert is_intact(tensors, {"digest": digest(tensors)})
    assert not is_intact({"w": torch.zeros(3)}, {"digest": digest(tensors)})
    assert not is_intact(tensors, {"dagest": digest({})})
