"""What every method keeps: samples that do not depend on chunks, units, known values, and no wait for the device."""

import copy

import pytest
import torch

from scoresde.data.affine import Standardise
from scoresde.inverse import (
    ALD,
    DPS,
    ILVR,
    MCG,
    MMPS,
    TMPD,
    FieldMethod,
    GaussianNoise,
    MatrixOperator,
    Measurement,
    Method,
    NoNoise,
    PiGDM,
    PosteriorModel,
    Problem,
    Projection,
    WholeGradient,
    restore,
)
from scoresde.sampling import EDMHeun, KarrasGrid, Sampler
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VPSDE
from tests.elsewhere import DEVICE, elsewhere
from tests.problems import F64, correlated, generator

FIELDS = [
    ALD(),
    DPS(None),
    PiGDM(),
    PiGDM(1.0),
    TMPD(),
    MMPS(),
    MMPS(2, precondition=False),
    MMPS(2, symmetrise=True),
    WholeGradient(),
    WholeGradient(1e9, 1e-9),
]
METHODS: list[Method] = [*FIELDS, DPS(), MCG(), Projection(), ILVR(), ILVR(0.5)]
MATRIX = torch.randn(2, 6, generator=generator(4), dtype=F64) / 2


def problem(std: float = 0.3) -> Problem:
    return Problem(MatrixOperator(MATRIX), GaussianNoise(std))


def measured(prior: GaussianMixtureScore, count: int = 3, std: float = 0.3) -> Measurement:
    return problem(std).measure(prior.sample(count, 0.0, generator()), seed=1)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("sde", [EDMSDE(), VPSDE()], ids=repr)
def test_a_sample_depends_on_its_own_measurement_alone(method: Method, sde: SDE) -> None:
    prior = correlated(sde)
    y = measured(prior)
    whole, parts = (restore(prior, y, method, samples=2, steps=6, batch_size=size) for size in (None, 4))
    torch.testing.assert_close(whole.x, parts.x, rtol=1e-8, atol=1e-8)
    assert (whole.nfe, whole.products) == (parts.nfe, parts.products)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_units_of_the_data_change_nothing(method: Method) -> None:
    """A prior of data 3 z + (1, 2, ...) draws 3 z + (1, 2, ...) of what the prior of z draws."""
    inner = correlated(EDMSDE())
    shift = torch.arange(1.0, 7.0, dtype=F64)
    outer = copy.deepcopy(inner)
    outer.transform = Standardise(shift.tolist(), 3.0)
    y = measured(inner)
    scaled = Problem(MatrixOperator(MATRIX / 3), GaussianNoise(0.3)).given(y.y + MATRIX @ shift / 3)
    plain, moved = restore(inner, y, method, steps=6), restore(outer, scaled, method, steps=6)
    torch.testing.assert_close(moved.x, 3 * plain.x + shift, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", FIELDS, ids=repr)
def test_a_field_is_one_of_any_sampler_and_of_times_for_each_sample(method: FieldMethod) -> None:
    prior = correlated(EDMSDE(0.02, 20.0))
    model = method.posterior(prior, measured(prior))
    times = torch.tensor([0.1, 1.0, 5.0], dtype=F64)
    x = torch.randn(3, 6, generator=generator(), dtype=F64)
    each = torch.stack([model.denoise(x, t)[i] for i, t in enumerate(times)])
    torch.testing.assert_close(model.denoise(x, times), each, rtol=1e-8, atol=1e-8)
    noise = (x - model.denoise(x, times[0])) / 0.1
    torch.testing.assert_close(model.noise(x, times[0]), noise, rtol=1e-8, atol=1e-8)
    one = method.posterior(prior, problem().given(torch.zeros(1, 2, dtype=F64)))
    assert Sampler(EDMHeun(), KarrasGrid(4))(one, 5).x.shape == (5, 6)


@pytest.mark.parametrize("method", [Projection(), ILVR(), MCG()], ids=repr)
def test_values_without_noise_are_kept(method: Method) -> None:
    prior = correlated(EDMSDE())
    matrix = torch.linalg.qr(MATRIX.T)[0].T
    y = Problem(MatrixOperator(matrix), NoNoise()).measure(prior.sample(20, 0.0, generator()))
    out = restore(prior, y, method, steps=20)
    assert (out.x[:, 0] @ matrix.T - y.y).abs().max() < 0.05  # the last denoising step is free of the measurements


COSTS = {ALD: (1, 0), PiGDM: (1, 1), TMPD: (1, 2), DPS: (1, 1), MCG: (1, 1), Projection: (1, 0), ILVR: (1, 0)}


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_step_costs_what_the_method_says(method: Method) -> None:
    prior = correlated(EDMSDE())
    y = measured(prior, 2)
    few, many = (restore(prior, y, method, steps=steps) for steps in (6, 12))
    expected: tuple[float, float] | None = COSTS.get(type(method))
    if isinstance(method, MMPS):
        expected = (2, 4) if method.symmetrise else (1, method.iterations)
    if isinstance(method, MMPS) and method.symmetrise:
        expected = (3, 4)  # a forward product evaluates the model as well
    if isinstance(method, WholeGradient):
        # With the bounds far off, every step but that of the denoising, below t_min, is the costly one.
        expected = (4, 1) if method.top > 1e6 else ((many.nfe - few.nfe) / 6, (many.products - few.products) / 6)
        assert 1 <= expected[0] <= 4
        assert expected[1] <= 1
    assert ((many.nfe - few.nfe) / 6, (many.products - few.products) / 6) == expected


@pytest.mark.parametrize("method", FIELDS, ids=repr)
def test_a_field_waits_for_no_value(method: FieldMethod) -> None:
    """On the device "meta" no tensor has a value, and whatever asks for one fails."""
    prior = correlated(EDMSDE())
    y = measured(prior)
    method = method.informed(prior.statistics, y.operator)
    assert y.operator.singular_values is not None  # made once, where there are values
    operator = copy.deepcopy(y.operator).to("meta")
    there = Measurement(Problem(operator, y.noise), y.y.to("meta"))
    model = PosteriorModel(copy.deepcopy(prior).to("meta"), method, there)
    x = torch.zeros(3, 6, dtype=F64, device="meta")
    for t in (torch.tensor(0.1, dtype=F64), torch.tensor([0.1, 1.0, 5.0], dtype=F64)):
        assert model.denoise(x, t).device.type == model.noise(x, t).device.type == "meta"


@pytest.mark.parametrize("method", [ALD(), Projection(), ILVR()], ids=repr)
def test_nothing_waits_for_the_device_in_a_step(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    prior, y = correlated(EDMSDE()), measured(correlated(EDMSDE()))
    with elsewhere(monkeypatch) as waits:
        there, counts = copy.deepcopy(prior).to(DEVICE), []
        moved = Problem(copy.deepcopy(y.operator).to(DEVICE), y.noise).given(y.y.to(DEVICE))
        for steps in (3, 3, 9):  # the first draw finds what is kept
            before = len(waits)
            method.draw(there, moved, steps)
            counts.append(len(waits) - before)
    assert counts[1] == counts[2]


def test_float32_is_as_accurate_as_its_digits_at_the_smallest_noise() -> None:
    prior = correlated(EDMSDE())
    y = measured(prior, 3, std=1e-3)
    x = prior.sample(3, 0.002, generator(2))
    for method in (PiGDM(), TMPD(), MMPS(), MMPS(2, precondition=False)):
        fine = method.posterior(prior, y).denoise(x, torch.tensor(0.002))
        low = Problem(y.operator, y.noise).given(y.y.float())
        coarse = method.posterior(copy.deepcopy(prior).float(), low).denoise(x.float(), torch.tensor(0.002))
        torch.testing.assert_close(coarse.double(), fine, rtol=0, atol=2e-5)
