"""Also a program: `test_loop.py FOLDER` trains there, as one of several processes."""

import copy
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scoresde import progress
from scoresde.data import Data, batch_indices, digits, two_moons
from scoresde.networks import MLP, UNet
from scoresde.objectives import DenoisingScoreMatching, Loss, VariationalBound
from scoresde.preconditioning import EDMPreconditioning, NoisePreconditioning, Preconditioning
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE, ErasureVPSDE
from scoresde.statistics import Statistics
from scoresde.storage.bounded import CheckpointError
from scoresde.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from scoresde.training.ema import HalfLife
from scoresde.training.held_out import HeldOutLoss
from scoresde.training.loggers import LocalLogger, Logger
from scoresde.training.loop import Interrupted, Trainer, TrainingFailed
from scoresde.training.messages import opening
from scoresde.training.noise_levels import NoiseLevels
from scoresde.training.options import Training

DATA = two_moons(n_train=200, n_test=8)
Optimizer = Callable[[Any], torch.optim.Optimizer]


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.99), fused=True)


def adamw_plain(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.99), fused=False)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, fused=True)


def sgd_plain(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, fused=False)


class Recorder(Logger):
    """Keeps what is logged, and does something at a step."""

    def __init__(self, at: int | None = None, action: Callable[[], Any] | None = None) -> None:
        self.lines: list[dict[str, Any]] = []
        self.at, self.action = at, action

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        pass

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        self.lines.append({"step": step, **values})
        if step == self.at and self.action is not None:
            self.action()


class Spy(DenoisingScoreMatching):
    """Keeps what each step is given, with the weights before it, and spoils the loss of some steps."""

    def __init__(self, spoil: Callable[[int], float] = lambda step: 1.0) -> None:
        super().__init__()
        self.spoil = spoil
        self.calls: list[SimpleNamespace] = []

    def __call__(self, model: Any, x0: Tensor, generator: Any = None, **given: Any) -> Loss:
        before = {k: v.detach().clone() for k, v in model.network.named_parameters()}
        self.calls.append(SimpleNamespace(x0=x0, generator=generator, weights=before, **given))
        loss = super().__call__(model, x0, generator, **given)
        return loss._replace(value=loss.value * self.spoil(len(self.calls) - 1))


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def make(
    run_dir: Path,
    *,
    data: Data = DATA,
    objective: Any = None,
    optimizer: Optimizer = adamw,
    loggers: list[Logger] | None = None,
    network: nn.Module | None = None,
    preconditioning: Preconditioning | None = None,
    dropout: float = 0.2,
    init: int = 0,
    held_out: bool = True,
    **options: Any,
) -> Trainer:
    torch.manual_seed(init)
    network = network or MLP(data.shape, width=16, blocks=1, dropout=dropout)
    statistics = Statistics.estimate(data.transform.encode(data.train))
    model = NetworkScore(network, VPSDE(), preconditioning or EDMPreconditioning(), statistics)
    settings: dict[str, Any] = {
        "steps": 12, "batch_size": 32, "warmup": 3, "ema": HalfLife(5, None), "checkpoint_every": None, "log_every": 100
    }  # fmt: skip
    return Trainer(
        model,
        objective or DenoisingScoreMatching(),
        data,
        optimizer,
        Training(**{**settings, **options}),
        run_dir,
        loggers or [],
        held_out=held_out and not isinstance(objective, Spy),
    )


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """The newest checkpoint: weights, average and optimiser state, flat."""
    path = latest_checkpoint(trainer.checkpoints)
    assert path is not None
    flat: dict[str, Tensor] = {}

    def walk(node: Any, name: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{name}/{key}")
        elif isinstance(node, (list, tuple)):
            for i, value in enumerate(node):
                walk(value, f"{name}/{i}")
        elif isinstance(node, Tensor):
            flat[name] = node
        elif isinstance(node, (int, float)) and "seconds" not in name:
            flat[name] = torch.tensor(node, dtype=torch.float64)

    walk(load_checkpoint(path), "")
    return flat


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def raise_(error: BaseException) -> None:
    raise error


def interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


# -- options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["steps", "batch_size", "log_every", "keep", "max_skipped", "checkpoint_every"])
@pytest.mark.parametrize("value", [0, -3, 1.5, "abc", True])
def test_counts_are_whole_and_positive(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"training\.{name} is .*, expected .*at least 1") as error:
        Training(**{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", None),
        ("warmup", -1),
        ("warmup", None),
        ("warmup", 2.5),
        ("seed", -1),
        ("seed", "x"),
        ("clip", 0),
        ("clip", -1.0),
        ("clip", math.nan),
        ("clip", "abc"),
        ("final_lr", -0.1),
        ("final_lr", 1.5),
        ("final_lr", math.nan),
        ("decay_after", 0),
        ("ema", None),
        ("ema", 0.999),
    ],
)
def test_other_options_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"training\.{name}"):
        Training(**{name: value})


def test_options_at_their_ends() -> None:
    Training(steps=1, batch_size=1, warmup=0, clip=None, final_lr=1, checkpoint_every=None, keep=1, seed=0)


def test_an_optimizer_that_refuses_its_arguments_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="optimizer: .*-1"):
        make(tmp_path, optimizer=lambda p: torch.optim.AdamW(p, lr=-1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("warmup", "final"), [(4, 0.0), (0, 0.1), (30, 0.0)])
def test_learning_rate(tmp_path: Path, warmup: int, final: float) -> None:
    log = Recorder()
    make(tmp_path, loggers=[log], warmup=warmup, final_lr=final, log_every=1).fit(progress=False)
    expected = []
    for k in range(12):
        if k < warmup:
            expected.append(1e-2 * (k + 1) / warmup)
        else:
            cosine = 0.5 + 0.5 * math.cos(math.pi * (k - warmup) / (12 - warmup))
            expected.append(1e-2 * (final + (1 - final) * cosine))
    assert [line["lr"] for line in log.lines] == pytest.approx(expected, rel=1e-12)


def test_learning_rate_falls_with_the_root_of_the_step() -> None:
    # Karras et al. 2024, eq. 67: α_ref/√max(t/t_ref, 1), after a linear rise.
    options = Training(steps=10_000, warmup=10, final_lr=1, decay_after=100)
    assert [options.lr_factor(step) for step in (0, 4, 9, 50, 100)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert [options.lr_factor(step) for step in (400, 900, 9999)] == pytest.approx([1 / 2, 1 / 3, 0.1], rel=1e-4)


# -- what a step is given -------------------------------------------------------------------------------


def test_half_of_the_images_are_mirrored(tmp_path: Path) -> None:
    data, spies = digits(), (Spy(), Spy(), Spy())
    for spy, flip, name in zip(spies, (False, True, True), "abc", strict=True):
        make(tmp_path / name, data=data, objective=spy, steps=10, flip=flip).fit(progress=False)
    plain, mirrored, again = (torch.cat([call.x0 for call in spy.calls]) for spy in spies)
    changed = (mirrored != plain).flatten(1).any(1)
    assert torch.equal(mirrored[changed], plain[changed].flip(-1))
    assert 120 < int(changed.sum()) < 200  # of 320 with probability 1/2: 160 ± 9
    assert torch.equal(mirrored, again)
    with pytest.raises(ValueError, match=r"training.flip mirrors images, and samples of .* have shape \(2,\)"):
        make(tmp_path / "toy", flip=True)


def test_every_sample_comes_once_an_epoch(tmp_path: Path) -> None:
    spy = Spy()
    make(tmp_path, objective=spy, steps=25).fit(progress=False)  # 25 × 32 = 4 × 200
    seen = torch.cat([call.x0 for call in spy.calls])
    places = torch.cat([batch_indices(200, 32, step, 0) for step in range(25)])
    assert torch.equal(seen, DATA.train[places])
    for epoch in seen.split(200):
        assert sorted(epoch.tolist()) == sorted(DATA.train.tolist())
    assert not torch.equal(seen[:200], seen[200:400])


@pytest.mark.parametrize("stratified", [True, False])
def test_noise_levels_and_noise_of_a_step(tmp_path: Path, stratified: bool) -> None:
    spy = Spy()
    make(tmp_path, objective=spy, steps=40, stratified=stratified).fit(progress=False)
    u = torch.stack([call.u for call in spy.calls])
    noise = torch.cat([call.noise for call in spy.calls])
    assert u.shape == (40, 32)
    assert u.dtype == torch.float64
    assert bool(((u >= 0) & (u < 1)).all())
    gaps = u.sort(1).values.diff(dim=1)
    assert bool(torch.allclose(gaps, torch.full_like(gaps, 1 / 32), atol=1e-12)) == stratified
    assert len(set(u[:, 0].tolist())) == 40  # new levels at each step
    # 1,280 uniforms and 2,560 normals, to five standard errors.
    assert float(u.mean()) == pytest.approx(0.5, abs=5 * (1 / 12 / (40 if stratified else 1280)) ** 0.5)
    assert float(noise.mean()) == pytest.approx(0, abs=5 / 2560**0.5)
    assert float(noise.square().mean()) == pytest.approx(1, abs=5 * (2 / 2560) ** 0.5)
    assert len(noise.unique()) > 2550


def test_seed_and_step_decide_everything(tmp_path: Path) -> None:
    def inputs(seed: int, run: str = "") -> list[Tensor]:
        spy = Spy()
        make(tmp_path / f"{seed}{run}", objective=spy, steps=3, seed=seed).fit(progress=False)
        return [t for call in spy.calls for t in (call.x0, call.u, call.noise)]

    first = inputs(1)
    assert all(torch.equal(a, b) for a, b in zip(first, inputs(1, "again"), strict=True))
    other = inputs(2)
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    # Nor is step k + 1 of seed 1 step k of seed 2.
    assert not any(torch.equal(a, b) for a, b in zip(first[3:], other, strict=False))


@pytest.mark.parametrize("stratified", [True, False])
def test_processes_draw_what_one_would(tmp_path: Path, stratified: bool) -> None:
    trainer = make(tmp_path, stratified=stratified)
    whole = trainer.batches(3)[:3]
    for rank in (0, 1, 2, 3):
        trainer.batches.processes = SimpleNamespace(process_index=rank, num_processes=4, device=torch.device("cpu"))
        part = trainer.batches(3)[:3]
        assert all(torch.equal(w[rank::4], p) for w, p in zip(whole, part, strict=True))


def test_labels_belong_to_their_samples(tmp_path: Path) -> None:
    spy = Spy()
    network = MLP((2,), width=16, blocks=1, num_classes=2)
    make(tmp_path, objective=spy, network=network, steps=5).fit(progress=False)
    moons = {tuple(x): y for x, y in zip(DATA.train.tolist(), DATA.train_labels.tolist(), strict=True)}  # type: ignore[union-attr]
    for call in spy.calls:
        assert [moons[tuple(x)] for x in call.x0.tolist()] == call.labels.tolist()


@pytest.mark.parametrize("dequantise", [True, False])
def test_discrete_data_are_dequantised(tmp_path: Path, dequantise: bool) -> None:
    data = digits()
    spy = Spy()
    make(tmp_path, data=data, objective=spy, steps=2, batch_size=8, dequantise=dequantise).fit(progress=False)
    for step, call in enumerate(spy.calls):
        raw = data.train[batch_indices(len(data.train), 8, step, 0)]
        levels = (call.x0 - data.transform.encode(torch.zeros_like(raw), torch.zeros(raw.shape))) / (
            data.transform.encode(torch.ones_like(raw)) - data.transform.encode(torch.zeros_like(raw))
        )
        offset = levels - raw
        assert float(offset.min()) > -1e-3
        assert float(offset.max()) < 1 + 1e-3
        if dequantise:
            assert 0.25 < float(offset.std()) < 0.33  # uniform: 12^-½ = 0.289
        else:
            torch.testing.assert_close(offset, torch.full_like(offset, 0.5), rtol=0, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 450])
def test_batches_smaller_and_larger_than_usual(tmp_path: Path, batch_size: int) -> None:
    trainer = make(tmp_path, batch_size=batch_size, steps=3)
    trainer.fit(progress=False)
    assert trainer.skipped == 0
    assert all(bool(p.isfinite().all()) for p in trainer.bare.parameters())


# -- going on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("optimizer", [adamw, adamw_plain, sgd])
def test_going_on_gives_the_same_bits(tmp_path: Path, stratified: bool, optimizer: Optimizer) -> None:
    straight = make(tmp_path / "straight", stratified=stratified, optimizer=optimizer)
    straight.fit(progress=False)
    crash = Recorder(at=8, action=lambda: raise_(RuntimeError("crash")))
    broken = make(
        tmp_path / "broken",
        stratified=stratified,
        optimizer=optimizer,
        loggers=[crash],
        log_every=1,
        checkpoint_every=5,
    )
    with pytest.raises(RuntimeError, match="crash"):
        broken.fit(progress=False)
    # Another start, and another state of the global generator: neither may matter.
    again = make(tmp_path / "broken", stratified=stratified, optimizer=optimizer, init=99)
    torch.rand(17)
    again.fit(progress=False)
    assert again.step == 12
    assert_same(everything(straight), everything(again))
    for a, b in zip(straight.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_model_holds_the_average_in_the_end(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.fit(progress=False)
    state = load_checkpoint(latest_checkpoint(trainer.checkpoints))  # type: ignore[arg-type]
    assert trainer.model.network is trainer.bare
    assert not trainer.model.training
    for name, value in trainer.model.network.named_parameters():
        assert torch.equal(value, state["ema"][name])
    assert not torch.equal(state["ema"]["input.weight"], state["network"]["input.weight"])


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    make(tmp_path).fit(progress=False)
    spy = Spy()
    trainer = make(tmp_path, objective=spy, init=5)
    trainer.fit(progress=False)
    assert spy.calls == []
    state = load_checkpoint(latest_checkpoint(tmp_path / "checkpoints"))  # type: ignore[arg-type]
    assert torch.equal(trainer.model.network.input.weight, state["ema"]["input.weight"])


def test_more_steps_continue_the_stream_of_batches(tmp_path: Path) -> None:
    make(tmp_path).fit(progress=False)
    spy, straight = Spy(), Spy()
    make(tmp_path, objective=spy, steps=15).fit(progress=False)
    make(tmp_path / "straight", objective=straight, steps=15).fit(progress=False)
    assert len(spy.calls) == 3
    assert all(torch.equal(a.x0, b.x0) for a, b in zip(spy.calls, straight.calls[12:], strict=True))


def test_checkpoints_come_and_go(tmp_path: Path) -> None:
    make(tmp_path, checkpoint_every=3, keep=2, steps=10).fit(progress=False)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000000009.pt", "step-000000010.pt"]


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    make(tmp_path).fit(progress=False)
    before = (tmp_path / "checkpoints" / "step-000000012.pt").read_bytes()
    with pytest.raises(ValueError, match="step-000000012.pt does not fit this configuration") as error:
        make(tmp_path, network=MLP((2,), width=24, blocks=1), steps=20).fit(progress=False)
    assert "\n" not in str(error.value)
    assert (tmp_path / "checkpoints" / "step-000000012.pt").read_bytes() == before


# -- steps that are skipped -----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [adamw, adamw_plain, sgd, sgd_plain])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, optimizer: Optimizer, bad: float) -> None:
    spoiled = (0, 4, 5, 9)
    spy = Spy(lambda step: bad if step in spoiled else 1.0)
    log = Recorder()
    trainer = make(tmp_path, objective=spy, optimizer=optimizer, loggers=[log], log_every=1)
    trainer.fit(progress=False)
    assert trainer.skipped == 4
    state = load_checkpoint(latest_checkpoint(tmp_path / "checkpoints"))  # type: ignore[arg-type]
    assert state["skipped"] == 4
    after = [call.weights for call in spy.calls[1:]] + [state["network"]]
    for step, call in enumerate(spy.calls):
        same = all(torch.equal(value, after[step][name]) for name, value in call.weights.items())
        assert same == (step in spoiled), step
    assert [line["skipped"] for line in log.lines] == [1, 1, 1, 1, 2, 3, 3, 3, 3, 4, 4, 4]
    assert [math.isnan(line["loss"]) for line in log.lines] == [step in spoiled for step in range(12)]


@pytest.mark.parametrize(("fused", "plain"), [(adamw, adamw_plain), (sgd, sgd_plain)])
def test_fused_optimisers_skip_as_others_do(tmp_path: Path, fused: Optimizer, plain: Optimizer) -> None:
    weights = []
    for name, optimizer in (("fused", fused), ("plain", plain)):
        # The first step too: the optimiser has no state yet then.
        spy = Spy(lambda step: math.nan if step in (0, 1, 6) else 1.0)
        trainer = make(tmp_path / name, objective=spy, optimizer=optimizer)
        trainer.fit(progress=False)
        weights.append(torch.cat([p.detach().flatten() for p in trainer.bare.parameters()]))
    # The same arithmetic in another order: float32 round-off over nine steps of size 1e-2.
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)


def test_losses_that_are_skipped_are_not_in_the_mean(tmp_path: Path) -> None:
    clean, spoiled = Recorder(), Recorder()
    make(tmp_path / "a", loggers=[clean], log_every=1, steps=3).fit(progress=False)
    make(
        tmp_path / "b", objective=Spy(lambda s: math.nan if s == 3 else 1.0), loggers=[spoiled], log_every=4, steps=4
    ).fit(progress=False)
    assert spoiled.lines[0]["loss"] == pytest.approx(sum(line["loss"] for line in clean.lines) / 3, rel=1e-5)


@pytest.mark.parametrize("optimizer", [adamw, adamw_plain])
def test_too_many_in_a_row_end_the_training(tmp_path: Path, optimizer: Optimizer) -> None:
    spy = Spy(lambda step: math.nan if step >= 10 else 1.0)
    log = Recorder()
    trainer = make(
        tmp_path, objective=spy, optimizer=optimizer, loggers=[log], steps=100, checkpoint_every=5, log_every=10
    )
    with pytest.raises(TrainingFailed, match=r"not finite in the 20 steps up to step 30; loss by log-SNR \[") as error:
        trainer.fit(progress=False)
    assert len(spy.calls) == 30
    text = str(error.value)
    assert "\n" not in text
    curve = text.split("[")[1].split("]")[0].split(", ")
    assert len(curve) > 3
    assert all(len(pair.split(": ")) == 2 and float(pair.split(": ")[1]) > 0 for pair in curve)
    good = latest_checkpoint(trainer.checkpoints)
    assert good is not None
    assert text.endswith(f"the last good checkpoint is {good}")
    state = load_checkpoint(good)
    assert state["step"] == 10
    assert all(torch.equal(value, state["network"][name]) for name, value in spy.calls[10].weights.items())
    assert log.lines[-1]["skipped"] == 20
    # What was wrong put right, training goes on from there.
    again = make(tmp_path, optimizer=optimizer, steps=12)
    again.fit(progress=False)
    assert again.step == 12


def test_failure_before_the_first_checkpoint(tmp_path: Path) -> None:
    trainer = make(tmp_path, objective=Spy(lambda step: math.nan), max_skipped=3)
    with pytest.raises(TrainingFailed, match="up to step 3; .*no checkpoint had been written yet"):
        trainer.fit(progress=False)
    assert latest_checkpoint(trainer.checkpoints) is None


def test_a_good_step_starts_the_count_again(tmp_path: Path) -> None:
    trainer = make(tmp_path, objective=Spy(lambda step: math.nan if step % 3 else 1.0), max_skipped=3)
    trainer.fit(progress=False)
    assert trainer.skipped == 8


# -- signals --------------------------------------------------------------------------------------------


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_a_checkpoint_to_go_on_from(tmp_path: Path, number: int) -> None:
    straight = make(tmp_path / "straight")
    straight.fit(progress=False)
    handlers = [signal.getsignal(s) for s in SIGNALS]
    trainer = make(tmp_path / "run", loggers=[Recorder(7, lambda: interrupt(number))], log_every=1)
    with pytest.raises(Interrupted, match="interrupted at step 7") as stop:
        trainer.fit(progress=False)
    assert (stop.value.signum, stop.value.step) == (number, 7)
    assert [signal.getsignal(s) for s in SIGNALS] == handlers
    assert [path.name for path in trainer.checkpoints.iterdir()] == ["step-000000007.pt"]
    again = make(tmp_path / "run", init=3)
    again.fit(progress=False)
    assert_same(everything(straight), everything(again))


def test_a_signal_at_the_last_step_is_not_forgotten(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="interrupted at step 12"):
        make(tmp_path, loggers=[Recorder(12, lambda: interrupt(signal.SIGTERM))], log_every=1).fit(progress=False)
    again = make(tmp_path)
    again.fit(progress=False)
    assert again.step == 12


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU])
def test_signals_that_come_repeatedly_do_not_hasten_the_end(tmp_path: Path, number: int) -> None:
    def some() -> None:
        interrupt(signal.SIGINT)
        interrupt(number)
        interrupt(number)

    with pytest.raises(Interrupted, match="interrupted at step 7") as stop:
        make(tmp_path, loggers=[Recorder(7, some)], log_every=1).fit(progress=False)
    assert stop.value.signum == signal.SIGINT
    assert latest_checkpoint(tmp_path / "checkpoints") is not None


@pytest.fixture
def handler_of() -> Iterator[Callable[[int, Any], None]]:
    """Sets handlers for the time of a test."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield signal.signal  # type: ignore[misc]
    for number, handler in before.items():
        signal.signal(number, handler)


def test_what_is_ignored_stays_ignored(tmp_path: Path, handler_of: Callable[[int, Any], None]) -> None:
    """SIGHUP under nohup."""
    handler_of(signal.SIGHUP, signal.SIG_IGN)
    trainer = make(tmp_path, loggers=[Recorder(7, lambda: interrupt(signal.SIGHUP))], log_every=1)
    trainer.fit(progress=False)
    assert trainer.step == 12


def test_a_handler_of_somebody_else_is_called_with_a_checkpoint_written(
    tmp_path: Path, handler_of: Callable[[int, Any], None]
) -> None:
    """As submitit has them: one lets a signal pass, the other has the job requeued."""
    found: list[tuple[int, list[str]]] = []

    def handler(signum: int, frame: Any) -> None:
        found.append((signum, sorted(path.name for path in (tmp_path / "checkpoints").iterdir())))
        if signum == signal.SIGUSR2:
            sys.exit(144)

    for number in (signal.SIGTERM, signal.SIGUSR2):
        handler_of(number, handler)

    def both() -> None:
        interrupt(signal.SIGTERM)
        interrupt(signal.SIGUSR2)

    at = [Recorder(5, lambda: interrupt(signal.SIGTERM)), Recorder(8, both)]
    trainer = make(tmp_path, loggers=at, log_every=1)
    with pytest.raises(SystemExit, match="144"):
        trainer.fit(progress=False)
    five, eight = "step-000000005.pt", "step-000000008.pt"
    assert found == [(signal.SIGTERM, [five]), (signal.SIGTERM, [five, eight]), (signal.SIGUSR2, [five, eight])]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_the_same_trainer_can_go_on_after_a_signal(tmp_path: Path) -> None:
    trainer = make(tmp_path, loggers=[Recorder(7, interrupt)], log_every=1)
    with pytest.raises(Interrupted):
        trainer.fit(progress=False)
    trainer.fit(progress=False)
    assert trainer.step == 12


def test_handlers_are_restored_after_an_error(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="crash"):
        make(tmp_path, loggers=[Recorder(2, lambda: raise_(RuntimeError("crash")))], log_every=1).fit(progress=False)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, loggers=[Recorder(7, twice)], log_every=1).fit(progress=False)
    assert latest_checkpoint(tmp_path / "checkpoints") is None


def test_an_interrupt_among_skipped_steps_leaves_what_it_says(tmp_path: Path) -> None:
    spy = Spy(lambda step: math.nan if step >= 4 else 1.0)
    with pytest.raises(Interrupted) as stop:
        make(tmp_path, objective=spy, loggers=[Recorder(7, interrupt)], log_every=1).fit(progress=False)
    latest = latest_checkpoint(tmp_path / "checkpoints")
    assert latest is not None
    state = load_checkpoint(latest)
    assert state["step"] == stop.value.step
    assert all(bool(value.isfinite().all()) for value in state["network"].values())


def test_outside_the_main_thread_there_are_no_signals(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    thread = threading.Thread(target=trainer.fit)
    thread.start()
    thread.join()
    assert trainer.step == 12


# -- damaged and doctored checkpoints -------------------------------------------------------------------


def test_the_one_before_a_damaged_checkpoint_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    straight = make(tmp_path / "straight")
    straight.fit(progress=False)
    trainer = make(tmp_path / "run", checkpoint_every=5, keep=2)
    trainer.fit(progress=False)
    newest = trainer.checkpoints / "step-000000012.pt"
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    again = make(tmp_path / "run", init=7, keep=1)
    with caplog.at_level(logging.WARNING):
        again.fit(progress=False)
    (record,) = caplog.records
    text = record.getMessage()
    assert text == f"{newest} is damaged and was set aside as {newest.name}.damaged: resuming from step-000000010.pt"
    assert_same(everything(straight), everything(again))
    names = sorted(path.name for path in again.checkpoints.iterdir())
    assert names == ["step-000000012.pt", "step-000000012.pt.damaged"]
    # No other is left: nothing begins anew without a word.
    newest.write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint.* there is no other: restore one"):
        make(tmp_path / "run").fit(progress=False)
    assert newest.read_bytes() == b""


def change_state(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update(values)


def change(part: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Replace an entry, or drop it."""

    def act(state: dict[str, Any]) -> None:
        node = state["optimizer"]["state"][0] if part == "moments" else state[part]
        if value is None:
            del node[key]
        else:
            node[key] = value(node[key]) if callable(value) else value

    return act


def spoil(x: Tensor) -> Tensor:
    x = x.clone()
    x.view(-1)[-1] = math.nan
    return x


def groups(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state["optimizer"]["param_groups"][0].update(values)


DOCTORED = {
    "exp_avg of parameter 0 is float32 (1,), expected float32": change("moments", "exp_avg", torch.zeros(1)),
    "exp_avg of parameter 0 is bfloat16": change("moments", "exp_avg", lambda x: x.bfloat16()),
    "exp_avg_sq of parameter 0 is float64": change("moments", "exp_avg_sq", lambda x: x.double()),
    "exp_avg_sq of parameter 0 has values that are not finite": change("moments", "exp_avg_sq", spoil),
    "exp_avg_sq of parameter 0 is missing": change("moments", "exp_avg_sq", None),
    "exp_avg_sq of parameter 0 is no tensor": change("moments", "exp_avg_sq", 1.0),
    "step of parameter 0 is float32 (2,), expected float32 ()": change("moments", "step", torch.ones(2)),
    "step of parameter 0 has values": change("moments", "step", torch.tensor(math.inf)),
    "more of parameter 0 is float32 (3,)": change("moments", "more", torch.ones(3)),
    "state of parameter 0 is missing": lambda state: state["optimizer"]["state"].pop(0),
    "state of parameter 1 is missing": lambda state: [state["optimizer"]["state"].pop(i) for i in (1, 2)],
    "is of an unknown parameter 99": lambda state: state["optimizer"]["state"].update({99: {}}),
    "is of an unknown parameter x": lambda state: state["optimizer"]["state"].update({"x": {}}),
    "optimiser's state is missing": change_state(optimizer={"param_groups": []}),
    "other groups of parameters": lambda state: state["optimizer"].update(param_groups=[]),
    "weight_decay is 0.5 in the checkpoint and 0.01 in the configuration": groups(weight_decay=0.5),
    "the network's input.bias is float32 (2,), expected float32 (16,)": change("network", "input.bias", torch.ones(2)),
    "the network's input.weight is float64": change("network", "input.weight", lambda x: x.double()),
    "the network's input.weight has values that are not finite": change("network", "input.weight", spoil),
    "the network's input.weight is missing": change("network", "input.weight", None),
    "the network's more is unknown": lambda state: state["network"].update(more=torch.ones(1)),
    "the network's tensors are missing": change_state(network=None),
    "the average's input.weight is float32 (1, 1)": change("ema", "input.weight", torch.ones(1, 1)),
    "the average's input.bias has values that are not finite": change("ema", "input.bias", spoil),
    "step is -1": change_state(step=-1),
    "step is 'x'": change_state(step="x"),
    "skipped is 13 at step 12": change_state(skipped=13),
    "seconds is nan": change_state(seconds=math.nan),
    "the log's loss is float32 (2,)": change("log", "loss", torch.ones(2)),
    "the log's loss by noise level has values": change("log", "levels", spoil),
    "the log is ahead of the step": change("log", "since", 99),
    "the sums of the log are missing": change_state(log=3),
}  # fmt: skip


@pytest.mark.parametrize("message", DOCTORED)
def test_what_does_not_fit_is_refused_before_it_is_used(tmp_path: Path, message: str) -> None:
    trainer = make(tmp_path)
    trainer.fit(progress=False)
    path = trainer.checkpoints / "step-000000012.pt"
    state = load_checkpoint(path)
    DOCTORED[message](state)
    state.pop("format")
    step = state.pop("step")
    save_checkpoint(trainer.checkpoints, 12, {**state, "step": step}, keep=1)  # with a digest that is right
    spy = Spy()
    again = make(tmp_path, objective=spy, steps=15)
    before = [p.detach().clone() for p in again.bare.parameters()]
    with pytest.raises(ValueError, match="does not fit this configuration") as error:
        again.fit(progress=False)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert spy.calls == []
    assert all(torch.equal(a, b) for a, b in zip(before, again.bare.parameters(), strict=True))


class Unused(nn.Module):
    """A network with a parameter that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MLP((2,), width=16, blocks=1)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.inner(x, c)


@pytest.mark.parametrize(
    "optimizer",
    [
        adamw,
        sgd_plain,
        lambda p: torch.optim.SGD(p, lr=1e-2),
        lambda p: torch.optim.Adagrad(p, lr=1e-2),
        lambda p: torch.optim.Adafactor(p, lr=1e-2),
        lambda p: torch.optim.RAdam(p, lr=1e-2),
        lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.9, centered=True),
        lambda p: torch.optim.Rprop(p, lr=1e-2),
    ],
)
def test_other_optimisers_and_unused_parameters_go_on(tmp_path: Path, optimizer: Optimizer) -> None:
    results = []
    for name, steps in (("straight", (12,)), ("broken", (5, 12))):
        for last in steps:
            torch.manual_seed(0)
            trainer = make(tmp_path / name, network=Unused(), optimizer=optimizer, steps=last, final_lr=1, warmup=0)
            trainer.fit(progress=False)
        results.append({k: v for k, v in everything(trainer).items() if not k.startswith("/log")})
    assert_same(*results)


def test_checkpoints_of_older_versions_are_taken(tmp_path: Path) -> None:
    make(tmp_path / "straight").fit(progress=False)
    trainer = make(tmp_path / "old", steps=5, final_lr=1)
    trainer.fit(progress=False)
    path = trainer.checkpoints / "step-000000005.pt"
    state = load_checkpoint(path)
    old = ("step", "network", "ema", "optimizer", "seconds", "skipped")
    torch.save({"format": "scoresde-checkpoint-1", **{key: state[key] for key in old}}, path)
    again = make(tmp_path / "old", steps=12)
    again.fit(progress=False)
    assert again.step == 12


def test_the_log_of_an_interrupted_run_is_that_of_an_uninterrupted_one(tmp_path: Path) -> None:
    def spoiled(step: int) -> float:
        return math.nan if step == 6 else 1.0

    def stopped(step: int) -> float:
        if step == 8:
            interrupt()
        return spoiled(step)

    settings: dict[str, Any] = {"steps": 20, "log_every": 5}
    straight, broken = Recorder(), Recorder()
    make(tmp_path / "a", loggers=[straight], objective=Spy(spoiled), **settings).fit(progress=False)
    with pytest.raises(Interrupted, match="at step 9"):
        make(tmp_path / "b", loggers=[broken], objective=Spy(stopped), **settings).fit(progress=False)
    make(tmp_path / "b", loggers=[broken], init=9, **settings).fit(progress=False)
    assert [line["step"] for line in broken.lines] == [5, 10, 15, 20]
    for ours, theirs in zip(straight.lines, broken.lines, strict=True):
        for name in ("loss", "grad_norm", "lr", "skipped", "log_snr", "loss_by_log_snr"):
            assert ours[name] == theirs[name], name


# -- what is logged -------------------------------------------------------------------------------------


def test_the_loss_falls(tmp_path: Path) -> None:
    log = Recorder()
    # The new network predicts no noise at all: an error of 1 at each noise level.
    noise = NoisePreconditioning()
    make(tmp_path, loggers=[log], steps=120, batch_size=128, log_every=40, dropout=0.0, preconditioning=noise).fit(
        progress=False
    )
    first, *_, last = log.lines
    assert [line["step"] for line in log.lines] == [40, 80, 120]
    assert last["loss"] < 0.7 * first["loss"] < 0.7
    assert last["grad_norm"] > 0
    assert last["steps_per_second"] > 0
    json.dumps(log.lines, allow_nan=False)


def test_noise_levels_are_means_in_bins() -> None:
    levels = NoiseLevels(-2.0, 2.0, 4, torch.device("cpu"))
    levels.add(torch.tensor([-1.5, -1.5, 0.5]), torch.tensor([1.0, 3.0, 5.0]))
    levels.add(torch.tensor([-1.9, 0.1, 7.0]), torch.tensor([8.0, 1.0, 9.0]))
    assert levels.curve() == ([-1.5, 0.5], [4.0, 3.0])
    # A sample that is not finite does not hide the others of its bin.
    levels.add(torch.tensor([0.5, 0.5, 1.5]), torch.tensor([math.nan, math.inf, math.nan]))
    assert levels.curve() == ([-1.5, 0.5], [4.0, 3.0])
    levels.reset()
    assert levels.curve() == ([], [])


# -- precision, compilation, processes ------------------------------------------------------------------


def test_bfloat16_trains_float32_weights_and_leaves_a_float32_model(tmp_path: Path) -> None:
    make(tmp_path / "float32", steps=2).fit(progress=False)  # one process may do both, as a sweep over bf16 does
    seen: list[torch.dtype] = []
    network = MLP((2,), width=16, blocks=1)
    network.input.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    trainer = make(tmp_path / "bf16", network=network, bf16=True)
    trainer.fit(progress=False)
    assert set(seen) == {torch.bfloat16}
    assert trainer.skipped == 0
    assert {p.dtype for p in trainer.bare.parameters()} == {torch.float32}
    fresh = MLP((2,), width=16, blocks=1)
    fresh.load_state_dict(trainer.bare.state_dict())
    fresh.eval()
    x, c = DATA.train[:20], torch.zeros(20)
    with torch.no_grad():
        assert torch.equal(trainer.model.network(x, c), fresh(x, c))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_network_that_cannot_be_compiled_is_trained_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, accumulate: int
) -> None:
    def backend(*_: Any) -> Any:
        raise RuntimeError("there is no compiler here\nand much more about it")

    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_(self, backend=backend))
    for compiled in (False, True):
        make(tmp_path / str(compiled), compile=compiled, steps=3, accumulate=accumulate).fit(progress=False)
    assert_same(*(everything(make(tmp_path / str(each), steps=3)) for each in (True, False)))
    (message,) = [r.getMessage() for r in caplog.records if "compiled" in r.getMessage()]
    assert "there is no compiler here" in message
    assert "\n" not in message
    # What is wrong with the network itself is no failure of the compiler.
    with pytest.raises(ZeroDivisionError):
        make(tmp_path / "third", compile=True, steps=3, objective=Spy(lambda call: 1 / 0)).fit(progress=False)


def test_compiled_networks_train_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The eager backend compiles nothing, but goes through the same wrapping.
    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_(self, backend="eager"))
    weights = []
    for compiled in (False, True):
        trainer = make(tmp_path / str(compiled), compile=compiled, dropout=0.0, steps=3)
        trainer.fit(progress=False)
        weights.append(everything(trainer))
        # Likelihoods differentiate through the network in ways that a compiled one does not take.
        assert trainer.bare._compiled_call_impl is None
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")  # type: ignore[misc]


def test_channels_last_changes_the_layout_alone(tmp_path: Path) -> None:
    data = digits()
    networks = [UNet((1, 8, 8), channels=8, multipliers=(1, 1), blocks=1)]
    networks.append(copy.deepcopy(networks[0]))
    losses = []
    for network, flag in zip(networks, (False, True), strict=True):
        log = Recorder()
        settings: dict[str, Any] = {"steps": 3, "batch_size": 8, "log_every": 1, "channels_last": flag}
        make(tmp_path / str(flag), data=data, network=network, loggers=[log], optimizer=sgd, **settings).fit(
            progress=False
        )
        losses.append([line["loss"] for line in log.lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path: Path) -> None:
    model = NetworkScore(MLP((2,), width=16, blocks=1), VPSDE(), EDMPreconditioning(), Statistics.standard((2,)))
    two: Any = SimpleNamespace(num_processes=2, process_index=0, device=torch.device("cpu"), prepare=lambda *a: a)
    with pytest.raises(ValueError, match="batch_size is 3, expected a multiple of the 2 processes"):
        Trainer(model, DenoisingScoreMatching(), DATA, adamw, Training(batch_size=3), tmp_path, [], two)


@pytest.mark.slow
def test_two_processes_train_the_weights_of_one(tmp_path: Path) -> None:
    """The slowest test here: two processes import torch and talk by gloo."""
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    spy = Spy(lambda step: math.nan if step == 2 else 1.0)
    # Not Adam, which makes steps of full size of gradients that are round-off.
    log = Recorder()
    make(tmp_path / "one", dropout=0.0, objective=spy, optimizer=sgd, loggers=[log], log_every=6).fit(progress=False)
    names = [path.name for path in (tmp_path / "two" / "checkpoints").iterdir()]
    assert names == ["step-000000012.pt"]
    one, two = (load_checkpoint(tmp_path / run / "checkpoints" / names[0]) for run in ("one", "two"))
    assert two["skipped"] == 1
    start = spy.calls[0].weights
    for part in ("network", "ema"):
        moved = torch.cat([(one[part][name] - start[name]).flatten() for name in start])
        apart = torch.cat([(one[part][name] - two[part][name]).flatten() for name in start])
        # The mean of two half batches is that of the batch up to round-off: of weights of size 0.1, which float32
        # keeps to 1e-8, and which have moved by 1e-3 and more.
        assert float(moved.abs().max()) > 1e-3
        assert float(apart.norm()) < 1e-3 * float(moved.norm()), part
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [line["step"] for line in log.lines] == [6, 12]
    for ours, theirs in zip(log.lines, lines, strict=True):
        for name in ("loss", "grad_norm", "log_snr", "loss_by_log_snr"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-4), name
    start, one_rates = _learn_rates(None)
    for rank in (0, 1):
        two_rates = torch.load(tmp_path / f"rates-{rank}.pt")
        assert float((one_rates - start).abs().max()) > 1e-3
        assert float((two_rates - one_rates).norm()) < 1e-3 * float((one_rates - start).norm())


def _learn_rates(accelerator: Any) -> tuple[Tensor, Tensor]:
    """Logits of rates before and after training; the network's forward pass does not use them, but its loss does."""
    torch.manual_seed(0)
    sde = ErasureVPSDE(8, learned=True)
    network = MLP((2,), width=16, blocks=1, learn_variance=True)
    model = NetworkScore(network, sde, EDMPreconditioning(), Statistics.standard((2,)))
    options = Training(steps=6, batch_size=32, warmup=1, ema=HalfLife(1, None), checkpoint_every=None)
    trainer = Trainer(model, VariationalBound(), DATA, sgd, options, None, [], accelerator)
    assert sde.rates is not None
    start = sde.rates.logits.detach().clone()
    trainer.fit(progress=False)
    return start, sde.rates.logits.detach().clone()


def _train_in_processes(folder: Path) -> None:
    # Rank 1 alone has a loss that is not finite at step 2, in the second of three parts: both must skip the step.
    rank = int(os.environ["RANK"])
    spy = Spy(lambda call: math.nan if call == 3 * 2 + 1 and rank == 1 else 1.0)
    log = LocalLogger()
    options: dict[str, Any] = {"log_every": 6, "accumulate": 3}  # parts of 5, 5 and 6 samples
    trainer = make(folder / "two", dropout=0.0, objective=spy, optimizer=sgd, loggers=[log], **options)
    assert trainer.accelerator.num_processes == 2
    if rank == 0:
        trainer.checkpoints.parent.mkdir()
        log.start(trainer.checkpoints.parent, {})
    trainer.fit(progress=False)
    assert trainer.skipped == 1
    torch.save(_learn_rates(trainer.accelerator)[1], folder / f"rates-{rank}.pt")


if __name__ == "__main__":
    _train_in_processes(Path(sys.argv[1]))


def held_out_losses(run_dir: Path, **options: Any) -> dict[int, float]:
    recorder = Recorder()
    make(run_dir, loggers=[recorder], **options).fit(progress=False)
    return {line["step"]: line["held_out_loss"] for line in recorder.lines if "held_out_loss" in line}


def test_the_held_out_loss_costs_no_bit_of_the_weights(tmp_path: Path) -> None:
    for held_out in (True, False):
        make(tmp_path / str(held_out), held_out=held_out, steps=6, log_every=1, dropout=0.2).fit(progress=False)
    assert_same(*(everything(make(tmp_path / str(each))) for each in (True, False)))


@pytest.mark.parametrize(("log_every", "steps"), [(1, [50, 100, 120]), (30, [60, 120]), (200, [120])])
def test_the_held_out_loss_comes_every_fifty_steps_at_most_and_in_the_end(
    tmp_path: Path, log_every: int, steps: list[int]
) -> None:
    assert list(held_out_losses(tmp_path, steps=120, log_every=log_every)) == steps


def test_the_held_out_loss_is_that_of_the_present_weights_on_test_data_at_the_same_noise(tmp_path: Path) -> None:
    still = held_out_losses(tmp_path / "a", steps=100, log_every=50, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    assert still[50] == still[100]
    # A new network gives 0, so that the loss of the default objective is that of the identity, known in the mean.
    spy = Spy()
    trainer = make(tmp_path / "b", objective=spy, batch_size=4)
    loss = HeldOutLoss(trainer.model, trainer.bare, spy, trainer.batches)()
    seen = torch.cat([call.x0 for call in spy.calls])
    assert sorted(seen.tolist()) == sorted(DATA.transform.encode(DATA.test).tolist())
    each = [
        float(DenoisingScoreMatching()(trainer.model, c.x0, u=c.u, noise=c.noise).value.detach()) for c in spy.calls
    ]
    assert loss == pytest.approx(sum(each) / 2)
    assert trainer.model.network.training


def test_a_loop_over_the_steps_trains_as_fit_does(tmp_path: Path) -> None:
    log = Recorder()
    fitted = make(tmp_path / "fitted", loggers=[log], log_every=1)
    fitted.fit(progress=False)
    trainer = make(tmp_path / "looped")
    steps = []
    for step in trainer.steps():
        assert trainer.model.training
        assert trainer.step == step.step
        steps.append(step)
    assert [step.step for step in steps] == [line["step"] for line in log.lines] == list(range(1, 13))
    for name, key in (("loss", "loss"), ("grad_norm", "grad_norm"), ("lr", "lr")):
        assert [float(getattr(step, name)) for step in steps] == [line[key] for line in log.lines]
    assert not any(step.skipped for step in steps)
    assert 0 < steps[0].seconds < steps[-1].seconds <= trainer.seconds
    # The average is in the model, and nothing was written.
    assert not trainer.model.training
    assert_same(*(each.model.state_dict() for each in (fitted, trainer)))
    assert not (tmp_path / "looped").exists()


def test_a_loop_that_is_left_resumes_where_it_was(tmp_path: Path) -> None:
    whole, parts = make(tmp_path / "whole"), make(tmp_path / "parts")
    whole.fit(progress=False)
    for step in parts.steps():
        if step.step == 5:
            break
    seconds = parts.seconds
    assert parts.seconds == seconds
    parts.save()
    assert parts.model.training
    assert [step.step for step in parts.steps()] == list(range(6, 13))
    assert_same(*(each.model.state_dict() for each in (whole, parts)))
    # So does another trainer, from the checkpoint.
    again = make(tmp_path / "parts", init=9)
    assert next(again.steps()).step == 6


def test_a_step_that_is_skipped_says_so(tmp_path: Path) -> None:
    steps = list(make(tmp_path, objective=Spy(lambda step: math.nan if step == 1 else 1.0), steps=3).steps())
    assert [bool(step.skipped) for step in steps] == [False, True, False]
    assert [math.isfinite(step.loss) for step in steps] == [True, False, True]


def test_more_samples_in_a_batch_than_there_are_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, batch_size=500)
    assert caplog.messages == [
        "training.batch_size is 500 and there are 200 training samples: each step takes all of them 2.5 times, with "
        "other noise; training.batch_size=200 takes them once"
    ]
    caplog.clear()
    make(tmp_path, batch_size=200)
    assert caplog.messages == []


def test_the_opening_line_names_what_is_trained(tmp_path: Path) -> None:
    trainer = make(tmp_path, steps=7, batch_size=8)
    size = sum(p.numel() for p in trainer.bare.parameters())
    assert opening(trainer.model, DATA, trainer.options, torch.device("cpu"), Path("runs/a")) == (
        f"training on two_moons (200 samples of shape (2,)), VPSDE, MLP of {size:,} parameters, 7 steps of 8 samples, "
        "cpu, seed 0, runs/a"
    )


def test_each_entry_of_the_log_is_a_line_where_there_is_no_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(progress, "say", lines.append)
    trainer = make(tmp_path, steps=4, log_every=2, objective=Spy(lambda step: math.nan if step == 1 else 1.0))
    trainer.fit()
    first, last = lines
    assert re.fullmatch(
        r"training: step 2/4, loss [\d.]+, lr 0.00667, grad norm nan, 1 skipped \(NaN or infinite\), "
        r"[\d.e+]+ steps/s, 0:00:00 left",
        first,
    )
    assert re.fullmatch(r"training: step 4/4, loss [\d.]+, lr [\d.]+, grad norm [\d.]+, [\d.e+]+ steps/s, .*", last)
