"""Networks of diffusers and denoisers of k-diffusion as score models, beside what these packages make of them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.interop import wrap
from scoresde.sampling import DDIM, DiscreteTime, Heun, KarrasGrid, Sampler
from scoresde.score import NetworkScore
from tests.interop.test_unet_names import difference

SHAPE = (2, 8, 8)
X = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))


def unet(diffusers: Any, classes: int | None = None) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.UNet2DModel(
            sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4, num_class_embeds=classes,
        ).eval()  # fmt: skip


@pytest.mark.parametrize("predicts", ["noise", "velocity"])
def test_a_network_of_diffusers(predicts: Any) -> None:
    diffusers = pytest.importorskip("diffusers")
    network = unet(diffusers, classes=4)
    kind = {"noise": "epsilon", "velocity": "v_prediction"}[predicts]
    options = {"clip_sample": False, "prediction_type": kind, "beta_schedule": "squaredcos_cap_v2"}
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=100, timestep_spacing="trailing", **options)
    model = wrap(
        network, predicts, alphas_cumprod=scheduler.alphas_cumprod, shape=SHAPE, classes=4,
        conditions={"labels": "class_labels"},
    )  # fmt: skip
    labels = torch.tensor([0, 3, 1])
    with torch.no_grad():
        scheduler.set_timesteps(10)
        for i in (0, 40, 98):
            out = network(X, i, class_labels=labels).sample
            x0 = scheduler.step(out, i, X).pred_original_sample
            assert (
                difference(model.denoise(X, torch.tensor((i + 1) / 100, dtype=torch.float64), labels=labels), x0) < 2e-6
            )
        # DDIM of both, over every tenth timestep: 9, 19, ..., 99.
        x = X
        for i in scheduler.timesteps:
            x = scheduler.step(network(x, i, class_labels=labels).sample, i, x).prev_sample
        grid = DiscreteTime(9, train_steps=100)
        drawn = Sampler(DDIM(), grid)(model, x_init=X, labels=labels)
    assert torch.equal(grid(model.sde).mul(100).round().long() - 1, scheduler.timesteps)
    assert difference(drawn.x, x) < 1e-5


class Inner(nn.Module):
    """What k-diffusion's denoisers are around: a network of x and of the noise level or the timestep."""

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return (x.roll(1, -1) - 0.3 * x) * torch.cos(0.1 * level)[:, None, None, None]


def sampled(k_diffusion: Any, denoiser: Any, model: NetworkScore, start: float) -> float:
    """The difference between Heun's method of both, on the same levels."""
    sampler = Sampler(Heun(), KarrasGrid(8))
    sigmas = k_diffusion.sampling.get_sigmas_karras(9, model.sde.t_min, model.sde.t_max)
    x = start * X
    with torch.no_grad():
        expected = k_diffusion.sampling.sample_heun(denoiser, x, sigmas, disable=True)
        return difference(sampler(model, x_init=x).x, expected)


def test_a_denoiser_of_k_diffusion() -> None:
    k_diffusion = pytest.importorskip("k_diffusion", exc_type=ImportError)
    alphas_cumprod = torch.linspace(1e-3, 0.1, 100).neg().log1p().cumsum(0).exp()
    table = k_diffusion.external.DiscreteEpsDDPMDenoiser(Inner(), alphas_cumprod, quantize=False)
    for denoiser, low, high in (
        (k_diffusion.Denoiser(Inner(), sigma_data=0.5), 0.01, 80.0),
        (table, table.sigma_min, table.sigma_max),
    ):
        model = wrap(denoiser, "data", sigma_range=(low, high), shape=SHAPE)
        for sigma in (0.05, 1.0, 10.0):
            with torch.no_grad():
                expected = denoiser(X, torch.full((3,), sigma))
                assert difference(model.denoise(X, torch.tensor(sigma)), expected) < 1e-6
        assert sampled(k_diffusion, denoiser, model, float(high)) < 1e-4
    # The same network by its table: the levels are the table's.
    direct = wrap(Inner(), "noise", alphas_cumprod=alphas_cumprod, shape=SHAPE)
    for i in (0, 50, 99):
        sigma = table.sigmas[i]
        state = X / (1 + sigma**2).sqrt()
        with torch.no_grad():
            assert difference(direct.denoise(state, torch.tensor((i + 1) / 100)), table(X, sigma.expand(3))) < 2e-5
