import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoresde.data.affine import Affine
from scoresde.interop import load_edm, load_edm2, read_checkpoint
from scoresde.interop.edm2_names import converted, network_options
from scoresde.networks import EDM2UNet
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import NetworkScore
from scoresde.sde import EDMSDE
from scoresde.storage.bounded import CheckpointError
from tests.interop.containers import EasyDict, Persistent, module, nested, write_pickle
from tests.interop.test_edm2_names import ARGUMENTS, original_state

X, SIGMA, LABELS = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 30.0]), torch.tensor([1, 4])


def content(encoder: Any = None, made_with: dict[str, Any] = ARGUMENTS, **changes: Any) -> EasyDict:
    """What a file of EDM2 holds."""
    state = original_state() | changes
    ema = module("Precond", parts=nested(state), made_with=made_with, sigma_data=0.7)
    encoder = module("StandardRGBEncoder") if encoder is None else encoder
    return EasyDict(encoder=encoder, dataset_kwargs=EasyDict(path="a/imagenet.zip"), loss_fn=None, ema=ema)


def expected() -> NetworkScore:
    network = EDM2UNet(**network_options(ARGUMENTS))
    network.load_state_dict(converted(original_state(), ARGUMENTS))
    return NetworkScore(network, EDMSDE(), EDMPreconditioning(0.7)).eval()


def test_a_file_is_the_model_that_it_records(tmp_path: Path) -> None:
    model = load_edm2(write_pickle(tmp_path / "f.pkl", content()))
    with torch.no_grad():
        assert torch.equal(model.score(X, SIGMA, labels=LABELS), expected().score(X, SIGMA, labels=LABELS))
    assert (model.shape, model.classes) == ((3, 8, 8), 5)
    assert model.info is not None
    assert model.info.name == "imagenet"
    # Pixels are v/127.5 - 1, in the middle of their cells.
    pixels = torch.arange(256).reshape(1, 1, 16, 16)
    assert torch.allclose(model.info.transform.encode(pixels), pixels / 127.5 - 1, atol=1e-6)
    assert torch.equal(model.decode(pixels / 127.5 - 1), pixels.to(torch.uint8))


def test_a_model_of_latents_is_reported(tmp_path: Path) -> None:
    scale, bias = np.array([0.1, 0.2, 0.4], np.float32), np.array([0.5, -1, 0], np.float32)
    encoder = module("StabilityVAEEncoder", scale=scale, bias=bias, vae_name="a/vae", _vae=None)
    path = write_pickle(tmp_path / "f.pkl", content(encoder))
    with pytest.warns(UserWarning, match=r"a model of latents \(3, 8, 8\) of an autoencoder \(a/vae\)"):
        model = load_edm2(path)
    assert isinstance(model.transform, Affine)
    raw = torch.randn(2, 3, 8, 8)
    wanted = raw * torch.tensor(scale)[:, None, None] + torch.tensor(bias)[:, None, None]
    assert torch.allclose(model.to_model_space(raw), wanted, atol=1e-5)
    assert read_checkpoint(path).notes


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"encoder": module("Odd")}, "data of an encoder 'Odd', expected StandardRGBEncoder"),
        ({"made_with": {**ARGUMENTS, "num_heads": 2}}, "argument num_heads, expected those of EDM2"),
        (
            {"made_with": {**ARGUMENTS, "model_channels": 16}},
            r"has shape \(8,\), expected \(16,\) by its configuration",
        ),
        ({"unet.out_conv.weight": torch.zeros(3, 9, 3, 3)},
         r"^unet.out_conv.weight of .* has shape \(3, 9, 3, 3\), expected \(3, 8, 3, 3\) by its configuration"),
        ({"unet.enc.8x8_odd.weight": torch.zeros(2)}, "unet.enc.8x8_odd.weight of shape"),
    ],
)  # fmt: skip
def test_another_network_is_named(tmp_path: Path, changed: dict[str, Any], problem: str) -> None:
    path = write_pickle(tmp_path / "f.pkl", content(**changed))
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_edm2(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    lacking = content()
    del lacking["ema"].meta["state"]["_modules"]["logvar_linear"]
    with pytest.raises(CheckpointError, match=r"has no tensor for log_variance.linear.weight, .*shape \(1, 16\)"):
        load_edm2(write_pickle(tmp_path / "f.pkl", lacking))


@pytest.mark.parametrize(
    ("meta", "problem"),
    [
        ({"type": "func"}, "a module of another kind than a class"),
        ({"version": 5}, "a module of version 5, where 6 is known"),
        ({"state": []}, "a module without attributes"),
    ],
)
def test_records_of_another_kind_are_refused(tmp_path: Path, meta: dict[str, Any], problem: str) -> None:
    record = Persistent("Precond", {})
    record.meta |= meta
    path = write_pickle(tmp_path / "f.pkl", {"ema": record})
    with pytest.raises(CheckpointError, match=f"is a pickle with {problem}: only tensors and plain values"):
        load_edm2(path)


class Loud:
    """An object whose pickle asks for a call, a harmless one: a file that is made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    """Neither the source text, which ends the process, nor a call that is hidden in a module."""
    load_edm2(write_pickle(tmp_path / "f.pkl", content()))
    marker = tmp_path / "marker"
    whole = content()
    whole["ema"].meta["state"]["hook"] = Loud(marker)
    with pytest.raises(CheckpointError, match=r"is a pickle with (io|_io)\.open: only tensors and plain values"):
        load_edm2(write_pickle(tmp_path / "g.pkl", whole))
    assert not marker.exists()


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "f.pkl", content())
    with pytest.raises(CheckpointError, match="is a checkpoint of EDM2: load it by load_edm2"):
        load_edm(path)
    other = write_pickle(tmp_path / "g.pkl", {"ema": module("EDMPrecond")})
    with pytest.raises(CheckpointError, match="of class EDMPrecond, .* of class Precond: load it by load_edm"):
        load_edm2(other)
    (tmp_path / "h.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="is no checkpoint that is known: it holds a;"):
        read_checkpoint(tmp_path / "h.pkl")
    with pytest.raises(CheckpointError, match="holds its own configuration: leave config out"):
        read_checkpoint(path, "64x64_diffusion")
    with pytest.raises(FileNotFoundError):
        load_edm2(tmp_path / "none.pkl")
