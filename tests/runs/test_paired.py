"""Runs compared by their likelihoods of the same samples."""

import csv
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scoresde import likelihood as likelihoods
from scoresde.cli import main
from scoresde.data import Discrete
from scoresde.likelihood import compare_likelihoods
from scoresde.numerics.html import with_error
from scoresde.numerics.means import mean_and_error
from scoresde.numerics.paired import PairedDifference
from scoresde.options.errors import ConfigError
from scoresde.runs import likelihood_table
from scoresde.runs.directory import Run
from scoresde.runs.paired import Contender, check_alike, names_of
from scoresde.runs.results import Filing
from tests.problems import generator

pytestmark = pytest.mark.slow  # likelihoods of networks

STORED = Path(__file__).parent.parent / "stored_runs"  # the toy has two dimensions of 16 levels, and no labels
OPTIONS = ("n=6", "tol=1", "batch_size=2", "progress=false")


def make_runs(folder: Path, names: str = "abc") -> None:
    """Copies of a trained run whose weights differ by a little."""
    shutil.copy(STORED / "points.npz", folder)
    for number, name in enumerate(names):
        run = Run.open(shutil.copytree(STORED / "toy", folder / name, ignore=shutil.ignore_patterns("likelihood*")))
        model = run.model()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.02 * number * torch.randn(parameter.shape, generator=generator(number)))
        run.save_model(model, 2000)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    make_runs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path: str) -> list[list[str]]:
    with Path(path).open(newline="") as file:
        return list(csv.reader(file))


def column(path: str, index: int = 1) -> list[float]:
    return [float(row[index]) for row in rows(path)[1:]]


def test_two_runs_are_compared_sample_by_sample(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["likelihood", "run=a,b", "paired=true", *OPTIONS])
    out = capsys.readouterr().out
    assert rows("a/paired-test-b.csv")[0] == ["index", "a", "b", "b - a"]
    values = [column(f"{name}/likelihood-test.csv") for name in "ab"]
    assert [column("a/paired-test-b.csv", k) for k in (1, 2)] == values
    expected = PairedDifference.of(*values)
    assert column("a/paired-test-b.csv", 3) == expected.values.tolist()
    note = json.loads(Path("a/paired-test-b.json").read_text())
    (found,) = note["differences"]
    assert (found["mean"], found["stderr"], found["p_value"]) == (expected.mean, expected.stderr, expected.p_value)
    assert (found["run"], found["from"], note["n"], note["unit"]) == ("b", "a", 6, "bits/dim")
    assert [run["directory"] for run in note["runs"]] == [".", "../b"]
    assert found["verdict"] == expected.verdict("a", "b", "bits/dim", lower_is_better=True)
    assert f"{found['verdict']} (n = 6; unpaired" in out
    # A run has the same mean and error as its own line, the solver's share among it.
    solver = [run["stderr_solver"] for run in note["runs"]]
    for name, own, share in zip("ab", values, solver, strict=True):
        mean, error = mean_and_error(torch.tensor(own, dtype=torch.float64))
        assert re.search(rf"^{name} +{re.escape(with_error(mean, math.hypot(error, share)))}\s", out, re.M)
    picture = next(p for p in Run.open("a").pictures() if p["file"] == "samples/paired-test-b.png")
    assert found["verdict"] in picture["caption"]
    assert (work / "a" / picture["file"]).read_bytes().startswith(b"\x89PNG")
    # The library, asked the same of the models, gives the same.
    data = Run.open("a").data()
    models = {name: Run.open(name).model() for name in "ab"}
    again = compare_likelihoods(models, data.test[:6], data.transform, tol=1.0)
    assert again.differences[0].values.tolist() == pytest.approx(expected.values.tolist(), abs=1e-4)


def test_an_interrupted_comparison_resumes(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    calls, real = 0, likelihoods.bits_per_dim

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:  # the second batch of the second run
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(likelihood_table, "bits_per_dim", interrupted)
    command = ["likelihood", "a", "b", "c", "paired=true", *OPTIONS]
    with pytest.raises(SystemExit):
        main(command)
    assert "finished parts are kept, and the same command resumes" in capsys.readouterr().err
    assert len(rows("a/likelihood-test.csv")) == 7
    assert len(rows("b/likelihood-test.csv")) == 3
    assert not list(work.glob("*/paired*"))
    main(command)
    assert calls == 5 + 2 + 3
    out = capsys.readouterr().out
    assert "a: test: " in out
    assert "n = 6, 6 of them there already" in out
    # Each is compared with the first.
    note = json.loads((work / "a" / "paired-test-b-c.json").read_text())
    assert [(d["run"], d["from"]) for d in note["differences"]] == [("b", "a"), ("c", "a")]
    values = {name: column(f"{name}/likelihood-test.csv") for name in "abc"}
    for found in note["differences"]:
        assert found["mean"] == PairedDifference.of(values["a"], values[found["run"]]).mean
    # Other settings have a file of their own, and the same command writes the same file again.
    main([*command[:4], "seed=1", *command[4:]])
    assert {p.name for p in work.glob("a/paired*.csv")} == {"paired-test-b-c.csv", "paired-test-b-c-seed1.csv"}
    main(command)
    assert calls == 5 + 2 + 3 + 9
    assert len(list(work.glob("a/paired*.csv"))) == 2


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["likelihood", *arguments, *OPTIONS])
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert not list(Path().glob("*/likelihood*"))
    assert not list(Path().glob("*/paired*"))
    return error.removeprefix("scoresde: ").strip()


def test_what_cannot_be_compared_is_refused_in_one_line(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = "paired=true compares runs, and run=a is one: give run=A,B (in a sweep run=[A,B])"
    assert refusal(capsys, "run=a", "paired=true") == alone
    assert refusal(capsys, "a", "paired=true") == alone
    assert refusal(capsys, "run=[a,b]") == "run is a list of 2: compare them with paired=true, or give one run"
    twice = "./a is given twice: give each run that paired=true compares once"
    assert refusal(capsys, "run=a,b,./a", "paired=true") == twice
    missing = "run=d does not exist; give a directory that `scoresde train` wrote"
    assert refusal(capsys, "run=a,d", "paired=true") == missing
    assert "add --multirun to run each, or paired=true to compare them" in refusal(capsys, "run=a,b")
    assert refusal(capsys, "run=[a,b]", "paired=2") == "paired is 2, expected true or false"
    assert refusal(capsys, "run={a: b}", "paired=true").startswith("run is {'a': 'b'}, expected text or a list")


def test_the_refusal_says_what_differs(work: Path) -> None:
    run = Run.open("a")
    one = Contender("a", run, run.model(), run.data())
    check_alike([one, one], "test", None, Filing())
    data = one.data
    assert isinstance(data.transform, Discrete)
    pixels = data.test.clone()
    pixels[3, 0] = 15 - pixels[3, 0]
    further = replace(data.transform, high=1.5)
    finer = replace(data.transform, levels=17)
    others = {
        r"data \(\d+ samples of points, digest \w+ against \d+ samples of points, digest \w+\)": replace(
            data, test=pixels
        ),
        rf"transform \({re.escape(repr(data.transform))} against {re.escape(repr(further))}\)": replace(
            data, transform=further
        ),
        r"levels \(16 against 17\), transform \(.+\)": replace(data, transform=finer),
    }
    for what, other in others.items():
        with pytest.raises(
            ConfigError, match=f"^a and b differ in {what}: paired=true compares likelihoods of the sam"
        ):
            check_alike([one, Contender("b", run, one.model, other)], "test", None, Filing())
    # Neither the training data nor the name of the data, nor what comes after the first n, matters.
    same = replace(data, name="elsewhere", train=data.train[:7], test=pixels)
    check_alike([one, Contender("b", run, one.model, same)], "test", 3, Filing())
    with pytest.raises(ConfigError, match="differ in data"):
        check_alike([one, Contender("b", run, one.model, same)], "test", 4, Filing())


def test_labels_are_a_part_of_what_is_compared(work: Path) -> None:
    run = Run.open(STORED / "digits")
    with_labels = Contender("a", run, run.model(), run.data())
    labels = with_labels.data.test_labels
    assert labels is not None
    others = replace(with_labels.data, test_labels=(labels + 1) % 10)
    told = r"given the label, digest \w{8}"
    with pytest.raises(ConfigError, match=rf"^a and b differ in labels \({told} against {told}\): paired=true"):
        check_alike([with_labels, with_labels._replace(name="b", data=others)], "test", 4, Filing())
    plain = Run.open("a")
    without = Contender("b", plain, plain.model(), with_labels.data)
    with pytest.raises(ConfigError, match=rf"^a and b differ in labels \({told} against without"):
        check_alike([with_labels, without], "test", 4, Filing())


def test_names_are_distinct(tmp_path: Path) -> None:
    config = Run.open(STORED / "toy").config
    runs = [Run(Path(name), config) for name in ("x/a", "x/b", "y/a")]
    assert names_of(runs[:2]) == ["a", "b"]
    assert names_of(runs) == ["x/a", "x/b", "y/a"]
