"""Fit a score network to two moons, draw samples, and compute held-out likelihoods, without a configuration."""

import torch

from scoresde.data import two_moons
from scoresde.likelihood import Exact, log_likelihood
from scoresde.metrics import sliced_wasserstein
from scoresde.networks import MLP
from scoresde.preconditioning import VelocityPreconditioning
from scoresde.sampling import AutoAdams, DataStraight, Sampler
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE
from scoresde.training import fit

torch.set_num_threads(1)  # layers this small gain nothing from a second thread
torch.manual_seed(0)  # of the network's first weights

data = two_moons()
model = NetworkScore(MLP(data.shape, width=128, blocks=2), VPSDE(), VelocityPreconditioning())
trained = fit(model, data, steps=1000, batch_size=512, progress=False)
print(f"loss {float(trained.loss[0]):.3f} at the start, {float(trained.loss[-1]):.3f} at the end")

n = min(2000, len(data.test))
out = Sampler(AutoAdams(), DataStraight(12))(model, shape=(n, *data.shape), seed=0)
print(f"samples from held-out data:       {sliced_wasserstein(out.x, data.test[:n])}, NFE {out.nfe}")
print(f"training data from held-out data: {sliced_wasserstein(data.train[:n], data.test[:n])}")

likelihood = log_likelihood(model, data.test[:200].double(), divergence=Exact())
print(f"held-out log-density: {likelihood.log_prob.mean():.3f} nats")
