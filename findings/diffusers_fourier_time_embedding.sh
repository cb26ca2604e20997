#!/usr/bin/env bash
# diffusers' UNet2DModel with Fourier features of the timestep is another model, and NaN at timestep 0.
#
# Expected: `time_embedding_type` chooses how the network is told the timestep, as its documentation says; "fourier"
#   and "positional" differ in that alone, and either can be trained and sampled with DDPMScheduler.
# Happens: with "fourier" the network also divides its output by the timestep, and takes the logarithm of the timestep
#   for its features. So the same weights predict noise that is a thousandth as large at timestep 999, and at timestep
#   0, the last of DDPMPipeline, log 0 = -inf makes every feature NaN: all pictures are NaN, without a warning, and a
#   batch of training in which one sample has timestep 0 has the loss NaN. The type is made for the sigmas of
#   ScoreSdeVeScheduler, which are never 0, and for which the division makes a score.
# Versions: diffusers 0.42.1, torch 2.13.0, CPU.
# Source: src/diffusers/models/unets/unet_2d.py (end of `forward`), src/diffusers/models/embeddings.py
#   (`GaussianFourierProjection`, log=True). Issue 2438 of the project has the reason of the division, that score_sde's
#   network has it; no issue was found about timestep 0.
# What to do: "positional" or "learned" with integer timesteps. With "fourier" pass sigma as the timestep, and multiply
#   the output by -sigma for the noise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
HF_HUB_OFFLINE=1 env/bin/python - <<'PYTHON'
import diffusers
import numpy
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

diffusers.utils.logging.disable_progress_bar()
print("diffusers", diffusers.__version__, "torch", torch.__version__)
x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
noise = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
for kind in ("positional", "fourier"):
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, time_embedding_type=kind,
    )
    with torch.no_grad():
        sizes = {t: float(network(x, t).sample.std()) for t in (999, 100, 10, 1, 0)}
        timesteps = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])
        loss = float((network(x, timesteps).sample - noise).square().mean())
    pipeline = DDPMPipeline(network, DDPMScheduler(10))
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=10, output_type="np").images
    bad = float(numpy.isnan(images).mean())
    told = ", ".join(f"{size:.2g} at {t}" for t, size in sizes.items())
    print(f"{kind:10} output: {told}; loss with a timestep 0: {loss:.3g}; pixels that are NaN: {bad:.0%}")
    ratio = sizes[999] / sizes[1]
    if kind == "positional":
        assert bad == 0 and 0.5 < ratio < 2 and loss == loss, "positional features are not what they were"
    else:
        changed = "Fourier features are not what they were: see the head of this file"
        assert bad == 1 and 0.5 < 999 * ratio < 2 and loss != loss and sizes[0] != sizes[0], changed
PYTHON
