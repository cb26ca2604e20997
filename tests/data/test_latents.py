"""Data encoded once, to train on the latents; what is drawn from a run on them is decoded."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde.cli import main
from scoresde.data import Data, Discrete, arrays, digits
from scoresde.data.latents import decoded, encode_data
from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import EDMHeun, KarrasGrid, Sampler
from scoresde.score import NetworkScore
from scoresde.sde import EDMSDE
from scoresde.training import fit


class Autoencoder(nn.Module):
    """A linear map to eight numbers and back."""

    def __init__(self) -> None:
        super().__init__()
        self.to_latent, self.to_picture = nn.Linear(64, 8), nn.Linear(8, 64)

    def encode(self, x: Tensor) -> Tensor:
        return self.to_latent(x.flatten(1))

    def decode(self, z: Tensor) -> Tensor:
        return self.to_picture(z).reshape(-1, 1, 8, 8)


def trained(x: Tensor, steps: int = 400) -> Autoencoder:
    torch.manual_seed(0)
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        loss = (model.decode(model.encode(x)) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_a_model_of_latents_draws_what_its_decoder_makes_pictures_of(tmp_path: Path) -> None:
    data = digits()
    x = data.transform.encode(data.train[:])
    coder = trained(x)
    place = encode_data(data, coder.encode, tmp_path / "z", progress=False)
    latents = arrays(str(place))
    assert latents.shape == (8,)
    assert latents.class_names == data.class_names
    assert data.train_labels is not None
    assert latents.train_labels is not None
    assert torch.equal(latents.train_labels, data.train_labels)
    with torch.no_grad():
        assert torch.allclose(latents.train[:], coder.encode(x), atol=1e-6)
    torch.manual_seed(0)
    model = NetworkScore(MLP((8,), width=64, blocks=2), EDMSDE(), EDMPreconditioning())
    fit(model, latents.train[:], 400, batch_size=128, progress=False)
    drawn = Sampler(EDMHeun(), KarrasGrid(12))(model, shape=(300, 8), seed=0).x
    pictures = decoded(drawn, coder.decode, batch_size=64)
    assert pictures.shape == (300, 1, 8, 8)
    # Nearer to the data's mean picture than noise of the same size, and of nearly their spread.
    reconstructed = decoded(latents.train[:], coder.decode)
    assert float((pictures.mean(0) - x.mean(0)).square().mean().sqrt()) < 0.1
    assert float(pictures.std(0).mean()) == pytest.approx(float(reconstructed.std(0).mean()), rel=0.2)


def _data(count: int = 50) -> Data:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (count, 1, 4, 4)).astype(np.uint8))
    return Data("small", x[10:], x[:10], Discrete(256))


def test_an_interrupted_encoding_goes_on(tmp_path: Path) -> None:
    sizes: list[int] = []

    def encoder(x: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(sizes) == 4:
            raise KeyboardInterrupt
        return x.flatten(1)[:, :3]

    settings: dict[str, Any] = {"batch_size": 8, "name": "mine", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        encode_data(_data(), encoder, tmp_path / "z", **settings)
    assert not list((tmp_path / "z").glob("x_*.npy"))
    place = encode_data(_data(), encoder, tmp_path / "z", **settings)
    assert sizes == [8, 8, 8, 8, 8, 8, 8, 2]  # of the fourth again, then the other split
    found = arrays(str(place), standardise="none")
    expected = _data().transform.encode(_data().train[:]).flatten(1)[:, :3]
    assert torch.equal(found.train[:], expected)
    assert len(found.test) == 10
    encode_data(_data(), encoder, place, **settings)
    assert len(sizes) == 8  # done already
    with pytest.raises(ValueError, match="has latents of the encoder mine: give another folder, or remove it"):
        encode_data(_data(), encoder, place, name="other")
    with pytest.raises(ValueError, match="has latents of other data"):
        encode_data(_data(49), encoder, place, name="mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="full has something else than latents"):
        encode_data(_data(), encoder, tmp_path / "full")


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            lambda x: x[:1],
            r"the encoder makes \(1, 1, 4, 4\) of torch.float32 of a batch of 40, expected floating",
        ),
        (lambda x: x.flatten(1).long(), "expected floating point \\(40, ...\\)"),
        (lambda x: None, "the encoder makes None of a batch of 40"),
        (lambda x: x.flatten(1) / 0, "the encoder makes NaN or infinite latents of train samples from 0 on"),
    ],
)
def test_what_is_no_encoder_is_refused(encoder: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        encode_data(_data(), encoder, tmp_path / "z", progress=False)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "coders_of_mine.py").write_text(
        "import torch\n\ndef halved(x):\n    return x.flatten(1)[:, ::2]\n\n"
        "class Half(torch.nn.Module):\n    def forward(self, x):\n        return halved(x)\n"
    )
    command = ["encode", "data=digits", "folder=z", "progress=false"]
    with pytest.raises(SystemExit):
        main([*command, "encoder=coders_of_mine.halved"])
    assert "allow=[coders_of_mine]" in capsys.readouterr().err
    assert not (tmp_path / "z").exists()
    main([*command, "encoder=coders_of_mine.halved", "allow=[coders_of_mine]"])
    assert re.search(r"written to .*z; to train on them: scoresde train data=npy data.path=", capsys.readouterr().out)
    main([*command[:2], "folder=z2", "progress=false", "encoder=coders_of_mine.Half", "allow=[coders_of_mine]"])
    for name in ("x_train.npy", "y_test.npy"):
        assert (tmp_path / "z" / name).read_bytes() == (tmp_path / "z2" / name).read_bytes()
    assert arrays("z").shape == (32,)
