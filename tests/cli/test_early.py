"""Wrong values are answered before anything slow is imported, and every key of the configuration is checked."""

import copy
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from scoresde.cli import COMMANDS, conf_dir
from scoresde.cli.catalogue import groups, options
from scoresde.cli.settings import declared
from scoresde.config.targets import instantiate
from scoresde.options.declarations import declaration
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.options.signatures import problems

# -- every leaf -----------------------------------------------------------------------------------------

Place = tuple[str | int, ...]


def places(node: Any, before: Place = ()) -> Iterator[Place]:
    """Places of the values in plain containers, mappings among them."""
    if isinstance(node, dict):
        for key, value in node.items():
            if not key.startswith("_") and key != "defaults":
                yield (*before, key)
                yield from places(value, (*before, key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            if isinstance(value, dict):
                yield from places(value, (*before, i))


def at(node: Any, place: Place) -> Any:
    for key in place:
        node = node[key]
    return node


def replaced(node: Any, place: Place, value: Any) -> Any:
    node = copy.deepcopy(node)
    at(node, place[:-1])[place[-1]] = value
    return node


def wrong(default: Any) -> list[Any]:
    """Values that no parameter takes which has this default."""
    if isinstance(default, bool):
        return [3, 0.5, [True], math.nan]
    if isinstance(default, int | float):
        return [["word"], [1, 2], {"a": 1}, "1e-3x", math.nan]
    if isinstance(default, str):
        return [3, [1, 2], {"a": 1}, math.nan]
    if isinstance(default, list):
        return [0.5, [["word"]], {"a": 1}, math.nan]
    if isinstance(default, dict):
        return ["word", [1, 2], math.nan]
    return [[[]], [{"a": 1}]]


def files() -> dict[str, Any]:
    found = {f"{g}={n}": conf_dir() / g / f"{n}.yaml" for g in groups() if g != "experiment" for n in options(g)}
    # As Hydra reads them, to which 1e-5 is a number.
    nodes = {name: OmegaConf.create({name.partition("=")[0]: OmegaConf.load(path)}) for name, path in found.items()}
    return {name: next(iter(OmegaConf.to_container(node, resolve=True).values())) for name, node in nodes.items()}


FILES = files()
# Whose annotation names a class of scipy's; and loggers by their names, which the command looks for.
UNKNOWN = [("sampler=scipy", ("solver", "method")), *((f"logger={name}", (name,)) for name in options("logger"))]
# Tables that a chain takes as numbers, too.
TABLES = [("sde=binomial", ("betas",)), ("sde=categorical", ("betas",))]
LEAVES = [(name, place) for name, node in FILES.items() for place in places(node) if (name, place) not in UNKNOWN]


@pytest.mark.parametrize(("name", "place"), LEAVES, ids=lambda x: x if isinstance(x, str) else ".".join(map(str, x)))
def test_every_key_of_a_group_is_checked_without_imports(name: str, place: Place) -> None:
    node, group = FILES[name], name.partition("=")[0]
    default = at(node, place)
    for value in wrong(None if default == "???" else default):
        if (name, place) in TABLES and value == [1, 2]:
            continue
        if place == ("num_classes",) and default == "auto" and value == 3:  # a number in place of the data's
            continue
        if place == ("condition_dropout",) and value == {"a": 1}:  # a rate for each condition, which the network checks
            continue
        changed = replaced(node, place, value)
        found = [*problems(changed, group, declaration), *option_problems(group, changed, prefix=f"{group}.")]
        if group == "evaluation":
            found += option_problems(group, changed, node, prefix=f"{group}.")
        key = f"{group}{''.join(f'[{k}]' if isinstance(k, int) else f'.{k}' for k in place)}"
        assert found, f"{key}={value!r} is taken"
        assert found[0].startswith(f"{key} is "), found
        assert ", expected " in found[0]


MADE = ("sde", "network", "preconditioning", "objective", "training", "sampler", "divergence", "dequantisation")
# Of Python and of torch, which know nothing of keys.
FOREIGN = re.compile(r"\w+Error: |'\w+' object|NoneType|not supported between|unsupported operand|can't|cfg")


@pytest.mark.parametrize("name", [name for name in FILES if name.partition("=")[0] in MADE])
def test_values_of_every_key_make_an_object_or_a_message(name: str) -> None:
    group, node = name.partition("=")[0], FILES[name]
    given = {"shape": (3, 8, 8)} if group == "network" else {}
    said = []
    for place in places(node):
        for value in (None, -1, 0, "word", 10**12, 0.5, 1e30, math.inf):
            try:
                instantiate(OmegaConf.create({group: replaced(node, place, value)}), group, **given)
            except ConfigError as error:
                said.append(str(error))
    assert [text for text in said if FOREIGN.search(text) or not text.startswith(group)] == []


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("sde=ddpm", "train_steps", -1),
        ("sde=ddpm", "train_steps", 10**12),
        ("sde=ncsn", "levels", 1),
        ("network=mlp", "embedding.max_frequency", math.inf),
        ("preconditioning=edm", "sigma_data", math.inf),
        ("objective=edm", "weighting.sigma_data", math.inf),
        ("sampler=pc", "solver.corrector.snr", math.inf),
    ],
)
def test_values_of_which_nothing_can_be_made(name: str, key: str, value: float) -> None:
    group = name.partition("=")[0]
    config = OmegaConf.create({group: replaced(FILES[name], tuple(key.split(".")), value)})
    with pytest.raises(ConfigError, match=rf"^{group}: {key.rpartition('.')[2]} "):
        instantiate(config, group, **({"shape": (2,)} if group == "network" else {}))


SETTINGS = [(command, key) for command in COMMANDS for key in declared(command)[0]]


@pytest.mark.parametrize(("command", "key"), SETTINGS)
def test_every_setting_of_a_command_is_checked(command: str, key: str) -> None:
    settings = declared(command)[0]
    assert not list(option_problems(command, {key: settings[key]}, settings)) or settings[key] == "???"
    for value in wrong(None if settings[key] == "???" else settings[key]):
        if isinstance(value, int | float) and isinstance(settings[key], str):
            continue  # runs=5 is a name
        found = list(option_problems(command, {key: value}, settings))
        assert found, f"{key}={value!r} is taken"
        assert found[0].startswith(f"{key} is ")


def test_ranges_of_settings() -> None:
    def taken(where: str, **values: Any) -> bool:
        return not list(option_problems(where, values))

    assert taken("evaluation", samples=0, likelihood=0, draws=1, elbo_draws=0, tol=None, seed=2**63 - 1)
    assert not taken("evaluation", seed=2**63)
    assert not taken("evaluation", tol=0)
    assert not taken("evaluation", tol=math.inf)
    assert not taken("sample", n=None)
    assert taken("likelihood", n=None)
    assert taken("compare", steps=5, seeds=0, samplers="heun")
    assert taken("training", final_lr=0, clip=None, warmup=0, checkpoint_every=None)
    assert not taken("training", final_lr=1.01)
    assert taken("optimizer", betas=[0.9, 0.99], momentum=0, lr=3)
    assert not taken("optimizer", betas=[0.9, 1.1])


# -- before torch ---------------------------------------------------------------------------------------

EARLY = {
    "train training.steps=abc": "training.steps is 'abc', expected an integer",
    "train training.steps=-1": "training.steps is -1, expected an integer of at least 1",
    "train trainig.steps=5": "train has no 'trainig', did you mean training.steps=5?",
    "train training.stepz=5": "training.stepz: Training has no 'stepz', did you mean training.steps?",
    "train training.seed=null": "training.seed is null, expected an integer",
    "train --multirun training.seed=1,abc": "training.seed is 'abc', expected an integer",
    "train --multirun sde=vp,ve,vq": "sde has no choice 'vq', did you mean",
    "train training.device=cuda": "training has no 'device', which is the command's own: write device=cuda",
    "train device=gpu": "device is 'gpu', expected cpu, cuda, cuda:N, xpu, mps or null",
    "train optimizer.lr=1e-3x": "optimizer.lr is '1e-3x', expected a number",
    "train network.blocks=[1,2]": "network.blocks is [1, 2], expected an integer",
    "train network.multipliers=1": "network.multipliers is 1, expected a list, each a number",
    "train data=npz": "data.path is missing: give data.path=VALUE",
    "train data=image_folder data.path=there data.size=abc": "data.size is 'abc', expected an integer",
    "train data=image_folder data.path=there data.test_size=10%": "data.test_size is '10%', expected",
    "train data=image_folder data.path=null": "data.path is null, expected",
    "train objective.weighting=foo": "objective.weighting is 'foo', expected a Weighting, as a mapping with _target_",
    "train sampler.solver=null": "sampler.solver is null, expected a Solver, as a mapping with _target_",
    "train sampler.solver._target_=scoresde.sampling.KarrasGrid": "sampler.solver is scoresde.sampling.KarrasGrid, exp",
    "train evaluation.decoder=foo": "evaluation.decoder is 'foo', expected 'rounding' or 'gaussian'",
    "train evaluation.seed=null": "evaluation.seed is null, expected an integer",
    "train run=nowhere": "run=nowhere does not exist; give a directory that `scoresde train` wrote",
    "sample nowhere": "run=nowhere does not exist; give a directory that `scoresde train` wrote",
    "sample nowhere label=[1,2]": "label is [1, 2], expected an integer or text or null",
    "compare nowhere steps=[0]": "steps is [0], expected an integer of at least 1 or a list",
    "likelihood nowhere decoder=foo": "decoder is 'foo', expected 'rounding' or 'gaussian'",
    "likelihood nowhere divergence=exact divergence.mode=sideways": "divergence.mode is 'sideways', expected 'auto' or",
    "tune nowhere steps=1": "steps is 1, expected an integer of at least 2",
    "dequantise nowhere lr=0": "lr is 0, expected a positive number",
    "evaluate nowhere pca=0": "pca is 0, expected an integer of at least 1 or null",
    "sample nowhere guidance=cfg guidance.interval=[5,1]": "guidance.interval is [5, 1], expected two noise levels",
    "sample nowhere guidance=cfg guidance.interval=[1]": "guidance.interval is [1], expected",
    "compare nowhere guidance=cfg guidance.rescale=2": "guidance.rescale is 2, expected a number from 0 to 1",
    "sample nowhere steer=tempered steer.power=-1": "steer.power is -1, expected a positive number",
    "report nowhere pictures=3": "pictures is 3, expected true or false",
}

_PROCESS = """
import contextlib, io, json, sys
from scoresde.cli import main
said = {}
for line in json.load(sys.stdin):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
        main(line.split())
    said[line] = [errors.getvalue(), sorted({"torch", "numpy", "accelerate"} & set(sys.modules))]
print(json.dumps(said))
"""


@pytest.mark.slow
def test_wrong_values_are_answered_before_torch_is_imported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS], input=json.dumps(list(EARLY)), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for line, (errors, imported) in json.loads(done.stdout).items():
        assert errors.startswith(f"scoresde: {EARLY[line]}"), (line, errors)
        assert errors.count("\n") == 1, errors
        assert imported == [], line
    assert list(tmp_path.iterdir()) == []
