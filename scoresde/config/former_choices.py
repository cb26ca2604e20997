"""How configurations of version 0.1.0 spelled those samplers that have a class of their own now.

A stored run says `sampler.solver._target_: scoresde.sampling.Multistep` with all settings where today's choice has
`scoresde.sampling.UniPC`. By these spellings `in_words` still knows its sampler as `unipc`.
"""

from typing import Any

__all__ = ["FORMER_SAMPLERS"]

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
"""The leaves of `sampler.solver` by the choice's name."""
