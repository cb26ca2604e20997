"""The summary of a run: what `summary.json` holds, and how it is read, also where it is a stranger's.

Keys of the file are names of results (see `scoresde.runs.results`), so a summary is a mapping; its properties are the
entries of the run's own results, with their types.
"""

from typing import Any, NotRequired, TypedDict, cast

__all__ = [
    "LikelihoodEntry",
    "MetricEntry",
    "SamplesEntry",
    "Summary",
    "TrainingEntry",
    "flattened",
]


class TrainingEntry(TypedDict, total=False):
    """Training up to the last step: `training`.

    Attributes:
        steps: Steps made.
        seconds: Seconds they took.
        skipped: Steps skipped because the loss or its gradient was not finite.
        loss: Last loss in the log.
        samples: Number of training samples.
        device: Device, in words.
        date: When it came to its last step, in ISO 8601.
        version: Version of the package.
    """

    steps: int
    seconds: float
    skipped: int
    loss: float | None
    samples: int
    device: str
    date: str
    version: str


class MetricEntry(TypedDict):
    """A metric of samples: its value, standard error and number of samples.

    Attributes:
        value: Value of the metric.
        stderr: Its standard error.
        n: Number of samples.
        expected: What it is expected to be for exact samples, where that is known.
    """

    value: float
    stderr: float
    n: int
    expected: NotRequired[float]


class SamplesEntry(TypedDict, total=False):
    """Samples and their quality: `samples`, and `samples-...` with other settings.

    Attributes:
        sampler: Identity of the sampler.
        n: Number of samples.
        seed: Seed of the samples.
        label: Index of the class that they are from; None for classes in turn, or no classes.
        model: Fingerprint of the model's weights.
        step: Training step of the weights.
        nfe: Evaluations of the network per sample.
        seconds: Seconds of sampling.
        pca: Number of principal components that they are compared on; None for raw values.
        likelihood: Number of samples whose log-density by the model is compared with that of held-out data, if any.
        data: Name of the data that they are compared with.
        data_hash: Fingerprint of these data.
        metrics: Metrics by name.
        by_class: Share of samples drawn given a class that a classifier gives it, by the name of the class.
        classes: Quality of the samples of each class against data of that class, by its name; see `quality_by_class`.
        metrics_seconds: Seconds of computing the metrics.
        source: File that the data are from, if they are not the run's.
        reference: Metrics of training data, in the entry of further samples; those of `samples` are `reference`.
        features: Published features that they are compared on; None for values.
        against: File of reference statistics that they are compared with, and its digest; None for held-out data.
        against_n: Number of features that these are of, where the file says it.
        reused: Whether they were there already.
    """

    sampler: str
    n: int
    seed: int
    label: int | None
    model: str
    step: int | None
    nfe: int
    seconds: float
    pca: int | None
    likelihood: int | None
    data: str
    data_hash: str
    metrics: dict[str, MetricEntry]
    by_class: dict[str, MetricEntry]
    classes: dict[str, Any]
    metrics_seconds: float
    source: str
    reference: dict[str, MetricEntry]
    features: str | None
    against: str | None
    against_n: int | None
    reused: bool


class LikelihoodEntry(TypedDict, total=False):
    """Log-likelihoods of a split: `likelihood`, `likelihood_train`, and `likelihood-...` with other settings.

    Attributes:
        split: Split of the data: test, train or all.
        conditional: Whether they are given conditions.
        given: Which, where these are more than the label.
        data: Name of the data.
        divergence: How the divergence was computed.
        tol: Tolerance of the solver in nats.
        draws: Draws of the dequantisation; of discrete data, as the next four.
        dequantisation: Name of the dequantisation.
        decoder: How cells are decoded.
        bound: How draws are combined.
        digest: Digest of a trained dequantisation.
        t_min: Time of the density.
        seed: Seed of probes and dequantisation.
        elbo_draws: Draws of the evidence lower bound.
        corrected: True where the path of densities was corrected.
        model: Fingerprint of the model's weights.
        data_hash: Fingerprint of the data.
        source: File that the data are from, if they are not the run's.
        step: Training step of the weights.
        n: Number of samples.
        file: Table of the samples' values.
        bits_per_dim: Mean bits per dimension of discrete data, else None.
        nats: Mean log-density in nats.
        stderr: Standard error of the mean, in bits per dimension or nats; None of a single sample.
        stderr_probes: Part of it that probes add.
        stderr_dequantisation: Part of it that dequantisation adds; None of a single draw.
        stderr_solver: Part of it that the solver adds, whose errors are correlated between samples; None of samples of
            version 0.1.0, which do not tell it.
        stderr_data: Part of it that is left for the choice of data.
        nfe: Mean evaluations of the network per sample.
        divergences: Mean evaluations of the divergence per sample.
        seconds: Seconds they took.
        reused: Number of them that were there already.
        elbo: Mean evidence lower bound.
        stderr_elbo: Its standard error.
        chain_draws: Evaluations of the bound of the model's chain, where it was asked for.
        chain_variance: Its variances.
        by_chain: Mean of that bound, in the unit of the values.
        stderr_by_chain: Its standard error.
        solver_error: Root mean square error of the solver, of the first samples; of entries of version 0.1.0.
    """

    split: str
    conditional: bool
    given: str
    data: str
    divergence: str
    tol: float
    draws: int
    dequantisation: str
    decoder: str
    bound: str
    digest: str
    t_min: float
    seed: int
    elbo_draws: int
    corrected: bool
    model: str
    data_hash: str
    source: str
    step: int | None
    n: int
    file: str
    bits_per_dim: float | None
    nats: float
    stderr: float | None
    stderr_probes: float
    stderr_dequantisation: float | None
    stderr_solver: float | None
    stderr_data: float | None
    nfe: float
    divergences: float
    seconds: float
    reused: int
    elbo: float
    stderr_elbo: float | None
    solver_error: NotRequired[float]
    chain: NotRequired[str]
    chain_draws: NotRequired[int]
    chain_variance: NotRequired[str]
    by_chain: NotRequired[float]
    stderr_by_chain: NotRequired[float | None]


class Summary(dict[str, Any]):
    """Content of `summary.json`; an entry that is there but is no mapping where one is expected counts as empty."""

    @property
    def finished(self) -> bool:
        """True if training came to its end, with all that follows it."""
        return bool(self.get("finished"))

    @property
    def training(self) -> TrainingEntry:
        """Training up to the last step; empty before it."""
        return cast(TrainingEntry, self.entry("training"))

    @property
    def samples(self) -> SamplesEntry:
        """The run's own samples and their quality; empty without."""
        return cast(SamplesEntry, self.entry("samples"))

    @property
    def reference(self) -> dict[str, MetricEntry]:
        """Metrics of training data, to compare those of the run's own samples with; empty without."""
        return self.entry("reference")

    @property
    def classifier(self) -> dict[str, Any]:
        """The accuracy of a classifier of noised samples by noise level; empty for runs of models."""
        return self.entry("classifier")

    @property
    def likelihood(self) -> LikelihoodEntry:
        """The run's own likelihoods of held-out data; empty without."""
        return cast(LikelihoodEntry, self.entry("likelihood"))

    @property
    def likelihood_train(self) -> LikelihoodEntry:
        """The run's own likelihoods of training data; empty without."""
        return cast(LikelihoodEntry, self.entry("likelihood_train"))

    def entry(self, key: str) -> dict[str, Any]:
        """The entry of a key; empty if there is none, or it is no mapping."""
        value = self.get(key)
        return value if isinstance(value, dict) else {}

    def further(self) -> list[str]:
        """Keys of likelihoods and samples with other settings than the run's own, or of an earlier step."""
        return [key for key in self if key.startswith(("likelihood-", "samples-"))]


def flattened(summary: dict[str, Any], prefix: str = "") -> dict[str, int | float]:
    """Numbers of nested mappings under names joined by slashes; all else is left out."""
    flat: dict[str, int | float] = {}
    for key, value in summary.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[f"{prefix}{key}"] = value
    return flat
