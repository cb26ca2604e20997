"""What commands take and refuse, without running them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from scoresde.cli import COMMANDS, conf_dir
from scoresde.cli.command_line import CommandLine, parse_overrides
from scoresde.cli.console import UsageError
from scoresde.cli.overrides import check_overrides, edit_own
from scoresde.cli.settings import apply_changes, declared
from scoresde.runs.directory import Run

pytestmark = pytest.mark.slow


def check(command: str, *arguments: str) -> None:
    check_overrides(edit_own(CommandLine.of(command, arguments)))


def refused(command: str, *arguments: str) -> str:
    with pytest.raises(UsageError) as error:
        check(command, *arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run directory that commands are given of which nothing is read."""
    (tmp_path / "somewhere").mkdir()
    (tmp_path / "somewhere" / "config.yaml").write_text("{}\n")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run directory without weights: only its configuration is read here."""
    config: dict[str, Any] = {
        group: OmegaConf.load(conf_dir() / group / f"{name}.yaml")
        for group, name in (
            ("data", "two_moons"), ("sde", "vp"), ("network", "mlp"), ("preconditioning", "edm"), ("sampler", "pc"),
            ("objective", "likelihood"), ("optimizer", "adamw"), ("training", "default"), ("logger", "local"),
        )
    }  # fmt: skip
    # As an older version wrote it.
    config["evaluation"] = {"samples": 10, "draws": 1, "of_an_older_version": 3}
    made = Run(tmp_path / "run", OmegaConf.create(config))
    made.write_config()
    return f"run={made.directory}"


def of_a_run(command: str) -> list[str]:
    """The directory of a run, for the commands that need one."""
    return [] if command in ("train", "suggest", "certify", "encode") else ["run=somewhere"]


# -- keys that nothing reads ----------------------------------------------------------------------------


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_key_that_nothing_reads_is_refused(command: str, plus: str) -> None:
    known = ", ".join([*declared(command)[0], *declared(command)[1]])
    message = refused(command, *of_a_run(command), f"{plus}quux=3")
    assert message == f"{command} has no 'quux'; it takes {known}"
    assert f"{command} has no 'bar'" in refused(command, *of_a_run(command), f"{plus}bar.baz=[1,2]")
    assert f"{command} has no 'experiment'" in refused(command, *of_a_run(command), "++experiment.width=3")


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        ("sample", "+lable=3", "sample has no 'lable', did you mean label=3?"),
        ("train", "steps=5", "train has no 'steps', did you mean training.steps=5?"),
        (
            "train",
            "+batch_size=5",
            "train has no 'batch_size', did you mean training.batch_size=5 or evaluation.batch_size=5?",
        ),
        ("train", "lr=1e-3", "train has no 'lr', did you mean optimizer.lr=1e-3?"),
        ("sample", "+xyz=2", "sample has no 'xyz'; it takes run, n"),
        ("compare", "sampler=heun", "compare has no 'sampler', did you mean samplers=[heun]?"),
        ("compare", "+sampler=heun", "compare has no 'sampler', did you mean samplers=[heun]?"),
        ("compare", "step=5", "compare has no 'step', did you mean steps=[5]?"),
        ("evaluate", "++samplr.grid.steps=5", "evaluate has no 'samplr', did you mean sampler.grid.steps=5?"),
        ("sample", "+sampler=heun", "'+sampler=heun': sampler is chosen without +: sampler=heun"),
        ("sample", "sampler=null", "'sampler=null': leave it out, no sampler is chosen unless you name one"),
        ("sample", "+n=5", "'+n=5': n is there already, leave out the +"),
        ("train", "network.dropuot=.1", "network.dropuot: UNet has no 'dropuot', did you mean network.dropout?"),
        ("train", "+network.dropuot=.1", "network.dropuot: UNet has no 'dropuot', did you mean network.dropout?"),
        ("train", "++network.embedding.dmi=8", "network.embedding.dmi: FourierFeatures has no 'dmi', did you mean"),
        ("train", "+evaluation.drawz=8", "evaluation has no 'drawz', did you mean 'draws'"),
        ("train", "evaluation.drawz=8", "evaluation has no 'drawz', did you mean 'draws'"),
        ("train", "optimizer.betas1=8", "optimizer.betas1: AdamW has no 'betas1', did you mean optimizer.betas?"),
        ("train", "sampler.grid.t_max=.9", "write +sampler.grid.t_max=.9"),
        ("train", "~sampler.grid.step", "Could not delete from config"),
        ("sample", "~seed", "~seed takes away what `scoresde sample` reads: leave it out"),
        ("train", "data=npz", "data.path is missing: give data.path=VALUE"),
    ],
)
def test_the_nearest_that_is_read_is_named(command: str, given: str, message: str) -> None:
    said = refused(command, *([] if command == "train" else ["run=somewhere"]), given)
    assert message in said or said.startswith("'~sampler.grid.step': there is no sampler.grid.step")
    # No advice that would be refused in its turn.
    for advice in re.findall(r"write (\S+)", said):
        check(command, advice)


@pytest.mark.parametrize(
    "arguments",
    [
        ["+data.n_train=5", "data=two_moons", "network=mlp"],
        ["++training.steps=5"],
        ["+sampler.noise=brownian"],
        ["~sampler.denoise"],
        ["~experiment"],
        ["experiment=ring", "logger=wandb", "sampler=tuned"],
        ["hydra.sweep.dir=there", "+hydra.job.env_set.A=b"],
        ["runs=5", "name=7", "resume=null", "resume=true"],
        ["optimizer=sgd", "+optimizer.nesterov=true", "optimizer.lr=1"],
        ["evaluation.samples=null", "evaluation.tol=1", "evaluation.divergence._target_=scoresde.likelihood.Exact",
         "~evaluation.divergence.probes"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_read_is_taken(arguments: list[str]) -> None:
    check("train", *arguments)


def test_settings_of_every_command_are_of_their_own_types() -> None:
    for command in COMMANDS:
        check(command, *of_a_run(command))


# -- types ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        ("train", "training.compile=no", "training.compile is 'no', expected true or false"),
        ("train", "training.bf16=off", "training.bf16 is 'off', expected true or false"),
        ("train", "training.stratified=on", "training.stratified is 'on', expected true or false"),
        ("train", "sampler.denoise=yes", "sampler.denoise is 'yes', expected true or false"),
        ("train", "training.dequantise='\"true\"'", "training.dequantise is '\"true\"', expected true or false"),
        ("train", "evaluation.pictures=no", "evaluation.pictures is 'no', expected true or false"),
        ("train", "evaluation.samples=1.5", "evaluation.samples is 1.5, expected an integer of at least 0 or null"),
        ("train", "evaluation.divergence.probes=few", "evaluation.divergence.probes is 'few', expected an integer"),
        ("train", "training.ema.relative_std=x", "training.ema.relative_std is 'x', expected a number"),
        ("train", "training.steps=2.5", "training.steps is 2.5, expected an integer"),
        ("train", "optimizer.lr=1e-3x", "optimizer.lr is '1e-3x', expected a number"),
        ("train", "network.multipliers=[1,two]", "network.multipliers is [1, 'two'], expected a list, each a number"),
        ("train", "progress=no", "progress is 'no', expected true or false"),
        ("train", "resume=no", "resume is 'no', expected true or false or null"),
        ("train", "allow=mine", "allow is 'mine', expected a list, each text"),
        ("train", "sampler.solver=heun", "sampler.solver is 'heun', expected a Solver, as a mapping with _target_"),
        ("sample", "n=many", "n is 'many', expected an integer of at least 1"),
        ("sample", "seed=1.5", "seed is 1.5, expected an integer of at least 0 and below 2**63"),
        ("sample", "device=true", "device is true, expected cpu, cuda, cuda:N, xpu, mps or null"),
        ("train", "device=gpu", "device is 'gpu', expected cpu, cuda, cuda:N, xpu, mps or null"),
        ("train", "device=cpu:x", "device is 'cpu:x', expected cpu, cuda, cuda:N, xpu, mps or null"),
        ("train", "training.device=cuda", "training has no 'device', which is the command's own: write device=cuda"),
        ("train", "training.steps=0", "training.steps is 0, expected an integer of at least 1"),
        ("train", "training.final_lr=2", "training.final_lr is 2, expected a number from 0 to 1"),
        ("train", "training.clip=0", "training.clip is 0, expected a positive number or null"),
        ("train", "optimizer.lr=0", "optimizer.lr is 0, expected a positive number"),
        (
            "train",
            "optimizer.betas=[1,2]",
            "optimizer.betas is [1, 2], expected a list of 2: a number from 0 to 1, a number from 0 to 1",
        ),
        ("train", "evaluation.decoder=foo", "evaluation.decoder is 'foo', expected 'rounding' or 'gaussian'"),
        ("train", "evaluation.bound=foo", "evaluation.bound is 'foo', expected 'average' or 'importance'"),
        ("train", "evaluation.elbo_draws=-1", "evaluation.elbo_draws is -1, expected an integer of at least 0"),
        ("train", "evaluation.seed=null", "evaluation.seed is null, expected an integer of at least 0 and below 2**63"),
        ("train", "evaluation.divergence=null", "evaluation.divergence is null, expected a mapping"),
        ("train", "sampler.solver=null", "sampler.solver is null, expected a Solver, as a mapping with _target_"),
        (
            "train",
            "objective.weighting=foo",
            "objective.weighting is 'foo', expected a Weighting, as a mapping with _target_ or null",
        ),
        (
            "train",
            "sde=[vp,ve]",
            "'sde=[vp,ve]': expected one of betas, binomial, categorical, cosine, cosine_ddpm, ddpm, edm, erasure, "
            "flow, ncsn, shifted, shifted_cosine, sigmas, subvp, ve, vp",
        ),
        (
            "train",
            "network.embedding=[1,2]",
            "'network.embedding=[1,2]': network.embedding is a mapping, of which "
            "network.embedding.NAME=VALUE changes a value",
        ),
        (
            "compare",
            "steps=[0]",
            "steps is [0], expected an integer of at least 1 or a list, each an integer of at least 1",
        ),
        (
            "compare",
            "seeds=[]",
            "seeds is empty, expected an integer of at least 0 and below 2**63 or a list, each an "
            "integer of at least 0 and below 2**63",
        ),
        ("sample", "label=[1,2]", "label is [1, 2], expected an integer or text or null"),
        ("tune", "iterations=0", "iterations is 0, expected an integer of at least 1 or null"),
        ("tune", "starts=3", "starts is 3, expected an integer of at least 8 or null"),
        ("evaluate", "seed=.nan", "seed is '.nan', expected an integer of at least 0 and below 2**63"),
        ("dequantise", "level=.inf", "level is '.inf', expected a positive number"),
        (
            "compare",
            "steps=[5,x]",
            "steps is [5, 'x'], expected an integer of at least 1 or a list, each an integer of at least 1",
        ),
        ("likelihood", "tol=small", "tol is 'small', expected a positive number or null"),
        ("likelihood", "divergence.probes=off", "divergence.probes is 'off', expected an integer"),
        ("evaluate", "fail_fast=off", "fail_fast is 'off', expected true or false"),
        ("tune", "coefficients=off", "coefficients is 'off', expected true or false"),
        ("dequantise", "lr=high", "lr is 'high', expected a positive number"),
        ("report", "pictures=no", "pictures is 'no', expected true or false"),
    ],
)
def test_a_value_of_another_type_is_refused(command: str, given: str, message: str) -> None:
    assert refused(command, *([] if command == "train" else ["run=somewhere"]), given) == message


def test_values_of_a_sweep_are_checked_before_its_first_job() -> None:
    check("train", "-m", "training.compile=true,false", "optimizer.lr=interval(1e-4,1e-3)")
    assert refused("train", "-m", "training.compile=true,no") == "training.compile is 'no', expected true or false"
    assert "DPM has no" not in refused("sample", "run=a", "-m", "sampler=heun,rk4", "sampler.denoise=no")


# -- a user's own configuration -------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for `--config-dir`, with a network of the user's own."""
    (tmp_path / "own_net.py").write_text(
        "class Net:\n    def __init__(self, shape, width: int = 3, skip: bool = True, gain: float = 1.0):\n"
        "        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        "network/mine.yaml": {"_target_": "own_net.Net", "width": 5},
        "network/shared.yaml": {"_target_": "own_net.Net", "width": "${width}"},
        "training/wrong.yaml": {"_target_": "scoresde.training.Training", "compile": "no"},
        "evaluation/none.yaml": {"samples": 0, "likelihood": 0, "picturse": False},
        "extra/wide.yaml": {"network": {"width": 64}},
        "extra/unread.yaml": {"widht": 64},
    }
    for name, content in files.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        head = "# @package _global_\n" if name.startswith("extra") else ""
        path.write_text(head + yaml.safe_dump(content))
    return tmp_path / "conf"


@pytest.mark.parametrize("how", ["--config-dir", "--config-dir=", "-cd", "hydra.searchpath"])
def test_a_folder_of_a_users_own(own: Path, how: str) -> None:
    flags = {"--config-dir=": [f"--config-dir={own}"], "hydra.searchpath": [f"hydra.searchpath=[file://{own}]"]}
    where = flags.get(how, [how, str(own)])
    mine = [*where, "network=mine", "allow=[own_net]"]
    check("train", *mine)
    check("train", *mine, "network.width=7", "+network.skip=false", "++network.gain=2", "+extra=wide")
    # An auxiliary value is read by interpolation.
    check("train", *where, "network=shared", "allow=[own_net]", "+width=7")
    assert refused("train", *mine, "+width=7").startswith("train has no 'width'")
    assert refused("train", *mine, "+network.skip=no") == "network.skip is 'no', expected true or false"
    assert refused("train", *mine, "network.widht=7").startswith(
        "network.widht: Net has no 'widht', did you mean network.width?; it takes shape, width, skip, gain"
    )
    assert "write +network.gain=2" in refused("train", *mine, "network.gain=2")
    assert "'own_net.Net' is not allowed" in refused("train", *where, "network=mine")
    assert "network has no choice 'mien', did you mean 'mine'" in refused("train", *where, "network=mien")
    assert refused("train", *where, "training=wrong") == "training.compile is 'no', expected true or false"
    assert refused("train", *where, "evaluation=none").startswith("evaluation has no 'picturse', did you mean")
    assert refused("train", *where, "+extra=unread").startswith(f"{own}/extra/unread.yaml: train has no 'widht'")
    assert refused("train", *where, "+foo=3").startswith("train has no 'foo'")


def test_a_configuration_of_a_users_own(own: Path) -> None:
    (own / "mine.yaml").write_text("defaults:\n  - train\n  - override network: mlp\n  - _self_\nruns: there\n")
    check("train", "--config-dir", str(own), "--config-name", "mine", "data=two_moons")
    assert refused("train", "--config-dir", str(own), "--config-name", "mine", "+foo=1").startswith(
        "train has no 'foo'"
    )


# -- groups of the run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["sample", "evaluate", "train"])
def test_keys_of_the_runs_own_sampler(command: str, run: str) -> None:
    # Only its predictor-corrector has a corrector; the command's default has none.
    for key in ("sampler.solver.corrector.snr=.1", "+sampler.grid.t_min=.1", "sampler.grid.t_min=.1"):
        check(command, run, key)
        check(command, "-m", run, key.replace(".1", ".1,.2"))
    message = refused(command, run, "sampler.solver.corrector.snrr=.1")
    assert message.startswith("sampler.solver.corrector.snrr: Langevin has no 'snrr', did you mean sampler.solver.")
    assert refused(command, run, "sampler.denoise=no") == "sampler.denoise is 'no', expected true or false"
    assert "KarrasGrid has no 'stesp'" in refused(command, run, "sampler=heun", "++sampler.grid.stesp=3")
    assert "no sampler.grid.steps; choose sampler=NAME first" in refused("sample", run, "~sampler.grid.steps")
    assert "nowhere does not exist" in refused(command, "run=nowhere", "sampler.grid.steps=3")


def test_a_run_that_is_continued(run: str) -> None:
    check("train", run, "training.steps=5", "evaluation.samples=3", "logger=wandb", "logger.wandb.project=x")
    assert refused("train", run, "training.steps=no") == "training.steps is 'no', expected an integer"
    assert "evaluation has no 'smaples'" in refused("train", run, "evaluation.smaples=3")
    for change in ("sde=ve", "training.seed=3", "network.width=3", "+data.n_train=3", "training=default"):
        key = change.lstrip("+").partition("=")[0]
        assert refused("train", run, change) == (
            f"{change.lstrip('+')}: a run that is continued keeps its {key}; start a new run to change it"
        )


def test_changes_of_a_run() -> None:
    own = OmegaConf.create({"training": {"steps": 3, "clip": 1.0}, "sampler": {"a": 1}, "logger": {"b": 2}})
    chosen = OmegaConf.create({"sampler": {"c": 5}})
    given = ["sampler=other", "sampler.c=5", "~training.clip", "++training.steps=9", "logger.b=3", "progress=false"]
    apply_changes(own, chosen, parse_overrides(given))
    assert own == {"training": {"steps": 9}, "sampler": {"c": 5}, "logger": {"b": 3}}
