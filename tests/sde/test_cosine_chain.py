"""The cosine table of improved DDPM as an SDE."""

import math

import pytest
import torch

from scoresde.sde import CosineDDPMSDE, CosineSDE, cosine_betas

F64 = torch.float64


def signal(t: float, s: float = 0.008) -> float:
    """ᾱ of Nichol & Dhariwal 2021, eq. 17, before β is clipped."""
    return math.cos((t + s) / (1 + s) * math.pi / 2) ** 2 / math.cos(s / (1 + s) * math.pi / 2) ** 2


@pytest.mark.parametrize("steps", [50, 1000])
def test_it_has_the_signal_of_the_paper_and_clips_the_last_step(steps: int) -> None:
    sde = CosineDDPMSDE(steps)
    t = torch.arange(1, steps + 1, dtype=F64) / steps
    wanted = torch.tensor([signal(float(each)) for each in t[:-1]], dtype=F64)
    torch.testing.assert_close(sde.alpha(t)[:-1].square(), wanted, rtol=1e-9, atol=0)
    assert float(sde.alpha(t[-1]) / sde.alpha(t[-2])) == pytest.approx(math.sqrt(1 - 0.999), rel=1e-12)
    assert sde.betas == tuple(cosine_betas(steps).tolist())
    assert sde.betas[-1] == 0.999
    assert sde.t_min == 1 / steps


def test_it_is_the_continuous_schedule_at_its_steps() -> None:
    t = torch.arange(1, 990, dtype=F64) / 1000
    torch.testing.assert_close(CosineDDPMSDE().log_snr(t), CosineSDE().log_snr(t), rtol=1e-9, atol=1e-9)


def test_a_table_that_is_none_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match="train_steps|steps"):
        CosineDDPMSDE(1)
    with pytest.raises(ValueError, match="beta_max is 1"):
        CosineDDPMSDE(beta_max=1.0)
