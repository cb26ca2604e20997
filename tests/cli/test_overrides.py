"""Values that Hydra's grammar reads in its own way, and paths."""

import re
import shlex
from pathlib import Path

import pytest

from scoresde.cli.command_line import CommandLine, _expand, _quote_letters, parse_overrides
from scoresde.cli.console import UsageError
from scoresde.cli.overrides import check_overrides, planned_jobs


def refused(command: str, *arguments: str) -> str:
    with pytest.raises(UsageError) as error:
        check_overrides(CommandLine.of(command, arguments))
    assert "\n" not in str(error.value)
    return str(error.value)


# -- quoting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "a=b.npz", "[a.npz", "[a].npz", "(a)", "a(1).npz", "x(1)", "{a}", "it's", 'say "x"', "a#b", "a;b", "a&b", "<a>",
        "a!", "a,b", "[a]", "{a: 1}", "${x}", "/my data/a=b/[1].npz", "`a`", "a^b",
    ],
)  # fmt: skip
def test_the_quoting_that_is_shown_works(value: str) -> None:
    """The message names the argument, and what it shows is taken as that very text."""
    message = refused("train", "data=npz", f"data.path={value}")
    assert "data.path" in message
    (shown,) = re.findall(r"one text(?: it is|:) (.*)$", message)
    (argument,) = shlex.split(shown)
    (override,) = parse_overrides([argument])
    assert override.key_or_group == "data.path"
    assert override.value() == value.replace("${", "\\${")  # which OmegaConf takes for the text
    check_overrides(CommandLine.of("train", ["data=npz", argument]))


def test_values_that_need_no_quotes() -> None:
    for value in ("a b", "$HOME/a", "a\\b", "-x", "a:b", "100%", "a*?|@+", ".", "a..b"):
        check_overrides(CommandLine.of("train", ["data=npz", f"data.path={value}"]))


@pytest.mark.parametrize("value", ["/home/jürgen/x.npy", "数据/图.npz", "été 2026", "ü"])
def test_letters_of_other_alphabets_need_no_quotes(value: str) -> None:
    (override,) = CommandLine.of("train", [f"data.path={value}"]).overrides
    assert override.value() == value


def test_what_has_a_meaning_for_hydra_keeps_it_beside_other_letters() -> None:
    given = ["name='ü'", "sde=vp,ve", "label=[ä,ö]", "--multirun", "name=ä,ö", "training.steps=3"]
    assert [_quote_letters(text) for text in given] == given


def test_an_argument_without_a_value_is_named() -> None:
    assert refused("train", "name=my", "run").startswith("'run' is no key=value: write that, in quotes where")
    assert refused("train", "da[ta=x").startswith("'da[ta=x': 'da[ta' is no key")
    assert "its value" not in refused("train", "optimizer.lr=tag(log, interval(1,2)")


# -- paths ----------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("data.path=~/a.npz", "data.path={}/a.npz"),
        ("data.path=~", "data.path={}"),
        ("data.path=~/a=b c.npz", 'data.path="{}/a=b c.npz"'),
        ("+data.data_files=[~/a,~/b]", "+data.data_files=[{}/a,{}/b]"),
        ("data.data_files={train: ~/a, test: [~/b]}", "data.data_files={{train: {}/a, test: [{}/b]}}"),
        ("runs=~/a,~/b", "runs={}/a,{}/b"),
        ("run=~/a", "run={}/a"),
        ("hydra.sweep.dir=~/a", "hydra.sweep.dir={}/a"),
        ("hydra.searchpath=[~/a]", "hydra.searchpath=[{}/a]"),
        ("logger.dir=~/a", "logger.dir={}/a"),
        ("name=~a", "name=~a"),
        ("data.path=a~", "data.path=a~"),
        ("~logger", "~logger"),
        ("run=007", 'run="007"'),
        ("name=1e5", 'name="1e5"'),
        ("run=null", "run=null"),
        ("n=007", "n=007"),
    ],
)
def test_home_folders_in_paths(given: str, expected: str, home: Path) -> None:
    assert _expand(given) == expected.format(home, home)


def test_the_home_folder_of_another_user(home: Path) -> None:
    assert CommandLine.of("sample", ["run=~root/x"]).texts == [f"run={Path('~root').expanduser()}/x"]
    assert refused("sample", "run=~no_such_user/x") == "run: ~no_such_user has no home folder"


@pytest.mark.parametrize("command", ["sample", "likelihood", "compare", "evaluate", "tune", "dequantise", "report"])
def test_an_empty_run_is_refused(command: str) -> None:
    assert refused(command, "run=") == "run= has no value: is the shell variable in it set?"
    assert refused(command, "").startswith("run is empty, expected a path")
    assert refused(command, 'run=" "').startswith("run is empty, expected a path")


@pytest.mark.parametrize("key", ["data.path", "runs", "run", "name", "training.steps"])
def test_an_empty_value_is_refused(key: str) -> None:
    for value in ("", " "):
        assert refused("train", "data=npz", f"{key}={value}").endswith("has no value: is the shell variable in it set?")


def test_an_empty_path_of_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORESDE_TEST_DATA", "")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("_target_: scoresde.data.npz\npath: ${oc.env:SCORESDE_TEST_DATA}\n")
    message = refused("train", "--config-dir", str(tmp_path), "data=mine")
    assert message == "data.path is empty, expected a path: is the variable that it comes from set?"
    assert "data.data_files.train is empty" in refused(
        "train", "data=huggingface", 'data.data_files={train: ["a", ""]}'
    )


def test_a_folder_whose_name_has_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "sde=ve, lr=[1]").mkdir(parents=True)
    assert CommandLine.of("report", ["runs/sde=ve, lr=[1]"]).texts == ['run="runs/sde=ve, lr=[1]"']
    assert CommandLine.of("sample", ["~/x", "n=3"]).value("run") == "~/x"
    assert CommandLine.of("sample", ["run=a", "sde=ve"]).value("run") == "a"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["run=a,b"], "run=[a,b]"),
        (["run=[a,b]"], "run=[a,b]"),
        (["run=runs/a , b"], "run=[runs/a,b]"),
        (["run=007,1e5"], 'run=["007","1e5"]'),
        (['run="a,b",c'], 'run=["a,b",c]'),
        (["run=~/a,b"], "run=[{}/a,b]"),
        (["a", "b", "runs/c"], "run=[a,b,runs/c]"),
        (["~/a", "b"], "run=[{}/a,b]"),
    ],
)
def test_runs_that_are_compared_are_a_list(given: list[str], expected: str, home: Path) -> None:
    line = CommandLine.of("likelihood", [*given, "paired=true", "n=3"])
    assert sorted(line.texts) == sorted([expected.format(home), "paired=true", "n=3"])


def test_folders_are_compared_however_true_is_spelt() -> None:
    assert CommandLine.of("likelihood", ["a", "b", "paired=True"]).value("run") == ["a", "b"]


def test_runs_of_a_sweep_stay_choices() -> None:
    for arguments in (["run=a,b"], ["run=a,b", "paired=true", "--multirun"], ["run=[a,b],[a,c]", "paired=true", "-m"]):
        line = CommandLine.of("likelihood", arguments)
        assert [o.is_sweep_override() for o in line.overrides if o.key_or_group == "run"] == [True]


def test_a_sweep_has_no_more_jobs_than_anybody_means() -> None:
    assert len(planned_jobs(CommandLine.of("train", ["training.seed=range(0,100)", "sde=vp,ve"])) or []) == 200
    with pytest.raises(UsageError, match="the sweep has 1,000,000 jobs, the limit is 10,000: leave some out"):
        planned_jobs(CommandLine.of("train", ["training.seed=range(0,1000)", "training.steps=range(1,1001)"]))


def test_a_long_range_is_checked_by_its_ends() -> None:
    optuna = ["--multirun", "hydra/sweeper=optuna"]
    check_overrides(CommandLine.of("train", [*optuna, "training.steps=range(1,1000001)"]))
    with pytest.raises(UsageError, match="training.steps is 0, expected an integer of at least 1"):
        check_overrides(CommandLine.of("train", [*optuna, "training.steps=range(0,1000001)"]))
    with pytest.raises(UsageError, match="training.final_lr is 2.0, expected a number from 0 to 1"):
        check_overrides(CommandLine.of("train", [*optuna, "training.final_lr=range(0,2.001,0.001)"]))
