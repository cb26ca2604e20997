"""Samples by text from the command: sentences in turn, negative ones, and what is missing, each in one line."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import scoresde
from scoresde.cli import main
from scoresde.cli.command_line import CommandLine
from scoresde.data import DataInfo, TextEncoder
from scoresde.data.text_info import TextInfo
from scoresde.guidance import ClassifierFree, Given
from scoresde.runs import texts
from scoresde.runs.directory import Run
from scoresde.training.moments import data_statistics

CONFIG = """
data: {_target_: scoresde.data.npz, path: data.npz, condition_keys: {tokens: words, mask: known}}
sde: {_target_: scoresde.sde.VPSDE}
network:
  {_target_: scoresde.networks.UNet, channels: 4, blocks: 1, attention: [-1], token_size: 3, condition_dropout: 0.1}
preconditioning: {_target_: scoresde.preconditioning.EDMPreconditioning}
objective: {_target_: scoresde.objectives.DenoisingScoreMatching}
optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: 0.001}
training: {_target_: scoresde.training.Training, steps: 5, seed: 0}
sampler:
  _target_: scoresde.sampling.Sampler
  solver: {_target_: scoresde.sampling.DPMSolverPP, order: 2}
  grid: {_target_: scoresde.sampling.UniformLogSNR, steps: 3}
evaluation: {samples: 10}
"""


class Letters:
    """An encoder that needs no package: a token for each letter."""

    @classmethod
    def of(cls, info: TextInfo) -> "Letters":
        assert info.encoder == "letters"
        return cls()

    def __call__(self, sentences: Sequence[str]) -> dict[str, Tensor]:
        if any(not sentence.strip() for sentence in sentences):
            raise ValueError("'' has 0 tokens, expected 1 to 16: change it or length")
        codes = torch.tensor([[ord(c) for c in sentence[:5].ljust(5)] for sentence in sentences])
        return {"tokens": torch.stack((codes / 50.0, codes % 7.0, codes % 3.0), -1), "mask": codes != 32}


def made(directory: Path, encoder: str | None) -> None:
    """A run of random weights whose tokens are those of an encoder."""
    run = Run(directory, OmegaConf.create(CONFIG))
    data = run.data()
    torch.manual_seed(0)
    model = run.new_model(data.shape, data_statistics(data, dequantise=True))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    run.write_config()
    text = None if encoder is None else TextInfo(encoder, 5)
    run.write_info(replace(DataInfo.of(data), text=text))
    run.save_model(model, step=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.standard_normal((30, 1, 4, 4)),
        "words": rng.standard_normal((30, 5, 3)),
        "known": np.ones((30, 5)),
    }
    np.savez(parent / "data.npz", **{name: values.astype(np.float32) for name, values in arrays.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(parent)
        for name, encoder in (("run", "letters"), ("unknown", None), ("wordy", "another")):
            made(parent / name, encoder)
    return parent


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(texts, "TextEncoder", Letters)


def test_samples_are_of_the_sentences_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", "run=run", "n=5", "text=[seven, eight]", "name=two", "-q"])
    with np.load("run/samples/two.npz") as file:
        x, told, note = torch.from_numpy(file["x"]), file["text"].tolist(), json.loads(str(file["note"]))
    assert told == ["seven", "eight", "seven", "eight", "seven"]
    assert note["text"] == ["seven", "eight"]
    out = Run.open("run").make("sampler")(scoresde.load("run"), 5, seed=0, **Letters()(told))
    torch.testing.assert_close(out.x, x)
    main(["sample", "run=run", "n=5", "text=[seven, eight]", "name=two", "-q"])
    assert "there already" in capsys.readouterr().out
    caption = json.loads(Path("run/pictures.json").read_text())[-1]["caption"]
    assert "5 samples by the text 'seven', 'eight' in turn" in caption


def test_a_negative_sentence_takes_the_place_of_none() -> None:
    main(
        [
            "sample",
            "run=run",
            "n=2",
            "text=a, b",
            "negative=no: c",
            "guidance=cfg",
            "guidance.scale=3",
            "name=away",
            "-q",
        ]
    )
    with np.load("run/samples/away.npz") as file:
        x, told, note = torch.from_numpy(file["x"]), file["text"].tolist(), json.loads(str(file["note"]))
    assert told == ["a, b", "a, b"]
    assert "negative='no: c'" in note["guidance"]
    model, one = scoresde.load("run"), {name: v[0] for name, v in Letters()(["no: c"]).items()}
    guided = ClassifierFree(model, 3.0, Given(model, **one))
    out = Run.open("run").make("sampler")(guided, 2, seed=0, **Letters()(told))
    torch.testing.assert_close(out.x, x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run=unknown text=a", "the run does not say which encoder made its tokens, so that text cannot be encoded"),
        ("run=run text=[]", "text is empty, expected"),
        ("run=run text=a condition=data.npz", "text and condition both say what to draw: give one of them"),
        ("run=run text=a negative=b", "negative=b is without effect: give guidance=cfg or guidance=apg, too"),
        ("run=run text=a negative=b guidance=density", "negative is for guidance=cfg and guidance=apg"),
        ("run=run text=a negative=b guidance=cfg guidance.unconditional=run", "negative and unconditional are both"),
    ],
)
def test_bad_input_is_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sample", *arguments.split(), "n=2", "-q"])
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_an_encoder_is_that_of_the_data() -> None:
    with pytest.raises(ValueError, match="the tokens are of the encoder 'another', and this version has"):
        TextEncoder.of(TextInfo("another", 5))
    with pytest.raises(ValueError, match="describes no encoder of text"):
        TextInfo.from_plain({"encoder": "letters", "length": 0})


def test_sentences_are_quoted_and_lists_stay() -> None:
    line = CommandLine.of("sample", ["text=some even number, below four: yes", "negative=7"])
    assert (line.value("text"), line.value("negative")) == ("some even number, below four: yes", "7")
    assert CommandLine.of("sample", ["text=[a, b c]"]).value("text") == ["a", "b c"]
    assert CommandLine.of("sample", ["text=null"]).value("text") is None
