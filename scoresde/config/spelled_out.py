"""Named solvers as configurations of version 0.1.0 spelled them.

A stored run says `sampler.solver._target_: scoresde.sampling.Multistep` with all settings where today's choice has
`scoresde.sampling.UniPC`. By the earlier spelling the sampler of a stored run is still known as `unipc`, and a run
directory has the same name whichever version makes it.
"""

from collections.abc import Callable
from typing import Any

__all__ = ["spelled_out"]

_SAMPLING = "scoresde.sampling"


def _target(name: str) -> dict[str, Any]:
    return {"_target_": f"{_SAMPLING}.{name}"}


def _data(order: int, **settings: Any) -> dict[str, Any]:
    coordinates = {"coordinate": _target("SignalLevel"), "interpolation": _target("LogSNR")}
    return {**_target("Multistep"), "order": order, **coordinates, **settings}


def _noise(order: int, **settings: Any) -> dict[str, Any]:
    return {**_target("Multistep"), "order": order, "coordinate": _target("NoiseLevel"), **settings}


def _ddim(eta: float) -> dict[str, Any]:
    return _data(1, tau={**_target("Eta"), "eta": eta})


def _dpm_solver_pp(order: int, sde: bool = False, tau: Any = 1.0, **settings: Any) -> dict[str, Any]:
    weights = {"weights": "bh2"} if order == 2 else {}
    return _data(order, **(weights | ({"tau": tau} if sde else {}) | settings))


def _unipc(order: int, variant: str, lower_order_final: bool) -> dict[str, Any]:
    return _data(order, corrector=order, weights=variant, lower_order_final=lower_order_final)


def _deis(order: int, variant: str) -> dict[str, Any]:
    return _noise(order, **({"interpolation": _target("Time")} if variant == "tab" else {}))


def _edm_heun(**settings: Any) -> dict[str, Any]:
    return {**_target("Heun"), "coordinate": _target("NoiseLevel"), **settings}


# With the settings that the files of `conf/sampler` have.
_FORMS: dict[str, Callable[..., dict[str, Any]]] = {
    "DDIM": _ddim,
    "DDPM": lambda: _ddim(1.0),
    "DEIS": _deis,
    "DPMSolverPP": _dpm_solver_pp,
    "EDMHeun": _edm_heun,
    "IPNDM": lambda order: _noise(order, weights="uniform"),
    "SASolver": lambda order, corrector, tau: _data(order, corrector=corrector, tau=tau),
    "UniPC": _unipc,
}


def spelled_out(node: Any) -> Any:
    """Plain containers with every named solver as the setting of its family.

    >>> spelled_out({"_target_": "scoresde.sampling.EDMHeun"})["_target_"]
    'scoresde.sampling.Heun'
    """
    if isinstance(node, list):
        return [spelled_out(value) for value in node]
    if not isinstance(node, dict):
        return node
    inner = {key: spelled_out(value) for key, value in node.items()}
    form = _FORMS.get(str(node.get("_target_")).removeprefix(f"{_SAMPLING}."))
    if form is None:
        return inner
    try:
        return form(**{key: value for key, value in inner.items() if key != "_target_"})
    except TypeError:  # without a setting of the choice, or with others: as it is
        return inner
