"""Problems of deepinv, on a stand-in for its classes and, where it is installed, on itself."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde import inverse
from scoresde.inverse import LinearOperator, Mask, NoNoise, from_deepinv
from tests.problems import F64


class ZeroNoise(nn.Module):
    pass


class GaussianNoise(nn.Module):
    def __init__(self, sigma: Tensor) -> None:
        super().__init__()
        self.register_buffer("sigma", sigma)


class PoissonNoise(nn.Module):
    def __init__(self, gain: float, normalize: bool = True) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor([gain]))
        self.register_buffer("normalize", torch.tensor(normalize))


class Physics(nn.Module):
    """The members of deepinv's class that are used."""

    def __init__(self, noise_model: nn.Module) -> None:
        super().__init__()
        self.noise_model = noise_model

    def sensor(self, y: Tensor) -> Tensor:
        return y

    def A(self, x: Tensor) -> Any:  # noqa: N802
        return x.square()


class LinearPhysics(Physics):
    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        return y


class Inpainting(LinearPhysics):
    def __init__(self, noise_model: nn.Module, wrong: float = 1.0) -> None:
        super().__init__(noise_model)
        self.img_size = (1, 2, 3)
        self.wrong = wrong
        self.register_buffer("mask", torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]]))

    def A(self, x: Tensor) -> Any:  # noqa: N802
        assert x.dtype == self.mask.dtype
        return x * self.mask

    def A_adjoint(self, y: Tensor) -> Tensor:  # noqa: N802
        return self.wrong * self.A(y)


class Saturating(Physics):
    def sensor(self, y: Tensor) -> Tensor:
        return y.clamp(0, 1)


class Stacked(LinearPhysics):
    def A(self, x: Tensor) -> Any:  # noqa: N802
        return [x, x]


def test_linear_physics_become_linear_operators_of_any_dtype() -> None:
    problem = from_deepinv(Inpainting(GaussianNoise(torch.tensor([0.1]))))
    operator = problem.operator
    assert isinstance(operator, LinearOperator)
    assert problem.noise == inverse.GaussianNoise(0.1)
    mask = Mask(torch.tensor([[[True, False, True], [False, True, True]]]))
    torch.testing.assert_close(operator.matrix(), mask.matrix().T @ mask.matrix())
    assert operator.singular_values is not None
    assert operator.singular_values.values.tolist() == [1.0] * 4
    x = torch.rand(2, 1, 2, 3, dtype=F64)
    prepared = operator.prepared(torch.device("cpu"), torch.float64)
    torch.testing.assert_close(prepared(x), operator(x), rtol=0, atol=1e-7)
    assert operator(x).dtype == F64
    assert repr(operator) == "Inpainting of deepinv(1×2×3 to 1×2×3)"


def test_other_physics_become_operators_by_their_map() -> None:
    problem = from_deepinv(Physics(ZeroNoise()), (3,))
    assert not isinstance(problem.operator, LinearOperator)
    assert isinstance(problem.noise, NoNoise)
    assert problem.operator(torch.full((1, 3), 3.0)).tolist() == [[9.0, 9.0, 9.0]]


def test_noise_is_taken_in_our_units() -> None:
    assert isinstance(from_deepinv(Physics(GaussianNoise(torch.tensor(0.0))), (3,)).noise, NoNoise)
    assert from_deepinv(Physics(PoissonNoise(0.25)), (3,)).noise == inverse.PoissonNoise(4.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_deepinv(3), "physics is 3, expected a Physics of deepinv, such as Inpainting(...)"),
        (lambda: from_deepinv(Physics(ZeroNoise())), "Physics does not say the shape of a sample: give shape, such as"),
        (
            lambda: from_deepinv(Inpainting(ZeroNoise()), (1, 4, 4)),
            "Inpainting fails for samples of shape (1, 4, 4) (The size of tensor a",
        ),
        (
            lambda: from_deepinv(Inpainting(ZeroNoise(), wrong=1.1)),
            "the adjoint of Inpainting of deepinv(1×2×3 to 1×2×3) fails the dot-product test",
        ),
        (lambda: from_deepinv(Stacked(ZeroNoise()), (3,)), "expected one real tensor"),
        (lambda: from_deepinv(Saturating(ZeroNoise()), (3,)), "Saturating has a sensor_model, which is not taken"),
        (lambda: from_deepinv(Physics(nn.Identity()), (3,)), "noise_model is Identity, expected ZeroNoise, Gaussian"),
        (
            lambda: from_deepinv(Physics(PoissonNoise(1.0, normalize=False)), (3,)),
            "noise_model is PoissonNoise with normalize=False, expected",
        ),
        (
            lambda: from_deepinv(Physics(GaussianNoise(torch.tensor([0.1, 0.2]))), (3,)),
            "sigma of GaussianNoise has 2 values, expected one for all samples",
        ),
    ],
)
def test_bad_physics_are_refused_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)


def test_physics_of_deepinv_itself_are_taken() -> None:
    physics = pytest.importorskip("deepinv.physics", exc_type=ImportError)
    blur = physics.Blur(filter=physics.blur.gaussian_blur(1.0), padding="circular")
    for one, shape, rank in (
        (physics.Inpainting((1, 8, 8), mask=0.5, noise_model=physics.GaussianNoise(0.1)), None, None),
        (physics.Decolorize(), (3, 8, 8), 64),
        (blur, (1, 8, 8), 64),
        (physics.BlurFFT((1, 8, 8), filter=physics.blur.gaussian_blur(1.0)), None, 64),
        (physics.CompressedSensing(10, (1, 8, 8)), None, 10),
        (physics.SinglePixelCamera(10, (1, 8, 8)), None, 10),
        (physics.MRI(mask=torch.ones(1, 2, 8, 8), img_size=(2, 8, 8)), (2, 8, 8), 128),
        (physics.Tomography(angles=5, img_width=8), (1, 8, 8), None),
    ):
        problem = from_deepinv(one, shape)
        operator = problem.operator
        assert isinstance(operator, LinearOperator)
        values = operator.singular_values
        assert values is not None
        assert rank is None or len(values.values) == rank
        x = torch.rand(2, *operator.shape)
        torch.testing.assert_close(problem.operator(x), one.A(x), rtol=0, atol=1e-5)
