"""The result of a sampler, and its change of units from model space to the data's."""

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from scoresde.data.info import DataInfo
from scoresde.numerics.html import arrived, counts, shape_of, spread_of, table, times_of, with_error
from scoresde.numerics.means import mean_and_error
from scoresde.sampling.solver import Report
from scoresde.score import ScoreModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = ["Samples"]


@dataclass(frozen=True)
class Samples:
    """Samples and how they came about.

    Attributes:
        x: `(B, ...)`, the samples, in the units of the model's `transform`, or in model space if it has none.
        nfe: The network evaluations of a sample, the largest number if samples differ.
        times: `(n + 1,)`, the time grid.
        trajectory: `(n + 1, B, ...)` on the CPU, the states at `times` if they were asked for, in the units of `x`, by
            the map that takes the samples there.
        nfe_per_sample: `(B,)` int64, the evaluations of each sample if samples differ.
        status: `(B,)` int64, `scoresde.numerics.ode.Status`, from a solver that adapts its steps: 0 for a sample that
            arrived. Another sample is left where it stopped, without the denoising step.
        reached: `(B,)` float64, the time of each sample's last state; given with a status.
        sweeps: `(B,)` int64, the network calls one after the other, from a solver that is parallel in time.
        log_prob: `(B,)` float64, nats, the log-density of `x` at the last of `times` under the probability-flow ODE or
            along the path of the reverse SDE, if it was asked for; NaN for a sample that did not arrive.
        stderr: `(B,)` float64, the standard error of `log_prob` from random probes; 0 for an exact divergence.
        labels: `(B,)` int64, the classes that were asked for, if any.
        info: Facts about the model's data, if they are known; see `ScoreModel.info`.
        solver_stderr: `(B,)` float64, the standard error of `log_prob` from the steps of its solver, as estimated.
    """

    x: Tensor
    nfe: int
    times: Tensor
    trajectory: Tensor | None = None
    nfe_per_sample: Tensor | None = None
    status: Tensor | None = None
    reached: Tensor | None = None
    sweeps: Tensor | None = None
    log_prob: Tensor | None = None
    stderr: Tensor | None = None
    labels: Tensor | None = None
    info: DataInfo | None = None
    solver_stderr: Tensor | None = None

    @property
    def decoded(self) -> Tensor:
        """The samples as values of the data: integers such as pixels (uint8 for up to 256 levels), or `x` as it is.

        Raises:
            ValueError: Samples of discrete data that hold NaN.
        """
        return self.x if self.info is None or self.info.transform.levels is None else self.info.transform.decode(self.x)

    def plot(self, data: Any = None, n: int = 100) -> "Figure":
        """Draw the samples: as images side by side, points in the plane, histograms or curves, as the shape allows.

        Args:
            data: Data `(M, ...)` in the units of `decoded`, to be drawn beside the samples.
            n: The largest number of images or curves.

        Returns:
            A matplotlib figure, which a notebook shows by itself; see `scoresde.plots.samples`.

        Raises:
            ValueError: Samples that are not finite, or data of another shape.
        """
        from scoresde import plots  # late: importing matplotlib takes a second

        info, titles = self.info, None
        if self.labels is not None and self.labels.ndim == 1:
            names = None if info is None else info.class_names
            titles = [str(k) if names is None else names[k] for k in self.labels[:n].tolist()]
        levels = None if info is None else info.transform.levels
        return plots.samples(self.decoded, data, levels=levels, titles=titles, n=n)

    def reported(self, report: Report, denoised: bool) -> "Samples":
        """The samples with the report of their solver.

        Args:
            report: The report.
            denoised: Whether the denoising step, which a solver does not count, was applied.
        """
        nfe = report.nfe + 1 if denoised else report.nfe
        return replace(
            self,
            nfe=int(nfe.max()),
            nfe_per_sample=nfe,
            status=report.status,
            reached=report.reached,
            sweeps=report.sweeps,
        )

    def __repr__(self) -> str:
        return f"Samples(x={tuple(self.x.shape)}, nfe={self.nfe}, steps={len(self.times) - 1})"

    def _repr_html_(self) -> str:
        return _html(self)


def in_data_space(model: ScoreModel, samples: Samples) -> Samples:
    """The samples in the data's units, with their trajectory and log-densities, from those in model space."""
    if model.transform is None:
        return samples
    track, log_prob = samples.trajectory, samples.log_prob
    if track is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # states on the way are noise, not data
            track = model.to_data_space(track.flatten(0, 1)).reshape(track.shape)
    return replace(
        samples,
        x=model.to_data_space(samples.x),
        trajectory=track,
        log_prob=None if log_prob is None else log_prob + model.log_det(samples.x.shape[1:]),
    )


def _html(out: Samples) -> str:
    """The table of a notebook: shape, cost, times and the range of the values."""
    x = out.x.detach()
    finite = int(x.isfinite().flatten(1).all(1).sum())
    rows = [
        ("shape", shape_of(x)),
        ("dtype, device", f"{str(x.dtype).removeprefix('torch.')}, {x.device}"),
        ("evaluations a sample", counts(out.nfe if out.nfe_per_sample is None else out.nfe_per_sample)),
        ("times", times_of(out.times)),
        ("values", spread_of(x)),
        ("finite", "all" if finite == len(x) else f"{finite} of {len(x)} samples"),
    ]
    if out.sweeps is not None:
        rows.append(("calls one after the other", counts(out.sweeps)))
    if out.status is not None:
        rows.append(("arrived", arrived(out.status)))
    if out.log_prob is not None and bool((known := out.log_prob.isfinite()).any()):
        shared = None if out.solver_stderr is None else out.solver_stderr[known]
        rows.append(("log-density, mean", f"{with_error(*mean_and_error(out.log_prob[known], shared))} nats"))
    if out.trajectory is not None:
        rows.append(("trajectory", shape_of(out.trajectory)))
    if out.info is None:
        return table("Samples", rows, "plot() draws them.")
    if out.info.transform.levels is None:
        return table("Samples, in the data's units", rows, "plot() draws them.")
    return table("Samples, in model space", rows, "decoded are the values of the data, and plot() draws them.")
