"""A flow in the cell: a density on it, exactly uniform at first, and what training it gains where all is known."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from scoresde.data.transforms import Discrete
from scoresde.likelihood import CellFlow, Uniform, Variational, bits_per_dim
from scoresde.likelihood.dequantisation import Dequantisation
from scoresde.likelihood.fit_dequantisation import fit
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE

F64 = torch.float64
SHAPES = [(1,), (2,), (2, 3), (1, 4, 4), (3, 2, 5)]


def rough(shape: tuple[int, ...], levels: int = 5, size: float = 0.4, **options: Any) -> CellFlow:
    """A flow with random parameters, in float64, whose splines are far from the identity."""
    torch.manual_seed(0)
    flow = CellFlow(shape, levels, width=8, **options).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            inputs = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_(size * torch.randn_like(parameter) / math.sqrt(inputs))
    return flow


def pixels_of(shape: tuple[int, ...], count: int, levels: int = 5) -> Tensor:
    return torch.randint(0, levels, (count, *shape), generator=torch.Generator().manual_seed(1))


def noise(shape: tuple[int, ...], count: int, seed: int = 0, first: int = 0) -> SampleNoise:
    return SampleNoise(seed, torch.arange(first, first + count), shape, F64, stream=Stream.DEQUANTISATION)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_new_flow_is_uniform_dequantisation(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    q, transform, pixels = Variational(CellFlow(shape, 5)), Discrete(5), pixels_of(shape, 7)
    z, log_q = q.draw(pixels, transform, noise(shape, 7), 1.0, 0.0)
    wanted, log_uniform = Uniform().draw(pixels, transform, noise(shape, 7), 1.0, 0.0)
    torch.testing.assert_close(z, wanted)
    assert log_q.dtype == F64
    torch.testing.assert_close(log_q, log_uniform, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [0, 3])
def test_density_of_one_pixel_integrates_to_one(k: int) -> None:
    flow = rough((1,), couplings=1)
    grid = torch.linspace(0, 1, 20_001, dtype=F64)[:, None]
    with torch.no_grad():
        density = flow.inverse(torch.full((len(grid), 1), k), grid)[1].exp()
    assert float(density.max() / density.min()) > 2
    # The trapezoidal rule on a density with kinks at the knots: 2e-6 with 20,000 steps.
    assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(1, abs=1e-5)


def test_density_of_two_pixels_integrates_to_one() -> None:
    flow = rough((2,))
    middles = (torch.arange(300, dtype=F64) + 0.5) / 300
    grid = torch.cartesian_prod(middles, middles)
    with torch.no_grad():
        density = flow.inverse(torch.tensor([[1, 4]]).expand(len(grid), 2), grid)[1].exp()
    assert float(density.max() / density.min()) > 5
    # The midpoint rule's error.
    assert float(density.mean()) == pytest.approx(1, abs=1e-3)
    # Not a product of densities of the two.
    square = density.reshape(300, 300)
    assert float((square - square.mean(0) * square.mean(1)[:, None]).abs().max()) > 0.1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inverse_and_log_determinant(shape: tuple[int, ...]) -> None:
    flow, pixels = rough(shape), pixels_of(shape, 3)
    base = noise(shape, 3).uniform()
    u, log_det = flow(pixels, base)
    back, log_back = flow.inverse(pixels, u)
    torch.testing.assert_close(back, base, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_back, -log_det, rtol=0, atol=1e-9)
    assert float((u - base).detach().abs().max()) > 0.03
    for i in range(3):
        k = pixels[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda v, k=k: flow(k, v)[0].flatten(), base[i : i + 1])
        sign, size = torch.linalg.slogdet(jacobian.reshape(math.prod(shape), -1))
        assert sign == 1
        assert float(size) == pytest.approx(float(log_det[i].detach()), abs=1e-9)


def test_the_ends_of_the_cell_stay() -> None:
    flow, pixels = rough((2, 3), size=2.0), pixels_of((2, 3), 4)
    for end in (0.0, 1.0):
        u, log_det = flow(pixels, torch.full((4, 2, 3), end, dtype=F64))
        torch.testing.assert_close(u, torch.full_like(u, end), rtol=0, atol=1e-12)
        assert bool(log_det.isfinite().all())


@pytest.mark.parametrize("levels", [2, 256])
def test_draws_stay_in_the_cell(levels: int) -> None:
    shape = (1, 4, 4)
    q, pixels = Variational(rough(shape, levels, size=2.0)), pixels_of(shape, 500, levels)
    z, log_q = q.draw(pixels, Discrete(levels), noise(shape, 500), 1.0, 0.0)
    assert bool((Discrete(levels).decode(z) == pixels).all())
    assert bool(log_q.isfinite().all())


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)], ids=str)
def test_a_sample_does_not_depend_on_its_batch(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    q, pixels, transform = Variational(rough(shape)), pixels_of(shape, 6), Discrete(5)
    z, log_q = q.draw(pixels, transform, noise(shape, 6), 1.0, 0.0)
    # Also where one call is worked on in parts.
    monkeypatch.setattr("scoresde.likelihood.cell_flow._MAX_PARAMETERS", 2 * 25 * math.prod(shape))
    parts, _ = q.draw(pixels, transform, noise(shape, 6), 1.0, 0.0)
    torch.testing.assert_close(parts, z, rtol=0, atol=1e-7)
    for i in range(6):
        alone, log_alone = q.draw(pixels[i : i + 1], transform, noise(shape, 1, first=i), 1.0, 0.0)
        torch.testing.assert_close(alone[0], z[i], rtol=0, atol=1e-7)  # float32 of the data
        torch.testing.assert_close(log_alone[0], log_q[i], rtol=0, atol=1e-10)
    others, _ = q.draw(pixels, transform, noise(shape, 6, seed=1), 1.0, 0.0)
    assert float((others - z).abs().median()) > 0.01


def write(path: Path, made: CellFlow, **metadata: str) -> Path:
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, path, {**made.metadata(), **metadata})
    return path


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 4)], ids=str)
def test_a_file_holds_the_flow(tmp_path: Path, shape: tuple[int, ...]) -> None:
    flow = rough(shape, couplings=3, blocks=1, bins=5).float()
    read = Variational(write(tmp_path / "flow.safetensors", flow))
    wanted = Variational(flow)
    assert read.digest == wanted.digest
    assert repr(read) == repr(wanted)
    assert next(flow.parameters()).dtype == torch.float32  # what was given is left as it is
    pixels = pixels_of(shape, 3)
    for a, b in zip(*(q.draw(pixels, Discrete(5), noise(shape, 3), 1.0, 0.0) for q in (read, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert Variational(rough(shape, couplings=3, blocks=1, bins=5, size=0.2)).digest != read.digest


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path is missing: give the file that `scoresde dequantise run=DIR` wrote"):
        Variational()
    with pytest.raises(ValueError, match=r"there is no file .*x\.safetensors: make it by `scoresde dequantise run="):
        Variational(tmp_path / "x.safetensors")
    flow, foreign = rough((2,)), "is not a file that `scoresde dequantise` wrote"
    good = write(tmp_path / "good.safetensors", flow)
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-40])
    huge = flow.metadata()["flow"].replace('"width": 8', '"width": 100000000')
    endless = flow.metadata()["flow"].replace('"couplings": 4', '"couplings": 100000000')
    assert huge != endless != flow.metadata()["flow"]
    write(tmp_path / "format.safetensors", flow, format="another")
    write(tmp_path / "huge.safetensors", flow, flow=huge)
    write(tmp_path / "endless.safetensors", flow, flow=endless)
    write(tmp_path / "list.safetensors", flow, flow="[1]")
    for name in ("cut", "format", "huge", "endless", "list"):
        with pytest.raises(ValueError, match=foreign):
            Variational(tmp_path / f"{name}.safetensors")
    q = Variational(good)
    with pytest.raises(ValueError, match=r"is for shape \(2,\) and 5 levels, the data have shape \(3,\) and 5 levels"):
        q.draw(pixels_of((3,), 2), Discrete(5), noise((3,), 2), 1.0, 0.0)
    with pytest.raises(ValueError, match=r"the data have shape \(2,\) and 4 levels: train one for these, by"):
        q.draw(pixels_of((2,), 2, 4), Discrete(4), noise((2,), 2), 1.0, 0.0)
    with pytest.raises(ValueError, match="pixels have shape"):
        flow(pixels_of((2,), 2), torch.rand(2, 3, dtype=F64))
    for options in ({"levels": 1}, {"width": 0}, {"bins": 0}, {"couplings": -1}, {"blocks": 1.5}, {"shape": (0,)}):
        with pytest.raises(ValueError, match="expected"):
            CellFlow(**{"shape": (2,), "levels": 4, **options})


# -- two pixels of four levels, all sixteen states, a density that is known ------------------------------------

LEVELS = Discrete(4)
STATES = torch.tensor(list(itertools.product(range(4), repeat=2)))


def known() -> GaussianMixtureScore:
    """A density that varies within the cells, whose width is 0.5, along a diagonal in the main."""
    means = torch.tensor([[-0.5, -0.4], [0.45, 0.3], [-0.2, 0.6]], dtype=F64)
    narrow = torch.tensor([[0.09, 0.07], [0.07, 0.09]], dtype=F64)
    covariances = torch.stack((narrow, narrow, 0.06 * torch.eye(2, dtype=F64)))
    return GaussianMixtureScore(torch.tensor([0.4, 0.4, 0.2]), means, covariances, EDMSDE(0.01, 20.0))


def truth(model: GaussianMixtureScore, points: int = 100) -> Tensor:
    """log P(k), nats, by the midpoint rule in each cell."""
    middles = (torch.arange(points, dtype=F64) + 0.5) / points
    grid = torch.cartesian_prod(middles, middles)
    t = torch.tensor(model.sde.t_min, dtype=F64)
    return torch.stack(
        [
            (model.log_prob(LEVELS.encode(k.expand(len(grid), 2), grid, F64), t).logsumexp(0))
            - math.log(len(grid))
            + LEVELS.log_det((2,))
            for k in STATES
        ]
    )


def bound(model: GaussianMixtureScore, q: Dequantisation, draws: int) -> tuple[Tensor, Tensor]:
    """E_q[log p − log q] of each state and its standard error, nats."""
    z, log_q = q.draw(STATES.repeat_interleave(draws, 0), LEVELS, noise((2,), 16 * draws, seed=5), 1.0, 0.0)
    each = (model.log_prob(z.double(), torch.tensor(model.sde.t_min, dtype=F64)) - log_q).reshape(16, draws)
    return each.mean(1), each.std(1) / math.sqrt(draws)


@pytest.fixture(scope="module")
def trained() -> CellFlow:
    torch.manual_seed(0)
    flow = CellFlow((2,), 4, couplings=1, width=32, blocks=1, bins=5)
    fit(flow, known(), STATES, LEVELS, steps=300, batch_size=128, lr=1e-2, seed=0)
    return flow


@pytest.mark.slow
def test_training_makes_the_bound_tight(trained: CellFlow) -> None:
    model = known()
    wanted = truth(model)
    weights = wanted.exp() / wanted.exp().sum()
    uniform, _ = bound(model, Uniform(), 4000)
    learned, error = bound(model, Variational(trained), 4000)
    # Below the truth in every state, but for chance.
    assert bool((learned < wanted + 4 * error).all())
    gap, rest = (float((weights * (wanted - b)).sum()) for b in (uniform, learned))
    assert gap > 0.1
    # What is left is the noise of few steps, by which a batch has 128 evaluations of the model.
    assert -3 * float((weights * error).norm()) < rest < 0.25 * gap
    assert bool((learned > uniform).all())


def test_bits_per_dim_with_it(trained: CellFlow) -> None:
    """By the ODE, with a part of the draws, at the same seeds."""
    model = known()
    pixels = STATES.repeat(12, 1)
    options: dict[str, Any] = {"tol": 1e-2}
    uniform = bits_per_dim(model, pixels, LEVELS, **options)
    learned = bits_per_dim(model, pixels, LEVELS, dequantisation=Variational(trained), **options)
    assert learned.dequantisation == "variational"
    assert float((uniform.bits - learned.bits).mean()) > 0.1
    wanted = -truth(model).repeat(12) / (2 * math.log(2))
    apart = learned.bits - wanted
    # log p − log q is the same at every draw where q is p in the cell.
    assert float(apart.std()) < 0.7 * float((uniform.bits - wanted).std())
    assert float(apart.mean()) > -3 * float(apart.std()) / math.sqrt(len(apart))


def test_training_depends_on_its_seed_alone() -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(3)
        flow = CellFlow((2,), 4, couplings=1, width=8, blocks=1, bins=3)
        torch.manual_seed(seed + 17)  # of no effect
        fit(flow, known(), STATES, LEVELS, steps=3, batch_size=8, seed=seed)
        return torch.cat([p.detach().flatten() for p in flow.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_a_gradient_that_is_not_finite() -> None:
    class Broken(GaussianMixtureScore):
        def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return super().noise(x, t, **cond) * math.nan

    good = known()
    broken = Broken(good.weights, good.means, torch.full((3,), 0.1), good.sde)
    with pytest.raises(ArithmeticError, match="not finite at step 0: lower lr, or check the model"):
        fit(CellFlow((2,), 4, width=8), broken, STATES, LEVELS, steps=2, batch_size=4)
