"""Complete and denoise digits: a chain times a second distribution (Sohl-Dickstein et al. 2015, section 2.5).

`python examples/posterior.py RUN` takes the model of a run of `experiment=diffusion2015/digits`; without a run it is
the exact model of the training images.
"""

import sys

import torch

import scoresde
from scoresde.chains import GaussianChainModel, sample_chain
from scoresde.chains.factors import GaussianFactor
from scoresde.data import digits
from scoresde.plots import image_grid, save
from scoresde.score import EmpiricalScore
from scoresde.sde import ErasureVPSDE

data, n = digits(), 8
x = data.transform.encode(data.test[:n])
if len(sys.argv) > 1:
    score = scoresde.load(sys.argv[1])
else:
    score = EmpiricalScore(data.transform.encode(data.train), ErasureVPSDE(200))
model = GaussianChainModel(score, score.sde.chain(), "small")

# The left half is known exactly, and of the right half nothing: variances 0 and infinity.
variance = torch.zeros_like(x)
variance[..., 4:] = torch.inf
completed = sample_chain(model, x.shape, factor=GaussianFactor(x, variance), seed=0).x

noisy = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
denoised = sample_chain(model, x.shape, factor=GaussianFactor(noisy, torch.full_like(x, 0.25)), seed=0).x

shown = [x, torch.where(variance > 0, -1.0, x), completed, noisy, denoised]
save(image_grid(torch.cat([data.transform.to_unit(each) for each in shown]), columns=n), "posterior.png")
print(f"known half kept to {(completed - x)[..., :4].abs().max():.1e}")
print(f"mean square error: {(noisy - x).square().mean():.3f} noisy, {(denoised - x).square().mean():.3f} denoised")
print("posterior.png: data, their left half, completed, noisy, denoised")
