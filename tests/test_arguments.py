"""Arguments of public functions: what is taken, and what the message says where it is not."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

import scoresde
from scoresde.arguments import ArgumentError, as_tensor, checked
from scoresde.compare import compare
from scoresde.data import Data, Discrete
from scoresde.likelihood import Exact, bits_per_dim, decode, encode, log_likelihood
from scoresde.metrics import sliced_wasserstein
from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.runs.directory import Run
from scoresde.sampling import Heun, KarrasGrid, Sampler, Solver
from scoresde.score import GaussianMixtureScore, NetworkScore, with_sde
from scoresde.sde import DDPMSDE, VPSDE
from scoresde.training import fit

FUNCTIONS = ("certify", "load", "load_chain", "load_classifier")
MODULES = [name for name in scoresde.__all__ if name not in ("__version__", *FUNCTIONS)]


@pytest.fixture(scope="module")
def model() -> GaussianMixtureScore:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    return GaussianMixtureScore(torch.ones(2), means, torch.full((2,), 0.04), VPSDE())


@pytest.fixture(scope="module")
def x(model: GaussianMixtureScore) -> Tensor:
    return model.sample(8, 1e-3, torch.Generator().manual_seed(0))


@checked
def called(
    x: Tensor, steps: int = 3, rate: float = 0.5, on: bool = False, names: Mapping[str, int] | None = None
) -> Any:
    return x, steps, rate, on, names


class Parts:
    @checked
    def __init__(self, solver: Solver, sizes: list[int] | int = 3, **others: Any) -> None:
        self.solver, self.sizes, self.others = solver, sizes, others


@pytest.mark.parametrize(
    "given",
    [
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        np.array([[1.0, 3.0], [2.0, 4.0]]).T,
        np.array([[3.0, 4.0], [1.0, 2.0]])[::-1],
        np.array([[1.0, 2.0], [3.0, 4.0]], dtype=">f8"),
        [[1.0, 2.0], [3.0, 4.0]],
        [np.array([1.0, 2.0]), np.array([3.0, 4.0])],
        [torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([3.0, 4.0], dtype=torch.float64)],
        pd.DataFrame({"a": [1.0, 3.0], "b": [2.0, 4.0]}),
    ],
    ids=["array", "transposed", "reversed", "big-endian", "lists", "arrays", "tensors", "frame"],
)
def test_arrays_of_any_kind_are_tensors(given: Any) -> None:
    found = as_tensor("x", given)
    assert torch.equal(found, torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
    assert torch.equal(called(given)[0], found)


def test_what_tensors_share_and_what_they_do_not() -> None:
    x = torch.zeros(2)
    assert as_tensor("x", x) is x
    read_only = np.zeros(2)
    read_only.flags.writeable = False
    as_tensor("x", read_only).fill_(1)
    assert read_only.sum() == 0
    assert as_tensor("x", np.array([1, 65535], dtype=np.uint16)).tolist() == [1, 65535]
    assert as_tensor("x", np.array([1, 2**62], dtype=np.uint64)).tolist() == [1, 2**62]
    assert as_tensor("x", np.array([1, 2], dtype=np.longdouble)).dtype == torch.float64
    assert as_tensor("x", np.array([1j], dtype=np.clongdouble)).dtype == torch.complex128
    assert as_tensor("x", np.float32(3)).shape == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None,), "x is None, expected a tensor or an array of numbers"),
        (("a.npy",), "x is 'a.npy', expected a tensor or an array of numbers"),
        ((np.array(["a"]),), "x is an array of dtype <U1, expected numbers: convert it by .astype(float)"),
        ((np.array([2**63], dtype=np.uint64),), "x has the integer 9223372036854775808, expected numbers below 2**63"),
        (([[1, 2], [3]],), "x is [[1, 2], [3]], whose parts have different shapes"),
        (([0], 2.5), "steps is 2.5, expected an integer"),
        (([0], True), "steps is True, expected an integer"),
        (([0], "2"), "steps is '2', expected an integer"),
        (([0], 2, "a"), "rate is 'a', expected a number"),
        (([0], 2, 1, 1), "on is 1, expected True or False"),
        (([0], 2, 1, True, ["a"]), "names is ['a'], expected a mapping from names, such as {'name': ...}"),
        ((), "called needs x: a Tensor. It takes x, steps, rate, on, names"),
    ],
)
def test_what_is_refused_and_how(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        called(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_and_torch_are_pythons() -> None:
    found = called([0], np.float32(4), torch.tensor(0.25), np.bool_(True), names=None)[1:]
    assert found == (4, 0.25, True, None)
    assert [type(v) for v in found] == [int, float, bool, type(None)]
    assert called([0], rate=1)[2] == 1


def test_names_that_there_are_not() -> None:
    with pytest.raises(ArgumentError, match=r"called has no argument 'setps', did you mean steps\? It takes x, steps,"):
        called([0], setps=3)  # type: ignore[call-arg]
    assert Parts(Heun(), unknown=3).others == {"unknown": 3}
    with pytest.raises(ArgumentError, match=r"Parts needs solver: a Solver, such as scoresde.sampling.Heun\(\)"):
        Parts(sizes=[3])  # type: ignore[call-arg]
    assert Parts(Heun(), np.array([2, 3])).sizes == [2, 3]
    with pytest.raises(ArgumentError, match="sizes is 'a', expected a sequence of integers or an integer"):
        Parts(Heun(), "a")  # type: ignore[arg-type]


def _messages(model: Any, x: Tensor) -> Iterator[tuple[str, Callable[[], Any], str]]:
    """Names, calls, and what the message says."""
    grid, sampler = KarrasGrid(3), Sampler(Heun(), KarrasGrid(3))
    network, run = MLP((2,), width=8, blocks=1), Run(Path("a"), OmegaConf.create())
    any_: Any = lambda value: value  # noqa: E731  # what the type checker need not know
    out = sampler(model, 2)
    pixels = Data("mine", torch.arange(8).reshape(4, 2), torch.arange(2).reshape(1, 2), Discrete(8))
    yield "a name for a solver", lambda: Sampler(any_("heun"), grid), "write Heun(...) of scoresde.sampling"
    yield "another's name", lambda: Sampler(any_("dpm++"), grid), "expected a Solver, such as scoresde.sampling.Heun()"
    yield (
        "a class",
        lambda: Sampler(any_(Heun), grid),
        "solver is the class Heun, expected a Solver: make one, Heun(...)",
    )
    yield (
        "steps for a grid",
        lambda: Sampler(Heun(), any_(32)),
        "grid is 32, expected a Grid, such as scoresde.sampling.",
    )
    yield (
        "swapped",
        lambda: Sampler(any_(grid), any_(Heun())),
        "solver is KarrasGrid(steps=3, rho=7.0), expected a Solver",
    )
    yield (
        "no grid",
        lambda: any_(Sampler)(Heun()),
        "Sampler needs grid: a Grid, such as scoresde.sampling.KarrasGrid(32)",
    )
    yield "a directory", lambda: sampler(any_("runs/a"), 4), "write scoresde.load('runs/a'), if that is a run directory"
    yield "a run", lambda: sampler(any_(run), 4), "expected a ScoreModel: write run.model()"
    yield "a network", lambda: sampler(any_(network), 4), "write NetworkScore(network, sde, preconditioning)"
    yield "no seed", lambda: sampler(model, 4, seed=any_(None)), "seed is None, expected an integer"
    yield "a seed of 1.5", lambda: sampler(model, 4, seed=any_(1.5)), "seed is 1.5, expected an integer"
    yield "samples and no number", lambda: sampler(model, any_("4")), "shape is '4', expected an integer or a sequence"
    yield "one sample's shape", lambda: sampler(model, (2,)), "expected (B, ...) with at least one sample"
    yield "samples", lambda: log_likelihood(model, any_(out)), "expected a tensor: give its x"
    yield "data", lambda: log_likelihood(model, any_(pixels)), "expected a tensor: give its train or test"
    yield "pixels", lambda: log_likelihood(model, pixels.train), "bits_per_dim takes pixels"
    yield (
        "a divergence's name",
        lambda: log_likelihood(model, x, divergence=any_("exact")),
        "write Exact(...) of scoresde",
    )
    yield "a divergence's class", lambda: log_likelihood(model, x, divergence=any_(Exact)), "make one, Exact(...)"
    yield "a list of samplers", lambda: compare(model, any_(["heun"]), 3, x), "samplers is ['heun'], expected a mapping"
    yield "a name to compare", lambda: compare(model, any_({"a": "heun"}), 3, x), "expected a Sampler or a function"
    yield "a solver to compare", lambda: compare(model, any_({"a": Heun()}), 3, x), "lambda n: Sampler(Heun(), KarrasG"
    yield (
        "one seed",
        lambda: compare(model, {"a": sampler}, 3, x, seeds=any_(3)),
        "seeds is 3, expected a sequence of int",
    )
    told = "expected a NetworkScore or a NoisyClassifier: write NetworkScore("
    yield "no model to fit", lambda: fit(any_(network), x, 3), told
    yield "an SDE's name", lambda: with_sde(model, any_("vp")), "expected an SDE, such as scoresde.sde.VPSDE()"
    yield "bits without levels", lambda: bits_per_dim(model, x), "does not know the transform of its data"


def test_messages_say_what_to_write(model: GaussianMixtureScore, x: Tensor) -> None:
    for name, call, message in _messages(model, x):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        assert message in str(caught.value), name
        assert "\n" not in str(caught.value), name


def test_arrays_give_what_tensors_do(model: GaussianMixtureScore, x: Tensor) -> None:
    array, sampler = x.numpy(), Sampler(Heun(), KarrasGrid(3))
    given = log_likelihood(model, array)  # type: ignore[arg-type]
    assert torch.equal(given.log_prob, log_likelihood(model, x).log_prob)
    assert torch.equal(encode(model, array), encode(model, x))  # type: ignore[arg-type]
    assert torch.equal(decode(model, array), decode(model, x))  # type: ignore[arg-type]
    assert torch.equal(sampler(model, x_init=array).x, sampler(model, x_init=x).x)  # type: ignore[arg-type]
    assert sliced_wasserstein(array, x).value == 0  # type: ignore[arg-type]
    exact = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.full((1,), 0.1), VPSDE())
    pixels = np.array([[3, 4], [4, 4]])
    found = bits_per_dim(exact, pixels, Discrete(8))  # type: ignore[arg-type]
    assert torch.equal(found.bits, bits_per_dim(exact, torch.from_numpy(pixels), Discrete(8)).bits)
    frame = compare(model, {"heun": sampler}, 3, array, n=8, progress=False)  # type: ignore[arg-type]
    assert frame["steps"].tolist() == [3]
    made = GaussianMixtureScore(np.ones(2), np.eye(2), [0.1, 0.1], VPSDE())  # type: ignore[arg-type]
    assert made.shape == (2,)


def test_a_number_of_samples_is_enough(model: GaussianMixtureScore) -> None:
    sampler = Sampler(Heun(), KarrasGrid(3))
    assert torch.equal(sampler(model, 5).x, sampler(model, (5, 2)).x)
    network = NetworkScore(nn.Identity(), VPSDE(), EDMPreconditioning())
    with pytest.raises(ValueError, match=r"does not know the shape of a sample: give \(5, \.\.\.\)"):
        sampler(network, 5)


def _public() -> Iterator[tuple[str, Any]]:
    for name in MODULES:
        module = importlib.import_module(f"scoresde.{name}")
        for public in getattr(module, "__all__", ()):
            yield f"{name}.{public}", getattr(module, public)


def test_help_shows_signatures_that_can_be_read() -> None:
    for name, member in _public():
        parts = [member, *(v for k, v in vars(member).items() if k[0] != "_")] if inspect.isclass(member) else [member]
        for part in filter(callable, parts):
            try:
                parameters = inspect.signature(part).parameters.values()
            except (TypeError, ValueError):
                continue
            for parameter in parameters:
                assert len(repr(parameter.default)) < 60, f"{name}: {parameter.name}={parameter.default!r:.60}"
                assert not re.search(r" at 0x|\n", repr(parameter.default)) or parameter.default is parameter.empty


def test_what_modules_offer_is_found_by_completion() -> None:
    for name in MODULES:
        module = importlib.import_module(f"scoresde.{name}")
        assert set(module.__all__) <= set(dir(module)), name
        assert all(getattr(module, public) is not None for public in module.__all__), name


def test_what_is_made_by_functions_is_looked_at_too(x: Tensor) -> None:
    network = NetworkScore(MLP((2,), width=8, blocks=1), VPSDE(), EDMPreconditioning())
    with pytest.raises(ValueError, match=r"optimizer makes \[.*, expected an optimiser of torch.optim"):
        fit(network, x, 1, optimizer=list, progress=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lr is -1, expected a positive learning rate"):
        fit(network, x, 1, lr=-1, progress=False)
    with pytest.raises(ValueError, match="train_steps is -1, expected an integer of at least 2"):
        DDPMSDE(train_steps=-1)
    with pytest.raises(TypeError, match="the generated set is None, expected a tensor or an array of numbers"):
        sliced_wasserstein(None, x)  # type: ignore[arg-type]
