import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file

import scoresde
from scoresde.data import Data, DataInfo, Identity, Standardise, digits, two_moons
from scoresde.options.errors import ConfigError
from scoresde.runs.directory import Run, check_name, config_hash
from scoresde.score import NetworkScore
from scoresde.statistics import Statistics
from scoresde.storage.bounded import CheckpointError
from scoresde.training.moments import data_statistics

CONFIG = """
data: {_target_: scoresde.data.two_moons, n_train: 100, n_test: 10}
sde: {_target_: scoresde.sde.VPSDE, beta_min: 0.1, beta_max: 20.0}
network:
  _target_: scoresde.networks.MLP
  width: 16
  blocks: 1
  embedding: {_target_: scoresde.networks.FourierFeatures, dim: 8, max_frequency: 3.0}
preconditioning: {_target_: scoresde.preconditioning.EDMPreconditioning, sigma_data: null}
objective: {_target_: scoresde.objectives.DenoisingScoreMatching}
optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: 1e-3}
training: {_target_: scoresde.training.Training, steps: 5, log_every: 1, checkpoint_every: 10, keep: 2, seed: 0}
sampler:
  _target_: scoresde.sampling.Sampler
  solver: {_target_: scoresde.sampling.Heun}
  grid: {_target_: scoresde.sampling.KarrasGrid, steps: 4}
evaluation: {samples: 10}
logger: {_target_: scoresde.training.LocalLogger}
"""


def config(**changes: Any) -> DictConfig:
    made = OmegaConf.create(CONFIG)
    assert isinstance(made, DictConfig)
    for key, value in changes.items():
        OmegaConf.update(made, key.replace("__", "."), value, force_add=True)
    return made


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NetworkScore]:
    """A run directory with a model whose weights are random, and the model."""
    run = Run(tmp_path_factory.mktemp("runs") / "moons", config())
    torch.manual_seed(1)
    model = run.new_model((2,), data_statistics(run.data(), dequantise=True))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    run.write_config()
    run.save_model(model, step=5)
    assert isinstance(model, NetworkScore)
    return run.directory, model.eval()


@pytest.fixture
def directory(saved: tuple[Path, NetworkScore], tmp_path: Path) -> Path:
    """A copy of it to break."""
    return shutil.copytree(saved[0], tmp_path / "moons")


# -- opening --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data: [1, 2", "cannot be read as YAML"),
        ("a: 1\na: 2", "has the key 'a' twice in line 2"),
        ("x: !!python/object/apply:os.mkdir [executed]", "has the tag .* in line 1"),
        ("x: &a [1]\ny: *a", r"has an alias or anchor \(&, \*\) in line 1"),
        ("x: &a [*a]", r"has an alias or anchor \(&, \*\) in line 1"),
        (b"\xff\xfe\x00x", "cannot be read as YAML"),
        ("- 1\n- 2", "holds no mapping"),
        ("7", "config.yaml"),
        ("sde: {_target_: os.mkdir, _args_: [executed]}", r"_target_ 'os.mkdir' is not allowed"),
        ("deep: [{x: [{_target_: builtins.eval}]}]", r"_target_ 'builtins.eval' is not allowed"),
        ("sde: {_target_: '${name}'}\nname: os.mkdir", "config.yaml has an interpolation"),
        ("data: {path: '${oc.env:HOME}'}", "config.yaml has an interpolation"),
        ('data: {path: "\\x24{oc.env:HOME}"}', "config.yaml has an interpolation"),
        ('data: {path: "\\u0024\\u007boc.env:HOME}"}', "config.yaml has an interpolation"),
        ('data: {path: "$\\\n  {oc.env:HOME}"}', "config.yaml has an interpolation"),
        ('"\\x24{oc.env:HOME}": 1', "config.yaml has an interpolation"),
        ('x: [[{y: [a, "b\\x24{sde}"]}]]', "config.yaml has an interpolation"),
        ("sde: ${nothing}", "config.yaml has an interpolation"),
        ("sde: ${sde}", "config.yaml"),
        ("sde: ${unknown_resolver:x}", "config.yaml"),
    ],
)
def test_a_broken_configuration_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message) as error:
        Run.open("run")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["run"]


def test_an_environment_value_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORESDE_TEST_SECRET", "s3cret")
    for text in ('a: "\\x24{oc.env:SCORESDE_TEST_SECRET}"', "a: ${oc.env:SCORESDE_TEST_SECRET}"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match="interpolation") as error:
            Run.open(tmp_path)
        assert "s3cret" not in str(error.value)
    # Two dollars, or braces alone, are no interpolation.
    (tmp_path / "config.yaml").write_text("a: $x\nb: '{x}'\nc: $$\n")
    assert OmegaConf.to_container(Run.open(tmp_path).config) == {"a": "$x", "b": "{x}", "c": "$$"}


@pytest.mark.parametrize(
    "address",
    ["https://example.org/x.npz", "hf://datasets/a/b/x.parquet", "zip://x::https://example.org/x.zip", "a::b",
     "//host/share/x.npz", "\\\\host\\share"],
)  # fmt: skip
def test_data_on_another_machine_are_refused(tmp_path: Path, address: str) -> None:
    for node in ({"path": address}, {"path": "parquet", "data_files": {"train": ["x", address]}}, {address: 1}):
        plain = {"data": {"_target_": "scoresde.data.npz", **node}}
        (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(plain))
        with pytest.raises(ConfigError, match="config.yaml are at .*, on another machine: .*allow=") as error:
            Run.open(tmp_path)
        assert "\n" not in str(error.value)


def test_the_user_may_allow_an_address(tmp_path: Path) -> None:
    plain = {"data": {"_target_": "scoresde.data.huggingface", "path": "json", "data_files": "https://a.org/b/c.json"}}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(plain))
    assert Run.open(tmp_path, allow=["https://a.org/b/"]).config.data.path == "json"
    for other in ("https://a.org/d/", "https", "a.org"):
        with pytest.raises(ConfigError, match="on another machine"):
            Run.open(tmp_path, allow=[other])
    plain["data"]["data_files"] = "data/a:b/c-1.json"
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(plain))
    Run.open(tmp_path)


def test_not_a_run_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing does not exist; give a directory that `scoresde train` wrote"):
        Run.open(tmp_path / "missing")
    with pytest.raises(ConfigError, match="is no run directory: it has no config.yaml"):
        Run.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is no run directory"):
        Run.open(tmp_path / "file")


def test_an_empty_configuration_has_no_network(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match="the configuration has no data"):
        Run.open(tmp_path).data()


def test_configuration_round_trip(tmp_path: Path) -> None:
    changed = config(training__seed=3)
    changed.copied = "${training.seed}"
    Run(tmp_path / "run", changed).write_config()
    again = Run.open(tmp_path / "run")
    assert again.config == OmegaConf.create(OmegaConf.to_container(changed, resolve=True))
    assert again.config.copied == 3
    assert again.data().shape == (2,)
    assert config_hash(again.config) == config_hash(changed)


def test_only_the_user_allows_more(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_networks.py").write_text("from scoresde.networks import MLP\nclass Net(MLP): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = (directory / "config.yaml").read_text().replace("scoresde.networks.MLP", "their_networks.Net")
    (directory / "config.yaml").write_text(text + "allow: [their_networks]\n")
    with pytest.raises(ConfigError, match="'their_networks.Net' is not allowed"):
        scoresde.load(directory)
    model = scoresde.load(directory, allow=["their_networks"], accept=["network._target_"])
    assert type(model.network).__name__ == "Net"


# -- models ---------------------------------------------------------------------------------------------


def test_a_loaded_model_is_the_saved_one(saved: tuple[Path, NetworkScore]) -> None:
    directory, model = saved
    loaded = scoresde.load(str(directory))
    assert not loaded.training
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    for t in (loaded.sde.t_min, 0.1, loaded.sde.t_max):
        time = torch.tensor(t, dtype=torch.float64)
        for name in ("denoise", "score", "noise", "velocity"):
            assert torch.equal(getattr(loaded, name)(x, time), getattr(model, name)(x, time))
    assert loaded.statistics is not None
    assert model.statistics is not None
    for name in ("mean", "std", "covariance"):
        mine = getattr(loaded.statistics, name)
        assert mine.dtype == torch.float64
        assert torch.equal(mine, getattr(model.statistics, name))
    assert loaded.preconditioning.sigma_data == model.preconditioning.sigma_data == float(model.statistics.std)  # type: ignore[attr-defined]


def test_statistics_without_a_covariance(tmp_path: Path) -> None:
    run = Run(tmp_path, config())
    run.write_config()
    model = run.new_model((2,), Statistics(torch.tensor([1.0, 2.0]), 0.5))
    run.save_model(model, 1)
    loaded = scoresde.load(tmp_path)
    assert loaded.statistics is not None
    assert loaded.statistics.covariance is None
    assert loaded.statistics.mean.tolist() == [1, 2]


def test_no_model_yet(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no trained model yet; `scoresde train run="):
        scoresde.load(directory)


@pytest.mark.parametrize("part", [0, 5, 0.5, -1])
def test_a_truncated_model(directory: Path, part: float) -> None:
    path = directory / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole)) if isinstance(part, float) else part])
    with pytest.raises(CheckpointError, match="cannot be read as a safetensors file") as error:
        scoresde.load(directory)
    assert "\n" not in str(error.value)


def foreign(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"conv1.weight": torch.ones(2, 2)}


def one_missing(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in tensors.items() if k != "network.input.weight"}


def one_more(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "network.extra": torch.ones(2)}


def another_shape(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "network.input.weight": torch.ones(16, 3)}


def bad_statistics(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "statistics.std": torch.tensor(float("nan"), dtype=torch.float64)}


def bad_covariance(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "statistics.covariance": torch.eye(5, dtype=torch.float64)}


@pytest.mark.parametrize("change", [foreign, one_missing, one_more, another_shape, bad_statistics, bad_covariance])
def test_a_model_of_something_else(directory: Path, change: Any) -> None:
    path = directory / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path)
    with pytest.raises(CheckpointError, match="model.safetensors does not hold the model that .*config.yaml") as error:
        scoresde.load(directory)
    assert "\n" not in str(error.value)


def test_a_configuration_that_was_changed(directory: Path) -> None:
    text = (directory / "config.yaml").read_text()
    (directory / "config.yaml").write_text(text.replace("width: 16", "width: 24"))
    with pytest.raises(ConfigError, match=r"network.width is 24, but .* was trained with 16"):
        scoresde.load(directory)
    with pytest.raises(CheckpointError, match="does not hold the model"):
        scoresde.load(directory, accept=["network"])
    (directory / "config.yaml").write_text(text.replace("width: 16", "width: 0"))
    with pytest.raises(ConfigError, match="network: width and blocks must be at least 1"):
        scoresde.load(directory, accept=["network"])


@pytest.mark.parametrize(
    "name", ["checkpoints", "samples", "tensorboard", "wandb", "metrics.jsonl", "likelihood-test.csv", "summary.lock"]
)
@pytest.mark.parametrize("there", [True, False])
def test_links_in_a_run_are_not_followed_for_writing(directory: Path, tmp_path: Path, name: str, there: bool) -> None:
    outside = tmp_path / "outside"
    if there:
        outside.write_text("kept") if "." in name else outside.mkdir()
    (directory / name).symlink_to(outside)
    run = Run.open(directory)
    with pytest.raises(ConfigError, match=f"{name} is a symbolic link, which is not followed for writing") as error:
        run.add_to_summary(a=1)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="symbolic link"), run.alone("training"):
        pass
    assert outside.exists() == there
    assert not there or outside.is_dir() or outside.read_text() == "kept"
    assert run.model() is not None  # it can still be read


@pytest.mark.parametrize("key", ["data", "network", "objective", "preconditioning", "sampler", "sde"])
def test_what_a_configuration_makes_is_of_its_kind(key: str) -> None:
    run = Run(Path("x"), config())
    run.config[key] = {"_target_": "scoresde.training.PowerFunction", "relative_std": 0.05}
    given = {"shape": (2,)} if key == "network" else {}
    with pytest.raises(ConfigError, match=f"^{key}"):
        run.make(key, **given)
    run.config[key]._partial_ = True
    with pytest.raises(ConfigError, match=f"^{key}.*"):
        run.make(key)


def test_a_link_to_a_run_is_the_users_own(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(directory)
    (tmp_path / "notes").write_text("kept")
    (directory / "summary.json").symlink_to(tmp_path / "notes")
    Run.open(tmp_path / "link").add_picture("samples/a.png", "A", "")
    (directory / "summary.json").unlink()
    (directory / "summary.json").symlink_to(tmp_path / "summary")
    Run.open(tmp_path / "link").add_to_summary(a=1)
    assert not (directory / "summary.json").is_symlink()
    assert not (tmp_path / "summary").exists()
    assert (tmp_path / "notes").read_text() == "kept"


# -- identity -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"data__n_train": 101},
        {"data__seed": 1},
        {"sde__beta_max": 19.0},
        {"network__width": 17},
        {"network__embedding__dim": 16},
        {"preconditioning__sigma_data": 0.5},
        {"objective__stratified": True},
        {"optimizer__lr": 2e-3},
        {"training__steps": 6},
        {"training__seed": 1},
        {"sampler__grid__steps": 9},
        {"evaluation__samples": 3},
    ],
)
def test_the_hash_changes_with_what_decides_the_weights_and_figures(change: dict[str, Any]) -> None:
    assert config_hash(config(**change)) != config_hash(config())


@pytest.mark.parametrize(
    "change",
    [
        {"training__log_every": 7},
        {"training__checkpoint_every": None},
        {"training__keep": 9},
        {"logger__x": 3},
        {"runs": "elsewhere"},
    ],
)
def test_the_hash_does_not_change_with_the_rest(change: dict[str, Any]) -> None:
    assert config_hash(config(**change)) == config_hash(config())


def test_the_hash_is_of_values_in_any_order() -> None:
    plain = OmegaConf.to_container(config())
    assert isinstance(plain, dict)
    turned = OmegaConf.create(dict(reversed(plain.items())))  # type: ignore[arg-type]
    turned.beta = 20.0
    turned.sde.beta_max = "${beta}"
    assert config_hash(turned) == config_hash(config())
    assert len(config_hash(turned)) == 8
    before = OmegaConf.to_yaml(turned)
    config_hash(turned)
    assert OmegaConf.to_yaml(turned) == before


# -- results --------------------------------------------------------------------------------------------


def test_summary_and_pictures(tmp_path: Path) -> None:
    run = Run(tmp_path, config())
    assert run.summary() == {}
    run.add_to_summary(name="x", training={"steps": 5})
    run.add_to_summary(training={"steps": 6}, samples={"n": 1})
    assert run.summary() == {"name": "x", "training": {"steps": 6}, "samples": {"n": 1}}
    run.add_picture("samples/a.png", "A", "first")
    run.add_picture("samples/b.png", "B", "second")
    run.add_picture("samples/a.png", "A", "again")
    pictures = OmegaConf.to_container(OmegaConf.load(tmp_path / "pictures.json"))
    assert [(p["file"], p["caption"]) for p in pictures] == [("samples/a.png", "again"), ("samples/b.png", "second")]  # type: ignore[call-overload, index, union-attr]
    assert sorted(os.listdir(tmp_path)) == ["pictures.json", "summary.json"]


def test_runs_from_before_standardisation_had_a_choice_keep_one_scale(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal([1e5, 0.6], [700, 0.1], size=(50, 2))
    np.savez(tmp_path / "x.npz", x=x)
    options = config()
    options.data = {"_target_": "scoresde.data.npz", "path": str(tmp_path / "x.npz")}
    data = Run(tmp_path, options).data()
    assert data.transform == Standardise.fit(data.train, "all")
    options.data.standardise = "auto"
    assert Run(tmp_path, options).data().transform == Standardise.fit(data.train, "channel")


def test_data_statistics_are_those_of_what_is_trained_on() -> None:
    data = two_moons(n_train=5000, n_test=5)
    assert isinstance(data.transform, Identity)
    known = data_statistics(data, dequantise=True)
    torch.testing.assert_close(known.mean, data.train.double().mean(0))
    torch.testing.assert_close(known.covariance, data.train.double().T.cov())
    assert float(known.std) == pytest.approx(float(data.train.double().var(0).mean()) ** 0.5, rel=1e-12)


def test_dequantisation_adds_the_variance_of_a_cell() -> None:
    data = digits()
    centres, filled = (data_statistics(data, dequantise=d) for d in (False, True))
    step = float(data.transform.encode(torch.tensor([[1]])) - data.transform.encode(torch.tensor([[0]])))
    # A uniform of width `step` has variance step²/12 = 0.083 step². Over 92,000 values of standard deviation about
    # 4 steps its covariance with them is zero to 0.004 step², and counts twice: 9 % of it, times five.
    added = float(filled.std) ** 2 - float(centres.std) ** 2
    assert added == pytest.approx(step**2 / 12, rel=0.45)
    assert torch.equal(data_statistics(data, True).mean, filled.mean)


# -- data -----------------------------------------------------------------------------------------------


def labelled(folder: Path, labels: np.ndarray) -> dict[str, Any]:
    np.savez(folder / "a.npz", x=np.random.default_rng(0).normal(size=(len(labels), 2)), y=labels)
    return {"_target_": "scoresde.data.npz", "path": str(folder / "a.npz"), "label_key": "y", "test_size": 4}


def run_on(folder: Path, node: dict[str, Any], num_classes: int | None) -> Run:
    made = config(network__num_classes=num_classes)
    made.data = node
    run = Run(folder / "run", made)
    run.write_config()
    return run


def classes(data: Data) -> list[int]:
    labels = data.whole()[1]
    assert labels is not None
    return labels.tolist()


def test_data_have_the_classes_that_the_run_was_trained_with(tmp_path: Path) -> None:
    run = run_on(tmp_path, labelled(tmp_path, np.arange(20) % 4 + 1), 4)
    run.write_info(DataInfo.of(run.data()))
    assert run.data().class_names == ("1", "2", "3", "4")
    # The same file with fewer classes, one of them another's index.
    labelled(tmp_path, np.array([2, 4] * 10))
    assert run.data().class_names == ("1", "2", "3", "4")
    assert classes(run.data()) == [1, 3] * 10
    labelled(tmp_path, np.array([2, 9] * 10))
    with pytest.raises(ValueError, match="a has the classes 9, expected those of 1, 2, 3, 4"):
        run.data()
    run.config.network.num_classes = None  # a model without classes takes any
    assert run.data().class_names == ("2", "9")


def test_data_of_an_older_run_keep_their_classes(tmp_path: Path) -> None:
    # Labels were the classes' indices: 1 .. 4 made a fifth class 0 that nothing has.
    run = run_on(tmp_path, labelled(tmp_path, np.arange(20) % 4 + 1), 5)
    assert classes(run.data()) == (np.arange(20) % 4 + 1).tolist()
    assert run.data().num_classes == 5
    # Folders were sorted as text, and train/ and test/ were classes like others.
    for i, name in enumerate(("c10", "c2") * 3):
        (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), i).save(tmp_path / "pictures" / name / f"{i}.png")
    node = {"_target_": "scoresde.data.image_folder", "path": str(tmp_path / "pictures"), "labels": True}
    assert run_on(tmp_path, node, None).data().class_names == ("c2", "c10")
    assert run_on(tmp_path, node, 2).data().class_names == ("c10", "c2")
    (tmp_path / "pictures" / "c10").rename(tmp_path / "pictures" / "train")
    (tmp_path / "pictures" / "c2").rename(tmp_path / "pictures" / "test")
    assert run_on(tmp_path, node, 2).data().class_names == ("test", "train")


# -- names and permissions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "..", ".", "", "a/"])
def test_names_with_slashes_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected a name without slashes"):
        check_name(name)


def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run", OmegaConf.create({}))
    run.check_writable("samples")  # nothing is there yet
    (tmp_path / "run" / "samples").mkdir(parents=True)
    run.check_writable("samples")
    assert list((tmp_path / "run").rglob("*")) == [tmp_path / "run" / "samples"]
    make = tempfile.TemporaryFile

    def refuse(dir: Path) -> Any:  # permissions do not hold for root, who may run the tests
        if dir.name == "samples":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return make(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    run.check_writable()
    with pytest.raises(ConfigError, match=r"samples cannot be written to \(Permission denied\): make it writable"):
        run.check_writable("samples")
    monkeypatch.undo()
    (tmp_path / "run" / "checkpoints").write_text("")
    with pytest.raises(ConfigError, match="checkpoints is a file, expected a folder"):
        run.check_writable("checkpoints")
