"""Runs of the models of a cascade: what they are trained on, and samples of all of them as one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import scoresde
from scoresde.cli import main
from scoresde.data import Affine, CascadePart, DataInfo, Discrete, LowResolution, digits
from scoresde.networks import UNet
from scoresde.options.errors import ConfigError
from scoresde.runs.cascades import CascadeStage, stacked
from scoresde.runs.directory import Run
from scoresde.sampling import Cascade
from scoresde.score import NetworkScore

SMALL = [
    "network.channels=8", "network.attention=[]", "network.num_classes=10", "training.steps=2", "evaluation.samples=0",
    "training.batch_size=16", "evaluation.likelihood=2", "evaluation.pictures=false", "evaluation.draws=1",
    "sampler=heun", "sampler.grid.steps=2", "progress=false",
]  # fmt: skip
SUPER = ["network.image_channels=auto", "network.vector_size=auto"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs at 4×4 and 8×8 of digits."""
    folder = tmp_path_factory.mktemp("cascades")
    main(["train", "cascade=base", *SMALL, f"runs={folder}", "name=base"])
    main(["train", "cascade=super", *SMALL, *SUPER, f"runs={folder}", "name=super"])
    return folder


def test_a_run_is_of_its_part_of_the_data(runs: Path) -> None:
    base, upper = Run.open(runs / "base"), Run.open(runs / "super")
    info = upper.info()
    assert base.data().shape == (1, 4, 4)
    assert info == DataInfo.of(CascadePart(factor=2, augmentation=0.5).of(digits()))
    assert info.low_resolution == LowResolution(2, 0.5)
    network = scoresde.load(runs / "super").network
    assert network.condition_shapes == {"vector": (1,), "image": (1, None)}
    assert float(network.conditioning.vector.mean) == pytest.approx(0.25)
    # The likelihood is that given held-out images at low resolution, which need no noise.
    assert json.loads((runs / "super" / "summary.json").read_text())["likelihood"]["given"] == "label, vector and image"


def test_a_run_does_not_resume_with_other_conditions(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.open(runs / "super")
    before = (runs / "super" / "config.yaml").read_text()
    try:
        run.config.cascade.augmentation = 0.1
        run.write_config()
        with pytest.raises(SystemExit):
            main(["train", f"run={runs / 'super'}", "training.steps=3", "progress=false"])
        assert "the data digits are not those that the run was trained on" in capsys.readouterr().err
    finally:
        (runs / "super" / "config.yaml").write_text(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["cascade=super"], "digits is for super-resolution, and the network takes no image: build it with image_ch"),
        (["cascade=super", SUPER[0]], "the network takes no vector: build it with vector_size=1"),
        (["cascade=base", "cascade.reduced=3"], "cascade: samples have shape (1, 8, 8), expected (C, ...) with sides"),
        (["cascade=base", "cascade.reduced=1"], "cascade: reduced is 1 and factor is None, which is no part of a cas"),
        (["cascade=super", "cascade.factor=1"], "cascade: factor is 1, expected at least 2"),
        (["cascade=bass"], "cascade has no choice 'bass', did you mean 'base'?"),
        (["network.image_channels=auto"], "digits has no image: name it by data.condition_keys or data.condition_colu"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_a_line(
    changes: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", *SMALL, f"runs={tmp_path}", *changes])
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_digits_with_smaller_pictures_of_an_earlier_version_are_refused_and_those_without_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("data: {_target_: scoresde.data.digits, low_resolution: null}")
    assert Run.open(tmp_path).data().fingerprint() == digits().fingerprint()
    file.write_text("data: {_target_: scoresde.data.digits, low_resolution: 4}")
    with pytest.raises(
        ConfigError, match="data.low_resolution is 4, whose .*: train a new run with experiment=digits_"
    ):
        Run.open(tmp_path).data()
    with pytest.raises(SystemExit):
        main(["train", f"run={tmp_path}", "progress=false"])
    assert capsys.readouterr().err.startswith("scoresde: data.low_resolution is 4, whose condition images")


def test_data_in_place_of_the_held_out_ones_become_the_same_part(runs: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=digits().test[:30].numpy(), y=digits().test_labels[:30].numpy())  # type: ignore[index]
    given = ["data=npz", f"data.path={tmp_path / 'other.npz'}", "data.label_key=y", "n=2", "progress=false"]
    for name in ("base", "super"):
        main(["likelihood", f"run={runs / name}", *given])


# -- samples ----------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_cascade_of_the_models(runs: Path) -> None:
    arguments = [f"run={runs / 'base'}", f"super={runs / 'super'}", "n=12", "seed=3", "progress=false"]
    main(["sample", *arguments, "augmentation=0.2"])
    file = np.load(runs / "super" / "samples" / "cascade-augmentation0.2-n12-seed3.npz")
    models = [scoresde.load(runs / name) for name in ("base", "super")]
    sampler = Run.open(runs / "super").make("sampler")
    labels = torch.arange(12) % 10
    out = Cascade([(model, sampler) for model in models], augmentation=0.2)(12, seed=3, labels=labels)
    assert np.array_equal(file["x"], models[1].decode(out.x))
    assert np.array_equal(file["stage1"], models[0].decode(out.stages[0].x))
    assert np.array_equal(file["labels"], labels)
    caption = json.loads((runs / "super" / "pictures.json").read_text())[-1]["caption"]
    assert "in turn of a cascade of base and super, augmentation 0.2, 10 evaluations" in caption
    # A fifth of the largest level is usual, and the same name with other settings is kept apart.
    main(["sample", *arguments, "name=usual"])
    note = json.loads(str(np.load(runs / "super" / "samples" / "usual.npz")["note"]))
    assert note["cascade"].endswith(", augmentation 0.1")
    main(["sample", *arguments, "augmentation=0.2", "label=7", "batch_size=5"])
    assert set(np.load(runs / "super" / "samples" / "cascade-augmentation0.2-label7-n12-seed3.npz")["labels"]) == {7}


def test_an_evaluation_of_a_cascade_stands_beside_the_last_run_s_own(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", f"run={runs / 'base'}", f"super={runs / 'super'}", "n=40", "progress=false"]
    main(command)
    assert "frechet_distance" in capsys.readouterr().out
    main([*command, "augmentation=0", "overwrite=true"])
    main(command)
    assert "samples-n40-cascade in" in (told := capsys.readouterr().out)
    assert "there already" in told
    summary = json.loads((runs / "super" / "summary.json").read_text())
    found = [key for key in summary if key.startswith("samples")]
    assert found == ["samples-n40-cascade", "samples-n40-cascade-augmentation0"]
    assert summary["samples-n40-cascade"]["cascade"].endswith("augmentation 0.1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("super=DIR/base", "super=DIR/base is no super-resolution model of a cascade: train one with cascade=super"),
        (
            "run=DIR/super super=DIR/super",
            "run=DIR/super is given images at low resolution itself: begin with",
        ),
        (
            "super=[DIR/super,DIR/super]",
            "takes images of shape (1, 4, 4), and DIR/super makes (1, 8, 8)",
        ),
        (
            "super=DIR/super augmentation=0.6",
            "augmentation is 0.6, and super=DIR/super was trained with levels up to",
        ),
        ("super=DIR/super augmentation=[0.1,0.2]", "expected one level for each of the 1 runs of super"),
        ("super=DIR/super augmentation=-1", "augmentation is -1, expected a number of at least 0"),
        ("super=DIR/gone", "super=DIR/gone does not exist; give a directory that"),
        ("super=DIR/super start=DIR/base/config.yaml", "is for a run alone: leave out super"),
        ("super=DIR/super label=11", "label is 11, expected 0 to 9"),
        ("augmentation=0.1", "augmentation=0.1 is without effect: give super="),
    ],
)
def test_stages_that_do_not_fit_are_refused_in_a_line(
    changes: str, message: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = changes.replace("DIR", str(runs)).split()
    run = [] if given[0].startswith("run=") else [f"run={runs / 'base'}"]
    with pytest.raises(SystemExit):
        main(["sample", *run, *given, "n=4", "name=refused", "progress=false"])
    error = capsys.readouterr().err
    assert message.replace("DIR", str(runs)) in error
    assert error.count("\n") == 1
    assert not (runs / "super" / "samples" / "refused.npz").exists()


def test_other_units_classes_and_conditions_are_refused(runs: Path) -> None:
    opened = [Run.open(runs / name) for name in ("base", "super")]
    base, upper = (CascadeStage.of(run, run.model(), run.make("sampler")) for run in opened)
    assert stacked([base, upper], None, base.info).levels == (0.1,)

    def refused(lower: CascadeStage, higher: CascadeStage) -> str:
        with pytest.raises(ConfigError) as error:
            stacked([lower, higher], None, lower.info)
        return str(error.value).replace(str(runs), "DIR")

    other = replace(base, info=replace(base.info, transform=Discrete(65, 0.0, 1.0)))
    assert refused(other, upper) == (
        "super=DIR/super takes images of values -0.9412 to 0.9412, and DIR/base makes 0.007692 to 0.9923"
    )
    other = replace(base, info=replace(base.info, transform=Affine(0.0, 16.0)))
    assert refused(other, upper) == "super=DIR/super takes images of pixels, and DIR/base makes continuous values"
    own, above = (replace(s, info=replace(s.info, transform=Affine(0.0, 1.0))) for s in (base, upper))
    stacked([own, above], None, own.info)
    far = replace(own, info=replace(own.info, transform=Affine(300.0, 1.0)))
    assert "and DIR/base makes 300 and 1: train both on data in the same units" in refused(far, above)
    other = replace(base, info=replace(base.info, class_names=("a", *base.info.class_names[1:])))  # type: ignore[index]
    assert "has the classes 0, 1, 2, 3, 4, 5, ..., and DIR/base a, 1, 2, 3, 4, 5, ..." in refused(other, upper)
    network = UNet((1, 4, 4), channels=8, blocks=1)
    unlabelled = replace(base, model=NetworkScore(network, base.model.sde, base.model.preconditioning))
    assert refused(unlabelled, upper) == (
        "super=DIR/super takes labels, and DIR/base knows none that its images are of"
    )
    network = UNet((1, 8, 8), channels=8, blocks=1, image_channels=1, vector_size=3)
    told = replace(upper, model=NetworkScore(network, upper.model.sde, upper.model.preconditioning))
    assert refused(base, told) == (
        "super=DIR/super takes a vector of 2 values, and DIR/base takes none: train both on the same conditions"
    )
