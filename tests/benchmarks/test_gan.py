"""The GAN that the diffusion model is compared with: its objectives, its training, and the table."""

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace

import gan
import gan_baseline
import pytest
import torch
import torch.nn.functional as F
from gan import GAN, Generator, critic_loss, generator_loss, train_gan
from gan_baseline import PROBLEMS, main, stored, table
from safetensors.torch import save_file
from torch import Tensor, nn

from scoresde.data import grid_gaussians

REAL, FAKE = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.5, 0.0], [2.0, 1.0]])


class Bowl(nn.Module):
    """D(x) = ‖x‖²/2, whose gradient is x."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square().sum(1, keepdim=True) / 2


@pytest.mark.parametrize("loss", ["non-saturating", "relativistic"])
def test_losses_are_those_of_their_formulas(loss: str) -> None:
    options = GAN(loss, penalty=0.3)  # type: ignore[arg-type]
    of_real, of_fake = Bowl()(REAL), Bowl()(FAKE)
    penalty = 0.15 * REAL.square().sum(1).mean()
    if loss == "non-saturating":
        critic, maker = F.softplus(-of_real).mean() + F.softplus(of_fake).mean() + penalty, F.softplus(-of_fake).mean()
    else:
        penalty = penalty + 0.15 * FAKE.square().sum(1).mean()
        critic, maker = F.softplus(of_fake - of_real).mean() + penalty, F.softplus(of_real - of_fake).mean()
    torch.testing.assert_close(critic_loss(Bowl(), REAL.clone(), FAKE.clone(), options), critic)
    torch.testing.assert_close(generator_loss(of_fake, of_real, options), maker)


def test_the_wasserstein_penalty_is_between_data_and_samples() -> None:
    """Equal sets leave nothing between them but themselves."""
    options = GAN("wasserstein", penalty=0.3)
    expected = 0.15 * (REAL.norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(critic_loss(Bowl(), REAL.clone(), REAL.clone(), options), expected)
    torch.testing.assert_close(generator_loss(Bowl()(FAKE), Bowl()(REAL), options), -Bowl()(FAKE).mean())


@pytest.mark.parametrize("loss", ["non-saturating", "relativistic", "wasserstein"])
def test_a_short_training_moves_samples_to_the_data(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock that counts steps, so that the result does not depend on the machine.
    ticks = itertools.count()
    monkeypatch.setattr(gan, "time", SimpleNamespace(process_time=lambda: 0.002 * next(ticks)))

    def batches(step: int) -> Tensor:
        return 2 + 0.1 * torch.randn(64, 2, generator=torch.Generator().manual_seed(step))

    options = GAN(loss, penalty=0.1, latent=2, width=32, depth=2, batch=64, lr=5e-3)  # type: ignore[arg-type]
    generator, steps = train_gan(batches, (2,), 0.6, 0, options)
    assert 298 <= steps <= 301
    assert float((generator.draw(200, 0) - 2).norm(dim=1).mean()) < 1.2


@pytest.mark.parametrize("depth", [0, 2])
def test_samples_have_the_shape_of_the_data(depth: int) -> None:
    generator = Generator(GAN(width=8, depth=depth), (1, 8, 8))
    assert generator.draw(3, 0).shape == (3, 1, 8, 8)
    assert torch.equal(generator.draw(3, 0), generator.draw(3, 0))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer data and samples of the grid, and a shorter timing."""
    few = dataclasses.replace(PROBLEMS["grid"], data=lambda: grid_gaussians(1000, 500), nfe=6)
    monkeypatch.setitem(PROBLEMS, "grid", few)
    monkeypatch.setitem(gan_baseline._SAMPLES, "grid", 300)
    monkeypatch.setattr(gan_baseline, "_TIMING", 5)


@pytest.mark.usefixtures("small")
def test_trainings_are_kept_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", str(tmp_path), "--data", "grid", "--seeds", "1", "--seconds", "0.2"])
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [f"grid-{method}-0.safetensors" for method in ("diffusion", "edm", "gan")]
    # The GAN has the time that the diffusion model took.
    diffusion, _, gan = (stored(tmp_path / name)[1]["train_s"] for name in files)
    assert diffusion <= gan < diffusion + 0.3
    before = [(tmp_path / name).stat().st_mtime_ns for name in files]
    main(["train", str(tmp_path), "--data", "grid", "--seeds", "1", "--seconds", "0.2"])
    assert before == [(tmp_path / name).stat().st_mtime_ns for name in files]
    capsys.readouterr()
    main(["table", str(tmp_path)])
    assert "diffusion (1)" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_the_table_measures_what_is_stored(tmp_path: Path) -> None:
    """Exact samples for one method and a single mode for the other."""
    exact = grid_gaussians(10, 300, seed=5).test[:]
    for seed in range(2):
        for method, samples in (("diffusion", exact), ("gan", exact * 0.01)):
            cost = {"train_s": "1", "sample_s": "1", "steps": "1"}
            save_file({"samples": samples}, tmp_path / f"grid-{method}-{seed}.safetensors", cost)
    rows = {line.split()[0]: line.split() for line in table(tmp_path).splitlines() if line}
    assert rows["modes_covered"][1:7] == ["1.000", "±", "0.000", "0.040", "±", "0.000"]
    assert float(rows["clipped_coverage"][1]) > 0.9
    assert abs(float(rows["copies"][1])) < 0.05
    assert set(PROBLEMS) == {"grid", "digits"}
