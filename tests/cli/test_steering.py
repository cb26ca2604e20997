"""Steering on the command line: samples of a density by groups of particles, and bad input in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import scoresde
from scoresde.cli import main
from scoresde.guidance import GuidedTarget
from scoresde.sampling import SteeredSampler, UniformLogSNR
from tests.cli.test_guidance import made

FEW = ["steer.particles=16", "steer.steps=12", "-q"]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of random weights: one, another, and one that was trained without dropped labels."""
    parent = tmp_path_factory.mktemp("runs")
    for seed, (name, dropout) in enumerate({"one": 0.1, "other": 0.1, "kept": 0.0}.items()):
        made(parent / name, seed, label_dropout=dropout)
    return parent


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def drawn(*arguments: str, name: str, few: bool = True) -> dict[str, np.ndarray]:
    main(["sample", "run=one", *arguments, f"name={name}", *(FEW if few else ["-q"])])
    with np.load(f"one/samples/{name}.npz") as file:
        return dict(file)


def test_samples_are_those_of_the_target_and_say_how_far_they_can_be_trusted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["sample", "run=one", "n=4", "steer=guided", "steer.scale=3", "label=1", *FEW]
    main(command)
    said = capsys.readouterr().out
    assert "4 samples, 26 evaluations of each of 64 particles" in said
    assert "of 16 particles in the worst of 4 groups" in said
    assert "; log Z = " in said
    path = Path("one/samples/guided-scale3-label1-particles16-steps12-n4-seed0.npz")
    with np.load(path) as file:
        found = dict(file)
    note = json.loads(str(found["note"]))
    assert note["steer"].startswith("SteerGuided(scale=3, particles=16, draws=1, steps=12")
    out = SteeredSampler(UniformLogSNR(12), GuidedTarget(3.0), 16)(scoresde.load("one"), 4, shape=(2,), labels=1)
    torch.testing.assert_close(torch.from_numpy(found["x"]), out.resample(0, 1))
    torch.testing.assert_close(torch.from_numpy(found["ess"]), out.ess, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(found["log_normalisers"]), out.log_normalisers, rtol=1e-4, atol=1e-4)
    assert note["ess"] == pytest.approx(16 * float(out.ess.min()), rel=1e-4)
    assert note["log_z_stderr"] == pytest.approx(out.log_normaliser_stderr, rel=1e-3)
    # The same again is read, and another scale of that name is refused.
    main(command)
    again = capsys.readouterr().out
    assert "there already" in again
    assert again.splitlines()[1] == said.splitlines()[1]
    with pytest.raises(SystemExit):
        main([*command, "steer.scale=2", f"name={path.stem}"])
    assert "is there already, with steer" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["sample", "run=one", "n=4", "label=1", f"name={path.stem}", "-q"])
    assert "is there already, with sampler" in capsys.readouterr().err


def test_a_sample_is_a_function_of_seed_and_index() -> None:
    many = drawn("steer=guided", "n=9", "steer.draws=2", name="many")
    assert many["labels"].tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert many["group"].tolist() == [0, 1, 0, 1, 2, 3, 2, 3, 4]  # two samples of each, which are of one class
    for name, arguments in {"alone": ["n=9", "batch_size=1"], "fewer": ["n=5"]}.items():
        other = drawn("steer=guided", "steer.draws=2", *arguments, name=name)
        np.testing.assert_allclose(other["x"], many["x"][: len(other["x"])], rtol=1e-4, atol=1e-4)
        assert other["group"].tolist() == many["group"][: len(other["x"])].tolist()
    assert "log_z" not in json.loads(str(many["note"]))  # of several targets
    seeded = drawn("steer=guided", "n=9", "steer.draws=2", "seed=1", name="seeded")
    assert not np.allclose(seeded["x"], many["x"], atol=1e-2)


def test_powers_and_other_unconditional_models() -> None:
    x = {p: drawn("steer=tempered", f"steer.power={p}", "n=24", "label=0", name=f"power{p}")["x"] for p in (0.5, 4)}
    assert x[4].std(0).mean() < 0.8 * x[0.5].std(0).mean()
    own = drawn("steer=guided", "n=4", name="own")
    other = drawn("steer=guided", "n=4", "steer.unconditional=other", name="other")
    assert not np.allclose(own["x"], other["x"], atol=1e-3)
    assert "unconditional='" in json.loads(str(other["note"]))["steer"]
    # At scale 1 nothing is left of it: all weights are the same.
    assert drawn("steer=guided", "steer.scale=1", "n=2", name="plain")["ess"] == pytest.approx(1, abs=1e-3)


def test_low_effective_sample_sizes_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    drawn("steer=guided", "steer.scale=300", "n=2", "label=0", name="far")
    said = capsys.readouterr().out
    assert "this is low, so that a few particles stand for a group" in said
    assert "steer.steps=24, then steer.particles=64" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run=one steer=guided guidance=cfg", "guidance and steer are two ways to one end: leave out guidance"),
        ("run=one steer=guided sampler=heun", "sampler is not for use with steer, as steering has a sampler of"),
        ("run=one steer=guided start=a.npz", "start is not for use with steer, as particles begin from noise"),
        ("run=one steer=guided super=other", "super is not for use with steer, as the models of a cascade are sampled"),
        ("run=one steer=guided negative=a", "negative is not for use with steer, as the target is made of"),
        ("run=one steer=guided strength=0.5", "strength=0.5 is without effect: give start=FILE.npz"),
        ("run=one steer=guided steer.scale=big", "steer.scale is 'big', expected a number"),
        ("run=one steer=guided steer.scale=nan", "steer.scale is nan, expected a number"),
        ("run=one steer=tempered steer.power=0", "steer.power is 0, expected a positive number"),
        ("run=one steer=guided steer.particles=0", "steer.particles is 0, expected an integer of at least 1"),
        (
            "run=one steer=guided steer.particles=4 steer.draws=5",
            "draws is 5, expected at most the number of particles",
        ),
        ("run=one steer=guided steer.resample_at=2", "steer.resample_at is 2, expected a number from 0 to 1"),
        ("run=one steer=guided label=7", "label is 7, expected 0 to 1"),
        ("run=one steer=guided steer.unconditional=gone", "scoresde: steer.unconditional=gone does not exist"),
        ("run=kept steer=guided", "for which this model was not trained: train with network.label_dropout=0.1"),
        ("run=one steer=gided", "steer has no choice 'gided', did you mean 'guided'?"),
        ("run=one steer.scale=3", "NoSteering has no 'scale'; it takes no arguments; steer=guided has scale"),
        ("run=one steer=guided steer.particles=90000 n=90000", "of 90000 groups of 90000 particles would take"),
    ],
)
def test_bad_input_is_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sample", "n=4", *arguments.split(), "-q"])
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
