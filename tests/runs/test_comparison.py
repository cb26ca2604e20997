"""A comparison on a run, and the files that an interrupted command goes on from."""

import copy
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from scoresde.cli import conf_dir
from scoresde.compare import COLUMNS, COMPARED, Comparison, quality
from scoresde.compare.frame import LATER
from scoresde.compare.true_ends import TrueEnds
from scoresde.metrics import sliced_wasserstein, spectrum
from scoresde.options.errors import ConfigError
from scoresde.runs import compare as module
from scoresde.runs.compare import Presets, compare_run
from scoresde.runs.directory import Run
from scoresde.runs.widths import run_directions
from scoresde.sampling import Sampler, TunedSteps
from scoresde.training.moments import data_statistics

pytestmark = pytest.mark.slow  # trains runs

SMALL = ["data=two_moons", "network=mlp", "network.width=16", "network.blocks=1", "network.embedding.dim=8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return untrained(tmp_path_factory.mktemp("comparison") / "run")


def untrained(directory: Path, *overrides: str) -> SimpleNamespace:
    """A run with random weights, as training would leave it."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        whole = OmegaConf.to_container(compose(config_name="train", overrides=[*SMALL, *overrides]), resolve=True)
        options = compose(config_name="compare", overrides=["run=nowhere"])
    assert isinstance(whole, dict)
    free = ("run", "resume", "runs", "name", "allow", "progress")
    run = Run(directory, OmegaConf.create({k: v for k, v in whole.items() if k not in free}))
    data = run.data()
    torch.manual_seed(0)
    model = run.new_model(data.shape, data_statistics(data, dequantise=False)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)  # the last layer begins at 0
    run.write_config()
    run.save_model(model, 20)
    return SimpleNamespace(directory=directory, data=data, options=options, model=model)


@pytest.fixture
def run(trained: SimpleNamespace, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(trained.directory, tmp_path / "run"))


@pytest.fixture(autouse=True)
def blank(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture takes longer than what it shows: one test draws it."""
    if request.node.name != "test_what_is_written":
        monkeypatch.setattr(module, "frontiers", lambda *_, **__: Figure((0.5, 0.5)))


def do(run: Run, trained: SimpleNamespace, **changes: Any) -> pd.DataFrame:
    chosen = {"samplers": ["heun", "ddpm"], "steps": [3, 4], "n": 32, "tol": 1e-3, **changes}
    options = OmegaConf.merge(trained.options, chosen)
    assert isinstance(options, DictConfig)
    presets = Presets(conf_dir() / "sampler", run.directory)
    return compare_run(run, trained.model, trained.data, options, presets, progress=False)[0]


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None, int]]:
    """Those that are computed."""
    done: list[tuple[str, int | None, int]] = []
    real = Comparison._measure

    def measure(self: Comparison, sampler: Sampler, seed: int, true: Any) -> dict[str, Any]:
        done.append((type(sampler.solver).__name__, sampler.grid.steps, seed))
        return real(self, sampler, seed, true)

    monkeypatch.setattr(Comparison, "_measure", measure)
    return done


def without_seconds(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(frame.drop(columns="seconds").to_json(orient="records", double_precision=15))


def test_what_is_written(run: Run, trained: SimpleNamespace) -> None:
    frame = do(run, trained, seeds=[0, 1])
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 8
    assert (frame["problem"] == "").all()
    assert frame["error"].isna().tolist() == (frame["sampler"] == "ddpm").tolist()
    read = pd.read_parquet(run.directory / "comparison.parquet")
    pd.testing.assert_frame_equal(read, frame)
    assert read.attrs == frame.attrs
    table = pd.read_csv(run.directory / "comparison.csv", keep_default_na=False, na_values={"error": [""]})
    assert len(table) == 8
    assert sorted(table["error"].dropna()) == sorted(frame["error"].dropna())
    note = json.loads((run.directory / "comparison.json").read_text())
    assert note["settings"]["n"] == 32
    assert note["settings"]["tolerance"] == 1e-3
    assert (note["seeds"], note["steps"]) == ([0, 1], [3, 4])
    assert set(note["reference"]["error"]) == {"0", "1"}
    assert set(note["floor"]) == set(COMPARED)
    assert set(note["coloured"]) == set(frame["sampler"])
    pictures = json.loads((run.directory / "pictures.json").read_text())
    assert "samples/comparison.png" in [p["file"] for p in pictures]
    assert (run.directory / "samples" / "comparison.png").is_file()


def test_the_samples_are_those_of_the_sampler_by_itself(run: Run, trained: SimpleNamespace) -> None:
    frame = do(run, trained, samplers="heun", steps=3, seeds=5)
    sampler = Presets(conf_dir() / "sampler", run.directory)("heun", 3)
    drawn = sampler(trained.model, (32, 2), seed=5).x.double()
    order = torch.Generator().manual_seed(0)
    test = trained.data.transform.encode(
        trained.data.test[torch.randperm(len(trained.data.test), generator=order)[:32]]
    )
    # Decoded and encoded again: an affine map of float32.
    assert frame["sliced_wasserstein"][0] == pytest.approx(sliced_wasserstein(drawn, test).value, rel=1e-5)


def test_an_interrupted_command_goes_on(
    run: Run, trained: SimpleNamespace, cells: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = do(run, trained)
    (run.directory / "comparison.csv").unlink()
    cells.clear()
    real = Comparison.row

    def row(self: Comparison, *arguments: Any) -> dict[str, Any]:
        if len(cells) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Comparison, "row", row)
        with pytest.raises(KeyboardInterrupt):
            do(run, trained)
    path = run.directory / "comparison.csv"
    assert len(path.read_text().splitlines()) == 4
    # The last line was cut short by the interruption.
    path.write_text(path.read_text()[:-30])
    cells.clear()
    assert without_seconds(do(run, trained)) == without_seconds(whole)
    assert cells == [("DDPM", 3, 0), ("DDPM", 4, 0)]


def test_a_table_of_the_version_before_the_newer_measures_is_continued(
    run: Run, trained: SimpleNamespace, cells: list[Any]
) -> None:
    whole = do(run, trained)
    path = run.directory / "comparison.csv"
    pd.read_csv(path).drop(columns=list(LATER)).to_csv(path, index=False)
    cells.clear()
    found = do(run, trained, samplers=["heun", "ddpm", "euler"])
    assert [name for name, *_ in cells] == ["Euler", "Euler"]
    assert found["noise_left"].isna().tolist() == (found["sampler"] != "euler").tolist()
    both = found[found["sampler"] != "euler"].drop(columns=list(LATER)).reset_index(drop=True)
    pd.testing.assert_frame_equal(both, whole.drop(columns=list(LATER)), check_dtype=False)
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_widths_are_along_the_principal_directions_of_the_training_data(run: Run, trained: SimpleNamespace) -> None:
    frame = do(run, trained, samplers="heun", steps=3, seeds=5)
    data = trained.data
    sampler = Presets(conf_dir() / "sampler", run.directory)("heun", 3)
    drawn = sampler(trained.model, (32, 2), seed=5).x.double()
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:32]
    directions = torch.linalg.eigh(torch.cov(data.transform.encode(data.train).double().T)).eigenvectors
    wanted = spectrum(drawn, data.transform.encode(data.test[order]), directions=directions)
    assert frame["noise_left"][0] == pytest.approx(wanted.noise_left.value, rel=1e-4)
    assert frame["too_narrow"][0] == pytest.approx(wanted.too_narrow.value, rel=1e-4)
    # Of one class, or without moments, they are found in the training data.
    test = data.transform.encode(data.test[order])
    for statistics in (trained.model.statistics, None):
        found = run_directions(data, test, statistics)(drawn)
        assert torch.allclose(found.ratio, wanted.ratio, rtol=1e-3)


def test_another_sampler_adds_lines_and_the_reference_is_kept(
    run: Run, trained: SimpleNamespace, cells: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = do(run, trained)
    cells.clear()

    def solve(*arguments: Any) -> None:
        raise AssertionError("the reference was solved again")

    monkeypatch.setattr(TrueEnds, "_solve", solve)
    both = do(run, trained, samplers=["euler"], steps=[4])
    assert cells == [("Euler", 4, 0)]
    assert both["sampler"].tolist() == ["ddpm", "ddpm", "euler", "heun", "heun"]
    kept = both[both["sampler"] != "euler"]
    pd.testing.assert_frame_equal(kept.reset_index(drop=True), first)
    assert both.attrs["reference"]["error"] == first.attrs["reference"]["error"]
    cells.clear()
    do(run, trained)
    assert cells == []


def test_other_settings_or_another_model_begin_anew(run: Run, trained: SimpleNamespace, cells: list[Any]) -> None:
    do(run, trained)
    cells.clear()
    assert set(do(run, trained, n=16)["n"]) == {16}
    assert len(cells) == 4
    run.save_model(trained.model, 21)  # another file of the same weights
    cells.clear()
    do(run, trained, n=16)
    assert cells == []
    other = copy.deepcopy(trained.model)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    run.save_model(other, 20)
    do(run, trained, n=16)
    assert len(cells) == 4


def test_two_at_once_are_refused(run: Run, trained: SimpleNamespace, cells: list[Any]) -> None:
    with run.alone("comparison"), pytest.raises(ConfigError, match="is in use by another process"):
        do(run, trained)
    assert cells == []


def test_a_refusal_leaves_the_files(run: Run, trained: SimpleNamespace) -> None:
    do(run, trained, samplers=["heun"], steps=[3])
    before = (run.directory / "comparison.csv").read_bytes()
    with pytest.raises(ConfigError):
        do(run, trained, n=10**6)
    assert (run.directory / "comparison.csv").read_bytes() == before


def test_what_failed_is_tried_again(run: Run, trained: SimpleNamespace, cells: list[Any]) -> None:
    frame = do(run, trained, samplers=["tuned", "heun"], steps=[3])
    problems = dict(zip(frame["sampler"], frame["problem"], strict=True))
    assert problems["heun"] == ""
    assert problems["tuned"].startswith("ValueError: there is no file")
    sde = trained.model.sde
    made = TunedSteps(
        repr(sde), 1.0, (1.0, 0.5, 0.1, 0.001), ((1.0, 0.1), (1.0, 0.1, 0.1), (1.0, 0.1, 0.1, 0.1)), False, 1.0, 1.0, 1
    )
    made.save(run.directory / "tuned-3.json")
    cells.clear()
    assert (do(run, trained, samplers=["tuned", "heun"], steps=[3])["problem"] == "").all()
    assert cells == [("Tuned", 3, 0)]
    # And once more where the file is another.
    made.save(run.directory / "tuned-3.json")
    (run.directory / "tuned-3.json").write_text(made.to_json().replace("0.5", "0.6"))
    cells.clear()
    do(run, trained, samplers=["tuned", "heun"], steps=[3])
    assert cells == [("Tuned", 3, 0)]


def test_costly_cells_are_left_out(run: Run, trained: SimpleNamespace, cells: list[Any]) -> None:
    frame = do(run, trained, max_nfe=7)
    row = frame[(frame["sampler"] == "heun") & (frame["steps"] == 4)].iloc[0]
    assert row["problem"] == "left out: it takes about 9 evaluations, and max_nfe is 7"
    assert row["nfe"] == 9
    assert len(cells) == 3
    cells.clear()
    do(run, trained, max_nfe=8)
    assert cells == []
    assert (do(run, trained)["problem"] == "").all()  # a list of samplers has no limit of its own
    assert cells == [("Heun", 4, 0)]


def test_rows_of_the_first_version_count_unless_the_sampler_draws_others_now(tmp_path: Path) -> None:
    presets = Presets(conf_dir() / "sampler", tmp_path)

    def former(name: str) -> str:
        text = f"{OmegaConf.to_yaml(OmegaConf.load(presets.files[name]))}20"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    assert all(presets.identity(name, 20) == former(name) for name in ("annealed_langevin", "euler", "heun", "rk4"))
    assert all(presets.identity(name, 20) != former(name) for name in ("angle", "default", "pc", "torchsde"))


def test_every_sampler_is_a_rule(run: Run, trained: SimpleNamespace) -> None:
    presets = Presets(conf_dir() / "sampler", run.directory)
    every = presets.cells(None, [3, 8])
    names = {name for name, _ in every}
    assert set(presets.files) - names == {"scipy", "torchsde", "tuned"}
    assert [count for name, count in every if name == "heun"] == [3, 8]
    assert [count for name, count in every if name == "dopri5"] == [None]
    (run.directory / "tuned-8.json").write_text("{}")
    assert [count for name, count in presets.cells(None, [3, 8]) if name == "tuned"] == [8]
    assert presets.cells(["scipy", "tuned"], [3]) == [("scipy", None), ("tuned", 3)]


def test_every_sampler_at_a_few_steps(run: Run, trained: SimpleNamespace) -> None:
    frame = do(run, trained, samplers=None, steps=[3], n=16)
    allowed = frame[frame["problem"] == ""]
    # One evaluation a step, and the denoising.
    assert allowed["nfe"].max() == 4
    assert {"default", "ddim", "euler", "unipc"} <= set(allowed["sampler"])
    left = frame[frame["problem"] != ""]
    assert left["problem"].str.startswith("left out").all(), left["problem"].tolist()
    assert (left["nfe"] > 4).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samplers": ["heun", "dpmp_2m"]}, "unknown sampler 'dpmp_2m', did you mean 'dpmpp_2m'\\?; expected names of"),
        ({"samplers": []}, "samplers is empty, expected text or a list"),
        ({"samplers": [3]}, "samplers is \\[3\\], expected text or a list, each text"),
        ({"steps": [0]}, "steps is \\[0\\], expected an integer of at least 1 or a list"),
        ({"steps": [2.5]}, "steps is \\[2.5\\], expected an integer of at least 1 or a list"),
        ({"seeds": None}, "seeds is null, expected an integer of at least 0"),
        ({"n": 0}, "n is 0, expected an integer of at least 1"),
        ({"n": 5}, "sample quality needs at least 7 samples"),
        ({"n": 10**6}, "n is 1000000 but there are .* held-out samples, .*give n="),
        ({"tol": 0}, "tol is 0, expected a positive number or null"),
        ({"batch_size": 0}, "batch_size is 0, expected an integer of at least 1"),
        ({"max_nfe": "few"}, "max_nfe is 'few', expected an integer of at least 1 or null"),
    ],
)
def test_mistakes_are_told_in_one_line(
    run: Run, trained: SimpleNamespace, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        do(run, trained, **changes)
    assert "\n" not in str(caught.value)
    assert not (run.directory / "comparison.csv").exists()


def test_a_run_without_a_model_is_refused(run: Run, trained: SimpleNamespace) -> None:
    run.model_path.unlink()
    with pytest.raises(ConfigError, match="has no model.safetensors: train it first, by scoresde train run=.*run"):
        do(run, trained)


def test_samplers_compared_on_one_class(tmp_path: Path) -> None:
    trained = untrained(tmp_path / "run", "network.num_classes=2")
    run = Run.open(trained.directory)
    named = replace(trained.data, class_names=("lower", "upper"))
    trained.data = named
    whole = do(run, trained, samplers=["heun"], steps=[3])
    upper = do(run, trained, samplers=["heun"], steps=[3], label="upper")
    notes = {path.name: json.loads(path.read_text())["settings"] for path in run.directory.glob("comparison*.json")}
    assert {note.get("label") for note in notes.values()} == {None, "upper"}
    assert "label" not in notes["comparison.json"]
    model, units = run.model(), named.transform.encode
    order = torch.Generator().manual_seed(0)
    moon = named.test[named.test_labels == 1]
    held_out = units(moon[torch.randperm(len(moon), generator=order)[:32]]).double()
    presets = Presets(conf_dir() / "sampler", run.directory)
    drawn = presets("heun", 3)(model, (32, 2), seed=0, labels=torch.ones(32, dtype=torch.int64)).x
    expected = quality(units(named.transform.decode(drawn)).double(), held_out)["sliced_wasserstein"].value
    assert upper["sliced_wasserstein"].tolist() == pytest.approx([expected], rel=1e-4)
    assert whole["sliced_wasserstein"].tolist() != upper["sliced_wasserstein"].tolist()
    assert len(do(run, trained, samplers=["heun"], steps=[3])) == 1
    for label, message in (("both", "expected one of the classes lower, upper"), (2, "expected 0 to 1")):
        with pytest.raises(ValueError, match=message):
            do(run, trained, label=label)
