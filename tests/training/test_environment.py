"""What the environment says does not change what a configuration gives."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scoresde.cli import application, main
from scoresde.networks import MLP
from scoresde.training.checkpoint import latest_checkpoint, load_checkpoint
from scoresde.training.environment import ONEDNN, default_types, own_precision, processes

# What `accelerate launch` sets, from its options or a saved configuration, and what torch reads.
LOUD = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "ACCELERATE_USE_CPU": "true",
}
PROGRAM = """
import sys
from pathlib import Path
import torch
from accelerate import Accelerator
from scoresde.data import digits
from scoresde.networks import UNet
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE
from scoresde.training import fit
from scoresde.training.environment import own_precision
own_precision()
if sys.argv[2:] == ["first"]:  # other code of the process was there before
    Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2, cpu=True)
torch.manual_seed(0)
network = UNet((1, 8, 8), channels=8, multipliers=(1, 1), blocks=1)
model = NetworkScore(network, VPSDE(), EDMPreconditioning())
fit(model, digits(), 4, batch_size=16, warmup=0, clip=0.1, run_dir=sys.argv[1], progress=False)
x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
print(model.denoise(x, torch.tensor([0.3])).double().sum().item().hex())
"""


def trained(folder: Path, *arguments: str, **environment: str) -> tuple[str, dict[str, torch.Tensor]]:
    plain = {k: v for k, v in os.environ.items() if k not in LOUD}
    command = [sys.executable, "-c", PROGRAM, str(folder), *arguments]
    env = {**plain, "CUDA_VISIBLE_DEVICES": "", **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    path = latest_checkpoint(folder / "checkpoints")
    assert path is not None
    return done.stdout.strip(), load_checkpoint(path)["network"]


@pytest.mark.slow
def test_precision_and_steps_are_the_configurations(tmp_path: Path) -> None:
    plain, weights = trained(tmp_path / "plain")
    value, other = trained(tmp_path / "loud", "first", **LOUD)
    assert value == plain
    assert all(torch.equal(other[key], weight) for key, weight in weights.items())


def test_own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        own_precision()
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)
    for name in ONEDNN:
        monkeypatch.setenv(name, "STRICT")
        own_precision()
        monkeypatch.setenv(name, "BF16")
        with pytest.raises(ValueError, match=f"the environment variable {name} is BF16: .*; unset it"):
            own_precision()
        monkeypatch.delenv(name)


def test_the_command_drops_what_would_be_read_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.setattr(application, "run", lambda *a: seen.extend(map(os.environ.get, ONEDNN)))
    for name in ONEDNN:
        monkeypatch.setenv(name, "BF16")
    monkeypatch.delitem(sys.modules, "torch")
    main(["sample", "run=x"])
    assert seen == [None, None]


def test_defaults_that_other_code_has_set() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with default_types():
            network = MLP((2,), width=16, blocks=1)
        assert {(p.dtype, p.device.type) for p in network.parameters()} == {(torch.float32, "cpu")}
        assert torch.get_default_dtype() is torch.float64
        assert torch.zeros(1).device.type == "meta"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_one_process_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    found = processes()
    assert (found.num_processes, found.process_index, found.is_main_process) == (1, 0, True)


@pytest.mark.parametrize("count", [1, 2])
def test_several_processes_leave_their_group_when_the_program_ends(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[object] = []
    state = SimpleNamespace(num_processes=count, destroy_process_group=object())
    monkeypatch.setattr("accelerate.PartialState", lambda cpu: state)
    monkeypatch.setattr("atexit.register", left.append)
    processes()
    assert left == [state.destroy_process_group] * (count - 1)
