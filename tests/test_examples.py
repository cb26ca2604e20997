"""The scripts in examples/ run, are short, and print what they say."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scoresde.cli import main

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


def run(name: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    return [float(value) for value in re.findall(pattern, text)]


def test_there_are_eleven_and_each_fits_on_a_screen() -> None:
    assert len(SCRIPTS) == 11
    for path in SCRIPTS:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 40, path.name


@pytest.mark.slow
def test_certify_samplers(tmp_path: Path) -> None:
    head, own, *_ = run("certify_samplers", tmp_path).splitlines()
    assert head.split()[-1] == "wrong"
    assert own.split()[-1] == "nothing"


@pytest.mark.slow
def test_exact_sampling(tmp_path: Path) -> None:
    distances = numbers(r"distance ([\d.]+)", run("exact_sampling", tmp_path))
    assert len(distances) == 4
    assert max(distances) < 0.12


@pytest.mark.slow
def test_posterior(tmp_path: Path) -> None:
    printed = run("posterior", tmp_path)
    (kept,) = numbers(r"kept to (\S+)", printed)
    assert kept == 0
    noisy, denoised = numbers(r"([\d.]+) (?:noisy|denoised)", printed)
    assert 0.2 < noisy < 0.3
    assert denoised < 0.5 * noisy
    assert (tmp_path / "posterior.png").stat().st_size > 1000


@pytest.mark.slow
def test_likelihood(tmp_path: Path) -> None:
    printed = run("likelihood", tmp_path)
    loose, tight = numbers(r"largest error (\S+)", printed)
    assert loose < 5e-2
    assert tight < 1e-3
    (scatter,) = numbers(r"scatter by ([\d.]+)", printed)
    assert 0.7 < scatter < 1.4


@pytest.mark.slow
def test_train_toy(tmp_path: Path) -> None:
    printed = run("train_toy", tmp_path)
    first, last = numbers(r"loss ([\d.]+) at", printed)[0], numbers(r"([\d.]+) at the end", printed)[0]
    assert last < first
    samples, training = numbers(r"from held-out data: +([\d.]+)", printed)
    assert training < 0.05
    assert samples < 0.1
    (density,) = numbers(r"log-density: (\S+) nats", printed)
    assert density > -0.7


@pytest.mark.slow
def test_compare_samplers(tmp_path: Path) -> None:
    rows = [line.split() for line in run("compare_samplers", tmp_path).splitlines()]
    errors = [float(row[-1]) for row in rows if row and row[0] == "default"]
    assert len(errors) == 4
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


@pytest.mark.slow
def test_cascade(tmp_path: Path) -> None:
    # After so few steps the samples are poor; docs/cascades.md has the figures of more.
    assert len(numbers(r"distance ([\d.]+)", run("cascade", tmp_path, "10"))) == 3
    assert (tmp_path / "cascade.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rows"), [("text_to_digit", 4), ("unclip_digits", 2)])
def test_digits_by_text(name: str, rows: int, tmp_path: Path) -> None:
    pytest.importorskip("wordllama")
    shares = numbers(r": ([\d.]+) ±", run(name, tmp_path, "10"))
    assert len(shares) == rows
    assert max(shares) <= 1


@pytest.mark.slow
def test_new_sde(tmp_path: Path) -> None:
    printed = run("new_sde", tmp_path)
    drift, time = numbers(r": +(\de-\d+)", printed)
    assert max(drift, time) < 1e-12
    (distance,) = numbers(r"samples: +([\d.]+)", printed)
    assert distance < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("classes", [False, True], ids=["plain", "classes"])
def test_load_run(classes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):
        quick = ("training.steps=2", "network.channels=8", "evaluation.samples=0", "evaluation.likelihood=0")
        experiment = ["experiment=digits_conditional"] if classes else []
        main(["train", *experiment, *quick, "evaluation.pictures=false", "progress=false", "name=quick"])
    printed = run("load_run", tmp_path, "runs/quick", "--samples", "4", *(["--label", "3"] if classes else []))
    # With a condition the first step needs an evaluation: the data's moments are those of all classes.
    assert re.findall(r"^(\d+) evaluations in", printed, re.M) == ["9" if classes else "8", "35"]
    assert printed.count("torch.uint8 from") == 2
