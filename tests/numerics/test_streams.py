"""Every use of a seed has a stream of its own, and says so by its name."""

import ast
from pathlib import Path

import pytest
import torch

import scoresde
from scoresde.numerics.random import SampleNoise, Stream

PACKAGE = Path(scoresde.__file__).parent


def test_streams_are_distinct() -> None:
    assert len({int(s) for s in Stream.__members__.values()}) == len(Stream.__members__)


def test_numbers_of_streams_stay() -> None:
    # Checkpoints resume with the same batches, and seeds give the same samples, because these do not change.
    assert {s.name: int(s) for s in Stream} == {
        "WHITE": 0,
        "DEQUANTISATION": 1,
        "PROBES": 2,
        "BATCH_NOISE": 3,
        "BATCH_TIMES": 4,
        "STEP_SEED": 5,
        "BOUND_TIMES": 6,
        "HELD_OUT_NOISE": 7,
        "FIT_NOISE": 8,
        "FIT_TIMES": 9,
        "BOUND_NOISE": 10,
        "DENOISING_NOISE": 11,
        "DENOISING_LEVELS": 12,
        "SCALING": 13,
        "BROWNIAN": 16,
        "BROWNIAN_AREA": 17,
        "CHAIN_NOISE": 20,
        "CHAIN_STEPS": 21,
        "VARIANCE_NOISE": 22,
        "VARIANCE_DEQUANTISATION": 23,
        "BATCH_FLIPS": 24,
        "RESAMPLING": 25,
        "RESAMPLING_END": 26,
        "BATCH_AUGMENTATION": 30,
        "STAGE_SEED": 31,
        "STAGE_AUGMENTATION": 32,
        "BATCH_TRANSFORMATIONS": 33,
        "CAPTIONS": 34,
        "MEASUREMENT_NOISE": 35,
        "CLASSIFIER_NOISE": 48,
    }


def used_streams() -> dict[str, list[str]]:
    """The expressions that the modules of the package give as `stream`, by module."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                streams = [k.value for k in node.keywords if k.arg == "stream"]
                if called == "SampleNoise" and len(node.args) > 5:
                    streams.append(node.args[5])
                found.setdefault(str(path.relative_to(PACKAGE)), []).extend(map(ast.unparse, streams))
    return found


def test_modules_name_the_stream_that_they_draw_from() -> None:
    used = {stream for streams in used_streams().values() for stream in streams}
    assert used == {f"Stream.{s.name}" for s in Stream if s is not Stream.WHITE}


def test_no_stream_is_used_by_two_modules() -> None:
    modules: dict[str, set[str]] = {}
    for module, streams in used_streams().items():
        for stream in streams:
            modules.setdefault(stream, set()).add(module)
    assert {stream: found for stream, found in modules.items() if len(found) > 1} == {}


@pytest.mark.parametrize("stream", [s for s in Stream if s is not Stream.WHITE])
def test_streams_share_no_draw(stream: Stream) -> None:
    white, other = (SampleNoise(0, torch.arange(20), (50,), stream=s)() for s in (Stream.WHITE, stream))
    assert int((white == other).sum()) == 0


def test_seeds_are_integers_of_31_bits() -> None:
    source = SampleNoise(0, torch.arange(1000), (3,), torch.float64)
    seeds, repeated = source.seeds(), SampleNoise(0, torch.arange(1000), (3,), torch.float64).seeds()
    assert seeds.shape == (1000, 3)
    assert not seeds.is_floating_point()
    assert torch.equal(seeds, repeated)
    assert int(seeds.min()) >= 0
    assert int(seeds.max()) > 2**30
    assert len(seeds.unique()) > 2990
    assert not torch.equal(seeds, source.seeds())


def test_step_seeds_are_those_of_stored_checkpoints() -> None:
    found = [
        int(SampleNoise(0, torch.tensor([k]), (1,), torch.float64, stream=Stream.STEP_SEED).seeds()) for k in range(4)
    ]
    assert found == [2002616365, 1851733773, 603523615, 152947218]
