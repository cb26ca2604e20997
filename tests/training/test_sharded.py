"""What a configuration of Accelerate may ask of training; `tests/cli/test_shared_work.py` trains with one."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from scoresde.training import Training
from scoresde.training.sharded import Sharded, _blocks, parts_of_launcher, spread, wants_sharding, whole

TWO: Any = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
ONE: Any = SimpleNamespace(num_processes=1, device=torch.device("cpu"))


def configured(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_weights_are_divided_if_asked_for_and_among_several(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wants_sharding(TWO)
    configured(monkeypatch, ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    assert wants_sharding(TWO)
    assert not wants_sharding(ONE)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version of accelerate is 1, expected 2"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            "fsdp_offload_params of accelerate is true",
        ),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "accelerate is configured for DeepSpeed, which training does not use"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "configured for Megatron-LM"),
    ],
)
def test_other_ways_are_refused(values: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(monkeypatch, **values)
    with pytest.raises(ValueError, match=message) as caught:
        wants_sharding(TWO)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "own", "parts"), [(None, 3, 3), ("1", 3, 3), ("4", 1, 4), ("4", 4, 4)])
def test_parts_of_a_batch(text: str | None, own: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if text is not None:
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", text)
    assert parts_of_launcher(Training(accumulate=own)) == parts


@pytest.mark.parametrize(("text", "message"), [("4", "accumulate is 2 and .* accelerate 4: give one"), ("x", "'x'")])
def test_contradictory_parts(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", text)
    with pytest.raises(ValueError, match=message):
        parts_of_launcher(Training(accumulate=2))


@pytest.mark.parametrize("option", ["compile", "channels_last"])
def test_options_that_do_not_go_with_it(option: str) -> None:
    options: dict[str, Any] = {option: True}
    with pytest.raises(ValueError, match=f"training.{option} does not go with divided weights"):
        Sharded(nn.Linear(2, 2), TWO, Training(**options))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.ModuleList([nn.Bilinear(8, 8, 8)]), nn.Sequential(nn.Linear(8, 2)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "20"}, [nn.Bilinear, nn.Linear]),
        (
            {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "Linear, Bilinear"},
            [nn.Linear, nn.Bilinear, nn.Linear],
        ),
    ],
)
def test_modules_that_are_gathered(
    values: dict[str, str], expected: list[Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(monkeypatch, **values)
    assert [type(module) for module in _blocks(network())] == expected


def test_a_class_that_no_module_has(monkeypatch: pytest.MonkeyPatch) -> None:
    configured(monkeypatch, FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP", FSDP_TRANSFORMER_CLS_TO_WRAP="Block")
    with pytest.raises(ValueError, match="cls_to_wrap of accelerate is Block, and the network has modules Sequential"):
        _blocks(network())


def test_tensors_that_are_not_divided_stay_as_they_are() -> None:
    values = {"a": torch.ones(2), "b": [1, (torch.zeros(1), "c")]}
    assert whole(values)["a"] is values["a"]
    assert whole(values)["b"][1][1] == "c"
    assert spread({"a": values["a"]}, {"a": torch.zeros(2)})["a"] is values["a"]
