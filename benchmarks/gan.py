"""A generative adversarial network for small data: its losses, its networks, and training for a given time.

Three objectives, of a discriminator D and a generator G, with f(u) = log(1 + exp(u)):

    non-saturating   D: E f(−D(x)) + E f(D(G(z)))           G: E f(−D(G(z)))           (Goodfellow et al. 2014)
    Wasserstein      D: E D(G(z)) − E D(x)                  G: −E D(G(z))              (Gulrajani et al. 2017)
    relativistic     D: E f(D(G(z)) − D(x))                 G: E f(D(x) − D(G(z)))     (Huang et al. 2024)

with γ/2 E‖∇D(x)‖² on data (R1, Mescheder et al. 2018), also on samples in the relativistic one (R2), and
γ/2 E(‖∇D‖ − 1)² between both in the Wasserstein one.

References:
    Generative adversarial networks (Goodfellow et al. 2014), https://arxiv.org/abs/1406.2661
    Improved training of Wasserstein GANs (Gulrajani et al. 2017), https://arxiv.org/abs/1704.00028
    Which training methods for GANs do actually converge? (Mescheder et al. 2018), https://arxiv.org/abs/1801.04406
    The GAN is dead; long live the GAN! A modern GAN baseline (Huang et al. 2024), https://arxiv.org/abs/2501.05441
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GAN", "Generator", "critic_loss", "generator_loss", "train_gan"]


@dataclass(frozen=True)
class GAN:
    """Settings of a generative adversarial network.

    Attributes:
        loss: The objective.
        penalty: Weight γ of the gradient penalty.
        lr: Learning rate of both networks at the start; it falls along a cosine to a tenth.
        critic: Steps of the discriminator for one of the generator.
        latent: Dimension of z, which is standard normal.
        width: Width of the hidden layers, or channels of the convolutions at half resolution.
        depth: Hidden layers of a perceptron; 0 for convolutions, which need images of a side that 4 divides.
        batch: Batch size.
        ema: Half-life in steps of the average of the generator's weights.
    """

    loss: Literal["non-saturating", "wasserstein", "relativistic"] = "relativistic"
    penalty: float = 1.0
    lr: float = 1e-3
    critic: int = 1
    latent: int = 16
    width: int = 128
    depth: int = 3
    batch: int = 256
    ema: float = 200.0


class Generator(nn.Module):
    """Samples `(B, *shape)` in model space from normal numbers."""

    def __init__(self, options: GAN, shape: Sequence[int]) -> None:
        super().__init__()
        self.latent = options.latent
        self.layers = _generator(options, shape)

    def forward(self, z: Tensor) -> Tensor:
        samples: Tensor = self.layers(z)
        return samples

    @torch.no_grad()
    def draw(self, n: int, seed: int) -> Tensor:
        """n samples."""
        z = torch.randn(n, self.latent, generator=torch.Generator().manual_seed(seed))
        return torch.cat([self(part) for part in z.split(512)])


def _perceptron(sizes: Sequence[int]) -> list[nn.Module]:
    made: list[nn.Module] = []
    for first, second in itertools.pairwise(sizes):
        made += [nn.Linear(first, second), nn.LeakyReLU(0.2)]
    return made[:-1]


def _generator(options: GAN, shape: Sequence[int]) -> nn.Module:
    width = options.width
    if options.depth:
        sizes = [options.latent, *[width] * options.depth, math.prod(shape)]
        return nn.Sequential(*_perceptron(sizes), nn.Unflatten(1, tuple(shape)))
    channels, side = shape[0], shape[1] // 4
    return nn.Sequential(
        nn.Linear(options.latent, 2 * width * side**2),
        nn.Unflatten(1, (2 * width, side, side)),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * width, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(width, width // 2, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width // 2, channels, 3, padding=1),
    )


def _discriminator(options: GAN, shape: Sequence[int]) -> nn.Module:
    width = options.width
    if options.depth:
        return nn.Sequential(nn.Flatten(), *_perceptron([math.prod(shape), *[width] * options.depth, 1]))
    channels, side = shape[0], shape[1] // 4
    return nn.Sequential(
        nn.Conv2d(channels, width // 2, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(2 * width * side**2, 1),
    )


def train_gan(
    batches: Callable[[int], Tensor], shape: Sequence[int], seconds: float, seed: int, options: GAN
) -> tuple[Generator, int]:
    """The averaged generator after `seconds` of processor time, and the number of its steps.

    Args:
        batches: The training data of step k, `(batch, *shape)` in model space.
        shape: Shape of a sample.
        seconds: Processor time of the process, all threads together.
        seed: Seed of weights and latent numbers.
        options: Settings.
    """
    began = time.process_time()
    torch.manual_seed(seed)
    generator, discriminator = Generator(options, shape), _discriminator(options, shape)
    average = Generator(options, shape).requires_grad_(False)
    average.load_state_dict(generator.state_dict())
    makers = [torch.optim.Adam(m.parameters(), options.lr, (0.0, 0.99), fused=True) for m in (generator, discriminator)]
    step, used = 0, 0.0
    while used < seconds:
        for optimizer in makers:
            optimizer.param_groups[0]["lr"] = options.lr * (0.55 + 0.45 * math.cos(math.pi * used / seconds))
        for part in range(options.critic):
            real = batches(step * options.critic + part)
            with torch.no_grad():
                fake = generator(torch.randn(len(real), options.latent))
            _update(makers[1], critic_loss(discriminator, real, fake, options))
        discriminator.requires_grad_(False)
        fake = generator(torch.randn(len(real), options.latent))
        _update(makers[0], generator_loss(discriminator(fake), discriminator(real), options))
        discriminator.requires_grad_(True)
        step += 1
        # A running mean at first, so that the untrained start is soon forgotten.
        decay = min(0.5 ** (1 / options.ema), step / (step + 9))
        torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in generator.parameters()], 1 - decay)
        used = time.process_time() - began
    return average, step


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _gradient_square(outputs: Tensor, inputs: Tensor) -> Tensor:
    """‖∇D‖² at each input, `(B,)`."""
    (gradient,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
    squares: Tensor = gradient.flatten(1).square().sum(1)
    return squares


def critic_loss(discriminator: nn.Module, real: Tensor, fake: Tensor, options: GAN) -> Tensor:
    """The discriminator's loss on data and samples, `(B, *shape)` each, which are made to require gradients."""
    real, fake = real.requires_grad_(), fake.requires_grad_()
    on_real, on_fake = discriminator(real), discriminator(fake)
    if options.loss == "wasserstein":
        share = torch.rand(len(real), *[1] * (real.ndim - 1))
        between = (share * real + (1 - share) * fake).detach().requires_grad_()
        norm = _gradient_square(discriminator(between), between).clamp(min=1e-12).sqrt()
        loss: Tensor = (on_fake - on_real).mean() + options.penalty / 2 * (norm - 1).square().mean()
        return loss
    loss = options.penalty / 2 * _gradient_square(on_real, real).mean()
    if options.loss == "non-saturating":
        return loss + (F.softplus(-on_real) + F.softplus(on_fake)).mean()
    loss = loss + options.penalty / 2 * _gradient_square(on_fake, fake).mean()
    return loss + F.softplus(on_fake - on_real).mean()


def generator_loss(on_fake: Tensor, on_real: Tensor, options: GAN) -> Tensor:
    """The generator's loss, from the discriminator's values `(B, 1)` on samples and on data."""
    if options.loss == "wasserstein":
        return -on_fake.mean()
    return F.softplus(-on_fake if options.loss == "non-saturating" else on_real - on_fake).mean()
