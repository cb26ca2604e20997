"""The order of every sampler of `conf/sampler`, measured on its own grid under two SDEs, is the one that is listed.

Deterministic: the slope of the endpoint's error, on a mixture so wide that the score is not yet smooth at t_max, where
low orders in the first steps show. Stochastic: that of the error of the variance of normal data, which is exact, since
solvers are linear in the start and the draws. Both with twice as many steps.
"""

import copy
import math
from functools import lru_cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from scoresde.cli import conf_dir
from scoresde.cli.catalogue import order_of
from scoresde.config.targets import instantiate
from scoresde.sampling import ExplicitTimes, Picard, Sampler, ScipyODE, Solver
from scoresde.sampling.measured_steps import LENGTHS
from scoresde.sampling.plain_rule import plain_rule
from scoresde.score import GaussianMixtureScore, StepRules
from scoresde.sde import EDMSDE, VPSDE

NAMES = sorted(path.stem for path in (conf_dir() / "sampler").glob("*.yaml"))
ORDERS = {name: order_of("sampler", name) for name in NAMES}
SDES = {"edm": EDMSDE(0.01, 20.0), "vp": VPSDE(t_min=1e-3)}

MEANS = 4 * torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.9]], dtype=torch.float64)
WIDTHS = 4 * torch.tensor([0.3, 0.4, 0.5], dtype=torch.float64)
# Standard deviations of normal data in two directions
STDS = torch.tensor([0.4, 1.2], dtype=torch.float64)

# With more steps nothing is left of what their settings add: noise 0.3 % too large, or the last change of a sweep.
SETTINGS = {"edm_churn": ["sampler.solver.churn.s_noise=1"], "picard": ["sampler.solver.tolerance=0"]}


# Their slopes are not yet those of short steps at the numbers of steps that do for the others.
SLOW = ("ddpm", "deis_rhoab", "dpmpp_3s", "edm_churn", "lms", "picard", "seeds3", "straight")


@lru_cache
def composed(name: str) -> Sampler:
    overrides = [f"sampler={name}", "sampler.denoise=false", *SETTINGS.get(name, [])]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        made: Sampler = instantiate(compose("sample", ["run=nowhere", *overrides]), "sampler")
    return made


def preset(name: str, steps: int) -> Sampler:
    sampler = copy.deepcopy(composed(name))
    sampler.grid.steps = steps
    return sampler


@lru_cache
def problem(sde: str) -> tuple[GaussianMixtureScore, Tensor, Tensor]:
    model = GaussianMixtureScore(torch.ones(3), MEANS, WIDTHS**2, SDES[sde])
    # The default solver may have a lower order where less error was measured of it.
    model.step_rules = StepRules({LENGTHS[-1]: plain_rule(LENGTHS[-1])})
    ends = ExplicitTimes([SDES[sde].t_max, SDES[sde].t_min])
    x = model.sample(6, SDES[sde].t_max, torch.Generator().manual_seed(0))
    return model, x, Sampler(ScipyODE("DOP853", 1e-12, 1e-12), ends, denoise=False)(model, x_init=x).x


def endpoint_error(name: str, sde: str, steps: int) -> float:
    model, x, true = problem(sde)
    return float((preset(name, steps)(model, x_init=x).x - true).norm())


def variances(solver: Solver, model: GaussianMixtureScore, times: Tensor, stds: Tensor) -> Tensor:
    """The variances of the last state over those of the data there, from an impulse for the start and for each draw."""
    sde = model.sde
    count = 3 * len(times)  # of up to three draws a step
    impulses = torch.eye(count, dtype=torch.float64)[:, :, None].expand(-1, -1, len(stds))
    draws = iter(impulses[1:])
    with torch.no_grad():
        *_, x = solver.solve(model, impulses[0].clone(), times, lambda *clock: next(draws).clone())
    first, last = ((sde.alpha(t) * stds) ** 2 + sde.sigma(t) ** 2 for t in (times[0], times[-1]))
    return (x[0] ** 2 * first + (x[1:] ** 2).sum(0)) / last


def variance_error(name: str, sde: str, steps: int) -> float:
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), (STDS**2)[None], SDES[sde])
    sampler = preset(name, steps)
    solver = sampler.solver.method if isinstance(sampler.solver, Picard) else sampler.solver
    return float((variances(solver, model, sampler.grid(SDES[sde]), STDS) - 1).abs().max())


def slope(name: str, sde: str) -> float:
    error, steps = (variance_error, 64) if "weak" in ORDERS[name] else (endpoint_error, 40)
    if ORDERS[name] == "4":
        steps = 120  # on larger steps the slope is still 3.6 to 3.8
    if name in SLOW:
        steps *= 2
    if name == "default_sde":
        steps = 32  # its fitted weights leave 1e-5 at 128, which changes sign; `test_auto_sde.py` has 256 and 512
    return math.log2(error(name, sde, steps) / error(name, sde, 2 * steps))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if ORDERS[name][0].isdigit()])
def test_the_listed_order_is_the_measured_one(name: str) -> None:
    slopes = [slope(name, sde) for sde in SDES]
    listed = int(ORDERS[name][0])
    assert min(slopes) > listed - 0.25, slopes
    # The variance of normal data may be of a higher order than other moments.
    assert min(slopes) < listed + 0.5 or "weak" in ORDERS[name], slopes


def test_every_sampler_says_its_order() -> None:
    assert set(ORDERS.values()) == {"1", "2", "3", "4", "1 (weak)", "2 (weak)", "by tolerance", "not defined"}
