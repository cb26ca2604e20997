"""Types and ranges of the settings of the commands, of training and of the stages after it.

The command checks settings before slow imports, every value of a sweep before the first job, and each stage checks its
own before it begins.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from scoresde.options.signatures import Range, Word, expected, fits, shown

__all__ = ["kind_of", "option_problems", "run_problem"]

_Count = Annotated[int, Range(1)]
_Seed = Annotated[int, Range(0, bits=63)]
_Positive = Annotated[float, Range(0, above=True)]

# Types by the names of settings. A setting that is not listed has the type of its default.
_KINDS: dict[str, Any] = {
    "accept": list[str],
    "allow": list[str],
    "batch_size": _Count,
    "bound": Literal["average", "importance"],
    "condition": str | None,
    "decoder": Literal["rounding", "gaussian"],
    "device": Annotated[str, Word(r"(cpu|mps)(:0)?|(cuda|xpu)(:\d+)?", "cpu, cuda, cuda:N, xpu, mps")] | None,
    "draws": _Count,
    "chain_draws": Annotated[int, Range(0)],
    "elbo_draws": Annotated[int, Range(0)],
    "label": int | str | None,
    "likelihood": Annotated[int, Range(0)] | None,
    "max_nfe": _Count | None,
    "n": _Count | None,
    "name": str | None,
    "negative": str | None,
    "pca": _Count | None,
    "reference": str | None,
    "repeats": _Count,
    "resume": bool | None,
    "save_reference": str | None,
    "sample_likelihood": Annotated[int, Range(0)],
    "samplers": str | list[str] | None,
    "samples": Annotated[int, Range(0)] | None,
    "seconds": _Positive,
    "seed": _Seed,
    "seeds": _Seed | list[_Seed],
    "shard": _Count,
    "start": str | None,
    "text": str | list[str] | None,
    "strength": Annotated[float, Range(0, above=True, most=1)],
    "split": Literal["test", "train", "all"] | None,
    "iterations": _Count | None,
    "tol": _Positive | None,
}
_Part = Annotated[float, Range(0, most=1)]
_Width = Annotated[float, Range(0, above=True, most=0.2886)]  # 1/√12 is that of the uniform average
_Level = Annotated[float, Range(0)]
_CASCADE: dict[str, Any] = {"super": str | list[str] | None, "augmentation": _Level | list[_Level] | None}
# Settings of a command, or of a group, in addition to these or in their place.
_OF: dict[str, dict[str, Any]] = {
    "evaluation": {"divergence": dict, "dequantisation": dict},
    "training": {
        "steps": _Count,
        "accumulate": _Count,
        "warmup": Annotated[int, Range(0)],
        "final_lr": _Part,
        "decay_after": _Count | None,
        "augment": _Part | None,
        "clip": _Positive | None,
        "log_every": _Count,
        "checkpoint_every": _Count | None,
        "keep": _Count,
        "snapshots": _Count | None,
        "snapshot_stds": list[_Width],
        "max_skipped": _Count,
        "workers": Annotated[int, Range(0)],
    },
    # Arguments of torch's optimisers, whose messages say no more than that a value is invalid.
    "optimizer": {
        "lr": _Positive,
        "weight_decay": Annotated[float, Range(0)],
        "momentum": _Part,
        "eps": Annotated[float, Range(0)],
        "betas": tuple[_Part, _Part],
    },
    "guidance": {
        "scale": float,
        "interval": tuple[Annotated[float, Range(0)], Annotated[float, Range(0)]] | None,
        "rescale": _Part,
        "threshold": _Positive | None,
        "quantile": Annotated[float, Range(0, most=1)],
    },
    "steer": {
        "scale": float,
        "power": _Positive,
        "particles": _Count,
        "steps": _Count,
        "resample_at": _Part,
        "ramp": _Positive | None,
    },
    "train": {"run": str | None},
    "sample": {"n": _Count, "decoder": str | None, **_CASCADE},
    "restore": {"n": _Count, "steps": _Count, "count": _Count | None, "input": str},
    "likelihood": {"run": str | list[str]},
    "information": {
        "run": str | list[str],
        "split": Literal["test", "train"] | None,
        "draws": Annotated[int, Range(4)],
        "labels": bool | None,
        "classes": Annotated[int, Range(0)],
        "dimension": Annotated[int, Range(0)],
        "dimension_log_snr": float | None,
        "samples": Annotated[int, Range(2)],
        "against": str | list[str] | None,
    },
    "certify": {
        "prior": str | None,
        "components": _Count,
        "problems": str | list[str],
        "methods": str | list[str] | None,
        "noises": Annotated[float, Range(0)] | list[Annotated[float, Range(0)]] | None,
        "steps": _Count | list[_Count],
        "measurements": Annotated[int, Range(2)],
        "samples": Annotated[int, Range(40)],
        "out": str,
        "batch_size": _Count | None,
    },
    "compare": {"steps": _Count | list[_Count], "likelihood": Annotated[int, Range(0)]},
    "evaluate": {"likelihood": Annotated[int, Range(0)], **_CASCADE},
    "tune": {
        "steps": Annotated[int, Range(2)] | Literal["all"],
        "starts": Annotated[int, Range(8)] | None,  # 40 with a number of steps, which is checked with the model
    },
    "ema": {
        "std": _Width | list[_Width],
        "step": _Count | None,
        "tol": Annotated[float, Range(0, above=True, most=1)],
    },
    "export": {"format": Literal["diffusers"], "folder": str | None, "steps": Annotated[int, Range(2)] | None},
    "encode": {"encoder": str, "folder": str, "progress": bool},
    "suggest": {
        "steps": _Count,
        "overlap": Annotated[float, Range(0, above=True, most=1)],
        "nats": _Positive,
        "sigma_min": _Positive | None,
        "samples": Annotated[int, Range(2)] | None,
    },
    "dequantise": {
        "steps": _Count,
        "lr": _Positive,
        "level": _Positive,
        "couplings": Annotated[int, Range(0)],
        "width": _Count,
        "blocks": Annotated[int, Range(0)],
        "bins": _Count,
        "judge": Annotated[int, Range(8)],
    },
}
_MAY_BE_EMPTY = ("accept", "allow")
# Settings of these types may look like a number, as in run=5.
_TEXTS = (str, str | None, str | list[str], str | list[str] | None)


def run_problem(directory: str | Path) -> str | None:
    """The message about a path that is no run directory; None for a directory with a configuration."""
    if not str(directory).strip():
        return "run is empty; give a directory that `scoresde train` wrote"
    path = Path(directory).expanduser()
    if (path / "config.yaml").is_file():
        return None
    what = "does not exist" if not path.exists() else "is no run directory: it has no config.yaml"
    return f"run={directory} {what}; give a directory that `scoresde train` wrote"


def kind_of(where: str, key: str, default: Any = None) -> Any:
    """The type of a setting of a command or of a group; that of its default if it is not listed."""
    kinds = {**_KINDS, **_OF.get(where, {})}
    if key in kinds:
        return kinds[key]
    if default is None:
        return Any
    if isinstance(default, list):
        element: Any = type(default[0]) if default else Any
        return element | list[element]
    return type(default)


def option_problems(
    where: str, options: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, prefix: str = ""
) -> Iterator[str]:
    """Messages about settings that are not of their types or not in their ranges, each in one line.

    Args:
        where: The command, or the group.
        options: Plain values by name; names without a default are not checked.
        defaults: The settings with their defaults; those of this module if not given.
        prefix: Beginning of the names in messages.
    """
    known = dict.fromkeys((*_KINDS, *_OF.get(where, {}))) if defaults is None else defaults
    for key, default in known.items():
        if key not in options:
            continue
        value, kind = options[key], kind_of(where, key, default)
        named = kind in _TEXTS and isinstance(value, int | float) and not isinstance(value, bool)
        if value == [] and key not in _MAY_BE_EMPTY and fits([], kind):
            yield f"{prefix}{key} is empty, expected {expected(kind)}"
        elif not (named or fits(value, kind)):
            yield f"{prefix}{key} is {shown(value)}, expected {expected(kind)}"
        elif key == "interval" and value is not None and not value[0] < value[1]:
            yield (
                f"{prefix}{key} is {shown(value)}, expected two noise levels σ/α, the smaller one first, such as "
                "[0.2, 5]"
            )
