"""Spaces that sweepers search, and settings of theirs, that are refused before anything begins."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from scoresde.cli import main
from scoresde.cli.command_line import CommandLine, parse_overrides
from scoresde.cli.console import UsageError
from scoresde.cli.optuna import with_study
from scoresde.cli.search import divided, grid_of, open_study
from scoresde.cli.spaces import check_spaces

OPTUNA = "hydra/sweeper=optuna"
GRID = "hydra/sweeper/sampler=grid"
SETTINGS = OmegaConf.create(
    {
        "study_name": None,
        "storage": None,
        "direction": "minimize",
        "sampler": {"name": "random", "seed": 0},
        "pruner": {"name": "none"},
    }
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.lr=tag(Log,interval(1e-4,1e-2))"], "Optuna knows no tag 'Log', did you mean 'log'"),
        (["optimizer.lr=tag(logarithmic,interval(1e-4,1e-2))"], "Optuna knows no tag 'logarithmic'"),
        (["optimizer.lr=tag(log,fine,interval(1e-4,1e-2))"], "Optuna knows no tag 'fine'"),
        (["network.width=tag(log,range(8,64))"], r"a tag has no effect on a list of values.*tag\(log,int\(interval"),
        (["sde=tag(x,choice(vp,ve))"], "a tag has no effect on a list of values, leave it out$"),
        (["optimizer.lr=interval(1e-2,1e-4)"], "expected an interval from a lower number to a higher one"),
        (["optimizer.lr=interval(1e-2,1e-2)"], "expected an interval from a lower number to a higher one"),
        (["optimizer.lr=interval(0,inf)"], "expected an interval between two finite numbers"),
        (["optimizer.lr=tag(log,interval(0,1))"], "an interval on a logarithmic scale begins above 0"),
        (["optimizer.lr=tag(log,interval(-1,1))"], "an interval on a logarithmic scale begins above 0"),
        (["network.width=range(64,8,-8)"], "expected a range from a lower number to a higher one"),
        (["training.seed=range(0,inf)"], "expected a range from a lower number to a higher one"),
        (["network.width=range(8,8)"], "expected a range from a lower number to a higher one"),
        (["network.width=shuffle(range(8,16))"], r"leave out shuffle\(...\)"),
        (["sde=shuffle(vp,ve)"], r"leave out shuffle\(...\)"),
        (["sde=interval(0,1)"], "expected choices of .*subvp"),
        (["sde=choice(vp)"], "leaves nothing to choose: write sde=vp"),
        (["sde=vp,ve,vp"], "has vp twice"),
        (["sde=glob(v*)"], "takes no glob: name the choices, as sde=a,b,c"),
        (["sde=vp,ve", "sde=vp"], "sde is given twice"),
        (["optimizer.lr=interval(0,1)", GRID], "hydra/sweeper/sampler=grid takes values"),
        (["network.width=range(8,9)"], "leaves nothing to choose: write network.width=8"),
        (["network.width=range(0,1000000)", GRID], "has more than 10,000 values, the limit of a grid"),
        (["sde=vp,ve", "hydra.sweeper.params.sde=vp"], "give what is searched as any other override"),
        (["sde=vp,ve", "+hydra.sweeper.search_space.sde.type=int"], "give what is searched as any other override"),
        (["sde=vp,ve", "hydra/sweeper/sampler=tpee"], "there is no such sampler, did you mean 'tpe'"),
        (["sde=vp,ve", "hydra/sweeper/pruner=meadian"], "there is no such pruner, did you mean 'median'"),
        (["sde=vp,ve", "hydra.sweeper.n_trial=3"], "Optuna's sweeper has no 'n_trial', did you mean 'n_trials'"),
        (["sde=vp,ve", "hydra.sweeper.max_batch_size=3"], "Optuna's sweeper has no 'max_batch_size'"),
        (["sde=vp,ve", "hydra.sweeper.n_trials=0"], "n_trials is 0, expected an integer of at least 1"),
        (["sde=vp,ve", "hydra.sweeper.n_trials=ten"], "n_trials is 'ten', expected an integer"),
        (["sde=vp,ve", "hydra.sweeper.n_trials=2,3"], "expected one value"),
        (["sde=vp,ve", "hydra.sweeper.n_jobs=-1"], "n_jobs is -1, expected an integer of at least 1"),
        (["sde=vp,ve", "hydra.sweeper.max_failure_rate=2"], "max_failure_rate is 2, expected a number from 0 to 1"),
        (["sde=vp,ve", "hydra.sweeper.direction=min"], "direction is 'min', expected minimize or maximize"),
        (["sde=vp,ve", "hydra.sweeper.direction=[minimize,maximize]"], "expected minimize or maximize"),
    ],
)
def test_what_optuna_would_not_follow_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        check_spaces(parse_overrides([*arguments, OPTUNA]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.lr=interval(1e-4,1e-2)"], "have Optuna search it by hydra/sweeper=optuna"),
        (["optimizer.lr=tag(log,choice(1e-4,1e-2))"], "a tag has no effect on a grid of values"),
        (["sde=vp,ve", "hydra.sweeper.n_trials=3"], "is a setting of Optuna: add hydra/sweeper=optuna"),
        (["sde=vp,ve", GRID], "is a setting of Optuna: add hydra/sweeper=optuna"),
        (["sde=vp,ve", "hydra.sweeper.params.sde=vp"], "give what is searched as any other override"),
        (["sde=vp,ve", "+sde=cosine"], "sde is given twice"),
        (["training.seed=range(0,1000000000000)"], "has more than 10,000 values, the limit of a grid: give fewer"),
    ],
)
def test_what_a_grid_would_not_follow_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_spaces(parse_overrides(arguments))


@pytest.mark.parametrize(
    ("space", "values"),
    [
        ("training.seed=range(2,5)", [2, 3, 4]),
        ("training.seed=range(0,5,2)", [0, 2, 4]),
        ("optimizer.lr=range(0.1,0.5,0.2)", [0.1, 0.3]),
        ("optimizer.lr=range(0.0,0.3,0.1)", [0.0, 0.1, 0.2]),
        ("sde=vp,ve", ["vp", "ve"]),
        ("network.num_classes=null,5", ["null", "5"]),
        ("network.width=int(interval(8,11))", [8, 9, 10, 11]),
    ],
)
def test_a_search_has_the_values_of_a_grid(space: str, values: list[object]) -> None:
    pytest.importorskip("optuna")
    check_spaces(parse_overrides([space, OPTUNA]))
    (key, distribution), found = next(iter(divided([space])[0].items())), set()
    assert grid_of({key: distribution}) == {key: values}
    study = open_study(SETTINGS, {key: distribution})
    for _ in range(40):
        found.add(study.ask({key: distribution}).params[key])
    assert found <= set(values)
    assert len(found) == len(values)


def test_intervals_are_searched_as_they_are_told() -> None:
    optuna = pytest.importorskip("optuna").distributions
    space, fixed = divided(
        ["a=interval(0,1)", "b=tag(log,interval(1e-4,1e-2))", "c=tag(log,int(interval(8,64)))", "sde=vp", "d='x y'"]
    )
    assert space == {
        "a": optuna.FloatDistribution(0.0, 1.0),
        "b": optuna.FloatDistribution(1e-4, 1e-2, log=True),
        "c": optuna.IntDistribution(8, 64, log=True),
    }
    assert fixed == {"sde": "vp", "d": "'x y'"}


def test_searching_other_numbers_than_integers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    for key in ("training.steps", "network.width"):
        with pytest.raises(SystemExit) as stop:
            main(["train", "network=mlp", "data=two_moons", "-m", OPTUNA, f"{key}=tag(log,interval(8,64))"])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(rf"{key} is 8.0, .*; to search integers: {key}=tag\(log,int\(interval\(8,64\)\)\)$", line)
    assert list(tmp_path.iterdir()) == []


def test_the_direction_is_that_of_the_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    space = ["-m", OPTUNA, "sde=vp,ve"]

    def direction(*more: str) -> str:
        (found,) = {
            a
            for a in with_study(CommandLine.of("train", [*space, *more])).texts
            if a.startswith("hydra.sweeper.direction=")
        }
        return found.partition("=")[2]

    assert direction() == direction("metric=frechet_distance") == "minimize"
    assert direction("metric=precision") == direction("metric=recall", "hydra.sweeper.direction=maximize") == "maximize"
    for wrong in (["hydra.sweeper.direction=maximize"], ["metric=coverage", "hydra.sweeper.direction=minimize"]):
        with pytest.raises(UsageError, match=r"(lower|higher) is better, leave it out"):
            with_study(CommandLine.of("train", [*space, *wrong]))
    study = optuna.create_study(storage="sqlite:///runs/optuna.db", study_name="scoresde", direction="maximize")
    study.add_trial(
        optuna.trial.create_trial(
            params={"sde": "vp"}, distributions={"sde": optuna.distributions.CategoricalDistribution(("vp", "ve"))},
            value=1.0,
        )
    )  # fmt: skip
    with pytest.raises(UsageError, match="is to maximize, this sweep to minimize: give hydra.sweeper.study_name=NAME"):
        with_study(CommandLine.of("train", space))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hydra.sweeper.sampler.seed=x", "int64"),
        ("hydra.sweeper.sampler.sead=1", "sead"),
        ("hydra/sweeper/pruner=percentile hydra.sweeper.pruner.percentile=200", "200|percentile"),
    ],
)
def test_settings_that_optuna_does_not_take_are_told_in_one_line(
    setting: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=rf"^Optuna's settings: .*({message})") as error:
        with_study(CommandLine.of("train", ["-m", OPTUNA, "optimizer.lr=interval(0,1)", *setting.split()]))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sde=vp,ve"], "compares held-out losses, which differ between values of sde: search it without a pruner"),
        (["objective.name=a,b"], "which differ between values of objective.name"),
        (["optimizer.lr=interval(0,1)", "repeats=2"], "repeats are several trainings"),
        (["optimizer.lr=interval(0,1)", "hydra.sweeper.storage=null"], "needs a study that jobs can read"),
    ],
)
def test_trials_that_cannot_be_compared_on_the_way_are_not_pruned(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        with_study(CommandLine.of("train", ["-m", OPTUNA, "hydra/sweeper/pruner=median", *arguments]))
    assert list(tmp_path.iterdir()) == []
