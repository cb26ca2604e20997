import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import scoresde
from scoresde.networks import MLP, FourierFeatures, GaussianFourierFeatures, PositionalFeatures, UNet
from scoresde.options.errors import ConfigError
from scoresde.runs.directory import Run
from scoresde.runs.outline import differences, filled, outline
from scoresde.statistics import Statistics

NETWORKS: dict[str, Any] = {
    "mlp": lambda: MLP((2,), 8, 1, FourierFeatures(4)),
    "gaussian": lambda: MLP((2,), 8, 1, GaussianFourierFeatures(4), num_classes=3, label_dropout=0.1),
    "unet": lambda: UNet((1, 4, 4), 4, (1, 2), 1, attention=(-1,), embedding=PositionalFeatures(4)),
}


class Own(nn.Module):
    """A network that keeps a tensor besides its state, and one that looks at values while it is made."""

    def __init__(self, look: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.scale = torch.ones(2) * (float(torch.ones(1)) if look else 2.0)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_outline_takes_no_memory_and_no_random_numbers(name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    network = outline(NETWORKS[name])
    assert network is not None
    assert all(p.is_meta for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_outline_that_is_filled_is_the_network(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    state = network.state_dict()
    again = filled(outline(NETWORKS[name]), NETWORKS[name], state).eval()
    x, t = torch.randn(3, *network.shape), torch.randn(3)
    cond = {"labels": torch.tensor([0, 1, 2])} if name == "gaussian" else {}
    assert torch.equal(again(x, t, **cond), network(x, t, **cond))
    first, second = next(again.parameters()), next(network.parameters())
    assert first.data_ptr() != second.data_ptr()
    assert first.requires_grad
    half = {key: value.half() for key, value in state.items()}
    assert next(filled(outline(NETWORKS[name]), NETWORKS[name], half).parameters()).dtype == torch.float32


@pytest.mark.parametrize("look", [False, True])
def test_a_network_of_a_user_is_made_for_real(look: bool) -> None:
    state = Own(look).state_dict()
    found = outline(lambda: Own(look))
    assert (found is None) == look
    made = filled(found, lambda: Own(look), state)
    assert made.scale.tolist() == [1.0, 1.0] if look else [2.0, 2.0]
    assert torch.equal(made.layer.weight, state["layer.weight"])


def test_a_network_is_given_up_as_soon_as_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.perf_counter()
    with pytest.raises(ValueError, match="more parameters than the 100 elements of a file"):
        outline(NETWORKS["mlp"], 100, "a file")
    with pytest.raises(ValueError, match=r"at least 2,503,250,000 parameters would take 46.6 GiB.*=47$"):
        outline(lambda: MLP((2,), width=50_000, blocks=50_000))
    with pytest.raises(ValueError, match="more than 20,000 tensors of parameters, the limit"):
        outline(lambda: nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(10**9)))
    assert time.perf_counter() - began < 20
    monkeypatch.setenv("SCORESDE_MEMORY", "1000")
    assert outline(lambda: MLP((2,), width=50_000, blocks=1)) is not None


def test_differences_are_named() -> None:
    network = nn.Linear(2, 3)
    assert differences(network, {"weight": (3, 2), "bias": (3,)}) == []
    assert differences(network, {"weight": (3, 4), "other": (1,)}) == [
        "bias is missing",
        "other is not of this network",
        "weight has shape (3, 4) in the file, (3, 2) by the configuration",
    ]


# -- in a run -------------------------------------------------------------------------------------------


def config(**network: Any) -> dict[str, Any]:
    return {
        "sde": {"_target_": "scoresde.sde.VPSDE"},
        "preconditioning": {"_target_": "scoresde.preconditioning.EDMPreconditioning"},
        "network": {"_target_": "scoresde.networks.MLP", "width": 8, "blocks": 1, **network},
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Run(tmp_path_factory.mktemp("run"), OmegaConf.create(config()))
    run.write_config()
    run.save_model(run.new_model((2,), Statistics(torch.zeros(2), 1.0)), 1)
    return run.directory


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"width": 10_000}, "the network has more parameters than the .* elements of .*model.safetensors"),
        ({"blocks": 90_000}, "the network has more parameters than the .* elements of .*model.safetensors"),
        ({"num_classes": 90_000}, "the network has more parameters than the .* elements of .*model.safetensors"),
        ({"width": 10**12}, "network: width is 1000000000000, the limit is 100000"),
        (
            {"embedding": {"_target_": "scoresde.networks.FourierFeatures", "dim": 10**9}},
            "dim is 1000000000, the limit",
        ),
        ({"width": 7}, r"network.* has shape \(8.* in the file, \(7.* by the configuration"),
    ],
)
def test_sizes_that_are_not_those_of_the_weights(saved: Path, tmp_path: Path, network: Any, message: str) -> None:
    directory = shutil.copytree(saved, tmp_path / "run")
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(config(**network)))
    began = time.perf_counter()
    with pytest.raises(ValueError, match=message) as error:
        scoresde.load(directory, accept=["network"])
    assert time.perf_counter() - began < 5
    assert "\n" not in str(error.value)


def test_a_new_model_is_within_the_memory_allowed(tmp_path: Path) -> None:
    run = Run(tmp_path, OmegaConf.create(config(width=90_000)))
    with pytest.raises(ConfigError, match="^network: training a network of at least .* parameters would take .* GiB"):
        run.new_model((2,), Statistics(torch.zeros(2), 1.0))


def test_declared_shapes_of_statistics_are_checked_first(saved: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(saved, tmp_path / "run")
    path = directory / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["statistics.mean"]["shape"] = [2**40]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(ValueError, match="what it says of the tensor 'statistics.mean'"):
        scoresde.load(directory)
