"""Every linear operator has a right adjoint and, where it knows them, the singular values of its matrix."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from scoresde.inverse import (
    Blur,
    CompressedSensing,
    Downsampling,
    FourierSampling,
    GaussianBlur,
    GreyScale,
    LinearOperator,
    Mask,
    MatrixOperator,
    NoNoise,
    Problem,
    Radon,
    SeparableOperator,
    check_adjoint,
    line_mask,
    motion_kernel,
)
from scoresde.inverse.singular_values import SingularValues
from tests.inverse.operators import KERNEL, linear_operators
from tests.problems import F64

OPERATORS = linear_operators()


def samples(operator: LinearOperator, count: int = 4) -> Tensor:
    return torch.randn(count, *operator.shape, generator=torch.Generator().manual_seed(5), dtype=F64)


def values_of(operator: LinearOperator) -> SingularValues:
    found = operator.singular_values
    assert found is not None
    return found


@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_adjoints_pass_the_dot_product_test(operator: LinearOperator) -> None:
    check_adjoint(operator, tolerance=1e-10)


@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_singular_values_are_those_of_the_matrix(operator: LinearOperator) -> None:
    found, x = values_of(operator), samples(operator)
    exact = torch.linalg.svdvals(operator.matrix())
    exact = exact[exact > 1e-10 * exact[0]]
    torch.testing.assert_close(found.values.sort(descending=True).values, exact, rtol=1e-10, atol=1e-12)
    c = torch.randn(4, len(exact), generator=torch.Generator().manual_seed(6), dtype=F64)
    torch.testing.assert_close(found.to_right(found.from_right(c)), c, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.to_left(found.from_left(c)), c, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.from_left(found.values * found.to_right(x)), operator(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_pseudo_inverses_have_the_properties_of_moore_and_penrose(operator: LinearOperator) -> None:
    inverse, x = values_of(operator).pseudo_inverse, samples(operator)
    y = operator(x)
    torch.testing.assert_close(operator(inverse(y)), y, rtol=0, atol=1e-9)
    # What is lost of x is orthogonal to what the inverse gives back.
    given = inverse(y)
    crossed = ((x - given) * given).flatten(1).sum(1)
    torch.testing.assert_close(crossed, torch.zeros(4, dtype=F64), rtol=0, atol=1e-7)


@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_operators_keep_the_dtype_and_can_be_prepared_and_mapped(operator: LinearOperator) -> None:
    x = samples(operator)
    prepared = operator.prepared(torch.device("cpu"), torch.float32)
    assert isinstance(prepared, LinearOperator)
    exact = operator(x)
    for form in (operator, prepared):
        y = form(x.float())
        assert y.dtype == form.adjoint(y).dtype == torch.float32
        torch.testing.assert_close(y.double(), exact, rtol=0, atol=1e-4)
        values = values_of(form)
        given = values.to_right(x.float())
        assert given.dtype == values.from_right(given).dtype == values.from_left(given).dtype == torch.float32
    assert values_of(operator).values.dtype == F64  # preparing made a copy
    mapped = torch.func.vmap(lambda one: operator(one[None])[0])(x)
    torch.testing.assert_close(mapped, exact, rtol=0, atol=1e-12)


def test_a_box_hides_the_middle_and_a_random_mask_whole_pixels() -> None:
    box = Mask.outside_box((2, 4, 4))
    hidden = box.adjoint(torch.ones(1, *box.measured))[0]
    assert hidden[:, 1:3, 1:3].sum() == 0
    assert hidden.sum() == 2 * 12
    scattered = Mask.random((3, 10, 10), 0.25, seed=1)
    kept = scattered.adjoint(torch.ones(1, *scattered.measured))[0]
    assert torch.equal(kept[0], kept[2])
    assert kept[0].sum() == 25
    assert Mask.outside_box((2,)).measured == Mask.random((2,), 0.01).measured == (1,)


@pytest.mark.parametrize(("boundary", "mode"), [("circular", "wrap"), ("reflect", "mirror"), ("zero", "constant")])
def test_blurs_are_the_convolutions_of_scipy(boundary: str, mode: str) -> None:
    image = samples(MatrixOperator(torch.eye(63, dtype=F64), (1, 7, 9)), 1)
    kernel = KERNEL[:, :3]
    ours = Blur((1, 7, 9), kernel, boundary)(image)[0, 0]  # type: ignore[arg-type]
    theirs = ndimage.convolve(image[0, 0].numpy(), kernel.numpy(), mode=mode)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-12)
    ours = GaussianBlur((1, 7, 9), 0.8, boundary)(image)[0, 0]  # type: ignore[arg-type]
    theirs = ndimage.gaussian_filter(image[0, 0].numpy(), 0.8, mode=mode, radius=3)  # type: ignore[arg-type]
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-12)


def test_downsampling_keeps_constants_and_averages() -> None:
    x = torch.full((1, 1, 8, 8), 3.0, dtype=F64)
    for filter in ("cubic", "lanczos", "linear", "average"):
        torch.testing.assert_close(Downsampling((1, 8, 8), 4, filter)(x), torch.full((1, 1, 2, 2), 3.0, dtype=F64))
    image = samples(MatrixOperator(torch.eye(64, dtype=F64), (1, 8, 8)))
    pooled = torch.nn.functional.avg_pool2d(image, 4)
    torch.testing.assert_close(Downsampling((1, 8, 8), 4, "average")(image), pooled)


def test_the_cubic_filter_is_that_of_other_libraries_inside_an_image() -> None:
    image = samples(MatrixOperator(torch.eye(32 * 32, dtype=F64), (1, 32, 32)), 1)
    theirs = torch.nn.functional.interpolate(image, scale_factor=0.25, mode="bicubic", antialias=True)
    ours = Downsampling((1, 32, 32), 4)(image)
    torch.testing.assert_close(ours[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], rtol=0, atol=1e-9)


def test_projections_at_right_angles_are_sums_along_rows_and_columns() -> None:
    image = samples(MatrixOperator(torch.eye(25, dtype=F64), (1, 5, 5)), 1)
    sinogram = Radon((1, 5, 5), 2)(image)[0, 0]
    middle = slice((sinogram.shape[1] - 5) // 2, (sinogram.shape[1] - 5) // 2 + 6)
    for projection, sums in zip(sinogram, (image[0, 0].sum(0), image[0, 0].sum(1)), strict=True):
        torch.testing.assert_close(projection.sum(), sums.sum())
        # The detector has an even number of bins, so that each column lies between two of them.
        halves = torch.zeros(6, dtype=F64)
        halves[:5] += sums / 2
        halves[1:] += sums / 2
        torch.testing.assert_close(projection[middle], halves)


def test_kernels_and_masks_are_what_they_say() -> None:
    vertical = motion_kernel(2, 90)
    torch.testing.assert_close(vertical[:, 1], torch.tensor([0.25, 0.5, 0.25], dtype=F64))
    torch.testing.assert_close(motion_kernel(7, 33).sum(), torch.ones((), dtype=F64))
    mask = line_mask((64, 64), share=0.25, centre=0.1, seed=3)
    assert mask[0].sum() == 16
    assert bool(mask[:, [0, 1, 2, -1, -2]].all())
    assert torch.equal(mask[0], mask[5])


def test_a_few_numbers_of_a_large_image_make_no_large_matrix() -> None:
    few = Mask.random((3, 64, 64), 0.001) @ GaussianBlur((3, 64, 64), 2.0)
    assert isinstance(few, LinearOperator)
    assert few.matrix().shape == (12, 3 * 64 * 64)
    assert len(values_of(few).values) == 12
    many = Mask.random((3, 64, 64), 0.1) @ GaussianBlur((3, 64, 64), 2.0)
    assert isinstance(many, LinearOperator)
    assert many.singular_values is None


def test_composition_is_one_operator_after_another() -> None:
    blur, mask = GaussianBlur((1, 6, 6), 1.0), Mask.random((1, 6, 6), 0.5)
    both = mask @ blur
    assert isinstance(both, LinearOperator)
    torch.testing.assert_close(both.matrix(), mask.matrix() @ blur.matrix())
    with pytest.raises(ValueError, match=r"the first is for samples of shape \(1, 6, 6\), and the .* \(18,\)"):
        blur @ mask


class Wrong(MatrixOperator):
    def back(self, y: Tensor) -> Tensor:
        return 1.03 * super().back(y)


def test_a_wrong_adjoint_is_told_with_its_error() -> None:
    message = r"fails the dot-product test: ⟨Ax, y⟩ = \S+, ⟨x, Aᵀy⟩ = \S+ \(relative difference 0.0"
    for make in (
        lambda: check_adjoint(Wrong(torch.eye(3))),
        lambda: Problem(Wrong(torch.eye(3)), NoNoise()),
        lambda: Problem(Mask([True, True, False]) @ Wrong(torch.eye(3)), NoNoise()),
    ):
        with pytest.raises(ValueError, match=message) as error:
            make()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mask(torch.zeros(3)), "mask is False everywhere, so that nothing is measured"),
        (lambda: Mask(torch.tensor([0.5])), "mask has values other than 0 and 1"),
        (lambda: Mask(torch.ones(3), (2, 2)), "mask has shape (3,), which does not broadcast to (2, 2)"),
        (lambda: Mask.random((4,), 1.5), "share is 1.5, expected a part between 0 and 1"),
        (lambda: GaussianBlur((1, 4, 4), 0.0), "std is 0.0, expected a positive number"),
        (lambda: Blur((1, 4, 4), torch.ones(3)), "kernel has shape (3,), expected one of 2 axes"),
        (lambda: Blur((4,), torch.zeros(3)), "kernel has no numbers other than 0, or some that are not finite"),
        (lambda: Downsampling((1, 9, 8), 4), "factor 4 does not divide the size 9×8 of a sample"),
        (lambda: Downsampling((8,), 2, "box"), "filter is 'box', expected 'cubic'"),  # type: ignore[arg-type]
        (lambda: GreyScale((1, 4, 4)), "samples have shape (1, 4, 4), expected images of several channels, (3, H, W)"),
        (lambda: GreyScale((4, 4, 4)), "there are 3 weights for the 4 channels of samples"),
        (lambda: FourierSampling((4,), torch.ones(5)), "mask has shape (5,), expected that of the pixels, (4,)"),
        (lambda: line_mask((4, 4), 0.1, 0.2), "share is 0.1, expected at least 0.2, the part at the centre"),
        (lambda: CompressedSensing((4,), 5), "count is 5, expected 1 to 4, the numbers of a sample"),
        (lambda: Radon((4,)), "samples have shape (4,), expected images, (C, H, W)"),
        (lambda: SeparableOperator((2,), []), "there are 0 matrices for the 1 axes of samples of (2,)"),
        (
            lambda: SeparableOperator((2,), [torch.ones(1, 3)]),
            "the matrix for axis 0 has shape (1, 3), expected",
        ),
        (lambda: Mask([True])(torch.ones(1, 2)), "x has shape (1, 2), expected samples of shape (B, 1)"),
    ],
)
def test_bad_operators_are_refused_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)
