"""The experiments of DDPM and of improved DDPM, from their configuration to samples."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import scoresde
from scoresde.cli import main
from scoresde.objectives import DenoisingScoreMatching, Hybrid
from scoresde.options.errors import ConfigError
from scoresde.runs.directory import Run
from scoresde.runs.results import identity_of
from scoresde.sampling import DDPM, Sampler, UniformTime
from scoresde.storage.bounded import read_json

QUICK = [
    "training.steps=10", "training.batch_size=8", "training.warmup=1", "training.log_every=5", "evaluation.samples=0",
    "evaluation.likelihood=0", "evaluation.pictures=false", "progress=false", "logger=local",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "learns", "small"),
    [
        ("ddpm_digits", False, ["network.channels=8"]),
        ("improved_ddpm_digits", True, ["network.channels=8"]),
        ("swiss_roll", True, ["network.width=16", "network.blocks=1"]),
    ],
)
def test_an_experiment_takes_ten_steps_and_samples(
    name: str, learns: bool, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", f"experiment=ddpm/{name}", "name=quick", *QUICK, *small])
    directory = tmp_path / "runs" / "quick"
    assert read_json(directory / "summary.json", dict)["training"]["steps"] == 10
    run, model = Run.open(directory), scoresde.load(directory)
    assert model.learns_variance is learns
    assert isinstance(run.make("objective"), Hybrid if learns else DenoisingScoreMatching)
    sampler = run.make("sampler")
    times = sampler.grid(model.sde)
    count = len(model.sde.betas)  # type: ignore[attr-defined]
    torch.testing.assert_close(times, torch.arange(count, 0, -1, dtype=torch.float64) / count)


def test_variances_are_measured_once_and_stored_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", "experiment=ddpm/swiss_roll", "name=quick", *QUICK, "network.width=16", "network.blocks=1"])
    sample = ["sample", "run=runs/quick", "n=4", "sampler.grid.steps=5", "sampler.solver.variance=optimal", "-q"]
    with pytest.raises(SystemExit):
        main(sample)
    assert "run `scoresde tune run=DIR variances=true`" in capsys.readouterr().err
    main(["tune", "run=runs/quick", "variances=true", "starts=8", "progress=false"])
    assert "128 noise levels from 8 samples each" in capsys.readouterr().out
    run = Run.open("runs/quick")
    found = run.model().optimal_variances
    assert found is not None
    assert found.samples == 8
    main(sample)
    main(["likelihood", "run=runs/quick", "n=3", "chain_draws=8", "tol=1", "progress=false"])
    assert re.search(r"bound of the chain -?\d+\.\d+ ± \d+\.\d+ \(learned variances\)", capsys.readouterr().out)
    sampler, posterior = (Sampler(DDPM(kind), UniformTime(5)) for kind in ("optimal", "posterior"))  # type: ignore[arg-type]
    before = identity_of(sampler, run)
    (run.directory / "variances.json").write_text(replace(found, seconds=0.5).to_json())
    assert identity_of(sampler, run) != before
    assert "variances" not in identity_of(posterior, run)
    # They are none of a model that learns its variances, and says so.
    assert identity_of(Sampler(DDPM(), UniformTime(5)), run).endswith("learned variances")
    (run.directory / "variances.json").write_text("{}")
    with pytest.raises(ConfigError, match="is not a file of variances"):
        run.model()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["objective=hybrid", "sde=ddpm"], "train one with network.learn_variance=true by objective=hybrid"),
        (["objective=simple"], "give objective.times.steps, such as 1000, or take sde=ddpm"),
        (["objective=vlb", "sde=ve", "objective.times.steps=100"], "VESDE.* does not preserve variance"),
    ],
)
def test_what_cannot_be_trained_is_one_line_before_anything_is_written(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", "name=quick", *QUICK, "network.channels=8", *arguments])
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1, told
    assert re.search(message, told), told
    assert not (tmp_path / "runs" / "quick").exists()


def test_the_bound_of_the_chain_stands_beside_the_likelihood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", "experiment=ddpm/improved_ddpm_digits", "name=quick", *QUICK, "network.channels=8"])
    likelihood = ["likelihood", "run=runs/quick", "n=3", "progress=false", "tol=1", "divergence.probes=1"]
    main([*likelihood, "chain_draws=12"])
    assert re.search(r"bound of the chain \d+\.\d+ ± \d+\.\d+ \(learned variances\)", capsys.readouterr().out)
    entry = read_json(Path("runs/quick/summary.json"), dict)["likelihood"]
    assert (entry["chain_draws"], entry["chain_variance"]) == (12, "learned")
    rows = (Path("runs/quick") / entry["file"]).read_text().splitlines()
    assert rows[0].endswith("by_chain,stderr_by_chain")
    values = [float(row.split(",")[-2]) for row in rows[1:]]
    assert entry["by_chain"] == pytest.approx(sum(values) / 3)
    # The same settings without the bound are of another table, and 1 to 3 evaluations no bound.
    main(likelihood)
    assert "bound of the chain" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*likelihood, "chain_draws=3"])
    assert "chain_draws is 3, expected 0 or at least 4" in capsys.readouterr().err
