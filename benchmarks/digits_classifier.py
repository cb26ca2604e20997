"""Accuracy of the Bayes classifier that a run's class-conditional likelihoods give, on its held-out data.

    scoresde train experiment=digits_conditional
    python benchmarks/digits_classifier.py RUN_DIRECTORY [--n 360] [--probes 4] [--tol 0.05]

Beside it the accuracy of discriminative classifiers of scikit-learn on the same split, trained on the same images, and
whether the classifier's probabilities can be trusted: its mean log-probability of the right class.
"""

import argparse
import time
from collections.abc import Sequence

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from scoresde.likelihood import Hutchinson, bayes_classify, class_log_prob
from scoresde.runs.directory import Run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--n", type=int, default=360, help="held-out samples")
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--tol", type=float, default=0.05, help="nats")
    parser.add_argument("--batch-size", type=int, default=60)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run = Run.open(options.run)
    model, data = run.model(), run.data()
    if data.test_labels is None or data.num_classes is None:
        parser.error(f"{options.run} is of data without labels: train experiment=digits_conditional")
    labels = data.test_labels[: options.n]
    x = data.transform.encode(data.test[: options.n])
    began = time.perf_counter()
    parts = []
    for first in range(0, len(x), options.batch_size):
        part = x[first : first + options.batch_size]
        common = {"seed": 0, "first": first, "tol": options.tol, "divergence": Hutchinson(options.probes)}
        parts.append(class_log_prob(model, part, data.num_classes, **common))
        print(f"{first + len(part)} of {len(x)}, {time.perf_counter() - began:.0f} s", flush=True)
    best, probabilities = bayes_classify(torch.cat(parts))
    right = (best == labels).double()
    error = float(right.std() / len(right) ** 0.5)
    certainty = probabilities[torch.arange(len(labels)), labels].clamp_min(1e-300).log().mean()
    print(f"Bayes classifier of {options.run}: {float(right.mean()):.4f} ± {error:.4f}, n = {len(right)}, ", end="")
    print(f"mean log-probability of the right class {float(certainty):.3f} nats")
    assert data.train_labels is not None
    flat, targets = data.train[:].flatten(1).numpy(), data.train_labels.numpy()
    for other in (LogisticRegression(max_iter=5000), SVC()):
        score = other.fit(flat, targets).score(data.test[: options.n].flatten(1).numpy(), labels.numpy())
        print(f"{type(other).__name__}: {score:.4f}")


if __name__ == "__main__":
    main()
