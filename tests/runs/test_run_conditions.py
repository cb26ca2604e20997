"""Runs on conditions beside labels: the command from training to samples, likelihoods and comparisons."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scoresde
from scoresde.cli import main
from scoresde.data import Data, DataInfo, Identity, gaussian_arc
from scoresde.likelihood import log_likelihood
from scoresde.networks import MLP
from scoresde.options.errors import ConfigError
from scoresde.preconditioning import EDMPreconditioning
from scoresde.runs.conditions import conditions_of, split_conditions
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE
from scoresde.training import Training
from scoresde.training.messages import opening

TRAIN = [
    "experiment=arc", "+data.n_train=200", "+data.n_test=40", "network.width=16", "network.blocks=1",
    "training.steps=3", "training.batch_size=16", "evaluation.samples=20", "evaluation.likelihood=6", "progress=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditions")
    main(["train", *TRAIN, f"runs={folder}", "name=arc"])
    return folder / "arc"


def test_a_run_has_the_sizes_scales_and_figures_of_its_conditions(run: Path) -> None:
    data = gaussian_arc(200, 40)
    info = DataInfo.from_plain(json.loads((run / "data.json").read_text()))
    assert info == DataInfo.of(data)
    assert "vector_size: 2\n" in (run / "config.yaml").read_text()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["likelihood"]["conditional"], summary["likelihood"]["given"]) == (True, "vector")
    captions = " ".join(p["caption"] for p in json.loads((run / "pictures.json").read_text()))
    assert "20 samples given the vector of held-out data in turn" in captions
    assert "The score is that given the vector of the first held-out sample." in captions
    assert (run / "samples" / "filmstrip.png").is_file()
    samples = np.load(run / "samples" / "samples.npz")
    assert data.test_conditions is not None
    vector = data.test_conditions["vector"]
    assert np.array_equal(samples["vector"], vector[:20])
    model = scoresde.load(run)
    rows = np.genfromtxt(run / "likelihood-test.csv", delimiter=",", names=True)
    found = log_likelihood(model, data.test[:6], seed=0, vector=vector[:6])
    assert rows["nats"].tolist() == pytest.approx(found.log_prob.tolist(), abs=1e-3)


def test_samples_of_conditions_in_a_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, each, names = tmp_path / "one.npz", tmp_path / "each.npz", tmp_path / "names.npz"
    vector = np.array([[90.0, 0.1], [10.0, 0.2], [200.0, 0.05]])
    np.savez(one, vector=vector[:1])
    np.savez(each, vector=vector)
    np.savez(names, theta=vector)
    common = [f"run={run}", "n=3", "sampler=heun", "sampler.grid.steps=2", "progress=false"]
    drawn = []
    for path in (one, each):
        main(["sample", *common, f"condition={path}", f"name={path.stem}"])
        drawn.append(np.load(run / "samples" / f"{path.stem}.npz"))
    assert np.array_equal(drawn[0]["vector"], vector[[0, 0, 0]])
    assert np.array_equal(drawn[1]["vector"], vector)
    assert np.allclose(drawn[0]["x"][0], drawn[1]["x"][0])
    assert not np.allclose(drawn[0]["x"][1], drawn[1]["x"][1])
    np.savez(wide := tmp_path / "wide.npz", vector=np.zeros((1, 3)))
    np.savez(text := tmp_path / "text.npz", vector=[["a", "b"]])
    for path, message in (
        (names, "has an array 'theta', and the model takes vector"),
        (each, "expected n=4"),
        (wide, f"the network takes vector (2,), and {wide} has vector (3,)"),
        (text, f"vector of {text} has dtype <U1, expected numbers"),
    ):
        with pytest.raises(SystemExit):
            main(["sample", *common, "n=4", f"condition={path}", "name=wrong"])
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_comparisons_and_other_data(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", f"run={run}", "samplers=[heun]", "steps=[2]", "n=12", "progress=false"])
    assert "heun" in capsys.readouterr().out
    data = gaussian_arc(30, 20, seed=1)
    assert data.test_conditions is not None
    path = tmp_path / "other.npz"
    np.savez(path, x=data.test.numpy(), theta=data.test_conditions["vector"].numpy())
    given = [f"run={run}", "data=npz", f"data.path={path}", "n=4", "progress=false"]
    main(["likelihood", *given, "data.condition_keys={vector: theta}"])
    assert "nats given the vector, n = 4" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["likelihood", *given])
    assert "the network takes vector (2,), and other has no conditions" in capsys.readouterr().err


def test_a_chain_of_bits_takes_conditions(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    share = generator.uniform(0.0, 1.0, (300, 1)).round()  # of ones: none or all
    x = np.repeat(share, 6, axis=1).astype(np.uint8)
    np.savez(tmp_path / "bits.npz", x=x, share=share)
    main(
        [
            "train", "experiment=diffusion2015/heartbeat", "data=npz", f"data.path={tmp_path / 'bits.npz'}",
            "name=bits", "data.levels=2", "data.condition_keys={vector: share}", "network.vector_size=auto",
            "network.blocks=1", "sde.betas.steps=8", "training.steps=60", "training.batch_size=64",
            "evaluation.samples=20", "evaluation.likelihood=4", f"runs={tmp_path}", "progress=false",
        ]
    )  # fmt: skip
    samples = np.load(tmp_path / "bits" / "samples" / "samples.npz")
    wrong = np.abs(samples["x"].mean(1) - samples["vector"][:, 0])
    assert wrong.mean() < 0.1
    caption = json.loads((tmp_path / "bits" / "pictures.json").read_text())
    assert any("steps given the vector of held-out data in turn" in each["caption"] for each in caption)


def test_commands_that_know_labels_alone_refuse_a_run_of_others(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A network that drops its conditions would else give the numbers of one without.
    with pytest.raises(SystemExit):
        main(["information", f"run={run}", "n=2", "progress=false"])
    assert "information is for models of labels alone or of nothing, and this one takes vector" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["network.vector_size=3"], "the network takes vector (3,), and gaussian_arc has vector (2,)"),
        (["data=swiss_roll"], "network.vector_size=auto, and the data set swiss_roll has no vector"),
        (["data=swiss_roll", "network.vector_size=2"], "swiss_roll has no conditions"),
        (["network.vector_size=few"], "vector_size"),
        (["network.condition_dropout=1.5"], "condition_dropout must be in [0, 1)"),
    ],
)
def test_networks_that_do_not_fit_the_data(
    changes: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", *TRAIN, f"runs={tmp_path}", *changes])
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def _model(**options: Any) -> NetworkScore:
    return NetworkScore(MLP((2,), width=8, blocks=1, vector_size=1, **options), VPSDE(), EDMPreconditioning())


def test_training_says_which_conditions_of_the_data_it_leaves_out() -> None:
    x = torch.randn(6, 2)
    data = Data("a", x, x, Identity(), train_conditions={"vector": x}, test_conditions={"vector": x})
    plain = NetworkScore(MLP((2,), width=8, blocks=1), VPSDE(), EDMPreconditioning())
    told = [opening(model, data, Training(), torch.device("cpu")) for model in (plain, _model())]
    assert ["without their vector, which the network does not take" in text for text in told] == [True, False]


def test_labels_of_held_out_conditions_are_those_of_the_same_samples() -> None:
    x, labels = torch.arange(12.0).view(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    given = {"vector": x[:, :1]}
    data = Data("a", x, x, Identity(), labels, labels, train_conditions=given, test_conditions=given)
    model = _model(num_classes=2)
    found = conditions_of(model, data, 8)
    assert found["labels"].tolist() == [0, 1, 1, 0, 1, 0, 0, 1]
    assert found["vector"][:, 0].tolist() == [0, 2, 4, 6, 8, 10, 0, 2]
    of_one = conditions_of(model, data, 4, label="1")
    assert of_one["labels"].tolist() == [1, 1, 1, 1]
    assert of_one["vector"][:, 0].tolist() == [2, 4, 8, 2]
    assert split_conditions(model, data, "train").keys() == {"labels", "vector"}
    with pytest.raises(ConfigError, match=r"give condition=FILE.npz with arrays of these names"):
        conditions_of(model, DataInfo.of(data), 4)
