"""`scoresde list`, completion and help: fast, and true to `conf/`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scoresde.cli import COMMANDS, main
from scoresde.cli.catalogue import conf_dir, description, groups, options
from scoresde.cli.completion import complete
from scoresde.cli.console import print_table


@pytest.mark.parametrize("group", groups())
def test_every_choice_says_what_it_is(group: str) -> None:
    for name in options(group):
        text = description(group, name)
        assert len(text) > 3, name
        assert len(text) < 160, name


def test_every_key_says_what_it_means() -> None:
    bare = []
    for path in conf_dir().rglob("*.yaml"):
        text = path.read_text(encoding="utf-8").partition("\nhydra:")[0]
        keys = re.findall(r"^ *[a-z]\w*: +[^#\n]*$", text, re.M)
        # An experiment sets what other files explain; those of Accelerate are its own.
        if path.relative_to(conf_dir()).parts[0] not in ("experiment", "accelerate"):
            bare += [f"{path.name}: {key}" for key in keys if "${" not in key]
    assert bare == []


def test_help_shows_the_keys_of_groups(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--help"])
    shown = capsys.readouterr().out
    for line in (
        "steps: 3300 ",
        "batch_size: 64 ",
        "lr: 3e-3 ",
        "log_every: 50 ",
        "checkpoint_every: 500 ",
        "samples: null ",
    ):
        assert re.search(rf"^  {re.escape(line)} *# \w+", shown, re.M), line
    assert "training.KEY" in shown


def test_the_first_lines_of_help_are_no_comments(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", "--help"])
    head = capsys.readouterr().out.partition("usage:")[0]
    assert "With steps=all" in head
    assert "#" not in head


@pytest.mark.parametrize(
    "group", ["sampler", "sde", "objective", "preconditioning", "divergence", "dequantisation", "method"]
)
def test_methods_name_their_paper_or_say_that_they_are_the_packages_own(group: str) -> None:
    own = {"whole_gradient", "default", "default_sde", "angle", "straight", "euler", "scipy", "torchsde"}
    for name in options(group):
        text = description(group, name)
        assert re.search(r"\(.*\b(1[89]|20)\d\d[a-z]?\b.*\)", text) or name in own, f"{name}: {text}"


@pytest.mark.parametrize("word", ["samplers", "sampler", "data-sets", "sdes", "experiments", "networks"])
def test_list(capsys: pytest.CaptureFixture[str], word: str) -> None:
    main(["list", word])
    group = {"data-sets": "data"}.get(word, word.removesuffix("s"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [f"{group}={name}" for name in options(group)]
    assert all(description(group, name) in line for name, line in zip(options(group), lines[1:], strict=True))


def test_list_of_groups_and_of_what_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    out = capsys.readouterr().out
    assert all(re.search(rf"^{group}", out, re.M) for group in groups())
    with pytest.raises(SystemExit) as stop:
        main(["list", "smaplers"])
    assert stop.value.code == 2
    assert "nothing to list as 'smaplers', did you mean 'samplers'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], [*COMMANDS, "import", "convert", "list", "completion"]),
        (["tr"], ["train"]),
        (["list", "samp"], ["sampler"]),
        (["train", "sde=v"], ["sde=ve", "sde=vp"]),
        (["train", "-m", "sde=vp,v"], ["sde=vp,ve", "sde=vp,vp"]),
        (["train", "training.st"], ["training.steps=", "training.stratified="]),
        (["train", "sde=ve", "sde.sigma_ma"], ["sde.sigma_max="]),
        (["train", "-m", "hydra/launcher=sub"], ["hydra/launcher=submitit_local", "hydra/launcher=submitit_slurm"]),
        (["train", "--m"], ["--multirun"]),
        (["nothing", ""], []),
    ],
)
def test_completion(words: list[str], expected: list[str]) -> None:
    assert complete(words) == sorted(expected)


def test_completion_of_run_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "digits-1").mkdir(parents=True)
    (tmp_path / "runs" / "digits-1" / "config.yaml").touch()
    (tmp_path / "runs" / "sweeps").mkdir()
    assert complete(["sample", "run="]) == ["run=runs/digits-1"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "expected"), [("scoresde train sde=v", ["ve", "vp"]), ("scoresde tra", ["train"]), ("scoresde train opt", [
        "optimizer.betas=", "optimizer.fused=", "optimizer.lr=", "optimizer.weight_decay=", "optimizer="])]
)  # fmt: skip
def test_completion_in_bash(line: str, expected: list[str], tmp_path: Path) -> None:
    """As readline calls it: words are split at the equals sign, and only the last part is replaced."""
    program = tmp_path / "scoresde"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m scoresde.cli "$@"\n')
    program.chmod(0o755)
    words = re.split(r"\s+|(=)", line)
    words = [w for w in words if w]
    script = f"""
eval "$(scoresde completion bash)"
compopt() {{ :; }}
COMP_LINE='{line}' COMP_POINT={len(line)}
COMP_WORDS=({" ".join(f"'{w}'" for w in words)}) COMP_CWORD={len(words) - 1}
_scoresde
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == sorted(expected)


def test_completion_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        main(["completion", shell])
        assert "scoresde --complete" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["completion", "csh"])
    assert stop.value.code == 2
    assert "one of bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["list", "samplers"], ["--complete", "train", "sde="]])
def test_what_only_answers_imports_nothing_slow(arguments: list[str]) -> None:
    code = f"""
import sys
from scoresde.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
slow = {{"torch", "hydra", "numpy", "scipy", "matplotlib", "omegaconf", "pandas"}} & set(sys.modules)
sys.exit(f"imported {{slow}}" if slow else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_names_commands_and_choices(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {command} +\S", out, re.M) for command in COMMANDS)
    assert all(name in out for name in (*options("sampler"), *options("sde"), *options("experiment")))
    assert max(len(line) for line in out.splitlines() if "=" not in line and "×" not in line) <= 90


def test_tables_fit_a_terminal_and_are_plain_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, rows = ("name", "value"), [["[red]a[/red]", "1.5"], ["b " * 40, "-20"]]
    print_table(head, rows)
    plain = capsys.readouterr().out.splitlines()
    assert len(plain) == 3
    assert plain[1].startswith("[red]a[/red]")
    assert plain[1].endswith("  1.5")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "50")
    print_table(head, rows)
    fitted = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "[red]a[/red]" in fitted
    assert max(map(len, fitted.splitlines())) <= 50


def test_conf_dir_has_a_configuration_for_every_command() -> None:
    assert {path.stem for path in conf_dir().glob("*.yaml")} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every setting with its comment, and the choices of the groups that it takes."""
    main([command, "--help"])
    out = capsys.readouterr().out
    config = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text())
    groups_of = {k for d in config["defaults"] if isinstance(d, dict) for k in d if not k.startswith("override")}
    assert all(re.search(rf"^  {key}: ", out, re.M) for key in config if key not in ("defaults", "hydra"))
    assert all(name in out for group in groups_of for name in options(group))
    assert ("sampler " in out) == ("sampler" in groups_of)
    assert "hydra:" not in out


@pytest.mark.parametrize("how", ["--config-dir", "hydra.searchpath", "file", "--config-name"])
def test_choices_of_further_folders(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lists, completion and help know what `--config-dir` and `hydra.searchpath` add, from a file's hydra block too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "network").mkdir(parents=True)
    (tmp_path / "my" / "network" / "mine.yaml").write_text("# My own.\n_target_: scoresde.networks.MLP\ngain: 2\n")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "own.yaml").write_text("defaults: [train, _self_]\nhydra: {searchpath: [my]}\n")
    where = {
        "--config-dir": ["--config-dir", "my"],
        "hydra.searchpath": ["hydra.searchpath=[my]"],
        "file": [f"hydra.searchpath=[file://{tmp_path}/my]"],
        "--config-name": ["--config-dir=top", "-cn", "own"],
    }[how]
    main(["list", *where, "networks"])
    assert re.search(r"^network=mine +My own\.$", capsys.readouterr().out, re.M)
    main(["train", *where, "--help"])
    names = ["default", *sorted({"mine", *options("network")} - {"default"})]
    found = re.search(r"^  network +(.*(?:\n {8,}\S.*)*)$", capsys.readouterr().out, re.M)
    assert found is not None
    assert " ".join(found[1].split()).split(", ") == names
    assert complete(["train", *where, "network=m"]) == [
        "network=mine",
        "network=mlp",
        "network=mlp_classifier",
        "network=mlp_levels",
    ]
    assert complete(["train", *where, "network=mine", "network.ga"]) == ["network.gain="]
    with pytest.raises(SystemExit):
        main(["train", *where, "network=mien"])
    expected = ", ".join(sorted({"mine", *options("network")}))
    assert f"did you mean 'mine'?; expected one of {expected}" in capsys.readouterr().err
    main(["train", *where, "network=mine", "~network.gain", "--cfg", "job", "--package", "network"])
    assert "scoresde.networks.MLP" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["list", "hydra.searchpath=[nowhere]"])
    assert "there is no folder 'nowhere' of configurations" in capsys.readouterr().err


def test_completed_run_directories_reach_hydra_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a=b").mkdir(parents=True)
    (tmp_path / "runs" / "a=b" / "config.yaml").touch()
    assert complete(["sample", "run="]) == ['run="runs/a=b"']
