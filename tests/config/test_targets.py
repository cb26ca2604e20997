import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from scoresde.cli import conf_dir
from scoresde.config.targets import check_targets, instantiate
from scoresde.options.errors import ConfigError
from scoresde.sampling import AutoAdams, StepRule
from scoresde.training.ema import Profile

FILES = sorted(conf_dir().rglob("*.yaml"))


def targets(node: Any) -> list[tuple[str, dict[str, Any]]]:
    """Every `_target_` under a node, with its arguments."""
    found = []
    if isinstance(node, dict):
        if "_target_" in node:
            found.append((node["_target_"], {k: v for k, v in node.items() if not k.startswith("_")}))
        for value in node.values():
            found += targets(value)
    elif isinstance(node, list):
        for value in node:
            found += targets(value)
    return found


def of(group: str) -> list[str]:
    return [path.stem for path in FILES if path.parent.name == group]


def load(group: str, name: str) -> Any:
    return OmegaConf.create({group: OmegaConf.load(conf_dir() / group / f"{name}.yaml")})


# -- the configuration that is shipped ------------------------------------------------------------------


def test_there_are_files() -> None:
    assert len(FILES) > 40
    assert sum(len(targets(yaml.safe_load(path.read_text()))) for path in FILES) > 60


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(conf_dir())))
def test_every_target_is_allowed_and_takes_its_keys(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    check_targets(node)
    for target, arguments in targets(node):
        module, _, name = target.rpartition(".")
        signature = inspect.signature(getattr(importlib.import_module(module), name))
        # Partial: the shape and the parameters are given by the program. A key that is no argument raises.
        signature.bind_partial(**arguments)


@pytest.mark.parametrize("group", ["sde", "preconditioning", "objective", "sampler", "logger", "training"])
def test_every_choice_can_be_made(group: str) -> None:
    for name in of(group):
        if group == "logger" and name != "local":
            pytest.importorskip(name)
        config = load(group, name)
        for key in OmegaConf.missing_keys(config):  # a table of β or of noise levels
            OmegaConf.update(config, key, [0.1, 0.2, 0.3])
        assert instantiate(config, f"logger.{name}" if group == "logger" else group) is not None


def test_every_network_and_optimizer_can_be_made() -> None:
    for name in (n for n in of("network") if n != "default"):  # which is one of the others
        config = load("network", name)
        if config.network.get("num_classes") == "auto":  # which the data settle
            config.network.num_classes = 10
        network = instantiate(config, "network", shape=(1, 8, 8))
        assert network.shape == (1, 8, 8)
        for optimizer in of("optimizer"):
            made = instantiate(load("optimizer", optimizer), "optimizer")(network.parameters())
            assert isinstance(made, torch.optim.Optimizer)


def test_toys_can_be_made() -> None:
    for name in ("two_moons", "eight_gaussians", "grid_gaussians", "checkerboard", "swiss_roll", "two_gaussians"):
        config = load("data", name)
        config.data.n_train, config.data.n_test = 30, 10
        assert instantiate(config, "data").shape == (2,)


def test_overriding_values_reach_the_object() -> None:
    config = OmegaConf.create(
        {"half": 3.5, "sde": {"_target_": "scoresde.sde.VPSDE", "beta_min": 0.2, "beta_max": "${half}"}}
    )
    sde = instantiate(config, "sde")
    assert (sde.beta_min, sde.beta_max) == (0.2, 3.5)
    assert isinstance(instantiate(load("training", "default"), "training").ema, Profile)


# -- the allow-list -------------------------------------------------------------------------------------

REFUSED = [
    "os.system",
    "builtins.eval",
    "eval",
    "subprocess.Popen",
    "pickle.loads",
    "numpy.load",
    "torch.load",
    "torch.hub.load",
    "torch.optim.swa_utils.torch.load",
    "torch.optim.swa_utils.AveragedModel",
    "torch.optim.optimizer.warnings.warn",
    "torch.optimizers.Adam",
    "scoresde.cli.os.system",
    "scoresde.cli.main",
    "scoresde.data.base.np.load",
    "scoresde.data.base.torch.load",
    "scoresde.data.base.np",
    "scoresde.data.base",
    "scoresde.data.",
    "scoresde.data..digits",
    ".scoresde.data.digits",
    "scoresde.storage.files.write_atomically",
    "scoresde.training.loop.load_checkpoint",
    "scoresde.training.loop.save_checkpoint",
    "scoresde.training.loggers._drop_partial_line",
    "scoresde.training.loggers.Path",
    "scoresde.training.loop.Trainer.fit",
    "scoresde.data.split_indices",
    "scoresde.data.batch_indices",
    "scoresde.data.files._split_data",
    "scoresde.sampling.tune",
    "scoresde.sampling.tuned.TunedSteps.load",
    "scoresde.metrics.evaluate.evaluate_samples",
    "scoresde.networks.unet._called",
    "scoresde.networks.unet.F.dropout",
    "scoresde.networks.embedding.nn.Linear",
    "scoresde.sde.SDE.__subclasses__",
    "torch.optim.Adam.step",
    "torch.optim.lr_scheduler.LambdaLR",
    "scoresde.runs.directory.load",
    "scoresde.plots.save",
    "scoresde.database.digits",
    "hydra.utils.get_method",
    "functools.partial",
    "",
    None,
    3,
    ["os.system"],
    {"_target_": "os.system"},
    "${oc.env:HOME}",
    "scoresde.data.${oc.env:HOME}",
]


@pytest.mark.parametrize("target", REFUSED, ids=repr)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda node: node,
        lambda node: [1, node],
        lambda node: {"x": {"y": [[node]]}},
        lambda node: {"_target_": "scoresde.sampling.Sampler", "solver": node},
        lambda node: {"_target_": "torch.optim.Adam", "_args_": [node], "_partial_": True},
    ],
    ids=["plain", "list", "deep", "argument", "positional"],
)
def test_other_targets_are_refused(target: Any, wrap: Any) -> None:
    with pytest.raises(ConfigError, match="_target_") as error:
        check_targets(wrap({"_target_": target, "_args_": ["false"]}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["_target_", "x"])
def test_a_refused_module_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    (tmp_path / "stranger_module.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).mkdir()\nclass Thing: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node: Any = {"_target_": "stranger_module.Thing"}
    config = OmegaConf.create({"data": node if key == "_target_" else {"_target_": "scoresde.data.digits", key: node}})
    with pytest.raises(ConfigError, match="'stranger_module.Thing' is not allowed"):
        instantiate(config, "data")
    assert "stranger_module" not in sys.modules
    assert not (tmp_path / "ran").exists()


def test_an_interpolation_cannot_bring_in_a_target(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    attack = f'oc.decode:"{{_target_: os.mkdir, _args_: [{mark}]}}"'
    for prefix in ("$", "\\$", "\\\\\\$"):
        text = f"{prefix}{{{attack}}}"
        for node in (text, [text], {"_target_": text}, {"_target_": "scoresde.sampling.Heun", "s_noise": text}):
            config = OmegaConf.create({"sampler": {"_target_": "scoresde.sampling.Sampler", "solver": node, "grid": 1}})
            with pytest.raises((ConfigError, Exception)):
                instantiate(config, "sampler").solver.anything  # noqa: B018 (whatever was made is no solver)
            assert not mark.exists()


def test_a_users_own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_networks.py").write_text(
        "class Net:\n    def __init__(self, shape, width=3):\n        self.w = width\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = OmegaConf.create({"network": {"_target_": "my_networks.Net", "width": 5}})
    with pytest.raises(ConfigError, match=r"not allowed.*allow=\[my_networks\]"):
        instantiate(config, "network", shape=(2,))
    assert instantiate(config, "network", allow=["my_networks"], shape=(2,)).w == 5
    for other in (["my_network"], ["my"], ["networks"]):  # no prefix of a name is the name of a package
        with pytest.raises(ConfigError, match="not allowed"):
            instantiate(config, "network", allow=other, shape=(2,))


OWN = """
import functools
import json
import os
import subprocess as processes
import torch
from os import path
from os import system
from torch.nn import Linear

from my_package import inner

class Net(Linear):
    class Part:
        pass
    @classmethod
    def made(cls):
        return cls(1, 1)
    @staticmethod
    def static():
        pass
    dumps = json.dumps

@torch.no_grad()
def decorated(width=2):
    return width

shorter = lambda: 1
partial = functools.partial(os.getcwd)
instance = Net(1, 1)
dumps = json.dumps
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the user's, which imports others, and one beside it that it does not import."""
    folder = tmp_path / "my_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(OWN)
    (folder / "inner.py").write_text("import os\n\nclass Deep: pass\n")
    (folder / "broken.py").write_text("raise RuntimeError('two\\nlines')\n")
    (tmp_path / "my_package_2.py").write_text("class Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.split(".")[0] in ("my_package", "my_package_2")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["Net", "Net.Part", "decorated", "inner.Deep"])
def test_what_a_users_package_defines_is_allowed(name: str) -> None:
    check_targets({"_target_": f"my_package.{name}"}, ["my_package"])
    with pytest.raises(ConfigError, match="not allowed"):
        check_targets({"_target_": f"my_package.{name}"})


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    "name",
    ["os.system", "os.path.join", "processes.Popen", "torch.load", "torch.nn.Linear", "path.join", "system", "Linear",
     "inner.os.system", "inner", "json.dumps", "dumps", "Net.dumps", "Net.made", "Net.static", "shorter", "partial",
     "instance", "instance.forward", "decorated.__wrapped__", "decorated.__globals__", "Net.__init__.__globals__",
     "functools.partial", "__builtins__.eval", "__loader__.load_module"],
)  # fmt: skip
def test_what_a_users_package_imports_is_not(name: str) -> None:
    for node in ({"_target_": f"my_package.{name}"}, {"_target_": f"my_package.{name}", "_partial_": True}):
        with pytest.raises(ConfigError, match="is not allowed|does not exist") as error:
            instantiate(OmegaConf.create({"network": node}), "network", allow=["my_package"])
        assert "\n" not in str(error.value)


@pytest.mark.usefixtures("own")
def test_a_package_is_looked_up_without_importing_others() -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        check_targets({"_target_": "my_package_2.Net"}, ["my_package"])
    with pytest.raises(ConfigError, match="not allowed"):
        check_targets({"_target_": "my_package.Net"}, ["my_package.inner"])
    assert "my_package" not in sys.modules
    check_targets({"_target_": "my_package.inner.Deep"}, ["my_package.inner"])
    with pytest.raises(ConfigError, match=r"importing my_package.broken fails: RuntimeError: two lines$"):
        check_targets({"_target_": "my_package.broken.Net"}, ["my_package"])
    with pytest.raises(ConfigError, match="'my_package_3.Net' does not exist: there is no module my_package_3"):
        check_targets({"_target_": "my_package_3.Net"}, ["my_package_3"])
    assert "my_package_2" not in sys.modules


@pytest.mark.parametrize(
    "special",
    [{"_args_": 3}, {"_args_": {"0": 1}}, {"_partial_": "yes"}, {"_partial_": 1}, {"_recursive_": None},
     {"_convert_": "object"}, {"_target_2_": 1}, {"_call_": "os.system"}],
)  # fmt: skip
def test_special_keys_have_values_that_they_take(special: dict[str, Any]) -> None:
    node = {"_target_": "scoresde.sampling.UniformTime", "steps": 3, **special}
    with pytest.raises(ConfigError, match=f"{next(iter(special))} of scoresde.sampling.UniformTime is .*, expected"):
        check_targets({"x": [node]})


def test_special_keys() -> None:
    solver = {"_target_": "scoresde.sampling.Heun", "_convert_": "all"}
    grid = {"_target_": "scoresde.sampling.UniformTime", "_args_": [3]}
    node = {"_target_": "scoresde.sampling.Sampler", "_args_": [solver], "grid": grid, "_recursive_": True}
    made = instantiate(OmegaConf.create({"sampler": node}), "sampler")
    assert repr(made.grid) == "UniformTime(steps=3)"
    partial = instantiate(OmegaConf.create({"grid": {**grid, "_partial_": True}}), "grid")
    assert repr(partial()) == "UniformTime(steps=3)"
    kept = {"_target_": "scoresde.networks.MLP", "shape": [2], "embedding": solver, "_recursive_": False}
    with pytest.raises(ConfigError, match="embedding"):  # it stays a mapping, which is no module
        instantiate(OmegaConf.create({"network": kept}), "network")


@pytest.mark.parametrize("node", [3, "x", [1], {"width": 3}])
def test_what_has_no_target_makes_nothing(node: Any) -> None:
    with pytest.raises(ConfigError, match="^network"):
        instantiate(OmegaConf.create({"network": node}), "network")


def test_numbers_of_steps_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"_target_": "scoresde.sampling.UniformTime", "steps": 10**12}
    with pytest.raises(ConfigError, match="^grid: steps is 1000000000000, the limit is 100000: .*SCORESDE_STEPS=1000"):
        instantiate(OmegaConf.create({"grid": grid}), "grid")
    network = {"_target_": "scoresde.networks.MLP", "shape": [2], "blocks": 10**9}
    with pytest.raises(ConfigError, match="^network: blocks is 1000000000, the limit is 100000"):
        instantiate(OmegaConf.create({"network": network}), "network")
    monkeypatch.setenv("SCORESDE_STEPS", "200000")
    grid["steps"] = 150_000
    assert instantiate(OmegaConf.create({"grid": grid}), "grid").steps == 150_000


def test_a_target_that_does_not_exist() -> None:
    for target in ("scoresde.sde.VPSED", "scoresde.data.nothing.digits", "torch.optim.Adm"):
        with pytest.raises(ConfigError, match=f"_target_ '{target}' does not exist"):
            check_targets({"_target_": target})


# -- errors of constructors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "node", "message"),
    [
        ("sde", {"_target_": "scoresde.sde.VPSDE", "beta_min": -1}, "^sde: .*beta_min"),
        (
            "sde",
            {"_target_": "scoresde.sde.VPSDE", "betamin": 1},
            "^sde.betamin: VPSDE has no 'betamin', did you mean sde.beta_min",
        ),
        ("network", {"_target_": "scoresde.networks.MLP", "shape": [2], "width": 0}, "^network: width and blocks"),
        ("training", {"_target_": "scoresde.training.Training", "steps": 0}, "^training: .*steps is 0"),
        (
            "sampler",
            {
                "_target_": "scoresde.sampling.Sampler",
                "solver": {"_target_": "scoresde.sampling.Heun"},
                "grid": {"_target_": "scoresde.sampling.UniformTime", "steps": 0},
            },
            "^sampler: steps is 0",
        ),
        ("data", {"_target_": "scoresde.data.npz", "path": "nowhere.npz"}, "^data: there is no file nowhere.npz"),
        ("data", {"_target_": "scoresde.data.npz", "path": "???"}, "data.*path"),
    ],
)
def test_errors_of_constructors_name_the_key(key: str, node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        instantiate(OmegaConf.create({key: node}), key)
    assert "\n" not in str(error.value)


def test_a_key_that_is_not_there() -> None:
    for config in ({}, {"network": None}):
        with pytest.raises(ConfigError, match="the configuration has no network"):
            instantiate(OmegaConf.create(config), "network")


def test_a_configuration_may_give_the_default_solver_a_rule() -> None:
    rule = {"_target_": "scoresde.sampling.StepRule", "coordinate": "angle", "order": 2, "corrector": 2}
    node = {"_target_": "scoresde.sampling.AutoAdams", "rule": {**rule, "bend": 0.3, "top": 0.0}}
    assert instantiate(OmegaConf.create({"x": node}), "x") == AutoAdams(rule=StepRule("angle", 2, 2, 0.3, 0.0))
    with pytest.raises(ConfigError, match="x: top is 2"):
        instantiate(OmegaConf.create({"x": {**node, "rule": {**rule, "bend": 0.3, "top": 2.0}}}), "x")
