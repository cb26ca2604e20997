import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from scoresde.data.affine import Affine, Identity, Standardise, continuous, transform_from_plain
from scoresde.data.transforms import Discrete, Transform
from tests.problems import generator

DISCRETE = [Discrete(2), Discrete(17), Discrete(256), Discrete(256, 0.0, 1.0), Discrete(1000, -3.0, 5.0)]
CONTINUOUS = [
    Affine(1.5, -0.25),
    Standardise(-3.0, 40.0),
    Standardise([[[1.0]], [[2.0]]], [[[0.5]], [[3.0]]]),
    Identity(),
]


@pytest.mark.parametrize("transform", DISCRETE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_discrete_round_trip_at_every_level_and_every_place_in_the_cell(
    transform: Discrete, dtype: torch.dtype
) -> None:
    raw = torch.arange(transform.levels)[:, None].repeat(1, 6)
    tiny = torch.finfo(torch.float32).tiny
    noise = torch.tensor([0.0, tiny, 0.3, 0.5, 1 - 2.0**-24, 1.0]).expand_as(raw)  # both borders of the cell
    for x in (transform.encode(raw, noise, dtype), transform.encode(raw, dtype=dtype)):
        assert x.dtype == dtype
        assert float(x.min()) >= transform.low
        assert float(x.max()) <= transform.high
        back = transform.decode(x)
        assert back.dtype == (torch.uint8 if transform.levels <= 256 else torch.int32)
        assert torch.equal(back.long(), raw)


def test_discrete_values_are_the_formula() -> None:
    raw = torch.tensor([[0, 3, 16]], dtype=torch.uint8)
    centre = Discrete(17).encode(raw, dtype=torch.float64)
    assert torch.allclose(centre, torch.tensor([[-16 / 17, -10 / 17, 16 / 17]], dtype=torch.float64))
    noise = torch.tensor([[0.25, 0.5, 0.75]], dtype=torch.float64)
    x = Discrete(17, 0.0, 34.0).encode(raw, noise, torch.float64)
    assert torch.allclose(x, torch.tensor([[0.5, 7.0, 33.5]], dtype=torch.float64))


def test_discrete_noise_is_uniform_over_the_cell() -> None:
    # Variance of a uniform cell of width w is w²/12; with n draws its relative error is sqrt(0.8/n) = 0.3 %.
    raw = torch.full((100_000, 1), 4)
    x = Discrete(10, 0.0, 10.0).encode(raw, torch.rand(raw.shape, generator=generator()))
    assert float(x.mean()) == pytest.approx(4.5, abs=4 * math.sqrt(1 / 12 / 1e5))
    assert float(x.var()) == pytest.approx(1 / 12, rel=4 * 0.003)


def test_discrete_decode_clips_what_the_model_overshoots() -> None:
    x = torch.tensor([[-math.inf, -1.7, -1.0, 0.999, 1.0, 42.0, math.inf]])
    assert Discrete(17).decode(x).tolist() == [[0, 0, 0, 16, 16, 16, 16]]


def test_to_unit_gives_the_original_grey_values() -> None:
    transform = Discrete(17)
    raw = torch.arange(17)[None]
    grey = transform.to_unit(transform.encode(raw, torch.rand(raw.shape, generator=generator())))
    assert torch.allclose(grey, raw / 16)
    assert float(transform.to_unit(torch.tensor([[9.0]]))) == 1.0


@pytest.mark.parametrize("transform", CONTINUOUS, ids=str)
def test_continuous_round_trip(transform: Transform) -> None:
    raw = torch.randn(5, 2, 3, 1, generator=generator(), dtype=torch.float64)
    x = transform.encode(raw, dtype=torch.float64)
    assert torch.allclose(transform.decode(x), raw, atol=1e-12)
    assert transform.encode(raw).dtype == torch.float32
    assert transform.levels is None


def test_continuous_values_are_the_formula() -> None:
    raw = torch.tensor([[[1.0], [5.0]]])
    assert torch.equal(Affine(3.0, 2.0).encode(raw), torch.tensor([[[-1.0], [1.0]]]))
    assert torch.equal(Standardise([[1.0], [2.0]], [[4.0], [0.5]]).encode(raw), torch.tensor([[[0.0], [6.0]]]))


def test_continuous_encode_keeps_float64_data_on_a_large_offset() -> None:
    raw = 1e9 + torch.tensor([[0.25], [0.75]], dtype=torch.float64)  # 0.25 is lost in float32
    assert Affine(1e9, 1.0).encode(raw).flatten().tolist() == [0.25, 0.75]


@pytest.mark.parametrize("transform", [*DISCRETE, *CONTINUOUS], ids=str)
def test_log_det_against_autograd(transform: Transform) -> None:
    shape = (2, 3, 1)

    def encode(u: torch.Tensor) -> torch.Tensor:
        if isinstance(transform, Discrete):  # raw + u is the continuous variable
            return transform.encode(torch.ones(1, *shape, dtype=torch.uint8), u[None], torch.float64)[0]
        return transform.encode(u[None], dtype=torch.float64)[0]

    u = torch.rand(shape, generator=generator(), dtype=torch.float64) * 0.8 + 0.1
    if isinstance(transform, Discrete):
        # A finite difference: it is exact for a linear map, and sees the noise as a caller does.
        h = 1e-3
        jacobian = torch.stack([(encode(u + h * e) - encode(u - h * e)) / (2 * h) for e in basis(shape)])
    else:
        jacobian = torch.stack([torch.autograd.functional.jvp(encode, u, e)[1] for e in basis(shape)])
    expected = torch.linalg.slogdet(jacobian.reshape(6, 6)).logabsdet
    assert transform.log_det(shape) == pytest.approx(float(expected), abs=1e-9)


def basis(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)


def test_fit_standardises() -> None:
    raw = 7 + 3 * torch.randn(1000, 2, 2, generator=generator(), dtype=torch.float64)
    x = Standardise.fit(raw).encode(raw, dtype=torch.float64)
    assert float(x.mean()) == pytest.approx(0, abs=1e-12)
    assert float(x.std()) == pytest.approx(1, abs=1e-12)


# Pressure in Pa, relative humidity and temperature in K.
WEATHER = ([101_325.0, 0.6, 285.0], [700.0, 0.15, 9.0])


def weather(*shape: int) -> torch.Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, *[1] * len(shape)) for v in WEATHER)
    return mean + std * torch.randn(2000, 3, *shape, generator=generator(), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(), (4,), (2, 2)])
def test_channels_that_differ_are_standardised_each(shape: tuple[int, ...]) -> None:
    raw = weather(*shape)
    found = continuous(raw)
    assert found == Standardise.fit(raw, "channel")
    x = found.encode(raw, dtype=torch.float64).movedim(1, 0).flatten(1)
    assert x.mean(1).tolist() == pytest.approx([0, 0, 0], abs=1e-9)
    assert x.std(1).tolist() == pytest.approx([1, 1, 1], abs=1e-9)
    # -log of the standard deviations, which differ from the true ones by √(1/2n) = 2 % at most.
    expected = -math.prod(shape) * sum(map(math.log, WEATHER[1]))
    assert found.log_det((3, *shape)) == pytest.approx(expected, abs=0.1 * math.prod(shape))


@pytest.mark.parametrize(
    ("factor", "shift", "differ"), [(1.8, 0.0, False), (2.3, 0.0, True), (1.0, 0.8, False), (1.0, 1.2, True)]
)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_one_scale_is_for_channels_alike(factor: float, shift: float, differ: bool, scale: float) -> None:
    raw = torch.randn(20_000, 2, generator=generator(), dtype=torch.float64) * torch.tensor([1.0, factor])
    raw = scale * (raw + torch.tensor([3.0, 3.0 + shift]))
    assert continuous(raw) == Standardise.fit(raw, "channel" if differ else "all")


def test_moments_are_of_what_is_asked_for() -> None:
    raw = 7 + 3 * torch.randn(50, 2, 3, generator=generator(), dtype=torch.float64)
    for per, axes in (("all", (0, 1, 2)), ("channel", (0, 2)), ("value", (0,))):
        found = Standardise.fit(raw, per)  # type: ignore[arg-type]
        std, mean = torch.std_mean(raw, dim=axes, keepdim=True)
        assert torch.allclose(found._shift, mean[0], rtol=1e-12)
        assert torch.allclose(found._scale, std[0], rtol=1e-12)
    assert continuous(raw, "none") == Identity()
    with pytest.raises(ValueError, match="standardise is 'colour', expected one of auto, none, all, channel, value"):
        continuous(raw, "colour")  # type: ignore[arg-type]


def test_moments_do_not_depend_on_how_the_data_are_split_up(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = 1e6 + torch.randn(101, 2, 3, generator=generator(), dtype=torch.float64)
    whole = [Standardise.fit(raw, per) for per in ("all", "channel", "value")]
    monkeypatch.setattr("scoresde.data.transforms.VALUES_AT_ONCE", 24)
    for per, expected in zip(("all", "channel", "value"), whole, strict=True):
        found = Standardise.fit(raw, per)  # type: ignore[arg-type]
        assert torch.allclose(found._shift, expected._shift, rtol=1e-15)
        assert torch.allclose(found._scale, expected._scale, rtol=1e-12)


def test_a_constant_channel_is_centred_and_keeps_its_unit() -> None:
    raw = weather(2)
    raw[:, 1] = 0.3
    with pytest.warns(UserWarning, match="1 of 3 channels of the data are constant .number 1.: they are centred"):
        found = continuous(raw)
    x = found.encode(raw, dtype=torch.float64)
    assert bool((x[:, 1].abs() < 1e-15).all())
    assert found._scale[1].item() == 1  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="constant data has no scale"):
        Standardise.fit(torch.full((9, 3), 0.3))


@pytest.mark.parametrize("offset", [0.0, 5.0, 1e3, 1e6])
def test_a_large_offset_costs_no_accuracy(offset: float) -> None:
    small = torch.randn(500, 2, generator=generator(), dtype=torch.float64)
    found = Standardise.fit(offset + small)
    expected = Standardise.fit(small).encode(small)
    assert torch.allclose(found.encode(offset + small), expected, atol=1e-6)


def test_what_is_written_out_stays_short() -> None:
    found = Standardise.fit(weather(8), "value")
    assert len(repr(found)) < 120
    assert repr(found).startswith("Standardise(mean 0.59")
    assert repr(found).endswith("of shape (3, 8))")


def test_transforms_are_values() -> None:
    assert Standardise(np.array([1.0, 2.0]), torch.ones(2)) == Standardise([1, 2], (1.0, 1.0))
    assert Standardise(OmegaConf.create([[1], [2]]), 1.0) == Standardise([[1], [2]], 1)  # as Hydra passes it
    assert Affine(0, 1) != Affine(0, 2)
    assert eval(repr(Standardise([1, 2], 3))) == Standardise([1, 2], 3)


@pytest.mark.parametrize("transform", [*DISCRETE, *CONTINUOUS, Standardise(0.1, 1e-300)], ids=str)
def test_a_transform_is_the_same_after_json(transform: Transform) -> None:
    assert transform_from_plain(json.loads(json.dumps(transform.to_plain()))) == transform


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (None, "'None' is no transform: expected one of Affine, Discrete, Identity, Standardise"),
        ({"transform": "Path"}, "'Path' is no transform"),
        ({"transform": ["Discrete"], "levels": 2}, "is no transform"),
        ({"transform": "Identity", "levels": 2}, "Identity is described by its name alone, got .'levels'."),
        ({"transform": "Discrete", "levels": 2}, "Discrete is described by levels, low, high, got"),
        ({"transform": "Discrete", "levels": "2", "low": 0, "high": 1}, "levels must be an integer"),
        ({"transform": "Discrete", "levels": 2, "low": "0", "high": 1}, "Discrete of levels, low, high"),
        ({"transform": "Standardise", "mean": 0, "std": "one"}, "Standardise of mean, std"),
        ({"transform": "Standardise", "mean": 0, "std": [1, [2]]}, "Standardise of mean, std"),
        ({"transform": "Standardise", "mean": 0, "std": 0}, "std must be positive"),
        ({"transform": "Affine", "shift": {}, "scale": 1}, "Affine of shift, scale"),
    ],
)
def test_what_describes_no_transform_is_refused_in_a_line(plain: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        transform_from_plain(plain)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "worst"),
    [
        (torch.tensor([[0.0, 2.5, 3.1]]), "worst value is 2.5"),
        (torch.tensor([[1.0, math.nan]]), "worst value is nan"),
        (torch.tensor([[1.0, -math.inf]]), "worst value is -inf"),
        (torch.tensor([[-4, 18]]), "worst value is -4"),
        (torch.tensor([[-1, 20]]), "worst value is 20"),
        (torch.tensor([[17]], dtype=torch.uint8), "worst value is 17"),
    ],
)
def test_discrete_refuses_values_and_names_the_worst(raw: torch.Tensor, worst: str) -> None:
    with pytest.raises(ValueError, match=r"integers 0..16 .17 levels.") as caught:
        Discrete(17).encode(raw)
    assert worst in str(caught.value)
    assert "\n" not in str(caught.value)


def test_discrete_accepts_integers_in_any_dtype() -> None:
    raw = torch.tensor([[0, 16]])
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float64):
        assert torch.equal(Discrete(17).decode(Discrete(17).encode(raw.to(dtype))), raw.to(torch.uint8))


def test_discrete_refusals() -> None:
    raw = torch.zeros(2, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"raw's shape \(2, 3\), got \(2, 1\)"):
        Discrete(17).encode(raw, torch.zeros(2, 1))
    for noise in (torch.full((2, 3), -0.1), torch.full((2, 3), 1.1), torch.full((2, 3), math.nan)):
        with pytest.raises(ValueError, match=r"noise must lie in \[0, 1\)"):
            Discrete(17).encode(raw, noise)
    with pytest.raises(ValueError, match="cannot tell 256 levels apart"):
        Discrete(256).encode(raw, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"dtype torch.complex64"):
        Discrete(17).encode(torch.zeros(1, 1, dtype=torch.complex64))
    with pytest.raises(ValueError, match="cannot decode NaN: 1 of 2"):
        Discrete(17).decode(torch.tensor([[0.0, math.nan]]))
    for levels in (1, 2.5, True):
        with pytest.raises(ValueError, match="levels must be an integer of at least 2"):
            Discrete(levels)  # type: ignore[arg-type]
    for low, high in ((1.0, 1.0), (1.0, -1.0), (0.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="low must be below high"):
            Discrete(2, low, high)


def test_continuous_refusals() -> None:
    raw = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="no dequantisation noise"):
        Identity().encode(raw, torch.rand(raw.shape))
    with pytest.raises(ValueError, match="finite, 2 of 4 are NaN or infinite"):
        Affine(0, 1).encode(torch.tensor([[1.0, math.nan, math.inf, 2.0]]))
    with pytest.raises(ValueError, match="scale must not be 0"):
        Affine([0.0, 0.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="shift must be finite, got nan"):
        Affine(math.nan, 1)
    with pytest.raises(ValueError, match="std must be positive, got 0: constant data"):
        Standardise(0, 0.0)
    with pytest.raises(ValueError, match="std must be positive, got -2"):
        Standardise(0, [1, -2])
    with pytest.raises(ValueError, match="constant data"):
        Standardise.fit(torch.full((100, 3), 0.1))
    with pytest.raises(ValueError, match="at least 2 values"):
        Standardise.fit(torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"shape \(3,\) does not broadcast to samples of shape \(2,\)"):
        Standardise([0, 0, 0], 1).encode(raw)
    with pytest.raises(ValueError, match=r"does not broadcast to samples of shape \(2,\)"):
        Standardise([[0, 0]] * 4, 1).log_det((2,))


def test_resolution_is_the_spread_of_a_cell() -> None:
    transform = Discrete(16)
    x = transform.encode(torch.full((20_000,), 3), torch.rand(20_000, generator=generator()), torch.float64)
    assert transform.resolution == pytest.approx(float(x.std()), rel=0.02)
    assert transform.resolution == pytest.approx(0.125 / 12**0.5)
    assert Identity().resolution == 0
