"""Names that configurations of earlier versions give to classes."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from scoresde.config.targets import check_arguments, check_targets, instantiate
from scoresde.config.words import conf_dir
from scoresde.options.errors import ConfigError
from scoresde.options.moved import MOVED, current_name, with_current_names, with_first_names
from scoresde.runs.directory import config_hash
from scoresde.runs.results import identity_of
from scoresde.sampling import Sampler
from scoresde.training.provenance import check_provenance

# Every choice of version 0.1.0, and how its results name what it makes.
CHOICES = json.loads((Path(__file__).parents[1] / "stored_runs" / "choices.json").read_text())


def found(name: str) -> Any:
    """What a configuration gets for a name."""
    return instantiate(OmegaConf.create({"x": {"_target_": name, "_partial_": True}}), "x").func


def targets(node: Any) -> list[str]:
    """The names in plain containers."""
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [name for value in node.values() for name in targets(value)]
    return [name for value in node for name in targets(value)] if isinstance(node, list) else []


NAMES = sorted({*targets([choice["config"] for choice in CHOICES.values()]), "scoresde.training.ema.HalfLife"})


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("scoresde.")])
def test_a_name_of_an_earlier_version_is_the_public_class_of_that_name(name: str) -> None:
    package, _, last = current_name(name).rpartition(".")
    assert last == name.rpartition(".")[2]
    assert found(name) is getattr(importlib.import_module(package), last)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_an_earlier_version_is_taken_as_it_was_written(choice: str) -> None:
    check_arguments(CHOICES[choice]["config"], choice)


# The default solver has other orders and another grid by now, so that results of the earlier one are not its own.
OTHER_METHOD = "sampler/default"
# These have the settings that they had, and draw others than version 0.1.0 did.
OTHER_SAMPLES = {
    f"sampler/{name}"
    for name in (
        *("angle", "deis_rhoab", "deis_tab", "dpmpp_2m", "dpmpp_3m", "dpmpp_3m_sde", "ipndm", "lms", "pc"),
        *("sa_solver", "straight", "torchsde", "unipc"),
    )
}


@pytest.mark.parametrize("choice", [name for name, choice in CHOICES.items() if "identity" in choice])
def test_what_a_choice_of_an_earlier_version_makes_has_the_name_by_which_results_are_known(choice: str) -> None:
    # By this text a run tells which likelihoods, samples and tuned steps it has already.
    made = instantiate(OmegaConf.create({"x": CHOICES[choice]["config"]}), "x")
    text = identity_of(made) if isinstance(made, Sampler) else repr(made)
    former = CHOICES[choice]["identity"] + (", not as in 0.1.0" if choice in OTHER_SAMPLES else "")
    assert (text == former) is (choice != OTHER_METHOD)


def test_adams_methods_are_what_they_were_on_short_grids() -> None:
    for choice in sorted(OTHER_SAMPLES - {"sampler/pc", "sampler/torchsde"}):
        config = OmegaConf.create({"x": CHOICES[choice]["config"]})
        config.x.grid.steps = 14
        sampler = instantiate(config, "x")
        assert identity_of(sampler).endswith("not as in 0.1.0") is sampler.solver.stochastic


@pytest.mark.parametrize(
    "name",
    [
        "scoresde.divergence.SampleNoise",
        "scoresde.divergence.Traces",
        "scoresde.divergence.torch.load",
        "scoresde.divergence.warnings.warn",
        "scoresde.likelihood.gone.CellFlow",
        "scoresde.likelihood.gone.bits_per_dim",
        "scoresde.likelihood.dequantisation.torch.load",
        "scoresde.training.fit",
        "scoresde.training.Fit",
        "scoresde.training.gone.fit",
        "scoresde.training.gone.os.system",
        "scoresde.training.loop.load_checkpoint",
        "scoresde.training.importlib.import_module",
        "scoresde.sampling.gone.tune",
        "scoresde.sampling.gone.torch",
        "scoresde.sampling.gone._Sampler",
        "scoresde.data.gone.split_indices",
        "scoresde.data.gone.os",
    ],
)
def test_no_further_name_is_allowed_for_that(name: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed|does not exist"):
        check_targets({"_target_": name})


def test_every_moved_class_is_where_the_table_says_and_has_not_moved_on() -> None:
    for old, new in MOVED.items():
        assert found(old) is found(new)
        assert new not in MOVED
        assert current_name(old) == new


def test_configuration_files_name_classes_by_their_packages() -> None:
    for path in conf_dir().glob("**/*.yaml"):
        for name in targets(yaml.safe_load(path.read_text())):
            assert current_name(name) == name, path
            assert name.startswith("torch.optim.") or len(name.split(".")) == 3, path


def test_names_are_replaced_where_they_are_targets_and_nowhere_else() -> None:
    old = {"a": [{"_target_": "scoresde.divergence.Exact", "b": "scoresde.divergence.Exact"}], "_target_": 3}
    new = {"a": [{"_target_": "scoresde.likelihood.Exact", "b": "scoresde.divergence.Exact"}], "_target_": 3}
    assert with_current_names(old) == new
    assert with_current_names(new) == new
    assert with_first_names(new) == old
    assert with_first_names(old) == old


def test_arguments_that_are_no_more_are_left_out_where_they_did_nothing() -> None:
    def of_digits(**arguments: Any) -> dict[str, Any]:
        return {"data": {"_target_": "scoresde.data.digits", **arguments}}

    assert with_current_names(of_digits(labels=True, low_resolution=None)) == of_digits(labels=True)
    assert with_current_names(of_digits(low_resolution=4)) == of_digits(low_resolution=4)
    other = {"x": [{"_target_": "scoresde.data.npz", "low_resolution": None}], "low_resolution": None}
    assert with_current_names(other) == other


def test_two_configurations_are_the_same_whichever_names_they_give() -> None:
    groups = {"training": {"_target_": "scoresde.training.loop.Training", "steps": 3}}
    groups["training"]["ema"] = {"_target_": "scoresde.training.ema.HalfLife"}
    old, new = OmegaConf.create(groups), OmegaConf.create(with_current_names(groups))
    assert new != old
    assert config_hash(old) == config_hash(new)


def test_weights_may_have_been_trained_by_another_name_of_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOVED, "scoresde.sde.FormerSDE", "scoresde.sde.VPSDE")
    then = {"sde": {"_target_": "scoresde.sde.FormerSDE", "beta_max": 20.0}}
    check_provenance("file", then, {"sde": {"_target_": "scoresde.sde.VPSDE", "beta_max": 20.0}})
    check_provenance("file", {"sde": {"_target_": "scoresde.sde.VPSDE", "beta_max": 20.0}}, then)
    with pytest.raises(ConfigError, match="sde.beta_max"):
        check_provenance("file", then, {"sde": {"_target_": "scoresde.sde.VPSDE", "beta_max": 10.0}})
    with pytest.raises(ConfigError, match="sde._target_"):
        check_provenance("file", then, {"sde": {"_target_": "scoresde.sde.VESDE", "beta_max": 20.0}})
