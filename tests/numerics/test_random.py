"""SampleNoise against its definition in Python integers, its distribution, and for its independence of the batch."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from scoresde.numerics.random import SampleNoise

MASK = 2**64 - 1
GOLDEN, MIX0, MIX1 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def signed(value: int, bits: int) -> int:
    return value - 2**bits if value >= 2 ** (bits - 1) else value


def finalise(z: int) -> int:
    z = ((z ^ (z >> 30)) * MIX0) & MASK
    z = ((z ^ (z >> 27)) * MIX1) & MASK
    return z ^ (z >> 31)


def halves(seed: int, index: int, draw: int, size: int, stream: int = 0) -> list[int]:
    """Signed 32-bit integers for the elements of a draw, the lower half of every word first."""
    pairs = (size + 1) // 2
    key = finalise(((seed + 1) * GOLDEN + stream * MIX0) & MASK)
    start = finalise((key + (index + 1) * GOLDEN) & MASK)
    out = []
    for j in range(draw * pairs + 1, (draw + 1) * pairs + 1):
        word = finalise((start + j * GOLDEN) & MASK)
        out += [signed(word & (2**32 - 1), 32), signed(word >> 32, 32)]
    return out[:size]


def noise(n: int, shape: tuple[int, ...], seed: int = 0, first: int = 0, **options: object) -> SampleNoise:
    return SampleNoise(seed, torch.arange(first, first + n), shape, **options)  # type: ignore[arg-type]


def test_splitmix_is_the_published_one() -> None:
    # The first outputs of the reference implementation (Vigna's splitmix64.c) from the state 1234567.
    state, out = 1234567, []
    for _ in range(5):
        state = (state + GOLDEN) & MASK
        out.append(finalise(state))
    assert out == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("seed", [0, 1, -3, 2**63 + 5, 2**70 + 1])
@pytest.mark.parametrize("size", [1, 5, 6])
def test_draws_follow_the_definition(seed: int, size: int) -> None:
    source = noise(3, (size,), seed, first=7, dtype=torch.float64, stream=4)
    for draw in range(3):
        got = source()
        for row in range(3):
            wanted = [stats.norm.ppf((v + 0.5) / 2**32 + 0.5) for v in halves(seed, 7 + row, draw, size, stream=4)]
            torch.testing.assert_close(got[row], torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_uniform_and_signs_follow_the_definition() -> None:
    source = noise(2, (5,), 11, dtype=torch.float64)
    uniform, signs = source.uniform(), source.signs()
    for row in range(2):
        assert uniform[row].tolist() == [v / 2**32 + 0.5 for v in halves(11, row, 0, 5)]
        assert signs[row].tolist() == [1.0 if v >= 0 else -1.0 for v in halves(11, row, 1, 5)]


def test_the_first_sample_of_the_first_seed_is_like_any_other() -> None:
    # The scrambler maps 0 to 0, and a key of zero would be seen in every draw of the first sample.
    assert noise(1, (1,), dtype=torch.float64)().abs().item() < 5
    assert 0 not in halves(0, 0, 0, 2)


def test_golden_values() -> None:
    # Published samples must stay what they are: a change here changes every picture ever drawn from a seed.
    got = noise(2, (3,), seed=42, dtype=torch.float64)().flatten().tolist()
    assert got == pytest.approx(
        [0.1066032786, -0.4911489403, 1.1207154552, 1.0642888723, 0.1321883561, -0.8183381101], abs=1e-9
    )


N, D = 400, 500
# A statistic of n values with standard error e is allowed 4 e; the seed is fixed, so this is no lottery.


@pytest.fixture(scope="module")
def block() -> Tensor:
    return noise(N, (D,), 5, dtype=torch.float64)()


def test_normal_moments(block: Tensor) -> None:
    z = block.flatten()
    root = math.sqrt(len(z))
    assert abs(z.mean()) < 4 / root
    assert abs(z.square().mean() - 1) < 4 * math.sqrt(2) / root
    assert abs((z**3).mean()) < 4 * math.sqrt(15) / root
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96) / root
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3


def test_tails_reach_as_far_as_they_should() -> None:
    z = noise(1000, (1000,), 1)()
    for level in (3.0, 4.0):
        expected = 1e6 * 2 * stats.norm.sf(level)
        assert abs(int((z.abs() > level).sum()) - expected) < 4 * math.sqrt(expected)
    assert bool(z.isfinite().all())


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_and_elements_are_uncorrelated(block: Tensor, axis: int) -> None:
    corr = torch.corrcoef(block if axis == 0 else block.T)
    off = corr[~torch.eye(len(corr), dtype=torch.bool)]
    count = D if axis == 0 else N
    # Every correlation has standard error 1/√count; their mean square shows structure that the largest hides.
    assert off.abs().max() < 6 / math.sqrt(count)
    assert abs(off.square().mean() * count - 1) < 0.05


def test_the_halves_of_a_word_are_independent(block: Tensor) -> None:
    a, b = block[:, ::2].flatten(), block[:, 1::2].flatten()
    root = math.sqrt(len(a))
    assert abs((a * b).mean()) < 4 / root
    # Squares too.
    assert abs(((a**2 - 1) * (b**2 - 1)).mean()) < 4 * 2 / root


@pytest.mark.parametrize("other", ["draw", "seed", "stream", "index"])
def test_other_draws_seeds_streams_and_samples_differ(other: str) -> None:
    source = noise(50, (200,))
    a = source()
    b = {
        "draw": source,
        "seed": noise(50, (200,), 1),
        "stream": noise(50, (200,), stream=1),
        "index": noise(50, (200,), first=50),
    }[other]()
    assert abs((a * b).mean()) < 4 / math.sqrt(a.numel())
    assert int((a == b).sum()) == 0


def test_a_sample_does_not_depend_on_its_batch() -> None:
    full = noise(10, (2, 3), 9)
    alone = [noise(1, (2, 3), 9, first=i) for i in range(10)]
    shuffled = SampleNoise(9, torch.tensor([7, 2]), (2, 3))
    for kind in ("__call__", "uniform", "signs", "__call__"):
        draws = getattr(full, kind)()
        assert draws.shape == (10, 2, 3)
        assert torch.equal(draws, torch.cat([getattr(a, kind)() for a in alone]))
        assert torch.equal(draws[[7, 2]], getattr(shuffled, kind)())


def test_float32_agrees_with_float64() -> None:
    a, b = noise(200, (501,), 3)(), noise(200, (501,), 3, dtype=torch.float64)()
    assert a.dtype == torch.float32
    assert b.dtype == torch.float64
    # A uniform number next to ±1 is rounded to 2⁻²⁵ twice and shortened by 2⁻²⁴, which the density there divides.
    rounding = 2.0**-23 / (2 * torch.from_numpy(stats.norm.pdf(b.numpy()))) + 1e-6 * b.abs() + 1e-7
    assert bool(((a - b).abs() <= rounding).all())
    assert (a - b).abs().median() < 1e-7
    half = noise(200, (501,), 3, dtype=torch.bfloat16)()
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, a.to(torch.bfloat16))


def test_a_pair_is_not_shared_between_draws_of_odd_size() -> None:
    source = noise(4, (3,), dtype=torch.float64)
    draws = torch.cat([source() for _ in range(50)], dim=1)
    assert len(draws.flatten().unique()) == draws.numel()
    assert noise(2, ())().shape == (2,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform(dtype: torch.dtype) -> None:
    u = noise(1000, (999,), 2, dtype=dtype).uniform()
    assert u.dtype == dtype
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert stats.kstest(u.flatten()[::7].double().numpy(), "uniform").pvalue > 1e-3
    assert abs(u.double().mean() - 0.5) < 4 / math.sqrt(12 * u.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_integers(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """None gives a uniform number of 1, or a normal one that is not finite."""
    source = noise(1, (6,), dtype=dtype)
    integers = [-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1]
    monkeypatch.setattr(source, "_bits", lambda: torch.tensor([integers], dtype=torch.int32))
    u, z = source.uniform()[0], source()[0]
    assert float(u.min()) == 0
    assert float(u.max()) < 1
    assert bool(z.isfinite().all())
    reach = stats.norm.isf(2.0**-33 if dtype == torch.float64 else 2.0**-25)
    assert float(z[-1]) == pytest.approx(reach, rel=1e-6)
    assert float(z[0]) == pytest.approx(-reach, rel=1e-6)
    assert float(z[2:5].abs().max()) < 1e-8


def test_draws_can_be_taken_in_any_order() -> None:
    source, other = noise(3, (5,)), noise(3, (5,))
    draws = [source() for _ in range(4)]
    for k in (2, 0, 3, 3):
        other.draws = k
        assert torch.equal(other(), draws[k])
    other.draws = 2**62 + 1
    assert abs(float(other().mean())) < 4 / math.sqrt(15)


def test_signs() -> None:
    s = noise(500, (501,), 8).signs()
    assert set(s.unique().tolist()) == {-1.0, 1.0}
    assert abs(s.mean()) < 4 / math.sqrt(s.numel())
    # Products of neighbours, in rows and columns, and of next but one, balance as well.
    for product in (s[:, 1:] * s[:, :-1], s[1:] * s[:-1], s[:, 2:] * s[:, :-2]):
        assert abs(product.mean()) < 4 / math.sqrt(product.numel())
