"""Configuration files of a user's own that would do nothing, or not what they say."""

from pathlib import Path

import pytest

from scoresde.cli import main
from scoresde.cli.command_line import CommandLine
from scoresde.cli.completion import complete
from scoresde.cli.console import UsageError
from scoresde.cli.overrides import check_overrides

GLOBAL = "# @package _global_\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(folder: Path, *arguments: str) -> str:
    with pytest.raises(UsageError) as error:
        check_overrides(CommandLine.of("train", ["--config-dir", str(folder), *arguments]))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: [override /network: mlp]", " has no line '# @package _global_' at its top: without it all lands"),
        ("training: {steps: 7}", " has no line '# @package _global_' at its top: without it training lands under"),
        ("# Mine.\ntraining: {steps: 7}", " has no line '# @package _global_' at its top"),
        ("# Mine.\n" + GLOBAL + "training: {steps: 7}", ":2: '# @package _global_' is below another comment"),
        ("# @package _globl_\ntraining: {steps: 7}", ":1: '# @package _globl_' puts training under _globl_"),
        (GLOBAL + "trainig: {steps: 7}", ": train has no 'trainig', did you mean 'training'?"),
        (GLOBAL + "defaults: [override /netwrok: mlp]", "names no group, did you mean 'network'?"),
        (GLOBAL + "defaults: [/netwrok: mlp]", "names no group, did you mean 'network'?"),
        (GLOBAL + "defaults: [/network: mlp]", "second network: write '- override /network: mlp'"),
        (GLOBAL + "defaults: [network: mlp]", "second network: write '- override /network: mlp'"),
        (GLOBAL + "defaults: [override network: mlp]", "needs a slash: write '- override /network: mlp'"),
        (GLOBAL + "training: {steps: 7", ":3: expected ',' or '}'"),
        ("- a", " holds a list, expected a mapping"),
        ("text", " holds a str, expected a mapping"),
    ],
)
def test_an_experiment_that_would_do_nothing(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "experiment/mine", text + "\n")
    told = refused(tmp_path, "experiment=mine")
    assert told.startswith(str(path))
    assert message in told


@pytest.mark.parametrize(
    "text",
    [
        GLOBAL + "training: {steps: 7}\n",
        "#@package _global_\ntraining: {steps: 7}\n",
        "\n\n" + GLOBAL + "# Mine.\ndefaults:\n  - override /network: mlp\n  - override /data: two_moons\n",
        "# @package training\nsteps: 7\n",
        GLOBAL,
    ],
)
def test_experiments_that_are_fine(tmp_path: Path, text: str) -> None:
    write(tmp_path, "experiment/mine", text)
    check_overrides(CommandLine.of("train", ["--config-dir", str(tmp_path), "experiment=mine"]))


@pytest.mark.parametrize("package", ["model", "_global_", "sde", "network.inner", "_group_"])
def test_a_package_that_takes_a_choice_elsewhere(tmp_path: Path, package: str) -> None:
    path = write(tmp_path, "network/mine", f"# @package {package}\n_target_: scoresde.networks.MLP\nwidth: 16\n")
    told = refused(tmp_path, "network=mine")
    assert told.startswith(f"{path}:1: '# @package {package}' puts _target_ ")
    assert told.endswith("instead of under network: take the line out")


def test_a_choice_by_the_package_of_its_group(tmp_path: Path) -> None:
    for number, head in enumerate(("", "# @package network\n")):
        write(tmp_path, f"network/mine{number}", f"{head}_target_: scoresde.networks.MLP\nwidth: 16\n")
        check_overrides(CommandLine.of("train", ["--config-dir", str(tmp_path), f"network=mine{number}"]))
    write(tmp_path, "network/nested", GLOBAL + "network: {_target_: scoresde.networks.MLP}\ntraining: {steps: 7}\n")
    check_overrides(CommandLine.of("train", ["--config-dir", str(tmp_path), "network=nested"]))


def test_a_file_that_hydra_would_pass_over(tmp_path: Path) -> None:
    path = write(tmp_path, "network/mlp", "_target_: scoresde.networks.MLP\nwidth: 16\n")
    told = refused(tmp_path, "network=mlp")
    assert told == f"{path} is not read, as network=mlp is one of scoresde's own choices: give it another name"


def test_a_broken_file_is_named_whatever_chooses_it(tmp_path: Path) -> None:
    write(tmp_path, "network/broken", "a: [\n")
    write(tmp_path, "experiment/mine", GLOBAL + "defaults: [override /network: broken]\n")
    assert "broken.yaml" in refused(tmp_path, "experiment=mine")
    assert refused(tmp_path, "network=broken").startswith(f"{tmp_path}/network/broken.yaml:2: ")


def test_a_choice_in_a_folder_of_its_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "experiment/theirs/ring", GLOBAL + "# Theirs.\ntraining: {steps: 7}\n")
    path = write(tmp_path, "experiment/theirs/wrong", GLOBAL + "trainig: {steps: 7}\n")
    check_overrides(CommandLine.of("train", ["--config-dir", str(tmp_path), "experiment=theirs/ring"]))
    assert refused(tmp_path, "experiment=theirs/wrong").startswith(f"{path}: train has no 'trainig'")
    told = refused(tmp_path, "experiment=theirs/rnig")
    assert told.startswith("experiment has no choice 'theirs/rnig', did you mean 'theirs/ring'?; expected one of arc,")
    folder = ["--config-dir", str(tmp_path)]
    main(["list", "experiments", *folder])
    assert "experiment=theirs/ring" in capsys.readouterr().out
    assert complete(["train", *folder, "experiment=th"]) == ["experiment=theirs/ring", "experiment=theirs/wrong"]
