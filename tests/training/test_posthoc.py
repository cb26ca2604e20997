"""Averages of the weights that are made after training, against those that were tracked during it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde.data import two_moons
from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE
from scoresde.storage.bounded import CheckpointError, DamagedFile
from scoresde.storage.tensors import load_metadata, load_tensors, save_tensors
from scoresde.training import make_trainer
from scoresde.training.ema import EMA, HalfLife, PowerFunction, Profile
from scoresde.training.loop import Trainer
from scoresde.training.posthoc import combination, posthoc_averages
from scoresde.training.snapshots import snapshots
from tests.problems import Once

DATA = two_moons(n_train=200, n_test=8)
EVERY, LAST = 2, 200
TRACKED: dict[str, Profile] = {
    "0.03": PowerFunction(0.03),
    "0.05": PowerFunction(0.05),
    "0.075": PowerFunction(0.075),
    "0.15": PowerFunction(0.15),
    "half-life": HalfLife(8.0, ramp_up=None),
    "ramp-up": HalfLife(20.0, ramp_up=0.05),
}


def trainer(folder: Path | None, **options: Any) -> Trainer:
    torch.manual_seed(0)
    model = NetworkScore(MLP((2,), width=8, blocks=1), VPSDE(), EDMPreconditioning(0.5))
    return make_trainer(model, DATA, LAST + 1, run_dir=folder, **{"batch_size": 16, "snapshots": EVERY, **options})


@pytest.fixture(scope="module")
def trained(once: Once) -> Path:
    """A folder with `snapshots`, and the averages that were tracked up to step `LAST` in tracked.safetensors."""

    def make(folder: Path) -> None:
        course = trainer(folder)
        tracked = {name: EMA(course.bare, profile) for name, profile in TRACKED.items()}
        for step in course.steps():
            for average in tracked.values():
                average.update(step.step)
            if step.step == LAST:
                break
        course.save()
        named = {f"{name}/{key}": v for name, ema in tracked.items() for key, v in ema.state_dict().items()}
        save_tensors(folder / "tracked.safetensors", named, {})

    return once("posthoc", make)


def tracked(folder: Path, name: str) -> dict[str, Tensor]:
    tensors = load_tensors(folder / "tracked.safetensors")
    return {key.removeprefix(f"{name}/"): v for key, v in tensors.items() if key.startswith(f"{name}/")}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_any_average_is_the_one_that_is_tracked(trained: Path) -> None:
    averages = posthoc_averages(trained / "snapshots", list(TRACKED.values()))
    for name, average in zip(TRACKED, averages, strict=True):
        assert average.step == LAST
        assert distance(average.tensors, tracked(trained, name)) < 1e-6, name
    # They do differ, by more than their difference from those that are tracked.
    assert distance(averages[0].tensors, averages[3].tensors) > 1e-3


def test_a_profile_in_the_snapshots_is_there_as_it_is(trained: Path) -> None:
    (average,) = posthoc_averages(trained / "snapshots", [0.05])
    assert average.residual < 1e-9
    assert distance(average.tensors, tracked(trained, "0.05")) == 0


def test_an_average_up_to_an_earlier_step(trained: Path) -> None:
    course = trainer(None, snapshots=None, ema=PowerFunction(0.08))
    for step in course.steps():
        if step.step == 120:
            break
    (average,) = posthoc_averages(trained / "snapshots", [0.08], step=120)
    assert average.step == 120
    assert distance(average.tensors, course.ema.state_dict()) < 2e-6


def test_the_combined_profile_by_itself() -> None:
    """The residual is that of the weights of the single steps, which a loop over them gives."""
    known = [(step, PowerFunction(std)) for step in range(10, 101, 10) for std in (0.05, 0.1)]
    wanted = PowerFunction(0.07)
    made = combination(known, wanted, 100)

    def weights(profile: Profile, last: int) -> np.ndarray:
        decays = np.array([profile.decay(step) for step in range(1, last + 1)])
        own = (1 - decays) * np.append(np.cumprod(decays[::-1])[::-1][1:], 1.0)
        return np.append(own, np.zeros(100 - last))

    mixed = sum(c * weights(profile, last) for c, (last, profile) in zip(made.coefficients, known, strict=True))
    assert made.coefficients.sum() == pytest.approx(1, abs=1e-7)
    assert made.residual == pytest.approx(0.5 * np.abs(mixed - weights(wanted, 100)).sum(), rel=1e-6)
    assert 1e-4 < made.residual < 0.01
    # Twice the snapshots, a quarter of the residual.
    more = combination([(s, PowerFunction(std)) for s in range(5, 101, 5) for std in (0.05, 0.1)], wanted, 100)
    assert more.residual < 0.4 * made.residual


@pytest.mark.parametrize("profile", [PowerFunction(0.05), HalfLife(30.0), HalfLife(30.0, ramp_up=None)])
def test_shares_are_sums_of_weights(profile: Profile) -> None:
    decays = np.array([profile.decay(step) for step in range(1, 51)])
    weights = (1 - decays) * np.append(np.cumprod(decays[::-1])[::-1][1:], 1.0)
    steps = np.arange(51)
    initial = np.prod(decays)
    np.testing.assert_allclose(profile.share(steps, 50), initial + np.append(0, np.cumsum(weights)), atol=1e-12)
    np.testing.assert_allclose(profile.share(steps, 50), Profile.share(profile, steps, 50), atol=1e-12)


def test_a_resumed_training_has_the_same_snapshots(trained: Path, tmp_path: Path) -> None:
    first = trainer(tmp_path)
    for step in first.steps():
        if step.step == 30:
            first.save()
        if step.step == 37:  # on the way to 40, when it is killed
            break
    (tmp_path / "snapshots" / ".step-000000038.safetensors.abcdefgh").write_bytes(b"cut short")
    assert snapshots(tmp_path / "snapshots")[-1].step == 36
    second = trainer(tmp_path)
    steps = second.steps()
    next(steps)
    assert second.step == 31
    assert [s.step for s in snapshots(tmp_path / "snapshots")] == list(range(EVERY, 31, EVERY))
    for step in steps:
        if step.step == 40:
            break
    assert not list((tmp_path / "snapshots").glob(".*"))
    for one, other in zip(snapshots(tmp_path / "snapshots"), snapshots(trained / "snapshots"), strict=False):
        assert load_metadata(one.path)["digest"] == load_metadata(other.path)["digest"]


def test_the_last_step_has_a_snapshot(tmp_path: Path) -> None:
    course = trainer(tmp_path, snapshots=150)
    for _ in course.steps():
        pass
    assert [s.step for s in snapshots(tmp_path / "snapshots")] == [150, LAST + 1]


def test_what_is_refused(trained: Path, tmp_path: Path) -> None:
    folder = trained / "snapshots"
    with pytest.raises(ValueError, match="relative_std is 0.3, expected between 0 and 0.2887"):
        posthoc_averages(folder, [0.3])
    few = tmp_path / "few"
    few.mkdir()
    for step in range(40, LAST + 1, 40):
        shutil.copy(folder / f"step-{step:09d}.safetensors", few)
    with pytest.raises(ValueError, match=r"5 snapshots up to step 200 cannot express std=0\.02: 0\.\d+ of its weight"):
        posthoc_averages(few, [0.02])
    assert 0.01 < posthoc_averages(few, [0.02], tol=1.0)[0].residual < 1
    with pytest.raises(ValueError, match="no snapshot of step 33: the nearest is of step 32"):
        posthoc_averages(folder, [0.05], step=33)
    with pytest.raises(ValueError, match=r"has no snapshots .*: train with training\.snapshots=N"):
        posthoc_averages(tmp_path, [0.05])
    with pytest.raises(ValueError, match=r"training\.snapshots is 2, and there is no directory"):
        trainer(None)
    with pytest.raises(ValueError, match=r"snapshot_stds is \[0\.05, 0\.5\], expected a list, each a number"):
        trainer(tmp_path, snapshot_stds=(0.05, 0.5))


def test_damage_is_named(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained / "snapshots", tmp_path / "snapshots")
    path = folder / "step-000000100.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"step-000000100\.safetensors is damaged"):
        posthoc_averages(folder, [0.05])
    path.write_bytes(content[:100])
    with pytest.raises(CheckpointError, match="cannot be read as a snapshot of averaged weights: remove it"):
        posthoc_averages(folder, [0.05])
    save_tensors(path, {"0.05/a": torch.zeros(2)}, {"format": "scoresde-snapshot-1", "stds": "[0.05]"})
    with pytest.raises(CheckpointError, match="another network than the snapshot"):
        posthoc_averages(folder, [0.05])
    path.unlink()
    assert posthoc_averages(folder, [0.05])[0].step == LAST


def test_averages_cannot_begin_in_the_middle(trained: Path, tmp_path: Path) -> None:
    without = trainer(tmp_path, snapshots=None)
    for step in without.steps():
        if step.step == 3:
            without.save()
            break
    with pytest.raises(ValueError, match=r"it has no averages for snapshots .*from the first step on"):
        next(trainer(tmp_path).steps())
    # They can end.
    shutil.copytree(trained / "checkpoints", tmp_path / "other" / "checkpoints")
    next(trainer(tmp_path / "other", snapshots=None).steps())
