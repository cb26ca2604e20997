"""Run directories that version 0.1.0 wrote, in `tests/stored_runs`: they load and give the figures they gave then.

`tests/stored_runs/README.md` tells how they and the expected figures were made.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import scoresde
from scoresde.cli import main
from scoresde.data import Data, digits, npz
from scoresde.likelihood import Exact, Hutchinson, TruncatedNormal, Variational, bits_per_dim, log_likelihood
from scoresde.sampling import (
    EulerMaruyama,
    Heun,
    KarrasGrid,
    LogSNR,
    Multistep,
    NoiseLevel,
    PredictorCorrector,
    Sampler,
    SignalLevel,
    TunedSteps,
    UniformLogSNR,
    UniformTime,
)

STORED = Path(__file__).parent / "stored_runs"
UNIPC = Multistep(2, corrector=2, weights="bh2", coordinate=SignalLevel(), interpolation=LogSNR())
EULER_MARUYAMA = Sampler(PredictorCorrector(EulerMaruyama()), UniformTime(20))


def data_of(folder: Path, name: str) -> Data:
    """The data of a run, of which points.npz lies beside it."""
    return digits() if name == "digits" else npz(folder / "points.npz", levels=16)


def digits_figures(folder: Path) -> dict[str, Callable[[], Tensor]]:
    """What is asked of the run of digits, by the names in expected.json."""
    data, labels = data_of(folder, "digits"), torch.arange(4)
    model = scoresde.load(folder / "digits")
    some, cond = data.test[:4], {"labels": data.test_labels[:4]}  # type: ignore[index]
    x = data.transform.encode(some)
    return {
        "score": lambda: model.score(x, torch.tensor([0.01, 0.1, 0.5, 0.9]), **cond),
        "samples": lambda: Sampler(UNIPC, UniformLogSNR(10), denoise=True)(model, 4, seed=3, labels=labels).x,
        "noisy_samples": lambda: EULER_MARUYAMA(model, 4, seed=3, labels=labels).x,
        "log_prob": lambda: log_likelihood(model, x, tol=0.01, seed=5, divergence=Hutchinson(2), **cond).log_prob,
        "bits": lambda: bits_per_dim(model, some, tol=0.01, seed=5, divergence=Exact(), **cond).bits,
    }


def toy_figures(folder: Path) -> dict[str, Callable[[], Tensor]]:
    """What is asked of the run of a toy, with its files of tuned steps and of a dequantisation."""
    data, model = data_of(folder, "toy"), scoresde.load(folder / "toy")
    some = data.test[:4]
    x = data.transform.encode(some)
    tuned = TunedSteps.load(folder / "toy" / "tuned-5.json")
    learned = Variational(folder / "toy" / "dequantisation.safetensors")

    def bits(dequantisation: Any) -> Tensor:
        return bits_per_dim(model, some, dequantisation=dequantisation, tol=1e-3, seed=5, divergence=Exact()).bits

    return {
        "score": lambda: model.score(x, torch.tensor([0.01, 0.1, 0.5, 0.9])),
        "samples": lambda: Sampler(Heun(coordinate=NoiseLevel()), KarrasGrid(17), denoise=True)(model, 4, seed=3).x,
        "noisy_samples": lambda: EULER_MARUYAMA(model, 4, seed=3).x,
        "tuned_samples": lambda: tuned.sampler()(model, 4, seed=3).x,
        "log_prob": lambda: log_likelihood(model, x, tol=1e-3, seed=5, divergence=Exact()).log_prob,
        "bits": lambda: bits("uniform"),
        "truncated_normal_bits": lambda: bits(TruncatedNormal(1.0)),
        "variational_bits": lambda: bits(learned),
    }


FIGURES = {"digits": digits_figures, "toy": toy_figures}
EXPECTED: dict[str, Any] = json.loads((STORED / "expected.json").read_text()) if __name__ != "__main__" else {}
# Of a figure's largest value. Other instruction sets, libraries' paths and numbers of threads moved figures by at most
# 1.5e-6 of it; relative noise of 1e-6 on all weights moves them by 1.5e-5, and another draw or step by far more.
TOLERANCE = 1e-5
# As training chose it, where the configuration does not say.
EXACT = ("divergence=exact", "divergence.mode=auto")
QUIET = ("logger=local", "progress=false", "evaluation.samples=0", "evaluation.likelihood=0")


def write_expected() -> None:
    """Write expected.json by the package that Python finds; for the version that wrote the runs."""
    found = {
        run: {name: figure().double().tolist() for name, figure in figures(STORED).items()}
        for run, figures in FIGURES.items()
    }
    (STORED / "expected.json").write_text(json.dumps({"version": scoresde.__version__, **found}) + "\n")


@pytest.fixture(scope="module", autouse=True)
def _surroundings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("WANDB_MODE", "offline")
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs, and the working directory."""
    copy = shutil.copytree(STORED, tmp_path / "stored")
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize(("run", "name"), [(run, name) for run in FIGURES for name in EXPECTED.get(run, ())])
def test_a_stored_run_gives_the_figures_that_it_gave(run: str, name: str) -> None:
    expected = torch.tensor(EXPECTED[run][name], dtype=torch.float64)
    found = FIGURES[run](STORED)[name]().detach().double()
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))


def test_every_figure_is_expected() -> None:
    assert {run: list(figures(STORED)) for run, figures in FIGURES.items()} == {
        run: list(EXPECTED[run]) for run in FIGURES
    }


@pytest.mark.parametrize("run", list(FIGURES))
def test_a_stored_run_needs_nothing_to_be_allowed(run: str, folder: Path) -> None:
    assert not list(folder.glob("**/allow.json"))
    assert scoresde.load(folder / run).info is not None


@pytest.mark.parametrize(
    "arguments",
    [
        ["likelihood", "run=digits", "n=24"],
        ["likelihood", "run=digits", "n=24", "split=train"],
        ["likelihood", "run=toy", "n=32", "dequantisation=variational", "divergence=exact"],
        ["likelihood", "run=toy", "n=64", "dequantisation=truncated_normal", "dequantisation.std=1.0", *EXACT],
    ],
    ids=" ".join,
)
def test_likelihoods_of_the_same_settings_are_there_already(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {path: path.read_bytes() for path in folder.glob("*/likelihood*.csv")}
    main([*arguments, "progress=false"])
    assert f"{arguments[2].removeprefix('n=')} of them there already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.glob("*/likelihood*.csv")} == tables


@pytest.mark.parametrize(
    ("run", "n", "name"), [("digits", 64, "samples"), ("toy", 100, "samples"), ("toy", 16, "tuned-steps5-n16-seed0")]
)
def test_samples_drawn_again_are_those_that_were_drawn(run: str, n: int, name: str, folder: Path) -> None:
    tuned = ["sampler=tuned", "sampler.grid.steps=5"] if name.startswith("tuned") else []
    main(["sample", f"run={run}", f"n={n}", "name=again", "progress=false", *tuned])
    with np.load(folder / run / "samples" / f"{name}.npz") as then, np.load(f"{run}/samples/again.npz") as now:
        # Levels of discrete data, so that round-off does not show.
        assert (now["x"] == then["x"]).all()
        noted = [{k: v for k, v in json.loads(str(f["note"])).items() if k != "seconds"} for f in (then, now)]
    assert noted[0] == noted[1]


@pytest.mark.parametrize(("run", "n"), [("digits", 64), ("toy", 100)])
def test_an_evaluation_of_the_same_settings_is_there_already(
    run: str, n: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", f"run={run}", f"n={n}", "progress=false"])
    assert "samples in " in (out := capsys.readouterr().out)
    assert "there already" in out


def test_other_settings_stand_beside_the_stored(folder: Path) -> None:
    before = json.loads(Path("toy/summary.json").read_text())
    main(["likelihood", "run=toy", "n=8", "seed=1", "progress=false"])
    main(["evaluate", "run=toy", "n=100", "seed=1", "sampler.grid.steps=4", "progress=false"])
    after = json.loads(Path("toy/summary.json").read_text())
    assert {key: after[key] for key in before} == before
    assert [key.partition("-")[0] for key in after if key not in before] == ["likelihood", "samples"]


def test_reports_name_the_choices(folder: Path) -> None:
    main(["report", "run=digits"])
    main(["report", "run=toy"])
    digits_page, toy_page = Path("digits/report.html").read_text(), Path("toy/report.html").read_text()
    assert "unipc" in digits_page
    assert "edm_heun" in toy_page
    assert "likelihood-test-Exact_mode_reverse" in toy_page


@pytest.mark.parametrize("run", list(FIGURES))
def test_training_goes_on_from_a_stored_checkpoint(run: str, folder: Path) -> None:
    before = scoresde.load(run).state_dict()
    steps = json.loads(Path(run, "summary.json").read_text())["training"]["steps"] + 10
    main(["train", f"run={run}", f"training.steps={steps}", *QUIET])
    summary = json.loads(Path(run, "summary.json").read_text())
    assert summary["training"]["steps"] == steps
    assert summary["finished"] is True
    assert f"likelihood-test-step{steps - 10}" in summary  # the figures of the weights before
    after = scoresde.load(run).state_dict()
    moved = [
        float((after[key] - value).norm() / value.norm())
        for key, value in before.items()
        if key.startswith("network.") and value.is_floating_point() and value.norm() > 0
    ]
    # An average over the last steps has moved, and hardly: training did not begin anew.
    assert 0 < max(moved) < 0.2


if __name__ == "__main__":
    write_expected()
