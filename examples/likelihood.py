"""Log-likelihoods by the probability-flow ODE against the exact ones of a mixture of Gaussians.

With the exact divergence the error is that of the ODE solver, of the order of `tol`, in nats. With random probes each
value has a standard error of its own, and the errors scatter by about as much.
"""

import torch

from scoresde.likelihood import Exact, Hutchinson, log_likelihood
from scoresde.score import GaussianMixtureScore
from scoresde.sde import VESDE

generator = torch.Generator().manual_seed(0)
means = torch.randn(5, 8, generator=generator, dtype=torch.float64)
variances = torch.full((5,), 0.1, dtype=torch.float64)
model = GaussianMixtureScore(torch.ones(5), means, variances, VESDE())

x = model.sample(200, model.sde.t_min, generator)
truth = model.log_prob(x, model.sde.t_min)

for tol in (1e-2, 1e-4):
    out = log_likelihood(model, x, tol=tol, divergence=Exact())
    error = (out.log_prob - truth).abs().max()
    print(f"exact divergence, tol {tol:g}: largest error {error:.1e} nats, NFE {out.nfe.double().mean():.0f}")

out = log_likelihood(model, x, tol=1e-4, divergence=Hutchinson(probes=2), seed=0)
scaled = (out.log_prob - truth) / out.stderr
print(f"two probes: standard error {out.stderr.mean():.2f} nats, errors over it scatter by {scaled.std():.2f}")
