"""Runs of the models of a cascade: what they are trained on, and samples of all of them as one."""

import json
from pathlib import Path

import numpy as np
import pytest

import scoresde
from scoresde.cli import main
from scoresde.data import CascadePart, DataInfo, LowResolution, digits
from scoresde.runs.directory import Run

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


def test_data_in_place_of_the_held_out_ones_become_the_same_part(runs: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=digits().test[:30].numpy(), y=digits().test_labels[:30].numpy())  # type: ignore[index]
    given = ["data=npz", f"data.path={tmp_path / 'other.npz'}", "data.label_key=y", "n=2", "progress=false"]
    for name in ("base", "super"):
        main(["likelihood", f"run={runs / name}", *given])
