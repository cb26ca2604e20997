"""What is asked of the stored runs: run as a program, the answers become expected.json.

It asks by public names alone, so that the version that wrote the runs can answer.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scoresde
from scoresde.data import Data, digits, npz
from scoresde.likelihood import Exact, Hutchinson, TruncatedNormal, Variational, bits_per_dim, log_likelihood
from scoresde.sampling import (
    EulerMaruyama,
    Heun,
    KarrasGrid,
    LogSNR,
    Multistep,
    NoiseLevel,
    PredictorCorrector,
    Sampler,
    SignalLevel,
    TunedSteps,
    UniformLogSNR,
    UniformTime,
)

STORED = Path(__file__).parent
UNIPC = Multistep(2, corrector=2, weights="bh2", coordinate=SignalLevel(), interpolation=LogSNR())
EULER_MARUYAMA = Sampler(PredictorCorrector(EulerMaruyama()), UniformTime(20))


def data_of(folder: Path, name: str) -> Data:
    """The data of a run, of which points.npz lies beside it."""
    return digits() if name == "digits" else npz(str(folder / "points.npz"), levels=16)


def digits_figures(folder: Path) -> dict[str, Callable[[], Tensor]]:
    """What is asked of the run of digits, by the names in expected.json."""
    data, labels = data_of(folder, "digits"), torch.arange(4)
    model = scoresde.load(folder / "digits")
    assert data.test_labels is not None
    some = data.test[:4]
    cond: dict[str, Any] = {"labels": data.test_labels[:4]}
    x = data.transform.encode(some)
    return {
        "score": lambda: model.score(x, torch.tensor([0.01, 0.1, 0.5, 0.9]), **cond),
        "samples": lambda: Sampler(UNIPC, UniformLogSNR(10), denoise=True)(model, 4, seed=3, labels=labels).x,
        "noisy_samples": lambda: EULER_MARUYAMA(model, 4, seed=3, labels=labels).x,
        "log_prob": lambda: log_likelihood(model, x, tol=0.01, seed=5, divergence=Hutchinson(2), **cond).log_prob,
        "bits": lambda: bits_per_dim(model, some, tol=0.01, seed=5, divergence=Exact(), **cond).bits,
    }


def toy_figures(folder: Path) -> dict[str, Callable[[], Tensor]]:
    """What is asked of the run of a toy, with its files of tuned steps and of a dequantisation."""
    data, model = data_of(folder, "toy"), scoresde.load(folder / "toy")
    some = data.test[:4]
    x = data.transform.encode(some)
    tuned = TunedSteps.load(folder / "toy" / "tuned-5.json")
    learned = Variational(folder / "toy" / "dequantisation.safetensors")

    def bits(dequantisation: Any) -> Tensor:
        return bits_per_dim(model, some, dequantisation=dequantisation, tol=1e-3, seed=5, divergence=Exact()).bits

    return {
        "score": lambda: model.score(x, torch.tensor([0.01, 0.1, 0.5, 0.9])),
        "samples": lambda: Sampler(Heun(coordinate=NoiseLevel()), KarrasGrid(17), denoise=True)(model, 4, seed=3).x,
        "noisy_samples": lambda: EULER_MARUYAMA(model, 4, seed=3).x,
        "tuned_samples": lambda: tuned.sampler()(model, 4, seed=3).x,
        "log_prob": lambda: log_likelihood(model, x, tol=1e-3, seed=5, divergence=Exact()).log_prob,
        "bits": lambda: bits("uniform"),
        "truncated_normal_bits": lambda: bits(TruncatedNormal(1.0)),
        "variational_bits": lambda: bits(learned),
    }


FIGURES = {"digits": digits_figures, "toy": toy_figures}


if __name__ == "__main__":
    found = {
        run: {name: figure().double().tolist() for name, figure in figures(STORED).items()}
        for run, figures in FIGURES.items()
    }
    (STORED / "expected.json").write_text(json.dumps({"version": scoresde.__version__, **found}) + "\n")
