"""Configurations in the words of the command line."""

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate as make
from omegaconf import OmegaConf

from scoresde.config.former_choices import FORMER_SAMPLERS
from scoresde.config.targets import instantiate
from scoresde.config.words import conf_dir, in_words, leaves
from scoresde.numerics.random import SampleNoise
from scoresde.runs.results import identity_of
from scoresde.sampling import Sampler
from scoresde.sde import VPSDE
from tests.problems import gaussian

GROUPS = ("data", "sde", "network", "preconditioning", "objective", "optimizer", "sampler", "logger")
CHOICES = [
    (group, path.stem)
    for group in GROUPS
    for path in sorted((conf_dir() / group).glob("*.yaml"))
    if path.stem not in ("tuned", "variational")
    and (group, path.stem) != ("network", "default")  # of a run, or of its data
]


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return leaves(OmegaConf.to_container(compose("train", list(overrides))))


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_is_known_by_its_configuration(group: str, name: str) -> None:
    if "path: ???" in (conf_dir() / group / f"{name}.yaml").read_text():
        words = in_words(composed(f"{group}={name}", f"data.path=x.{name}"))
        assert words.pop("data.path") == f"x.{name}"
    else:
        words = in_words(composed(f"{group}={name}"))
    assert words[group] == name
    assert not [key for key in words if key.startswith(f"{group}.")]


@pytest.mark.parametrize("name", sorted(FORMER_SAMPLERS))
def test_a_sampler_is_known_by_the_settings_that_earlier_versions_spelled_out(name: str) -> None:
    config = composed(f"sampler={name}")
    own = {key: value for key, value in config.items() if not key.startswith("sampler.solver.")}
    own |= {f"sampler.solver.{key}": value for key, value in FORMER_SAMPLERS[name].items()}
    words = in_words(own)
    assert words["sampler"] == name
    assert not [key for key in words if key.startswith("sampler.")]
    own["sampler.grid.steps"] = 7
    assert {k: v for k, v in in_words(own).items() if k.startswith("sampler")} == {
        "sampler": name,
        "sampler.grid.steps": 7,
    }


@pytest.mark.parametrize("name", sorted(FORMER_SAMPLERS))
def test_a_named_solver_is_the_method_that_was_spelled_out(name: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        sampler = instantiate(compose("sample", ["run=none", f"sampler={name}"]), "sampler")
    node: dict[str, Any] = {}
    for key, value in FORMER_SAMPLERS[name].items():
        *path, last = key.split(".")
        place = node
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    if "intervals" in node:
        node["intervals"] = list(node["intervals"].values())
    solver = make(OmegaConf.create(node), _convert_="all")
    assert type(solver) is type(sampler.solver.general())
    assert repr(solver) == repr(sampler.solver.general())
    former = Sampler(solver, sampler.grid, sampler.denoise)
    assert identity_of(former) == identity_of(sampler) == repr(former)
    times = torch.linspace(1, 1e-3, 6, dtype=torch.float64)
    model, z = gaussian(VPSDE()), torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
    states = [
        list(s.solve(model, z, times, SampleNoise(0, torch.arange(3), (2,), torch.float64)))
        for s in (solver, sampler.solver)
    ]
    assert len(states[0]) == 5
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_what_was_changed_in_a_choice_stands_beside_it() -> None:
    words = in_words(composed("sde=ve", "sde.sigma_max=10", "network.multipliers=[1,2,4]", "training.steps=7"))
    assert words["sde"] == "ve"
    assert words["sde.sigma_max"] == 10
    assert "sde.sigma_min" not in words
    assert words["network"] == "unet"
    assert words["network.multipliers"] == "[1, 2, 4]"
    assert words["training.steps"] == 7
    assert "training.batch_size" not in words
    assert words["evaluation.divergence"] == "hutchinson"


def test_a_class_of_ones_own_has_its_own_name_and_all_its_settings() -> None:
    words = in_words({"sde._target_": "mine.sde.Polynomial", "sde.power": 2, "optimizer.lr": 0.1, "note": "x"})
    # And so have settings of no class.
    assert words == {"sde": "Polynomial", "sde.power": 2, "optimizer.lr": 0.1, "note": "x"}


def test_a_part_of_another_class_stays_with_its_choice() -> None:
    # A weighting that no choice of `objective` has: the class is named, its settings are all shown.
    own = composed("objective=denoising")
    own["objective.weighting._target_"] = "mine.Weighting"
    words = in_words(own)
    assert words["objective"] == "DenoisingScoreMatching"
    assert words["objective.weighting._target_"] == "mine.Weighting"
