"""What holds for every method that is a sampler of its own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.data import Standardise
from scoresde.inverse import (
    DAPS,
    DDNM,
    DDRM,
    TDS,
    Blur,
    CountedModel,
    DiffPIR,
    Downsampling,
    FourierSampling,
    GaussianBlur,
    GaussianNoise,
    LinearOperator,
    Mask,
    MatrixOperator,
    Method,
    NoNoise,
    Operator,
    PnPDM,
    Problem,
    REDDiff,
    RePaint,
    line_mask,
    restore,
)
from scoresde.inverse.units import in_model_space
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE
from tests.inverse.test_linear_gaussian import Unknown
from tests.problems import F64, blobs, generator

METHODS = {
    "ddnm": DDNM(travel_length=2, travel_repeats=2),
    "ddrm": DDRM(),
    "repaint": RePaint(2, 2),
    "diffpir": DiffPIR(),
    "daps": DAPS(2, None),
    "daps by Langevin": DAPS(2, 5),
    "red-diff": REDDiff(),
    "pnp-dm": PnPDM(prior_steps=3, langevin_steps=5),
    "tds": TDS(5),
    "tds as published": TDS(5, "mean"),
}
EXACT = ("ddnm", "ddrm", "repaint", "diffpir", "daps")

every = pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))


def mixture(sde: SDE, shape: tuple[int, ...] = (4,)) -> GaussianMixtureScore:
    return blobs(sde, shape)


def problem(std: float = 0.3) -> Problem:
    matrix = torch.tensor([[1.0, 0.5, 0.0, 0.2], [0.0, 2.0, -1.0, 0.3]], dtype=F64)
    return Problem(MatrixOperator(matrix), GaussianNoise(std) if std else NoNoise())


@every
@pytest.mark.parametrize("sde", [EDMSDE(), VPSDE()], ids=["edm", "vp"])
def test_a_sample_is_a_function_of_its_seed_and_index(method: Method, sde: SDE) -> None:
    model = mixture(sde)
    given = problem().measure(torch.randn(3, 4, generator=generator(), dtype=F64))
    whole = restore(model, given, method, samples=2, steps=6, seed=4)
    parts = restore(model, given, method, samples=2, steps=6, seed=4, batch_size=1)
    torch.testing.assert_close(parts.x, whole.x, rtol=1e-7, atol=1e-7)
    second = method.draw(model, given.rows(slice(1, 2)), 6, seed=4, first=2)
    torch.testing.assert_close(second.x[0], whole.x[1, 0], rtol=1e-7, atol=1e-7)
    assert not torch.equal(restore(model, given, method, samples=2, steps=6, seed=5).x, whole.x)
    assert bool((whole.x[:, 0] != whole.x[:, 1]).any())


@every
def test_evaluations_are_counted_as_they_are(method: Method) -> None:
    model = CountedModel(mixture(EDMSDE()))
    out = restore(model, problem().measure(torch.zeros(3, 4)), method, steps=6)
    assert model.cost.evaluations == 3 * out.nfe
    assert model.cost.products == (3 * 5 * 6 if isinstance(method, TDS) else 0)


@pytest.mark.parametrize(
    ("method", "evaluations"),
    [(DDRM(), 11), (DDNM(), 11), (DiffPIR(), 11), (RePaint(2, 3), 31 - 4), (DAPS(5), 50), (PnPDM(prior_steps=4), 42)],
)
def test_evaluations_are_those_of_the_docstring(method: Method, evaluations: int) -> None:
    assert restore(mixture(EDMSDE()), problem().measure(torch.zeros(1, 4)), method, steps=10).nfe == evaluations


OPERATORS: list[LinearOperator] = [
    Mask.outside_box((2, 8, 8)),
    GaussianBlur((2, 8, 8), 0.6, "circular"),
    Blur((2, 8, 8), torch.tensor([[0.0, 0.2, 0.1], [0.1, 0.5, 0.0], [0.0, 0.1, 0.0]])),
    Downsampling((2, 8, 8), 2),
    FourierSampling((2, 8, 8), line_mask((8, 8), 0.5)),
]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_what_is_known_without_noise_is_kept_to_round_off(name: str, operator: LinearOperator) -> None:
    model = mixture(VPSDE(), (2, 8, 8)).float()
    x = model.sample(2, 0.0, generator()).float().reshape(2, 2, 8, 8)
    given = Problem(operator, NoNoise()).measure(x)
    out = restore(model, given, METHODS[name], steps=4)
    assert out.x.dtype == torch.float32
    torch.testing.assert_close(operator(out.x[:, 0]), given.y, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["diffpir", "daps"])
def test_without_singular_values_it_is_kept_too(name: str) -> None:
    matrix = torch.randn(5, 8, generator=generator(1), dtype=F64)
    x = torch.randn(2, 8, generator=generator(), dtype=F64)
    operator = Unknown(matrix)
    given = Problem(operator, NoNoise()).measure(x)
    out = restore(mixture(EDMSDE(), (8,)), given, METHODS[name], steps=4)
    torch.testing.assert_close(operator(out.x[:, 0]), given.y, rtol=0, atol=1e-9)


@every
def test_a_model_with_a_transform_gives_the_same_in_the_units_of_its_data(method: Method) -> None:
    transform = Standardise((1.0, -2.0, 0.5, 0.0), (2.0, 0.5, 1.0, 3.0))
    plain, scaled = mixture(VPSDE()), mixture(VPSDE())
    scaled.transform = transform
    given = problem().measure(transform.decode(torch.randn(2, 4, generator=generator(), dtype=F64)))
    inside = in_model_space(given, scaled)
    found, expected = restore(scaled, given, method, steps=6).x, restore(plain, inside, method, steps=6).x
    torch.testing.assert_close(found[:, 0], transform.decode(expected[:, 0]), rtol=1e-6, atol=1e-6)


class TwoClasses(ScoreModel):
    """N(±3, 0.1 I), by labels."""

    def __init__(self) -> None:
        super().__init__(EDMSDE())
        self.shape, self.classes = (4,), 2
        one = torch.ones(1, 4, dtype=F64)
        self.parts = [GaussianMixtureScore([1.0], s * one, 0.1 * one, self.sde) for s in (-3, 3)]

    def takes_condition(self, name: str) -> bool:
        return name == "labels"

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        low, high = (part.denoise(x, t) for part in self.parts)
        return torch.where(cond["labels"][:, None] == 1, high, low)


@every
def test_conditions_go_with_their_measurements(method: Method) -> None:
    given = problem(3.0).measure(torch.zeros(2, 4, dtype=F64))
    labels = torch.tensor([1, 0])
    out = restore(TwoClasses(), given, method, samples=2, steps=30, batch_size=3, labels=labels)
    if isinstance(method, REDDiff):  # takes no note of the noise, so that it is near the measurement
        assert float(out.mean[0].mean() - out.mean[1].mean()) > 1
        return
    assert (out.mean.mean(1) > 1).tolist() == [True, False]
    assert (out.mean.mean(1) < -1).tolist() == [False, True]


class Squares(Operator):
    """x² of each number."""

    def measure(self, x: Tensor) -> Tensor:
        return x.square()


@pytest.mark.parametrize("name", METHODS)
def test_an_operator_that_is_not_linear_is_for_those_that_do_without(name: str) -> None:
    given = Problem(Squares((4,), (4,)), GaussianNoise(0.3)).measure(torch.ones(2, 4, dtype=F64))
    if name in ("daps by Langevin", "red-diff", "pnp-dm", "tds", "tds as published"):
        out = restore(mixture(EDMSDE()), given, METHODS[name], steps=20)
        assert bool(out.x.isfinite().all())
    else:
        with pytest.raises(ValueError, match="is for linear operators, which Squares"):
            restore(mixture(EDMSDE()), given, METHODS[name], steps=20)


@pytest.mark.parametrize("name", ["ddnm", "ddrm", "repaint"])
def test_an_operator_without_singular_values_is_named_with_methods_that_take_it(name: str) -> None:
    operator = Unknown(torch.ones(2, 4, dtype=F64))
    given = Problem(operator, GaussianNoise(0.3)).measure(torch.ones(2, 4, dtype=F64))
    with pytest.raises(ValueError, match=r"needs the singular values.*take DiffPIR\(\)"):
        restore(mixture(EDMSDE()), given, METHODS[name], steps=20)


@pytest.mark.parametrize("name", ["daps by Langevin", "tds", "tds as published"])
def test_a_likelihood_is_needed_where_it_is_used(name: str) -> None:
    given = problem(0.0).measure(torch.ones(2, 4, dtype=F64))
    with pytest.raises(ValueError, match="needs the likelihood of a measurement, and without noise"):
        restore(mixture(EDMSDE()), given, METHODS[name], steps=20)


def test_split_gibbs_without_noise_needs_a_linear_operator() -> None:
    given = Problem(Squares((4,), (4,)), NoNoise()).measure(torch.ones(2, 4, dtype=F64))
    with pytest.raises(ValueError, match="PnPDM draws by the likelihood where Squares"):
        restore(mixture(EDMSDE()), given, PnPDM(), steps=20)


def test_a_gaussian_twist_needs_singular_values() -> None:
    given = Problem(Squares((4,), (4,)), GaussianNoise(0.3)).measure(torch.ones(2, 4, dtype=F64))
    with pytest.raises(ValueError, match='twist="gaussian" needs an operator with singular values'):
        restore(mixture(EDMSDE()), given, TDS(5, "gaussian"), steps=20)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDRM(eta=1.5), "eta is 1.5"),
        (lambda: DDNM(travel_length=0), "travel_length is 0"),
        (lambda: RePaint(resamplings=0), "resamplings is 0"),
        (lambda: DiffPIR(weight=0.0), "weight is 0.0"),
        (lambda: DiffPIR(zeta=-0.1), "zeta is -0.1"),
        (lambda: DAPS(ode_steps=0), "ode_steps is 0"),
        (lambda: REDDiff(rate=0.0), "rate is 0.0"),
        (lambda: PnPDM(rho=20.0), "rho is 20.0, expected a positive noise level of at most rho_max, 10.0"),
        (lambda: TDS(particles=0), "particles is 0"),
        (lambda: TDS(twist="none"), "twist is 'none'"),  # type: ignore[arg-type]
    ],
)
def test_settings_outside_their_range_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
