import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from torch import Tensor, nn

from scoresde.cli import conf_dir
from scoresde.config.targets import check_arguments
from scoresde.options import signatures
from scoresde.options.errors import ConfigError
from scoresde.options.signatures import expected, fits
from scoresde.sampling import Grid, Solver


def find(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def problems(node: Any, key: str, given: Sequence[str] | None = None) -> Iterator[str]:
    return signatures.problems(node, key, find, given)


NODE = {"_target_": "scoresde.sampling.Heun"}


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (bool, [True, False], ["no", "off", "true", 0, 1, None, [True], NODE]),
        (int, [0, -3, 10**12], [2.5, 3.0, True, "3", None, [1]]),
        (float, [1, 1.5, float("inf")], ["1e-3x", "1", False, None, NODE]),
        (str, ["no", ""], [1, True, None, ["a"]]),
        (Path, ["a/b"], [1, None]),
        (float | None, [None, 1], ["null", True]),
        (float | Tensor, [0.1], ["0.1"]),
        (str | Path | None, [None, "a"], [3]),
        (Literal["white", "brownian"], ["white"], ["pink", True, None]),
        (Literal[1, 2], [1], [True, "1", 3]),
        (tuple[float, float], [[0.9, 0.99]], [[0.9], [0.9, "x"], 0.9, "ab"]),
        (tuple[int, ...], [[], [1, 2, 3]], [[1, 2.5], "12", 1]),
        (Sequence[int], [[1, 2]], [["1"], 1, "1"]),
        (list[str], [["a"]], [[1], "a"]),
        (str | Sequence[str] | Mapping[str, Any] | None, ["a", ["a"], {"train": "a"}, None], [3, [3]]),
        (dict[str, Any], [{"a": 1}], ["a", [1]]),
        (Solver, [NODE], ["heun", 3, None, {}, {"_target_": "scoresde.sampling.UniformTime"}]),
        (Grid | None, [None, {"_target_": "scoresde.sampling.UniformTime"}], [NODE, 5]),
        (Callable[[Tensor], Tensor], [{"_target_": "scoresde.sampling.Heun", "_partial_": True}], ["f", 1]),
        # No configuration can write these down, or anything may be meant.
        (Any, ["no", 1, None, NODE], []),
        (np.ndarray | None, [None], [1.0, "a"]),
        (nn.Module, [{"_target_": "scoresde.networks.MLP"}], ["mlp"]),
        ("Unknown", [3], []),
    ],
    ids=str,
)
def test_values_and_annotations(annotation: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not fits(value, annotation, find)] == []
    assert [value for value in bad if fits(value, annotation, find)] == []


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (int | None, "an integer or null"),
        (float | Tensor, "a number"),
        (Literal["a", "b"], "'a' or 'b'"),
        (tuple[float, float], "a list of 2: a number, a number"),
        (Sequence[int], "a list, each an integer"),
        (Solver, "a Solver, as a mapping with _target_"),
        (str | Path | None, "text or a path or null"),
    ],
    ids=str,
)
def test_annotations_in_words(annotation: Any, words: str) -> None:
    assert expected(annotation) == words


def sampler(**changes: Any) -> dict[str, Any]:
    grid = {"_target_": "scoresde.sampling.UniformTime", "steps": 5}
    return {"_target_": "scoresde.sampling.Sampler", "solver": dict(NODE), "grid": grid, **changes}


@pytest.mark.parametrize(
    ("key", "node", "message"),
    [
        ("training", {"_target_": "scoresde.training.Training", "compile": "no"},
         "training.compile is 'no', expected true or false"),
        ("training", {"_target_": "scoresde.training.Training", "steps": 2.5},
         "training.steps is 2.5, expected an integer"),
        ("optimizer", {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": "1e-3x"},
         "optimizer.lr is '1e-3x', expected a number"),
        ("optimizer", {"_target_": "torch.optim.AdamW", "_partial_": True, "betas": [0.9]},
         "optimizer.betas is [0.9], expected a list of 2: a number, a number"),
        ("optimizer", {"_target_": "torch.optim.AdamW", "_partial_": True, "fused": "off"},
         "optimizer.fused is 'off', expected true or false or null"),
        ("network", {"_target_": "scoresde.networks.MLP", "dropuot": 0.1},
         "network.dropuot: MLP has no 'dropuot', did you mean network.dropout?; it takes shape, width, blocks"),
        ("network", {"_target_": "scoresde.networks.MLP", "embedding": {"_target_": "scoresde.networks.FourierFeatures",
                                                                       "dim": "8"}},
         "network.embedding.dim is '8', expected an integer"),
        ("sampler", sampler(noise="pink"), "sampler.noise is 'pink', expected 'white' or 'brownian'"),
        ("sampler", sampler(solver="heun"), "sampler.solver is 'heun', expected a Solver, as a mapping with _target_"),
        ("sampler", sampler(solver={"_target_": "scoresde.sampling.UniformTime", "steps": 5}),
         "sampler.solver is scoresde.sampling.UniformTime, expected a Solver"),
        ("sampler", sampler(grid={"_target_": "scoresde.sampling.ExplicitTimes"}),
         "sampler.grid.times is missing: ExplicitTimes needs a list, each a number"),
    ],
)  # fmt: skip
def test_what_a_target_does_not_take_is_reported_with_its_key(key: str, node: dict[str, Any], message: str) -> None:
    found = next(problems(node, key), "")
    assert found.startswith(message)
    assert "\n" not in found


def test_targets_are_checked_before_their_arguments() -> None:
    with pytest.raises(ConfigError, match="'os.getcwd' is not allowed"):
        check_arguments(sampler(solver={"_target_": "os.getcwd"}, noise=3), "sampler")
    with pytest.raises(ConfigError, match="sampler.noise is 3"):
        check_arguments(sampler(noise=3), "sampler")


def test_what_the_program_gives_is_not_missing_and_must_be_taken() -> None:
    network = {"_target_": "scoresde.networks.MLP", "width": 8}
    assert list(problems(network, "network")) == []
    assert list(problems(network, "network", ["shape"])) == []
    assert next(problems(network, "network", [])).startswith("network.shape is missing: MLP needs")
    sde = {"_target_": "scoresde.sde.VPSDE"}
    assert next(problems({**sde, "beta": 1}, "sde")).startswith("sde.beta: VPSDE has no 'beta', did you mean")
    assert next(problems(sde, "sde", ["shape"])) == "sde: VPSDE does not take 'shape', which is given to it"


OWN = """
class Net:
    def __init__(self, shape, width=3, skip=True, depth: "int | None" = None, **more):
        pass

class Later:
    def __init__(self, x: "OnlyForTypeCheckers", y: int = 1):
        pass

def make(shape, size: float = 1.0):
    return shape
"""


def test_targets_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_signatures.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def found(name: str, **arguments: Any) -> list[str]:
        return list(problems({"_target_": f"own_signatures.{name}", **arguments}, "network"))

    assert found("Net", width="anything", depth=3, extra=[1], skip=False) == []
    assert found("Net", depth="3", skip="no") == [
        "network.depth is '3', expected an integer or null",
        "network.skip is 'no', expected true or false",
    ]
    assert found("Later", x=1, y="not known") == []
    assert found("Later", z=1)[0].startswith("network.z: Later has no 'z'")
    assert found("make", size=2) == []
    assert found("make", sise=2)[0].startswith("network.sise: make has no 'sise', did you mean network.size")


@pytest.mark.parametrize("path", sorted(conf_dir().glob("*/*.yaml")), ids=lambda p: str(p.relative_to(conf_dir())))
def test_every_choice_that_is_shipped_fits(path: Path) -> None:
    from omegaconf import OmegaConf

    if path.parent.name == "experiment":
        return
    config = OmegaConf.create({path.parent.name: OmegaConf.load(path)})
    for key in OmegaConf.missing_keys(config):  # the user gives them
        del OmegaConf.select(config, key.rpartition(".")[0])[key.rpartition(".")[2]]
    node: Any = OmegaConf.to_container(config, resolve=True)
    assert list(problems(node[path.parent.name], path.parent.name)) == []
