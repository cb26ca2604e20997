"""Methods for inverse problems on a trained network: distance to the truth, perceptual distance, and calibration.

    scoresde train
    python benchmarks/restoration.py RUN_DIRECTORY [--problems inpaint gaussian_blur] [--methods dps mmps] [--out FILE]

Held-out images are measured, and each is restored several times. Figures are means over images, with standard errors:

- PSNR of the mean of the samples and of single samples, in decibels, over the range of pixels;
- distance of samples to the truth in the features of the classifier of `scoresde evaluate`, a support vector machine
  on the training images: its ten decision values. Beside it, the share of samples to which it gives the truth's class;
- coverage of central intervals: the share of pixels, and of these ten features, at which the truth lies between those
  of its samples, beside the share that is expected of exact samples;
- evaluations of the network, products with its Jacobian, and seconds on one thread, for a sample.

A row is appended to the file as each pair of a problem and a method is done, and those that are there are not repeated.
A model with classes is given those of the images.
"""

import argparse
import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rows import markdown
from sklearn.svm import SVC
from torch import Tensor

from scoresde.cli import conf_dir
from scoresde.data import Data, DataInfo
from scoresde.inverse import central_coverage, central_interval, psnr, residual_ratio, restore
from scoresde.numerics.means import mean_and_error
from scoresde.runs.conditions import split_conditions
from scoresde.runs.directory import Run
from scoresde.runs.restore_input import in_raw_units
from scoresde.score import NetworkScore

FIGURES = ("psnr_of_mean", "psnr", "distance", "same_class", "pixels_covered", "features_covered", "residual")
COSTS = ("nfe", "products", "seconds")
COLUMNS = ("problem", "method", *(f"{name}{end}" for name in FIGURES for end in ("", "_stderr")), *COSTS)


def chosen(group: str, name: str) -> Any:
    """The object of a choice of `conf/`."""
    return instantiate(OmegaConf.load(conf_dir() / group / f"{name}.yaml"), _convert_="all")


class Features:
    """The decision values of the classifier, ten for each image.

    Args:
        data: The data, with labels.
    """

    def __init__(self, data: Data) -> None:
        assert data.train_labels is not None
        x = data.transform.encode(data.train[:]).flatten(1).double()
        self.machine = SVC(C=10.0, decision_function_shape="ovr").fit(x.numpy(), data.train_labels.numpy())

    def __call__(self, x: Tensor) -> Tensor:
        """Features `(N, 10)` of images `(N, ...)` in model space."""
        return torch.from_numpy(self.machine.decision_function(x.flatten(1).double().numpy()))


def cell(
    model: NetworkScore, data: Data, features: Features, problem: str, method: str, options: argparse.Namespace
) -> dict[str, Any]:
    """The row of a problem and a method."""
    raw, n = data.test[: options.images], options.samples
    x = data.transform.encode(raw)
    measurement = chosen("problem", problem).for_shape(data.shape).measure(x)
    cond: dict[str, Any] = {name: v[: options.images] for name, v in split_conditions(model, data, "test").items()}
    began = time.process_time()
    sizes = {"samples": n, "steps": options.steps, "batch_size": options.batch_size}
    out = restore(model, measurement, chosen("method", method), **sizes, **cond)
    seconds = (time.process_time() - began) / (len(x) * n)
    levels = data.transform.levels
    assert levels is not None
    shown = (in_raw_units(data, out.x) / (levels - 1)).clamp(0, 1)
    real = raw / (levels - 1)
    of_truth, of_samples = features(x), features(out.x.flatten(0, 1)).reshape(len(x), n, -1)
    repeated = measurement.rows(torch.arange(len(x) * n) // n)
    found = {
        "psnr_of_mean": psnr(shown.mean(1), real),
        "psnr": psnr(shown, real).mean(1),
        "distance": (of_samples - of_truth[:, None]).norm(dim=2).mean(1),
        "same_class": (of_samples.argmax(2) == of_truth.argmax(1)[:, None]).double().mean(1),
        "pixels_covered": central_coverage(data.transform.decode(out.x), raw),
        "features_covered": central_coverage(of_samples, of_truth),
        "residual": residual_ratio(repeated, out.x.flatten(0, 1)).reshape(-1, n).square().mean(1).sqrt(),
    }
    row: dict[str, Any] = {"problem": problem, "method": method}
    for name in FIGURES:
        row[name], row[f"{name}_stderr"] = mean_and_error(found[name])
    return {**row, "nfe": out.nfe, "products": out.products, "seconds": seconds}


def shown(rows: Sequence[dict[str, Any]], expected: float) -> str:
    """The table, with errors."""
    head = ["problem", "method", *(name.replace("_", " ") for name in FIGURES), "evaluations", "ms a sample"]
    head = [f"{title} ({expected:.2f})" if title.endswith("covered") else title for title in head]
    lines = [head]
    for row in rows:
        values = [f"{float(row[name]):.3g} ± {float(row[f'{name}_stderr']):.1g}" for name in FIGURES]
        cost = f"{row['nfe']} + {row['products']}" if int(row["products"]) else str(row["nfe"])
        lines.append([row["problem"], row["method"], *values, cost, f"{1000 * float(row['seconds']):.0f}"])
    return markdown(lines[0], lines[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--problems", nargs="+", default=["inpaint", "gaussian_blur", "compressed_sensing"])
    parser.add_argument("--methods", nargs="+", default=[path.stem for path in (conf_dir() / "method").glob("*.yaml")])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--samples", type=int, default=8, help="of each image")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("restoration.csv"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run = Run.open(options.run)
    model, data = run.model(), run.data()
    model.info = DataInfo.of(data)
    features = Features(data)
    done: list[dict[str, Any]] = []
    if options.out.is_file():
        with options.out.open(encoding="utf-8", newline="") as file:
            done = list(csv.DictReader(file))
    else:
        options.out.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    for problem in options.problems:
        for method in options.methods:
            if any((row["problem"], row["method"]) == (problem, method) for row in done):
                continue
            try:
                row = cell(model, data, features, problem, method, options)
            except ValueError as error:  # a method that is none for the problem
                print(f"{problem}, {method}: {error}", flush=True)
                continue
            done.append(row)
            with options.out.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, COLUMNS).writerow(row)
            print(f"{problem}, {method}: {row['psnr_of_mean']:.2f} dB", flush=True)
    expected = central_interval(options.samples)[1] if options.samples > 1 else math.nan
    print(shown(done, expected))


if __name__ == "__main__":
    main()
