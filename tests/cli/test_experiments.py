"""Every experiment of `conf/experiment` trains: ten steps at its own settings; those of papers, small and on digits."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from scoresde.cli import main
from scoresde.cli.catalogue import conf_dir, options
from scoresde.config.targets import instantiate
from scoresde.runs.directory import Run
from scoresde.sampling import Sampler
from scoresde.training.loop import Trainer
from scoresde.training.moments import data_statistics

QUICK = ["training.steps=10", "training.log_every=5", "evaluation.samples=0", "evaluation.likelihood=0",
         "evaluation.pictures=false", "progress=false", "name=made", "-q"]  # fmt: skip
# Of papers: their numbers of parameters.
PARAMETERS = {
    "score_sde/cifar10_ddpmpp_continuous_vp": 61_804_419,
    "score_sde/cifar10_ddpmpp_continuous_subvp": 61_804_419,
    "score_sde/cifar10_ddpmpp_deep_continuous_vp": 106_632_579,
    "score_sde/cifar10_ddpmpp_deep_continuous_subvp": 106_632_579,
    "score_sde/cifar10_ncsnpp_continuous_ve": 62_758_915 - 128,  # frequencies, which are not trained
    "score_sde/cifar10_ncsnpp_deep_continuous_ve": 107_587_075 - 128,
    "edm/cifar10_vp": 55_733_891,
    "edm/cifar10_ve": 56_397_827,
    "edm/imagenet64_adm": 295_899_267,
    "ddpm/cifar10": 35_218_947,
}
# Which the paper states in millions.
MILLIONS = {"edm2/xs": 125, "edm2/s": 280, "edm2/m": 498, "edm2/l": 777, "edm2/xl": 1119,
            "dit/s_2": 33, "dit/b_2": 130, "dit/l_2": 458, "dit/xl_2": 675}  # fmt: skip
CLASSES = ("edm/imagenet64_adm", *MILLIONS)


WHOLE = [name for name in options("experiment") if name not in PARAMETERS and name not in MILLIONS]


@pytest.mark.parametrize("name", [*WHOLE, "edm/imagenet64_adm"])
def test_ten_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "digits_text":
        pytest.importorskip("wordllama")
    monkeypatch.chdir(tmp_path)
    main(["train", f"experiment={name}", *(small(name) if name not in WHOLE else ()), *QUICK])
    summary = json.loads((tmp_path / "runs/made/summary.json").read_text())
    assert summary["training"]["steps"] == 10
    assert summary["training"]["skipped"] == 0
    entries = [json.loads(line) for line in (tmp_path / "runs/made/metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("name", [*PARAMETERS, *MILLIONS])
def test_ten_steps_of_papers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    run = Run(tmp_path, composed(f"experiment={name}", *small(name), "training.steps=10", "training.log_every=10"))
    data, options = run.data(), run.make("training")
    model = run.new_model(data.shape, data_statistics(data, options.dequantise))
    trainer = Trainer(model, run.make("objective"), data, run.make("optimizer"), options, tmp_path, [])
    before = [p.detach().clone() for p in model.network.parameters()]
    steps = list(trainer.steps())
    assert [step.step for step in steps] == list(range(1, 11))
    assert all(math.isfinite(float(step.loss)) and not step.skipped for step in steps)
    changed = [not torch.equal(a, b) for a, b in zip(before, model.network.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    assert isinstance(run.make("sampler"), Sampler)


def small(name: str) -> list[str]:
    classes = ["network.num_classes=10"] if name in CLASSES else []
    return ["data=digits", "size=small", "training.batch_size=4", *classes]


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", overrides=list(overrides))


@pytest.mark.parametrize("name", [*PARAMETERS, *MILLIONS])
def test_networks_of_papers_have_their_numbers_of_parameters(name: str) -> None:
    shape = (4, 32, 32) if name.startswith("dit") else (3, 32, 32) if "cifar10" in name else (3, 64, 64)
    with torch.device("meta"):
        network = instantiate(composed(f"experiment={name}"), "network", shape=shape)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == PARAMETERS.get(name, parameters)
    assert round(parameters / 1e6) == MILLIONS.get(name, round(parameters / 1e6))


def test_deep_networks_change_what_their_files_say_alone() -> None:
    flat, deep = (composed(f"experiment=score_sde/cifar10_ddpmpp_{n}continuous_vp") for n in ("", "deep_"))
    assert (deep.network.blocks, deep.training.steps) == (8, 950_000)
    deep.network.blocks, deep.training.steps = flat.network.blocks, flat.training.steps
    assert deep == flat


def test_a_size_changes_sizes_alone() -> None:
    full, less = (composed("experiment=edm/imagenet64_adm", f"size={size}") for size in ("full", "small"))
    changed = {
        f"{group}.{key}"
        for group in ("network", "training", "objective", "optimizer", "preconditioning", "sampler", "sde")
        for key in full[group]
        if full[group][key] != less[group][key]
    }
    assert changed == {
        "network.channels", "network.multipliers", "network.blocks", "network.attention_resolutions",
        "training.steps", "training.batch_size", "training.warmup", "training.bf16", "training.checkpoint_every",
    }  # fmt: skip
    assert composed("experiment=edm/imagenet64_adm", "size=small", "network.channels=64").network.channels == 64


@pytest.mark.parametrize("name", ["ncsnpp", "ddpmpp"])
def test_short_names_are_small(name: str) -> None:
    paper = "cifar10_ncsnpp_continuous_ve" if name == "ncsnpp" else "cifar10_ddpmpp_continuous_vp"
    assert composed(f"experiment={name}") == composed(f"experiment=score_sde/{paper}", "data=digits", "size=small")


def test_a_size_that_the_network_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", "network=mlp", "size=small"])
    assert "size=small is for network=adm, ddpm, " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for given, message in (([], "data.path"), (["data.path=none.tar.gz"], "none.tar.gz")):
        with pytest.raises(SystemExit):
            main(["train", "experiment=ddpm/cifar10", *given])
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
