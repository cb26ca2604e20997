"""Coverage and memorisation of a run's samples: what is measured depends on what the data know."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scoresde.data import Data, checkerboard, digits, eight_gaussians, grid_gaussians, two_gaussians
from scoresde.metrics.evaluate import CLASSES, GIVEN, HIGHER_IS_BETTER, LOWER_IS_BETTER, MEMORISATION, MODES
from scoresde.runs.coverage import Coverage, coverage
from scoresde.runs.directory import Run
from scoresde.runs.evaluate import sample_quality
from scoresde.runs.pictures import picture_of_copies, picture_of_shares
from tests.runs.test_run import config


def measured(data: Data, samples: Tensor, **options: bool) -> Coverage:
    return coverage(data, samples, data.train[: len(samples)], **options)


def test_data_that_know_their_modes() -> None:
    data = grid_gaussians(1000, 500)
    found = measured(data, grid_gaussians(1000, 200, seed=1).test)
    assert list(found.metrics) == [*MODES, *MEMORISATION]
    assert list(found.reference) == list(MODES)
    assert (found.kind, len(found.groups)) == ("mode", 25)
    for name, entry in found.metrics.items():
        assert abs(entry["value"] - entry["expected"]) < 4 * entry["stderr"] + 1e-6, name


def test_samples_of_one_class_are_not_asked_for_others() -> None:
    for data in (eight_gaussians(200, 100), digits()):
        found = measured(data, data.test[:50], of_all=False)
        assert list(found.metrics) == list(MEMORISATION)
        assert found.shares is None


def test_labelled_data() -> None:
    data = digits()
    assert data.test_labels is not None
    found = measured(data, data.test[data.test_labels != 4][:300])
    assert list(found.metrics) == [*CLASSES, *MEMORISATION]
    assert found.metrics["classifier_accuracy"]["value"] > 0.98
    assert found.shares is not None
    assert float(found.shares.share[4]) < 0.02


def test_samples_given_labels_are_counted_by_class() -> None:
    data = digits()
    assert data.test_labels is not None
    labels = data.test_labels[:300].clone()
    labels[labels == 7] = 1  # drawn as a 1, and looks like a 7
    found = coverage(data, data.test[:300], data.train[:300], labels=labels)
    assert list(found.metrics) == [*CLASSES[:-1], *GIVEN, CLASSES[-1], *MEMORISATION]
    entry, wrong = found.metrics["labels_right"], float((data.test_labels[:300] == 7).double().mean())
    assert entry["expected"] == found.metrics["classifier_accuracy"]["value"]
    assert abs(entry["value"] - (1 - wrong)) < 0.02
    assert set(found.by_class) == {*"012345689"}
    ones = int((data.test_labels[:300] == 1).sum())
    assert abs(found.by_class["1"]["value"] - ones / int((labels == 1).sum())) < 0.05
    of_one = coverage(data, data.test[:50], data.train[:50], of_all=False, labels=data.test_labels[:50])
    assert list(of_one.metrics) == [*GIVEN, "classifier_accuracy", *MEMORISATION]


def test_a_poor_classifier_counts_nothing() -> None:
    data = digits()
    assert data.train_labels is not None
    wrong = dataclasses.replace(data, train_labels=data.train_labels.roll(1))
    found = measured(wrong, data.test[:100])
    assert list(found.metrics) == ["classifier_accuracy", *MEMORISATION]
    assert found.metrics["classifier_accuracy"]["value"] < 0.3
    assert found.shares is None


def test_data_that_know_neither() -> None:
    data = checkerboard(300, 100)
    assert list(measured(data, data.test).metrics) == list(MEMORISATION)


def test_a_sampler_that_copies_is_found_out() -> None:
    data = digits()
    assert data.test_labels is not None
    fewer = dataclasses.replace(data, test=data.test[:210], test_labels=data.test_labels[:210])
    found = measured(fewer, torch.cat((data.train[:150], data.test[210:])))
    assert found.metrics["copies"]["value"] == pytest.approx(0.5, abs=0.02)
    assert found.metrics["nearer_than_held_out"]["value"] == pytest.approx(0.75, abs=0.05)
    quality = sample_quality(data, data.train[:200])
    assert quality.metrics["copies"]["value"] == 1
    assert quality.metrics["copies"]["expected"] == 0
    assert quality.metrics["authenticity"]["value"] == 0
    assert "copies" not in quality.reference


@pytest.mark.parametrize("make", [eight_gaussians, grid_gaussians, two_gaussians])
def test_the_mixture_of_toys_is_that_of_all_classes(make: Callable[..., Data]) -> None:
    data = make(200, 100)
    assert data.mixture is not None
    assert data.of_class(1).mixture is None
    assert data.fingerprint() == dataclasses.replace(data, mixture=None).fingerprint()


def test_every_measure_has_one_direction_at_most() -> None:
    assert not set(LOWER_IS_BETTER) & set(HIGHER_IS_BETTER)
    assert {"modes_covered", "high_quality", "classes_covered"} <= set(HIGHER_IS_BETTER)
    assert {"copies", "modes_misplaced", "classes_imbalance"} <= set(LOWER_IS_BETTER)
    assert not {"nearer_than_held_out", "authenticity"} & {*LOWER_IS_BETTER, *HIGHER_IS_BETTER}


def test_figures_are_listed_for_the_report(tmp_path: Path) -> None:
    run, data = Run(tmp_path / "run", config()), digits()
    samples = torch.cat((data.train[:50], data.test[:50]))
    found = measured(data, samples)
    assert found.shares is not None
    assert found.copied is not None
    picture_of_shares(run, found.shares, found.groups, found.kind, "samples")
    picture_of_copies(run, data, samples, found.copied, "samples")
    assert {path.name for path in (run.directory / "samples").glob("*.png")} == {
        "samples-shares.png", "samples-copies.png"
    }  # fmt: skip
    listed = (run.directory / "pictures.json").read_text(encoding="utf-8")
    assert "Shares of classes" in listed
    assert "Samples nearest to training images" in listed
