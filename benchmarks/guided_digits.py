"""What guidance gains and costs on digits: samples of the class that was asked for, beside their variety.

    scoresde train experiment=digits_conditional
    python benchmarks/guided_digits.py RUN_DIRECTORY [--weaker RUN_DIRECTORY] [--per-class 36] [--steps 12] [--only APG]

Accuracy is that of a support vector machine, trained on the pictures that the network was trained on; its own accuracy
on held-out pictures is printed first. Its standard error is that of a proportion. Recall and coverage are against the
held-out pictures, in the space of their pixels. Samples of all methods have the same starts.
"""

import argparse
import math
import re
from collections.abc import Iterator

import numpy as np
import torch
from rows import markdown
from sklearn.svm import SVC
from torch import Tensor

import scoresde
from scoresde.guidance import AdaptiveProjected, AutoGuidance, ClassifierFree
from scoresde.metrics import Estimate, manifold_metrics
from scoresde.runs.directory import Run
from scoresde.sampling import AutoAdams, DataStraight, Sampler
from scoresde.score import ScoreModel

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 8.0)


def methods(model: ScoreModel, weaker: ScoreModel | None) -> Iterator[tuple[str, ScoreModel]]:
    """The name of each guidance, and the guided model."""
    for scale in SCALES:
        yield f"scale {scale:g}", ClassifierFree(model, scale)
    for scale in (4.0, 8.0):
        yield f"scale {scale:g}, interval 0.2 to 2", ClassifierFree(model, scale, interval=(0.2, 2.0))
        yield f"scale {scale:g}, APG", AdaptiveProjected(model, scale)
    if weaker is not None:
        for scale in (2.0, 4.0):
            yield f"scale {scale:g}, autoguidance", AutoGuidance(model, weaker, scale)


def share(right: np.ndarray) -> str:
    """The mean of what is 0 or 1, with a standard error that is not 0 where all are alike."""
    n, count = len(right), float(right.sum())
    p = (count + 1) / (n + 2) if count in (0, n) else count / n
    return f"{count / n:.3f} ± {math.sqrt(p * (1 - p) / n):.3f}"


def written(found: Estimate) -> str:
    return f"{found.value:.3f} ± {found.stderr:.3f}"


def pixels(x: Tensor) -> np.ndarray:
    return x.flatten(1).double().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--weaker", help="a weaker network, for autoguidance")
    parser.add_argument("--per-class", type=int, default=36)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument(
        "--only", default="", help="regular expression for the names of guidances, such as 'scale 4|APG'"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, data = scoresde.load(options.run), Run.open(options.run).data()
    if data.train_labels is None or data.test_labels is None or data.num_classes is None:
        parser.error(f"{options.run} is of data without labels: train experiment=digits_conditional")
    judge = SVC().fit(pixels(data.train[:]), data.train_labels.numpy())
    own = judge.predict(pixels(data.test[:])) == data.test_labels.numpy()
    print(f"the classifier on {len(own)} held-out pictures: {share(own)}", flush=True)
    weaker = None if options.weaker is None else scoresde.load(options.weaker)
    labels = torch.arange(options.per_class * data.num_classes) % data.num_classes
    count = min(len(labels), len(data.test))  # the metrics are of as many of both
    sampler, rows = Sampler(AutoAdams(), DataStraight(options.steps)), []
    for name, guided in methods(model, weaker):
        if not re.search(options.only, name):
            continue
        drawn = model.decode(sampler(guided, len(labels), seed=0, batch_size=250, labels=labels).x)
        right = judge.predict(pixels(drawn)) == labels.numpy()
        by_class = [right[labels.numpy() == k] for k in range(data.num_classes)]
        means = [float(each.mean()) for each in by_class]
        ends = [f"{k}: {share(by_class[k])}" for k in (int(np.argmin(means)), int(np.argmax(means)))]
        found = manifold_metrics(drawn[:count].double(), data.test[:count].double())
        rows.append([name, share(right), *ends, written(found["recall"]), written(found["coverage"])])
        print(" | ".join(rows[-1]), flush=True)
    print(markdown(["guidance", "accuracy", "lowest class", "highest class", "recall", "coverage"], rows))


if __name__ == "__main__":
    main()
