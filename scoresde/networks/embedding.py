"""Features of the noise level: the functions of c_noise that a network sees."""

import math

import torch
from torch import Tensor, nn

from scoresde.arguments import checked

__all__ = ["FourierFeatures", "GaussianFourierFeatures", "LevelEmbedding", "PositionalFeatures", "TableEmbedding"]


@checked
class FourierFeatures(nn.Module):
    """Cosines and sines of the noise level at evenly spaced frequencies.

        √2 cos(ω_k c), √2 sin(ω_k c),    ω_k = ω_max k/K,  k = 1, ..., K = dim/2

    The mean square over the features is one at every c, and no feature changes faster than √2 ω_max per unit of c. The
    default is low on purpose: it already tells apart all values of c = log(σ/α)/4, about [−2, 1.5], and the network
    stays a smooth function of the noise level, which lets a solver take larger steps.

    The module maps c `(B,)` to features `(B, dim)`.

    Args:
        dim: Number of features, even.
        max_frequency: Highest angular frequency ω_max, in radians per unit of c.

    Raises:
        ValueError: A number of features that is odd or below 2, or a frequency that is not positive.
    """

    frequencies: Tensor

    def __init__(self, dim: int, max_frequency: float = 3.0) -> None:
        super().__init__()
        _check_dim(dim, least=2)
        if not 0 < max_frequency < math.inf:
            raise ValueError(f"max_frequency must be positive and finite, got {max_frequency}")
        self.dim = dim
        self.max_frequency = max_frequency
        half = dim // 2
        # Not on the default device, so that a network on the meta device has them too.
        frequencies = max_frequency / half * torch.arange(1, half + 1, device="cpu")
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        phase = c_noise[:, None] * self.frequencies
        return math.sqrt(2) * torch.cat((phase.cos(), phase.sin()), dim=1)


@checked
class GaussianFourierFeatures(nn.Module):
    """Sines and cosines of the noise level at random frequencies (Song et al. 2021, appendix C.1).

        sin(2π w_k c), cos(2π w_k c),    w_k ~ N(0, scale²)

    The frequencies are drawn once, from `seed`, never trained, and saved in the state dict. The module maps c `(B,)` to
    features `(B, dim)`.

    Args:
        dim: Number of features, even.
        scale: Standard deviation of the frequencies, in cycles per unit of c.
        seed: Seed of the draw.

    Raises:
        ValueError: A number of features that is odd or below 2, or a scale that is not positive.
    """

    frequencies: Tensor

    def __init__(self, dim: int, scale: float = 16.0, seed: int = 0) -> None:
        super().__init__()
        _check_dim(dim, least=2)
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.dim = dim
        self.scale = scale
        self.seed = seed
        generator = torch.Generator("cpu").manual_seed(seed)
        frequencies = scale * torch.randn(dim // 2, generator=generator, device="cpu")
        self.register_buffer("frequencies", frequencies)

    def forward(self, c_noise: Tensor) -> Tensor:
        # In the order of the original's arithmetic: with 2π w of hundreds, float32 shows the difference.
        phase = c_noise[:, None] * self.frequencies * (2 * math.pi)
        return torch.cat((phase.sin(), phase.cos()), dim=1)


@checked
class PositionalFeatures(nn.Module):
    """The transformer's position encoding of the noise level, as in DDPM and DDPM++ (Ho et al. 2020).

        sin(ω_k s c), cos(ω_k s c),    ω_k = max_period^{−k/(K − 1)},  k = 0, ..., K − 1,  K = dim/2

    The module maps c `(B,)` to features `(B, dim)`.

    Args:
        dim: Number of features, even and at least 4.
        max_period: Inverse of the lowest angular frequency.
        scale: Factor s of the noise level. 1 takes log(σ/α)/4 (EDM) or the integer step of a DDPM as it is; 999 takes a
            time in [0, 1] to a thousand steps (DDPM++).
        cosine_first: Cosines before sines, as in ADM (Dhariwal & Nichol 2021).
        endpoint: Divide by K − 1, so that the lowest frequency is 1/max_period. Without it the division is by K, as in
            ADM, and no frequency quite reaches it.

    Raises:
        ValueError: A number of features that is odd or below 4, or a period or scale that is not positive.
    """

    frequencies: Tensor

    def __init__(
        self,
        dim: int,
        max_period: float = 10000.0,
        scale: float = 1.0,
        cosine_first: bool = False,
        endpoint: bool = True,
    ) -> None:
        super().__init__()
        _check_dim(dim, least=4)
        if not (0 < max_period < math.inf and 0 < scale < math.inf):
            raise ValueError(f"max_period and scale must be positive and finite, got {max_period} and {scale}")
        self.dim = dim
        self.max_period = max_period
        self.scale = scale
        self.cosine_first = cosine_first
        self.endpoint = endpoint
        half = dim // 2
        frequencies = scale * max_period ** (-torch.arange(half, device="cpu") / (half - endpoint))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        phase = c_noise[:, None] * self.frequencies
        waves = (phase.cos(), phase.sin()) if self.cosine_first else (phase.sin(), phase.cos())
        return torch.cat(waves, dim=1)


@checked
class LevelEmbedding(nn.Module):
    """A learned vector for each noise level of a geometric sequence, as the conditional networks of NCSN have.

    NCSN normalises features with a scale and a shift of their own for each level; here the level's vector sets them
    through `Conditioning` and `Modulation`, in every network. Between two levels the vector is interpolated linearly in
    log(σ/α), so that the network is defined at every time, as solvers and likelihoods need. Beyond the first and the
    last level it is theirs.

    The module maps c = ¼ log(σ/α) `(B,)`, the default noise-level input of preconditionings, to features `(B, dim)`.

    Args:
        levels: Number of levels, at least 2.
        sigma_min: Smallest level, as of the SDE.
        sigma_max: Largest level, as of the SDE.
        dim: Length of the vectors.

    Raises:
        ValueError: Fewer than two levels, levels that are out of order, or vectors without an element.

    References:
        Song & Ermon 2019, Generative modeling by estimating gradients of the data distribution,
            https://arxiv.org/abs/1907.05600
    """

    def __init__(self, levels: int, sigma_min: float, sigma_max: float, dim: int = 64) -> None:
        super().__init__()
        if levels < 2 or dim < 1:
            raise ValueError(f"levels must be at least 2 and dim at least 1, got {levels} and {dim}")
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
        self.levels = levels
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.dim = dim
        self.vectors = nn.Embedding(levels, dim)

    def forward(self, c_noise: Tensor) -> Tensor:
        span = math.log(self.sigma_max / self.sigma_min)
        place = (4 * c_noise - math.log(self.sigma_min)) * ((self.levels - 1) / span)
        return _interpolated(self.vectors, place)


@checked
class TableEmbedding(nn.Module):
    """A learned vector for each entry of a table of noise levels, by its index, as networks of diffusers may have.

    Between two entries the vector is interpolated linearly in the index, and beyond the ends it is theirs. The module
    maps indices c in [0, steps − 1] `(B,)`, as `TableIndex` gives them, to features `(B, dim)`.

    Args:
        steps: Number of entries, at least 2.
        dim: Length of the vectors.

    Raises:
        ValueError: Fewer than two entries, or vectors without an element.
    """

    def __init__(self, steps: int, dim: int = 64) -> None:
        super().__init__()
        if steps < 2 or dim < 1:
            raise ValueError(f"steps must be at least 2 and dim at least 1, got {steps} and {dim}")
        self.steps = steps
        self.dim = dim
        self.vectors = nn.Embedding(steps, dim)

    def forward(self, c_noise: Tensor) -> Tensor:
        return _interpolated(self.vectors, c_noise)


def _interpolated(vectors: nn.Embedding, place: Tensor) -> Tensor:
    """Vectors `(B, dim)` at places `(B,)` in a table, linear between two entries."""
    last = vectors.num_embeddings - 1
    place = place.clamp(0, last)
    lower = place.detach().floor().clamp(max=last - 1)
    share = (place - lower)[:, None].to(vectors.weight.dtype)
    index = lower.long()
    return torch.lerp(vectors(index), vectors(index + 1), share)


def _check_dim(dim: int, least: int) -> None:
    if dim < least or dim % 2:
        raise ValueError(f"dim must be an even number of at least {least}, got {dim}")
