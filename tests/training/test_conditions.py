"""Training on conditions beside labels, and what a model does with them afterwards."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde.data import Data, Identity
from scoresde.likelihood import class_log_prob, log_likelihood
from scoresde.networks import MLP, UNet
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import Heun, KarrasGrid, Sampler
from scoresde.score import BoundModel, NetworkScore
from scoresde.sde import VPSDE
from scoresde.training import fit, make_trainer


def _model(network: nn.Module) -> NetworkScore:
    return NetworkScore(network, VPSDE(), EDMPreconditioning())


def _of(seed: int = 0, **options: Any) -> NetworkScore:
    torch.manual_seed(seed)
    return _model(MLP((2,), width=16, blocks=1, vector_size=3, **options))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def vector() -> Tensor:
    return 100 + 5 * torch.randn(40, 3, generator=torch.Generator().manual_seed(1))


def test_a_trained_model_knows_the_scale_of_its_conditions(x: Tensor, vector: Tensor) -> None:
    model = _of(condition_dropout=0.2, num_classes=2, label_dropout=0.2)
    labels = [0, 1] * 20
    found = fit(model, x, 2, labels=labels, conditions={"vector": vector}, batch_size=8, progress=False)
    again = _of(condition_dropout=0.2, num_classes=2, label_dropout=0.2)
    assert (
        fit(again, (x, labels), 2, conditions={"vector": vector.numpy()}, batch_size=8, progress=False).loss
        == found.loss
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert model.info is not None
    assert model.info.conditions["vector"].mean == pytest.approx(vector.double().mean(0).tolist())
    kept = model.state_dict()["network.conditioning.vector.mean"]
    assert tuple(kept.tolist()) == model.info.conditions["vector"].mean
    # Further training on other conditions keeps it.
    fit(model, x, 2, labels=labels, conditions={"vector": 2 * vector}, batch_size=8, progress=False)
    assert torch.equal(model.state_dict()["network.conditioning.vector.mean"], kept)


def test_batches_have_the_conditions_of_their_samples(x: Tensor) -> None:
    pixels = x.view(40, 1, 1, 2).expand(-1, -1, 2, -1).contiguous()
    model = _model(UNet((1, 2, 2), channels=4, blocks=1, image_channels=1))
    trainer = make_trainer(
        model, pixels, 1, conditions={"image": pixels + 1}, batch_size=16, flip=True, standardise="none"
    )
    batch = trainer.batches(0)
    assert batch.conditions.keys() == {"image"}
    torch.testing.assert_close(batch.conditions["image"], batch.x0 + 1)
    flipped = (batch.x0[:, None] == pixels[None]).flatten(2).all(2).any(1)
    assert 0 < flipped.sum() < 16  # some are mirrored, and then their conditions are, too


def test_samples_and_likelihoods_take_conditions_of_all_or_of_each(x: Tensor, vector: Tensor) -> None:
    model = _of(num_classes=2)
    fit(model, x, 3, labels=[0, 1] * 20, conditions={"vector": vector}, batch_size=8, progress=False)
    sampler, labels = Sampler(Heun(), KarrasGrid(3)), torch.arange(6) % 2
    whole = sampler(model, 6, seed=0, labels=labels, vector=vector[:6])
    parts = sampler(model, 6, seed=0, labels=labels, vector=vector[:6].tolist(), batch_size=4)
    torch.testing.assert_close(parts.x, whole.x)
    one = sampler(model, 6, seed=0, labels=1, vector=vector[0].double())
    for given in (vector[:1], vector[:1].expand(6, -1), vector[0].tolist()):
        torch.testing.assert_close(sampler(model, 6, seed=0, labels=1, vector=given).x, one.x)
    assert not torch.equal(whole.x, one.x)
    # Rows of a batch are the samples of its conditions.
    rows = torch.tensor([4, 1])
    cond = model.conditions({"labels": labels, "vector": vector[:6]}, 6, torch.device("cpu"))
    bound, t = BoundModel(model, cond), torch.tensor(0.5)
    torch.testing.assert_close(bound.for_rows(rows).denoise(x[rows], t), bound.denoise(x[:6], t)[rows])
    found = log_likelihood(model, x[:4], seed=0, labels=labels[:4], vector=vector[:4]).log_prob
    alone = log_likelihood(model, x[2:3], seed=0, first=2, labels=0, vector=vector[2]).log_prob
    assert found[2].item() == pytest.approx(alone.item(), abs=1e-5)
    both = class_log_prob(model, x[:4], 2, seed=0, vector=vector[:4])
    assert both[torch.arange(4), labels[:4]].tolist() == pytest.approx(found.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (None, r"the network takes vector \(3,\), and data has no conditions"),
        ({"vector": torch.zeros(40, 2)}, r"the network takes vector \(3,\), and data has vector \(2,\)"),
        ({"vector": torch.zeros(39, 3)}, "has 39 rows, expected one for each of the 40 samples"),
        ({"vector": torch.zeros(40, 3), "image": torch.zeros(40, 1, 2)}, "the network takes no image"),
        ({"speed": torch.zeros(40, 3)}, "the network takes no speed"),
    ],
)
def test_conditions_that_do_not_fit_the_network(x: Tensor, conditions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        fit(_of(), x, 1, conditions=conditions, progress=False)
    assert "\n" not in str(error.value)


def test_conditions_beside_a_data_set_are_refused(x: Tensor, vector: Tensor) -> None:
    given = {"vector": vector}
    data = Data("a", x, x, Identity(), train_conditions=given, test_conditions=given)
    with pytest.raises(ValueError, match="a data set with its own labels and conditions"):
        fit(_of(), data, 1, conditions=given, progress=False)
    fit(_of(), data, 1, batch_size=4, progress=False)


def test_missing_and_wrong_conditions_of_a_call(x: Tensor, vector: Tensor) -> None:
    sampler, model = Sampler(Heun(), KarrasGrid(2)), _of()
    for given, message in (
        ({}, r"needs vector \(B, 3\)"),
        ({"vector": vector[:5]}, "vector has 5 entries, expected one for each of the 6 samples"),
        ({"vector": vector[0, :2]}, r"vector must have shape \(6, 3\), got \(6, 2\)"),
        ({"vector": vector[:6] / 0}, "vector has values that are NaN or infinite"),
        ({"image": x[:6]}, "image is no argument of this call, and no condition of the network"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler(model, 6, seed=0, **given)
