"""The options of likelihoods, checked, and the settings that likelihoods depend on."""

import hashlib
import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scoresde.chains import DiscreteChainModel
from scoresde.config.targets import instantiate
from scoresde.data import Data
from scoresde.likelihood.dequantisation import Dequantisation, Uniform
from scoresde.likelihood.options import FlowOptions
from scoresde.likelihood.own_chain import own_chain, steps_of
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.runs.chains import RunModel
from scoresde.runs.conditions import given_names, other_conditions
from scoresde.runs.dequantise import FILE
from scoresde.runs.directory import Run
from scoresde.score import NetworkScore, OptimalVariances
from scoresde.sde import SDE
from scoresde.sde.erasure import ErasureChain
from scoresde.storage.bounded import read_file
from scoresde.storage.limits import check_steps

__all__ = ["LikelihoodOptions", "LikelihoodSettings", "own_settings"]

# Evaluations of a bound whose steps are drawn, two of them at step 1
_FEWEST = 4
# Options that mean nothing for a discrete chain, with the values that ask for nothing.
_OF_SDE = {
    "tol": None, "corrected": False, "decoder": "rounding", "bound": "average", "elbo_draws": 0, "chain_draws": 0,
}  # fmt: skip


class LikelihoodOptions:
    """The options of likelihoods, checked: each by itself, and against the data.

    Args:
        run: The run.
        data: The data.
        options: Options as in `conf/likelihood.yaml`; what they lack is as in the run's evaluation.
        prefix: Prefix of the names of options in messages.

    Attributes:
        divergence: How the divergence is computed.
        dequantisation: How discrete data are dequantised.
        discrete: Whether the data are discrete.

    Raises:
        ConfigError: A wrong option.
    """

    def __init__(self, run: Run, data: Data, options: DictConfig, prefix: str = "") -> None:
        plain: Any = OmegaConf.to_container(options, resolve=True)
        for problem in option_problems("likelihood", plain, prefix=prefix):
            raise ConfigError(problem)
        self.divergence = _made(run, options, "divergence", prefix)
        self.dequantisation: Dequantisation = _made(run, options, "dequantisation", prefix)
        self.discrete = data.transform.levels is not None
        quantisation = f"{prefix}dequantisation is {self.dequantisation.name}"
        if not self.discrete and not isinstance(self.dequantisation, Uniform):
            raise ConfigError(f"{quantisation}, but {data.name} is continuous: leave it out")
        if options.decoder == "rounding" and not self.dequantisation.within:
            raise ConfigError(
                f"{quantisation}, which leaves the cell of a value, as {prefix}decoder=rounding does not allow: "
                f"take {prefix}decoder=gaussian"
            )
        self.chain_draws = int(options.get("chain_draws") or 0)  # absent in the configuration of an earlier version
        if 0 < self.chain_draws < _FEWEST:
            raise ConfigError(f"{prefix}chain_draws is {self.chain_draws}, expected 0 or at least {_FEWEST}")
        process = run.make("sde") if "sde" in run.config else None
        if isinstance(process, ErasureChain):
            self._check_discrete(process, options, prefix)
        try:
            if self.chain_draws and isinstance(process, SDE):
                steps_of(process)
                check_steps(self.chain_draws, f"{prefix}chain_draws")
            self.dequantisation.check(data.shape, data.transform.levels)
            self.divergence.for_shape(data.shape)
            for name in ("draws", "elbo_draws"):
                check_steps(options[name], f"{prefix}{name}")
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _check_discrete(self, chain: ErasureChain, options: DictConfig, prefix: str) -> None:
        """Reject what the bound of a discrete chain would ignore.

        Raises:
            ConfigError: An option of the density under an SDE.
        """
        given = {name: options.get(name) not in (plain, None) for name, plain in _OF_SDE.items()}
        given["dequantisation"] = not isinstance(self.dequantisation, Uniform)
        wrong = next((name for name, is_given in given.items() if is_given), None)
        if wrong is not None:
            raise ConfigError(
                f"{prefix}{wrong} is for the likelihood under an SDE, and the run's {type(chain).__name__} has the "
                f"bound of a discrete chain, whose options are {prefix}draws and {prefix}seed: leave it out"
            )


class LikelihoodSettings(LikelihoodOptions):
    """The settings that likelihoods depend on.

    Args:
        run: The run.
        model: Its model.
        data: The data.
        split: Split of the data.
        options: As for `LikelihoodOptions`.

    Attributes:
        unit: Unit of the values: bits_per_dim or nats.
        size: Number of dimensions of a sample.
        settings: Plain values by name.
    """

    def __init__(self, run: Run, model: RunModel, data: Data, split: str, options: DictConfig) -> None:
        super().__init__(run, data, options)
        self.unit, self.size = "bits_per_dim" if self.discrete else "nats", math.prod(data.shape)
        common = {"split": split, "unit": self.unit, "conditional": bool(given_names(model)), "data": data.name}
        if other_conditions(model):
            common["given"] = given_names(model)
        content = {"model": run.fingerprint(), "data_hash": data.fingerprint()}
        if isinstance(model, DiscreteChainModel):
            chain = f"{type(model.chain).__name__} of {model.chain.steps} steps"
            self.settings: dict[str, Any] = {
                **common, "chain": chain, "draws": options.draws, "seed": options.seed, **content,
            }  # fmt: skip
            return
        self.settings = {
            **common,
            "divergence": repr(self.divergence.for_shape(data.shape)),
            "tol": FlowOptions(tol=options.tol).tolerance(self.size).nats,
            # Results of earlier versions, and of the evaluation after training, are not corrected, and do not say so.
            **({"corrected": True} if options.get("corrected") else {}),
            **({"draws": options.draws, "dequantisation": self.dequantisation.name} if self.discrete else {}),
            **({"decoder": options.decoder, "bound": options.bound} if self.discrete else {}),
            **({"digest": self.dequantisation.digest} if self.discrete and self.dequantisation.digest else {}),
            "t_min": model.sde.t_min,
            "seed": options.seed,
            "elbo_draws": options.elbo_draws,
            **self._of_chain(run, model),
            **content,
        }

    def _of_chain(self, run: Run, model: NetworkScore) -> dict[str, Any]:
        """What the bound of the model's chain depends on, if it is asked for."""
        if not self.chain_draws:
            return {}
        kind = str(own_chain(model).variance)
        path = run.directory / OptimalVariances.FILE
        if kind == "optimal":
            kind = f"optimal {hashlib.sha256(read_file(path)).hexdigest()[:8]}"
        return {"chain_draws": self.chain_draws, "chain_variance": kind}


def own_settings(run: Run, model: RunModel, data: Data, split: str, options: DictConfig) -> dict[str, Any]:
    """Settings of the likelihoods that training computes; empty where they cannot be computed.

    Args:
        run: The run.
        model: Its model.
        data: The data.
        split: Split of the data.
        options: Options that the run's evaluation lacks, as that of an older version does.
    """
    evaluation = OmegaConf.create({**options, "corrected": False, **run.config.get("evaluation", {})})
    try:
        return LikelihoodSettings(run, model, data, split, evaluation).settings
    except ConfigError:
        return {}


def _made(run: Run, options: DictConfig, key: str, prefix: str) -> Any:
    """The object of an option, or of the run's evaluation; a trained dequantisation is the run's own without a file."""
    config, path = (options, key) if key in options and not prefix else (run.config, f"evaluation.{key}")
    own = OmegaConf.select(config, f"{path}.path", default="") is None
    return instantiate(config, path, run.allow, **({"path": str(run.directory / FILE)} if own else {}))
