"""Configurations in the words of the command line."""

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate as make
from omegaconf import OmegaConf

from scoresde.config.spelled_out import spelled_out
from scoresde.config.targets import instantiate
from scoresde.config.words import conf_dir, in_words, leaves
from scoresde.numerics.random import SampleNoise
from scoresde.runs.naming import config_hash
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


_SAMPLING = "scoresde.sampling"


def _data(order: int, **settings: Any) -> dict[str, Any]:
    """An Adams method with the data interpolated in the log-SNR."""
    return {
        "_target_": f"{_SAMPLING}.Multistep",
        "coordinate._target_": f"{_SAMPLING}.SignalLevel",
        "interpolation._target_": f"{_SAMPLING}.LogSNR",
        "order": order,
        **settings,
    }


def _noise(order: int, **settings: Any) -> dict[str, Any]:
    """An Adams method with the noise interpolated in the noise level."""
    return {
        "_target_": f"{_SAMPLING}.Multistep",
        "coordinate._target_": f"{_SAMPLING}.NoiseLevel",
        "order": order,
        **settings,
    }


def _ddim(eta: float) -> dict[str, Any]:
    return {**_data(1), "tau._target_": f"{_SAMPLING}.Eta", "tau.eta": eta}


def _within(name: str, solver: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}.{key}": value for key, value in solver.items()}


_EDM = {"_target_": f"{_SAMPLING}.Heun", "coordinate._target_": f"{_SAMPLING}.NoiseLevel"}
_CHURN = {"_target_": f"{_SAMPLING}.Churn", "amount": 40, "s_min": 0.05, "s_max": 50, "s_noise": 1.003}
_TAU = {"_target_": f"{_SAMPLING}.IntervalTau", "tau": 1.0, "s_min": 0.05, "s_max": 1.0}
_INTERVAL = {"_target_": f"{_SAMPLING}.RestartInterval", "low": 0.05, "high": 0.3, "steps": 3, "repeats": 2}

# The leaves of `sampler.solver` in version 0.1.0, by the name of the choice.
FORMER_SAMPLERS: dict[str, dict[str, Any]] = {
    "ddim": _ddim(0.0),
    "ddpm": _ddim(1.0),
    "deis_rhoab": _noise(3),
    "deis_tab": {**_noise(3), "interpolation._target_": f"{_SAMPLING}.Time"},
    "dpmpp_1m": _data(1),
    "dpmpp_2m": _data(2, weights="bh2", lower_order_final=True),
    "dpmpp_3m": _data(3, lower_order_final=True),
    "dpmpp_1m_sde": _data(1, tau=1.0),
    "dpmpp_2m_sde": _data(2, weights="bh2", tau=1.0),
    "dpmpp_3m_sde": _data(3, tau=1.0),
    "edm_churn": _EDM | _within("churn", _CHURN),
    "edm_heun": _EDM,
    "ipndm": _noise(4, weights="uniform"),
    "lms": _noise(4),
    "picard": {"_target_": f"{_SAMPLING}.Picard", "window": 64, "tolerance": 0.1} | _within("method", _ddim(1.0)),
    "restart": {"_target_": f"{_SAMPLING}.Restart"} | _within("intervals.0", _INTERVAL) | _within("solver", _EDM),
    "sa_solver": _data(3, corrector=3) | _within("tau", _TAU),
    "unipc": _data(2, corrector=2, weights="bh2", lower_order_final=True),
}


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return leaves(OmegaConf.to_container(compose("train", list(overrides))))


@pytest.mark.slow
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
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        now = OmegaConf.to_container(compose("sample", ["run=none", f"sampler={name}"]))
    assert spelled_out(now)["sampler"]["solver"] == node
    former = Sampler(solver, sampler.grid, sampler.denoise)
    assert identity_of(former) == identity_of(sampler)
    assert identity_of(former).startswith(repr(former))
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


@pytest.mark.parametrize(
    ("choice", "digest"),
    [("default", "a382b6f4"), ("unipc", "d5fc0451"), ("picard", "c4047223"), ("restart", "0a77967f")],
)
def test_a_run_directory_has_the_name_that_version_0_1_0_gave_it(choice: str, digest: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        # It trained for 1,400 steps.
        assert config_hash(compose("train", [f"sampler={choice}", "training.steps=1400"])) == digest


@pytest.mark.parametrize(
    ("choice", "digest"),
    [("npz", "0fdab4d0"), ("table", "0cfc7132"), ("image_folder", "d7ce4a6d"), ("huggingface", "c658d271")],
)
def test_options_of_conditions_do_not_name_a_run_anew(choice: str, digest: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        own = [f"data={choice}", "data.path=x", "training.steps=1400"]
        assert config_hash(compose("train", own)) == digest
        key = next(key for key in compose("train", own).data if key.startswith("condition_"))
        assert config_hash(compose("train", [*own, f"data.{key}=y"])) != digest
