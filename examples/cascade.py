"""Digits in two stages: a base model at 4×4 and a super-resolution model to 8×8 (Ho et al. 2022b).

`python examples/cascade.py STEPS` trains both with so many steps, 800 if not given.
"""

import sys

import torch

from scoresde.data import LowResolution, base_data, digits, super_resolution_data
from scoresde.metrics import frechet_distance
from scoresde.networks import UNet
from scoresde.plots import image_grid, save
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import Cascade, EDMHeun, KarrasGrid, Sampler
from scoresde.score import NetworkScore
from scoresde.sde import EDMSDE
from scoresde.training import fit

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 800
data, low = digits(), LowResolution(2, augmentation=0.5)


def trained(data, **options):
    torch.manual_seed(0)
    network = UNet(data.shape, channels=24, blocks=1, num_classes=10, label_dropout=0.1, **options)
    model = NetworkScore(network, EDMSDE(sigma_max=20.0), EDMPreconditioning())
    print(data.name, fit(model, data, steps, progress=False))
    return model, Sampler(EDMHeun(), KarrasGrid(12))


base = trained(base_data(data, low))
upper = trained(super_resolution_data(data, low), image_channels=1, vector_size=1)
labels, test = torch.arange(360) % 10, data.transform.encode(data.test)
for level in (0.0, 0.1, 0.3):
    out = Cascade([base, upper], augmentation=level)(360, seed=0, labels=labels)
    print(f"augmentation {level}: Fréchet distance {frechet_distance(out.x, test)} of {out}")
shown = data.transform.to_unit(torch.cat([out.x[:50], test[:10]]))
save(image_grid(shown, columns=10), "cascade.png")
