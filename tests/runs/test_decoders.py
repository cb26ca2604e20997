"""Samples of a run on latents, which are decoded as they are drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde.cli import main

CODERS = """import torch

BASIS = torch.linalg.qr(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))[0]
KNOWN = 3

def encode(x):
    return x.flatten(1) @ BASIS

class Decoder(torch.nn.Module):
    def forward(self, z):
        return (z @ BASIS.T).reshape(-1, 1, 8, 8)

def wrong(z):
    return z.reshape(-1, 1, 8, 8)

def fewer(z):
    return z[:1]
"""


def test_samples_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "coders_of_samples.py").write_text(CODERS)
    own = "allow=[coders_of_samples]"
    main(["encode", "data=digits", "folder=z", "progress=false", "encoder=coders_of_samples.encode", own])
    small = ["training.steps=3", "training.batch_size=8", "evaluation.samples=0", "evaluation.likelihood=0"]
    main(["train", "data=npy", "data.path=z", "name=r", "progress=false", *small])
    command = ["sample", "run=runs/r", "n=12", "sampler=euler", "sampler.grid.steps=2", "progress=false"]
    wrong = {
        "coders_of_samples.wrong": "fails on latents of shape (2, 16)",
        "coders_of_samples.fewer": "expected floating point (2, ...)",
        "coders_of_samples.KNOWN": "KNOWN",
    }
    for name, message in wrong.items():
        with pytest.raises(SystemExit):
            main([*command, f"decoder={name}", own])
        assert message in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main([*command, "decoder=coders_of_samples.Decoder"])
    assert own in capsys.readouterr().err
    assert not list((tmp_path / "runs" / "r" / "samples").glob("*euler*"))
    decoder = "decoder=coders_of_samples.Decoder"
    main([*command, decoder, own, "name=d"])
    main([*command, decoder, own, "name=e", "batch_size=4", "shard=8"])
    main([*command, "name=plain"])
    basis = torch.linalg.qr(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))[0]
    with np.load("runs/r/samples/d.npz") as file, np.load("runs/r/samples/plain.npz") as plain:
        x, images = file["x"], file["decoded"]
        assert np.array_equal(x, plain["x"])
        assert "decoded" not in plain.files
    np.testing.assert_allclose(images, (x @ basis.T.numpy()).reshape(-1, 1, 8, 8), atol=1e-5)
    parts = [np.load(path)["decoded"] for path in sorted(Path("runs/r/samples/e").glob("0*.npz"))]
    assert [len(part) for part in parts] == [8, 4]
    np.testing.assert_allclose(np.concatenate(parts), images, atol=1e-5)
    assert Path("runs/r/samples/d-decoded.png").is_file()
