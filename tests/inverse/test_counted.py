"""Evaluations and Jacobian products of a model are counted, whoever asks for them and however."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scoresde.inverse import CountedModel
from scoresde.sampling import DDIM, KarrasGrid, Sampler
from scoresde.sde import EDMSDE
from tests.problems import F64, blobs

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
T = torch.tensor(0.5, dtype=F64)


def counted() -> CountedModel:
    return CountedModel(blobs(EDMSDE()))


def costs(model: CountedModel) -> tuple[float, float]:
    return model.cost.each(len(X))


def test_each_prediction_is_one_evaluation_and_is_that_of_the_model() -> None:
    model = counted()
    for name in ("denoise", "noise", "score", "velocity"):
        assert torch.equal(getattr(model, name)(X, T), getattr(model.model, name)(X, T))
    assert costs(model) == (4, 0)


def test_a_sampler_draws_the_same_and_its_evaluations_are_counted() -> None:
    model, sampler = counted(), Sampler(DDIM(), KarrasGrid(7))
    out = sampler(model, len(X), seed=3)
    assert torch.equal(out.x, sampler(model.model, len(X), seed=3).x)
    assert costs(model) == (out.nfe, 0) == (8, 0)


def by_backward(model: CountedModel) -> Tensor:
    x = X.clone().requires_grad_()
    model.denoise(x, T).square().sum().backward()
    assert x.grad is not None
    return x.grad


def by_autograd(model: CountedModel) -> Tensor:
    x = X.clone().requires_grad_()
    return torch.autograd.grad(model.denoise(x, T).square().sum(), x)[0]


def by_func_grad(model: CountedModel) -> Tensor:
    return torch.func.grad(lambda x: model.denoise(x, T).square().sum())(X)


def by_vmap(model: CountedModel) -> Tensor:
    return torch.func.vmap(torch.func.grad(lambda x: model.denoise(x[None], T).square().sum()))(X)


@pytest.mark.parametrize("way", [by_backward, by_autograd, by_func_grad, by_vmap])
def test_a_gradient_is_one_evaluation_and_one_product(way: Callable[[CountedModel], Tensor]) -> None:
    model = counted()
    exact = torch.stack(
        [torch.autograd.functional.jacobian(lambda x: model.model.denoise(x[None], T).square().sum(), x) for x in X]
    )
    torch.testing.assert_close(way(model), exact)
    assert costs(model) == (1, 1)


def test_products_from_either_side_are_counted_one_by_one() -> None:
    model = counted()
    product = torch.func.vjp(lambda x: model.denoise(x, T), X)[1]
    for _ in range(3):
        product(torch.ones_like(X))
    assert costs(model) == (1, 3)
    torch.func.jvp(lambda x: model.denoise(x, T), (X,), (torch.ones_like(X),))
    assert costs(model) == (2, 4)


def test_a_whole_jacobian_is_as_many_products_as_it_has_rows() -> None:
    model = counted()
    torch.func.vmap(torch.func.jacrev(lambda x: model.denoise(x[None], T)[0]))(X)
    assert costs(model) == (1, X.shape[1])
    model = counted()
    torch.func.vmap(torch.func.jacfwd(lambda x: model.denoise(x[None], T)[0]))(X)
    assert costs(model)[1] == X.shape[1]


def test_no_product_is_counted_where_none_is_taken() -> None:
    model = counted()
    x = X.clone().requires_grad_()
    model.denoise(x, T)
    assert costs(model) == (1, 0)
