"""Problems of the library deepinv."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.arguments import ArgumentError, checked, shown
from scoresde.inverse.adjoint import check_adjoint
from scoresde.inverse.noise import GaussianNoise, MeasurementNoise, NoNoise
from scoresde.inverse.operator import LinearOperator, Operator
from scoresde.inverse.poisson import PoissonNoise
from scoresde.inverse.problem import Problem
from scoresde.inverse.singular_values import SingularValues

__all__ = ["from_deepinv"]

_TOLERANCE = 1e-3  # of the dot-product test; some of its operators compute in float32


@checked
def from_deepinv(physics: Any, shape: Sequence[int] | None = None) -> Problem:
    """The problem that a `Physics` of deepinv is.

    One that is a `LinearPhysics` becomes a linear operator by its `A` and `A_adjoint`, which have to pass the
    dot-product test, and any other an operator by its `A`. Its noise may be `ZeroNoise`, `GaussianNoise` or
    `PoissonNoise` with one level for all samples. Singular values are known if the operator is small.

    Args:
        physics: The `deepinv.physics.Physics`.
        shape: The shape of a sample, `(C, H, W)`; the `img_size` of the physics if not given.

    Raises:
        ArgumentError: Something else than a `Physics`.
        ValueError: A shape that is not known or does not fit, measurements that are not one real tensor, an adjoint
            that fails the test, or noise of another kind.

    References:
        Tachella et al. 2025, DeepInverse: a Python package for solving imaging inverse problems with deep learning,
            https://arxiv.org/abs/2505.20160
    """
    if not isinstance(physics, nn.Module) or not hasattr(physics, "A") or not hasattr(physics, "noise_model"):
        raise ArgumentError(f"physics is {shown(physics)}, expected a Physics of deepinv, such as Inpainting(...)")
    size = getattr(physics, "img_size", None) if shape is None else shape
    if size is None or not len(tuple(size)):
        raise ValueError(f"{_name(physics)} does not say the shape of a sample: give shape, such as (3, 32, 32)")
    shape = tuple(int(n) for n in size)
    measured = _measured(physics, shape)
    operator: Operator
    if any(kind.__name__ == "LinearPhysics" for kind in type(physics).__mro__):
        operator = LinearPhysicsOperator(physics, shape, measured)
        check_adjoint(operator, _TOLERANCE)
    else:
        operator = PhysicsOperator(physics, shape, measured)
    return Problem(operator, _noise(physics.noise_model))


class PhysicsOperator(Operator):
    """The `A` of a `Physics`, in the dtype of its tensors.

    Args:
        physics: The physics.
        shape: The shape of a sample.
        measured: The shape of a measurement.
    """

    def __init__(self, physics: Any, shape: Sequence[int], measured: Sequence[int]) -> None:
        super().__init__(shape, measured)
        self.physics = physics

    def measure(self, x: Tensor) -> Tensor:
        return _applied(self.physics, "A", x)

    def __repr__(self) -> str:
        return f"{_name(self.physics)} of deepinv{super().__repr__().removeprefix(type(self).__name__)}"


class LinearPhysicsOperator(PhysicsOperator, LinearOperator):
    """The `A` and `A_adjoint` of a `LinearPhysics`, in the dtype of its tensors.

    Args:
        physics: The physics.
        shape: The shape of a sample.
        measured: The shape of a measurement.
    """

    def back(self, y: Tensor) -> Tensor:
        return _applied(self.physics, "A_adjoint", y)

    @property
    def singular_values(self) -> SingularValues | None:
        return self.decomposed()


def _applied(physics: Any, method: str, x: Tensor) -> Tensor:
    own = _dtype(physics)
    result: Tensor = getattr(physics, method)(x.to(own))
    return result.to(x.dtype)


def _dtype(physics: nn.Module) -> torch.dtype:
    """That of the tensors of A; noise has some of its own."""
    noise = {id(b) for b in physics.noise_model.buffers()} if isinstance(physics.noise_model, nn.Module) else set()
    found = (b.dtype for b in (*physics.parameters(), *physics.buffers()) if id(b) not in noise)
    return next((d for d in found if d.is_floating_point), torch.float32)


def _measured(physics: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    with torch.no_grad():
        try:
            y = physics.A(torch.zeros(2, *shape, dtype=_dtype(physics), device=_device(physics)))
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
            raise ValueError(f"{_name(physics)} fails for samples of shape {shape} ({reason})") from error
        if not isinstance(y, Tensor) or y.is_complex() or y.ndim < 2 or len(y) != 2:
            raise ValueError(f"{_name(physics)} measures {shown(y)} of two samples, expected one real tensor")
        sensor = getattr(physics, "sensor", None)
        tried = torch.linspace(-10, 10, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
        if sensor is not None and not torch.equal(sensor(tried), tried):
            raise ValueError(f"{_name(physics)} has a sensor_model, which is not taken: make it part of A")
    return tuple(y.shape[1:])


def _device(physics: nn.Module) -> torch.device:
    return next((b.device for b in (*physics.parameters(), *physics.buffers())), torch.device("cpu"))


def _noise(model: Any) -> MeasurementNoise:
    kinds = [kind.__name__ for kind in type(model).__mro__]
    if "ZeroNoise" in kinds:
        return NoNoise()
    if "GaussianNoise" in kinds:
        std = _one(model, "sigma")
        return GaussianNoise(std) if std else NoNoise()
    if "PoissonNoise" in kinds and bool(model.normalize):
        return PoissonNoise(1 / _one(model, "gain"))
    hint = " with normalize=False" if "PoissonNoise" in kinds else ""
    raise ValueError(
        f"noise_model is {type(model).__name__}{hint}, expected ZeroNoise, GaussianNoise or PoissonNoise with "
        "normalize=True"
    )


def _one(model: Any, name: str) -> float:
    values = torch.as_tensor(getattr(model, name)).detach().cpu().flatten().numpy()
    if not values.size or (values != values[0]).any():
        raise ValueError(f"{name} of {type(model).__name__} has {values.size} values, expected one for all samples")
    return float(str(values[0]))  # 0.1 in float32 is 0.1


def _name(physics: Any) -> str:
    return type(physics).__name__
