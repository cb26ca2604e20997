"""Damaged and odd files of a run directory: each is read, or refused in one line by this package.

Files are mutated at random, by a seed: bits flipped, parts cut out, doubled or made up, numbers made large, values of
another type. `benchmarks/fuzz.py` goes on where this ends.
"""

import io
import math
import random
import re
import resource
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from omegaconf import OmegaConf

import scoresde
from scoresde.data import npz
from scoresde.report.reading import read_run
from scoresde.runs.directory import Run
from scoresde.runs.log import read_log
from scoresde.runs.pictures.likelihoods import column
from scoresde.runs.train import train
from scoresde.sampling import TunedSteps
from scoresde.storage.table import ResumableTable
from scoresde.training.loggers import LocalLogger
from scoresde.training.loop import Trainer
from scoresde.training.moments import data_statistics
from tests.problems import Once

pytestmark = pytest.mark.slow

CONFIG = """
data: {_target_: scoresde.data.npz, path: points.npz, test_size: 20, seed: 0}
sde: {_target_: scoresde.sde.VPSDE, beta_min: 0.1, beta_max: 20.0}
network:
  _target_: scoresde.networks.MLP
  width: 8
  blocks: 1
  embedding: {_target_: scoresde.networks.FourierFeatures, dim: 8, max_frequency: 3.0}
preconditioning: {_target_: scoresde.preconditioning.EDMPreconditioning, sigma_data: null}
objective:
  _target_: scoresde.objectives.DenoisingScoreMatching
  times: {_target_: scoresde.objectives.LogNormalSigma, mean: -1.0, std: 1.6, importance: true}
optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: 1e-3, betas: [0.9, 0.99]}
training:
  _target_: scoresde.training.Training
  steps: 4
  batch_size: 8
  warmup: 2
  log_every: 1
  checkpoint_every: 2
  ema: {_target_: scoresde.training.PowerFunction, relative_std: 0.05}
sampler:
  _target_: scoresde.sampling.Sampler
  solver: {_target_: scoresde.sampling.Heun}
  grid: {_target_: scoresde.sampling.KarrasGrid, steps: 4}
evaluation:
  pictures: false
  samples: 0
  likelihood: 5
  tol: 0.5
  draws: 1
  bound: average
  elbo_draws: 0
  decoder: rounding
  batch_size: 8
  seed: 0
  dequantisation: {_target_: scoresde.likelihood.Uniform}
  divergence: {_target_: scoresde.likelihood.Hutchinson, probes: 1}
logger: {_target_: scoresde.training.LocalLogger}
"""
# Words of Python's own messages, which say nothing to a user.
PYTHONS = re.compile(
    "not supported between|unexpected keyword|positional argument|has no attribute|NoneType|object is not|out of range"
)
SECONDS, BYTES = 10, 3 * 2**30  # that reading one file may take


@pytest.fixture(scope="module")
def run(once: Once) -> Path:
    """A small run with files of every kind."""
    return once("every file", lambda folder: make_run(folder / "run")) / "run"


def make_run(directory: Path) -> Path:
    directory.mkdir()
    np.savez(directory / "points.npz", x=np.random.default_rng(0).normal(size=(60, 2)), y=np.arange(60) % 3)
    config = OmegaConf.create(CONFIG)
    config.data.path = str(directory / "points.npz")  # type: ignore[union-attr]
    train(Run(directory, config), None, progress=False)  # type: ignore[arg-type]
    next(directory.glob("checkpoints/*2.pt")).unlink()  # a damaged checkpoint has one before it
    table = ResumableTable(directory / "comparison.csv", ("sampler", "steps", "nfe", "problem"), {"n": 3})
    table.begin([["heun", "5", "10", ""], ["ddim", "5", "3.5e-05", "x, y"]])
    steps = TunedSteps("VPSDE()", 0.5, (1.0, 0.5, 0.1), ((1.0, 0.5), (1.0, 0.25, 0.5)), False, 0.1, 0.2, 40)
    steps.save(directory / "tuned-2.json")
    return directory


# -- mutations ------------------------------------------------------------------------------------------

ODD = ["0", "-1", "1e300", "-1e-300", "9" * 30, "4294967296", "1000000000", "99999", ".nan", ".inf", "NaN", "1e999",
       "true", "null", "''", "text", "[]", "{}", "[1, 2]", "{a: 1}", '{"a": [1]}', '"0"', "0.5", "3"]  # fmt: skip


def of_bytes(content: bytes, dice: random.Random) -> bytes:
    """Content with bits flipped, or a part cut off, cut out, doubled, zeroed or made up."""
    changed = bytearray(content)
    start = dice.randrange(len(content))
    part = slice(start, start + dice.choice((1, 4, 20, 200)))
    kind = dice.randrange(6)
    if kind == 0:
        for _ in range(dice.choice((1, 2, 8))):
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    elif kind == 1:
        del changed[start:]
    elif kind == 2:
        del changed[part]
    elif kind == 3:
        changed[start:start] = changed[part]
    elif kind == 4:
        changed[part] = bytes(len(changed[part]))
    else:
        changed[part] = dice.randbytes(len(changed[part]))
    return bytes(changed)


def of_text(content: bytes, dice: random.Random) -> bytes:
    """A text with another value in the place of one, or lines doubled, swapped or left out."""
    text = content.decode()
    values = list(re.finditer(r"(?<=[ :,\[{])[-\w.+]+(?=[,}\]\s]|$)", text))
    if values and dice.random() < 0.7:
        for match in sorted(dice.sample(values, min(len(values), dice.choice((1, 1, 2)))), key=lambda m: -m.start()):
            text = text[: match.start()] + dice.choice(ODD) + text[match.end() :]
        return text.encode()
    lines = text.splitlines(keepends=True)
    first, second = dice.randrange(len(lines)), dice.randrange(len(lines))
    kind = dice.randrange(3)
    if kind == 0:
        lines.insert(second, lines[first])
    elif kind == 1:
        lines[first], lines[second] = lines[second], lines[first]
    else:
        del lines[first]
    return "".join(lines).encode()


def of_any(content: bytes, dice: random.Random) -> bytes:
    return (of_text if dice.random() < 0.7 else of_bytes)(content, dice)


def of_safetensors(content: bytes, dice: random.Random) -> bytes:
    """The header mutated as a text, with its length put right, or any byte."""
    if dice.random() < 0.5:
        return of_bytes(content, dice)
    length = int.from_bytes(content[:8], "little")
    header = of_text(content[8 : 8 + length], dice)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def of_checkpoint(content: bytes, dice: random.Random) -> bytes:
    """Any byte, or a value of the state: missing, of another type, shape or dtype, or not finite."""
    if dice.random() < 0.4:
        return of_bytes(content, dice)
    state = torch.load(io.BytesIO(content), weights_only=True)
    # As older versions wrote it: the digest would give each change away before what it changes is looked at.
    state["format"] = "scoresde-checkpoint-1"
    del state["digest"]
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(state)
    for node, key in dice.sample(places, dice.choice((1, 1, 2))):
        value = node.get(key) if isinstance(node, dict) else node[min(key, len(node) - 1)] if node else None
        if isinstance(node, list) and key >= len(node):
            continue
        if isinstance(value, torch.Tensor) and dice.random() < 0.8:
            changes: list[Callable[[], Any]] = [
                lambda v=value: v.double(), lambda v=value: v.reshape(-1)[:1], lambda v=value: v * math.nan,  # type: ignore[misc]
                lambda v=value: v[None], lambda v=value: v.long(), lambda v=value: v.half(), lambda v=value: v.tolist(),  # type: ignore[misc]
            ]  # fmt: skip
            node[key] = dice.choice(changes)()
        elif dice.random() < 0.3:
            del node[key]
        else:
            node[key] = dice.choice([None, -1, 10**12, math.nan, "text", [], {}, torch.zeros(3), True])
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def of_npz(content: bytes, dice: random.Random) -> bytes:
    """Any byte, or arrays of another shape or type."""
    if dice.random() < 0.5:
        return of_bytes(content, dice)
    x, y = np.zeros((20, 2)) + np.arange(20)[:, None], np.arange(20) % 3
    x = dice.choice(
        [x.astype("f2"), x.astype("i8"), x.astype("c8"), x * math.nan, x * 1e300, x[:1], x[:0], x[:, 0], x[0, 0],
         x.astype(str), x > 3, x.astype("u2"), np.zeros((20, 0)), x * 0, x.astype("M8[s]"), x[:, :, None, None]]  # type: ignore[list-item]
    )  # fmt: skip
    y = dice.choice([y, y - 1, y.astype(float), y[:3], y * 10**9, y[:, None]])
    buffer = io.BytesIO()
    np.savez(buffer, x=x, y=y)
    return buffer.getvalue()


# -- readers --------------------------------------------------------------------------------------------


def use_config(directory: Path) -> None:
    run = Run.open(directory)
    model = scoresde.load(directory, accept=["sde", "network", "preconditioning", "data"])
    for key in ("objective", "optimizer", "training", "evaluation.dequantisation", "evaluation.divergence", "logger"):
        run.make(key)
    run.data()
    sampler = run.make("sampler")
    if len(sampler.grid(model.sde, model.statistics)) < 20:
        sampler(model, (2, *model.statistics.shape), seed=0)


def use_checkpoint(directory: Path) -> None:
    run = Run.open(directory)
    run.config.training.steps = 6
    data, options = run.data(), run.make("training")
    model = run.new_model(data.shape, data_statistics(data, True))
    trainer = Trainer(
        model, run.make("objective"), data, run.make("optimizer"), options, directory, [], Accelerator(cpu=True)
    )
    trainer.resume()
    trainer.fit(progress=False)


def use_texts(directory: Path) -> None:
    run = Run.open(directory)
    run.summary()
    run.pictures()
    read_run(directory)
    for path in directory.glob("likelihood*.csv"):
        column(path)
        ResumableTable(path, ("index", "nats"), {"n": 3})


def use_log(directory: Path) -> None:
    read_log(Run.open(directory))
    read_run(directory)
    LocalLogger().rewind(directory, 2)


Mutate = Callable[[bytes, random.Random], bytes]
KINDS: dict[str, tuple[str, Mutate, Callable[[Path], Any], int]] = {
    "config": ("config.yaml", of_any, use_config, 120),
    "model": ("model.safetensors", of_safetensors, scoresde.load, 90),
    "checkpoint": ("checkpoints/step-*4.pt", of_checkpoint, use_checkpoint, 80),
    "csv": ("likelihood-test*.csv", of_any, use_texts, 30),
    "comparison": ("comparison.csv", of_any, use_texts, 30),
    "note": ("likelihood-test*.json", of_any, use_texts, 20),
    "summary": ("summary.json", of_any, use_texts, 30),
    "data": ("data.json", of_any, use_config, 30),
    "jsonl": ("metrics.jsonl", of_any, use_log, 30),
    "tuned": ("tuned-2.json", of_any, lambda directory: TunedSteps.load(directory / "tuned-2.json"), 20),
    "npz": ("points.npz", of_npz, lambda directory: npz(str(directory / "points.npz"), label_key="y"), 20),
}


class TookTooLong(BaseException):
    """A mutated file that was read for too long."""


@contextmanager
def limited() -> Iterator[None]:
    """Limits on the time and on the memory of what is done within."""

    def stop(*_: object) -> None:
        raise TookTooLong

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, before[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def judged(use: Callable[[Path], Any], directory: Path) -> str:
    """What is wrong with how a mutated file was dealt with; empty if nothing is."""
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use(directory)
    except (Exception, TookTooLong) as error:
        raised = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        ours = raised.is_relative_to(Path(scoresde.__file__).parent)
        text = str(error)
        plain = text and "\n" not in text and len(text) < 1500 and not PYTHONS.search(text)
        if isinstance(error, ValueError | ArithmeticError) and ours and plain:
            return ""
        return "".join(traceback.format_exception(error))
    return ""


def fuzz(run: Path, place: Path, kind: str, number: int) -> str:
    """Mutation `number` of a kind, made in a copy at `place`; what is wrong, if anything."""
    pattern, mutate, use, _ = KINDS[kind]
    path = next(run.glob(pattern))
    directory = shutil.copytree(run, place)
    content = mutate(path.read_bytes(), random.Random(f"{kind} {number}"))
    (directory / path.relative_to(run)).write_bytes(content)
    problem = judged(use, directory)
    shutil.rmtree(directory)
    return problem and f"{kind} {number}: {content[:300]!r}\n{problem}"


def test_the_corpus_has_five_hundred() -> None:
    assert sum(count for *_, count in KINDS.values()) == 500


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_are_read_or_refused_in_one_line(run: Path, tmp_path: Path, kind: str) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("the limit on memory is Linux's")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _, _, use, count = KINDS[kind]
    assert judged(use, shutil.copytree(run, tmp_path / "whole")) == ""
    use(tmp_path / "whole")  # what is whole is not refused
    problems = [found for number in range(count) if (found := fuzz(run, tmp_path / "mutated", kind, number))]
    torch.set_num_threads(threads)
    assert not problems, f"{len(problems)} of {count}:\n" + "\n".join(problems[:5])
