"""Cascades of exact models draw from the density of the whole, and errors of the call are named."""

from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.data import LowResolution
from scoresde.guidance import ClassifierFree
from scoresde.networks import UNet
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import Cascade, CascadeSamples, DPMSolverPP, EDMHeun, KarrasGrid, Sampler, UniformLogSNR
from scoresde.score import GaussianMixtureScore, NetworkScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE, expand_to

F64 = torch.float64
LOW = LowResolution(2)
MEANS = LOW(torch.eye(64, dtype=F64).view(64, 1, 8, 8)).reshape(64, 16).mT  # the map to low resolution, (16, 64)
SAMPLER = Sampler(EDMHeun(), KarrasGrid(40))


class Upper(ScoreModel):
    """The exact model of x of a Gaussian mixture, given z = y + s ε of its image y = A x at low resolution.

    With K = C Aᵀ (A C Aᵀ + s²)⁻¹, component k given z is N(μ + K (z − A μ), C − K A C).
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, level: float, sde: SDE) -> None:
        super().__init__(sde)
        self.shape = (1, 8, 8)
        self.weights, self.means, self.level = weights, means, level
        lower = MEANS @ covariances @ MEANS.mT + level**2 * torch.eye(16, dtype=F64)
        self.gain = covariances @ MEANS.mT @ torch.linalg.inv(lower)  # (K, 64, 16)
        self.density = torch.distributions.MultivariateNormal(means @ MEANS.mT, lower)
        rest = covariances - self.gain @ MEANS @ covariances
        self.variances, self.rotations = torch.linalg.eigh((rest + rest.mT) / 2)

    @property
    def dtype(self) -> torch.dtype:
        return F64

    def takes_condition(self, name: str) -> bool:
        return name in ("image", "vector")

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        assert torch.allclose(cond["vector"].double(), torch.full((len(x), 1), self.level, dtype=F64))
        z = cond["image"].flatten(1)[:, None]  # (B, 1, 16)
        alpha, sigma = (expand_to(f(t.double()), x).reshape(-1, 1, 1) for f in (self.sde.alpha, self.sde.sigma))
        prior = self.weights.log() + self.density.log_prob(z)
        means = self.means + torch.einsum("kij,bkj->bki", self.gain, z - self.means @ MEANS.mT)
        off = torch.einsum("kij,bki->bkj", self.rotations, x.flatten(1)[:, None] - alpha * means)
        spread = alpha**2 * self.variances.clamp_min(0) + sigma**2
        share = torch.softmax(prior - 0.5 * (off**2 / spread + spread.log()).sum(2), 1)
        found = means + torch.einsum("kij,bkj->bki", self.rotations, alpha * self.variances / spread * off)
        return torch.einsum("bk,bki->bi", share, found).view_as(x)


def smooth(scale: float) -> Tensor:
    """Covariance `(64, 64)` of an image of 8×8 that is smooth over so many pixels, with a little white noise."""
    place = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).double()
    return torch.exp(-(torch.cdist(place, place) ** 2) / (2 * scale**2)) + 0.05 * torch.eye(64, dtype=F64)


def models(level: float, count: int) -> tuple[Tensor, Tensor, Tensor, list[tuple[ScoreModel, Sampler]]]:
    generator = torch.Generator().manual_seed(0)
    means = 0.5 * torch.randn(count, 64, generator=generator, dtype=F64)  # small beside the noise at t_max
    covariances = torch.stack([smooth(1.5 + k) for k in range(count)])
    weights = torch.tensor([0.7, 0.3], dtype=F64)[:count]
    weights = weights / weights.sum()
    lower = MEANS @ covariances @ MEANS.mT
    base = GaussianMixtureScore(weights, (means @ MEANS.mT).view(count, 1, 4, 4), lower, EDMSDE(sigma_max=200.0))
    upper = Upper(weights, means, covariances, level, VPSDE())
    return weights, means, covariances, [(base, SAMPLER), (upper, Sampler(DPMSolverPP(3), UniformLogSNR(50)))]


def normality(z: Tensor) -> tuple[float, float]:
    """Scores of the means, and of the covariances, of `(N, d)` values that should be standard normal, N(0, 1) each."""
    n, d = z.shape
    mean = (float(n * z.mean(0).square().sum()) - d) / (2 * d) ** 0.5
    off = z.mT @ z / n - torch.eye(d, dtype=z.dtype)
    entries = n * torch.cat([off.triu(1)[off.triu(1) != 0].square(), off.diagonal().square() / 2])
    return mean, float((entries.sum() - len(entries)) / (2 * len(entries)) ** 0.5)


def joint(covariance: Tensor, mean: Tensor, out: CascadeSamples, level: float) -> Tensor:
    """The image and the noise in its condition, `(N, 64 + 16)`, which should be standard normal."""
    root = torch.linalg.inv(torch.linalg.cholesky(covariance))
    x = out.x.flatten(1)
    return torch.cat(((x - mean) @ root.mT, (out.images[0].flatten(1) - x @ MEANS.mT) / level), 1)


@pytest.mark.parametrize("level", [0.1, 0.5])
def test_exact_models_of_a_gaussian_draw_from_its_joint_density(level: float) -> None:
    _, means, (covariance,), stages = models(level, 1)
    out = Cascade(stages, augmentation=level)(2000, seed=1)
    assert out.x.dtype == F64
    assert out.nfe == out.stages[0].nfe + out.stages[1].nfe
    assert max(map(abs, normality(joint(covariance, means[0], out, level)))) < 3.5


def test_without_noise_the_means_over_cells_are_kept() -> None:
    out = Cascade(models(0.0, 1)[3])(20, seed=1)
    assert torch.equal(out.images[0], out.stages[0].x)
    assert float((LOW(out.x) - out.images[0]).abs().max()) < 1e-2  # what the last step leaves, whose level is 3e-3


def test_exact_models_of_a_mixture_draw_from_it() -> None:
    weights, means, covariances, stages = models(0.5, 2)
    out = Cascade(stages, augmentation=0.5)(2000, seed=2)
    x = out.x.flatten(1)
    log = weights.log() + torch.distributions.MultivariateNormal(means, covariances).log_prob(x[:, None])
    share = log.softmax(1)
    assert float(share.max(1).values.mean()) > 0.99  # the components are told apart
    error = (weights[0] * weights[1] / 2000) ** 0.5
    assert abs(float(share[:, 0].mean() - weights[0])) < 3.5 * float(error)
    for k in range(2):
        root = torch.linalg.inv(torch.linalg.cholesky(covariances[k]))
        assert max(map(abs, normality((x[share[:, k] > 0.5] - means[k]) @ root.mT))) < 4


def test_the_level_that_is_told_matters() -> None:
    # The model of another level than that of the noise draws from another density, as the test above would see.
    _, means, (covariance,), stages = models(0.5, 1)
    upper = stages[1][0]
    assert isinstance(upper, Upper)
    upper.level = 0.4
    out = Cascade(stages, augmentation=0.4)(2000, seed=1)
    assert max(map(abs, normality(joint(covariance, means[0], out, 0.4)))) > 10


def test_a_sample_depends_on_its_seed_and_index_alone() -> None:
    stages = models(0.4, 1)[3]
    cascade = Cascade(stages, augmentation=0.4)
    whole = cascade(6, seed=3)
    assert torch.allclose(whole.x, cascade(6, seed=3, batch_size=4).x, atol=1e-10)
    assert torch.allclose(whole.x[2:5], cascade(3, seed=3, first=2).x, atol=1e-10)
    assert torch.equal(whole.stages[0].x, SAMPLER(stages[0][0], 6, seed=3).x)
    assert not torch.allclose(whole.x, cascade(6, seed=4).x)


def network(shape: tuple[int, ...], **options: Any) -> NetworkScore:
    torch.manual_seed(0)
    net = UNet(shape, channels=8, multipliers=(1, 2), blocks=1, num_classes=3, label_dropout=0.1, **options)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return NetworkScore(net, EDMSDE(), EDMPreconditioning())


def test_labels_go_to_all_stages_and_guidance_composes() -> None:
    few = Sampler(EDMHeun(), KarrasGrid(3))
    base = ClassifierFree(network((1, 4, 4)), 2.0)
    upper = network((1, 8, 8), image_channels=1, vector_size=1, condition_dropout=0.1)
    cascade = Cascade([(base, few), (ClassifierFree(upper, 1.5), few)], augmentation=0.3)
    out = cascade(2, seed=0, labels=[1, 2])
    assert out.x.shape == (2, 1, 8, 8)
    assert out.labels is not None
    assert out.labels.tolist() == [1, 2]
    image = out.images[0]
    again = few(ClassifierFree(upper, 1.5), 2, seed=0, labels=[1, 2], image=image, vector=torch.full((2, 1), 0.3))
    assert not torch.allclose(again.x, out.x)  # whose noise is not that of the first stage
    assert not torch.equal(out.x, cascade(2, seed=0, labels=[0, 2]).x)
    assert repr(out) == "CascadeSamples(x=(2, 1, 8, 8), nfe=14, stages=4×4, 8×8)"
    with pytest.raises(ValueError, match="tokens is no condition of a stage"):
        cascade(2, tokens=torch.zeros(2, 3, 4))


def test_a_level_joins_a_vector_that_is_given() -> None:
    few = Sampler(EDMHeun(), KarrasGrid(3))
    base = network((1, 4, 4), vector_size=2)
    upper = network((1, 8, 8), image_channels=1, vector_size=3)
    seen = []
    upper.network.register_forward_pre_hook(lambda _, args, kw: seen.append(kw["vector"]), with_kwargs=True)
    Cascade([(base, few), (upper, few)], augmentation=0.3)(2, labels=1, vector=torch.tensor([5.0, 6.0]))
    assert torch.allclose(seen[0], torch.tensor([[5.0, 6.0, 0.3]] * 2))


def test_errors_name_what_is_wrong() -> None:
    few = Sampler(EDMHeun(), KarrasGrid(3))
    base, plain = (network((1, 4, 4)), few), (network((1, 8, 8)), few)
    untold = (network((1, 8, 8), image_channels=1), few)
    with pytest.raises(ValueError, match="a cascade has 1 stages, expected at least 2"):
        Cascade([base])
    with pytest.raises(ValueError, match="the model of stage 1 takes no image"):
        Cascade([base, plain])
    with pytest.raises(ValueError, match="augmentation of stage 1 is 0.1, and its model cannot be told"):
        Cascade([base, untold], augmentation=0.1)
    with pytest.raises(ValueError, match="expected a level from 0, or 1 of them"):
        Cascade([base, untold], augmentation=[0.0, 0.1])
    with pytest.raises(ValueError, match="expected a pair"):
        Cascade([base, untold[0]])  # type: ignore[list-item]
    assert Cascade([base, untold])(1, labels=0).x.shape == (1, 1, 8, 8)
