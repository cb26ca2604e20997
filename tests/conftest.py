"""Fixtures that the tests of SDEs, preconditionings and score models share."""

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch
from torch import Tensor

from scoresde.score import GaussianMixtureScore
from scoresde.sde import DDPMSDE, EDMSDE, NCSNSDE, SDE, VESDE, VPSDE, CosineSDE, FlowSDE, SubVPSDE

torch.set_num_threads(1)  # the suite runs on two workers

# What starts the suite may have signals ignored, as nohup and the background of a shell have, and the command leaves
# ignored ones ignored; tests of signals, and the processes that they start, want those of a terminal.
for _signal, _handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        with suppress(ValueError):  # not in the main thread
            signal.signal(_signal, _handler)

SDES = {
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "ve": VESDE(),
    "cosine": CosineSDE(),
    "edm": EDMSDE(),
    "flow": FlowSDE(),
    "ddpm": DDPMSDE(),
    "ncsn": NCSNSDE(18, 0.01, 50.0),
}


class Mixture:
    """Parameters of a mixture of three, with full covariances `(K, D, D)` whatever the model is given."""

    def __init__(self, kind: str, shape: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(3)
        dim = torch.Size(shape).numel()
        self.weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
        self.means = 1.5 * torch.randn(3, *shape, generator=generator, dtype=torch.float64)
        factors = torch.randn(3, dim, dim, generator=generator, dtype=torch.float64)
        eye = torch.eye(dim, dtype=torch.float64)
        if kind == "point":
            self.given = torch.zeros(3, dtype=torch.float64)
            self.full = torch.zeros(3, dim, dim, dtype=torch.float64)
        elif kind == "isotropic":
            self.given = torch.tensor([0.3, 0.05, 0.6], dtype=torch.float64)
            self.full = self.given[:, None, None] * eye
        elif kind == "diagonal":
            variances = 0.1 + torch.rand(3, dim, generator=generator, dtype=torch.float64)
            self.given = variances.reshape(3, *shape)
            self.full = torch.diag_embed(variances)
        elif kind == "full":
            self.full = self.given = factors @ factors.mT / dim + 0.1 * eye
        else:  # singular: one direction has no variance
            factors = factors[:, :, :-1]
            self.full = self.given = factors @ factors.mT / dim

    def model(self, sde: SDE) -> GaussianMixtureScore:
        return GaussianMixtureScore(self.weights, self.means, self.given, sde)

    def at(self, sde: SDE, t: Tensor) -> torch.distributions.Distribution:
        """p_t as torch.distributions computes it, over flat samples."""
        eye = torch.eye(self.full.shape[1], dtype=torch.float64)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(self.weights),
            torch.distributions.MultivariateNormal(
                alpha * self.means.flatten(1), alpha**2 * self.full + sigma**2 * eye
            ),
        )


# Orders, and tolerances that step sizes follow, are of SDEs without a kink at each entry of a table.
SMOOTH = {name: sde for name, sde in SDES.items() if name != "ddpm"}


@pytest.fixture(params=list(SDES.values()), ids=list(SDES))
def sde(request: pytest.FixtureRequest) -> SDE:
    return request.param


@pytest.fixture(params=list(SDES.values()), ids=[f"as_{name}" for name in SDES])
def other_sde(request: pytest.FixtureRequest) -> SDE:
    return request.param


@pytest.fixture(params=["isotropic", "diagonal", "full", "singular"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[(2,), (1, 2, 2)], ids=["2", "1x2x2"])
def mixture(kind: str, request: pytest.FixtureRequest) -> Mixture:
    return Mixture(kind, request.param)


@pytest.fixture
def planar() -> Mixture:
    """A mixture with full covariances in the plane."""
    return Mixture("full", (2,))


@pytest.fixture
def points() -> Mixture:
    """Three weighted points in the plane."""
    return Mixture("point", (2,))


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A state folder of the tests' own, in which the key of what is allowed for runs is made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
