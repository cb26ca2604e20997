"""What results look like in a notebook: small HTML tables, escaped, with pictures inline.

Strings in, a string out; the classes that show themselves call one function each, from `_repr_html_`.
"""

import base64
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from scoresde.bounded import read_json
from scoresde.ode import Status

if TYPE_CHECKING:
    from scoresde.likelihood import BitsPerDim, Bound, LogLikelihood
    from scoresde.sampling import Samples
    from scoresde.training.run import Run

__all__ = ["bits_html", "bound_html", "log_likelihood_html", "run_html", "samples_html", "table"]

Rows = Sequence[tuple[str, str]]

# Colours are the notebook's own, light or dark.
_CELL = "text-align:left;padding:1px 12px 1px 0"
_LARGEST = 2_000_000  # bytes of a picture that is put into a notebook
_PNG = b"\x89PNG\r\n\x1a\n"


def table(title: str, rows: Rows, note: str = "") -> str:
    """A heading and a table of names and values, all of them text.

    Args:
        title: what is shown.
        rows: names and values.
        note: small print below.
    """
    cells = "".join(
        f'<tr><th style="{_CELL};font-weight:normal;opacity:0.7">{escape(name)}</th>'
        f'<td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in rows
    )
    foot = f'<div style="opacity:0.7;font-size:90%">{escape(note)}</div>' if note else ""
    return f"<div><b>{escape(title)}</b><table>{cells}</table>{foot}</div>"


def samples_html(out: "Samples") -> str:
    """Shape, cost, times and the range of the values of samples."""
    x = out.x.detach()
    finite = int(x.isfinite().flatten(1).all(1).sum())
    rows = [
        ("shape", _shape(x)),
        ("dtype, device", f"{str(x.dtype).removeprefix('torch.')}, {x.device}"),
        ("evaluations a sample", _counts(out.nfe if out.nfe_per_sample is None else out.nfe_per_sample)),
        ("times", _times(out.times)),
        ("values", _spread(x)),
        ("finite", "all" if finite == len(x) else f"{finite} of {len(x)} samples"),
    ]
    if out.sweeps is not None:
        rows.append(("calls one after the other", _counts(out.sweeps)))
    if out.status is not None:
        rows.append(("arrived", _arrived(out.status)))
    if out.trajectory is not None:
        rows.append(("trajectory", _shape(out.trajectory)))
    if out.info is None:
        return table("Samples", rows, "plot() draws them.")
    if out.info.transform.levels is None:
        return table("Samples, in the data's units", rows, "plot() draws them.")
    return table("Samples, in model space", rows, "decoded are the values of the data, and plot() draws them.")


def log_likelihood_html(out: "LogLikelihood") -> str:
    """Mean log-density with its error bars, and what it cost."""
    probes = bool((out.stderr > 0).any())
    rows = [
        ("mean over samples", f"{_mean(out.log_prob)} nats"),
        ("of one sample", _range(out.log_prob)),
        ("standard error from probes", f"{_rms(out.stderr):.2g} nats a sample, RMS" if probes else "none, exact trace"),
        ("samples", f"{len(out.log_prob)}, of shape {tuple(out.latent.shape[1:])}"),
        ("density at t", f"{out.t_min:.3g}"),
        ("evaluations a sample", _counts(out.nfe)),
        ("traces, products a sample", f"{_counts(out.divergences)}; {_counts(out.products)}"),
        ("steps, rejected", f"{_counts(out.accepted)}; {_counts(out.rejected)}"),
    ]
    return table("Log-likelihood", rows)


def bits_html(out: "BitsPerDim") -> str:
    """Bits per dimension with their error bars, what they are a bound of, and what they cost."""
    rows = [
        ("mean over samples", f"{_with_error(out.mean, out.mean_stderr)} bits/dim"),
        ("of one sample", _range(out.bits)),
        ("standard error from probes", f"{_rms(out.stderr):.2g} bits/dim a sample, RMS"),
        ("samples", str(len(out.bits))),
        ("dequantisation", f"{out.dequantisation}, {out.draws} {'draw' if out.draws == 1 else 'draws'}, {out.bound}"),
        ("decoder", f"{out.decoder} at t = {out.t_min:.3g}"),
        ("evaluations a draw", _counts(out.nfe)),
    ]
    if out.elbo is not None:
        rows.insert(1, ("by the evidence lower bound", f"{_mean(out.elbo)} bits/dim"))
    return table("Bits per dimension", rows, "An upper bound on those of the discrete model that the decoder makes.")


def bound_html(out: "Bound") -> str:
    """A mean lower bound with its error bars, and what it cost."""
    rows = [
        ("mean over samples", f"{_mean(out.value)} nats"),
        ("standard error from draws", f"{_rms(out.stderr):.2g} nats a sample, RMS"),
        ("samples, draws", f"{len(out.value)}, {out.draws} each"),
        ("density at t", f"{out.t_min:.3g}"),
        ("evaluations a sample", str(out.nfe)),
    ]
    return table("Lower bound on the log-likelihood", rows)


def run_html(run: "Run") -> str:
    """A run's name, choices and headline numbers, and a picture of its samples; of what there is."""
    try:
        summary: Any = run.summary()
    except (OSError, ValueError):
        summary = {}
    summary = _dict(summary)
    rows = [(key, text) for key in ("data", "sde", "network", "objective", "sampler") if (text := _choice(run, key))]
    rows += _headline(summary)
    note = "" if summary else "No results yet: training was interrupted or is still running."
    return table(f"Run {run.directory.name}", rows, note) + _picture(run.directory)


def _choice(run: "Run", key: str) -> str:
    """The class or function that the configuration names, with the solver of a sampler."""
    entry: Any = run.config.get(key)
    target = entry.get("_target_") if hasattr(entry, "get") else None
    if not isinstance(target, str):
        return ""
    name = target.rpartition(".")[2]
    solver = entry.get("solver")
    inner = solver.get("_target_") if hasattr(solver, "get") else None
    return f"{name}, {inner.rpartition('.')[2]}" if isinstance(inner, str) else name


def _headline(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Likelihood, sample quality and cost, as far as the summary has them."""
    rows = []
    for key, split in (("likelihood", "held out"), ("likelihood_train", "training data")):
        entry = _dict(summary.get(key))
        unit, name = ("bits_per_dim", "bits/dim") if _is_number(entry.get("bits_per_dim")) else ("nats", "nats")
        if _is_number(entry.get(unit)):
            given = " given the label" if entry.get("conditional") is True else ""
            rows.append((f"{name}{given}, {split}", _value(entry, unit, "stderr")))
    samples = _dict(summary.get("samples"))
    for name, entry in list(_dict(samples.get("metrics")).items())[:1]:
        if _is_number(_dict(entry).get("value")):
            rows.append((name.replace("_", " "), _value(entry, "value", "stderr")))
    if _is_number(samples.get("nfe")):
        rows.append(("evaluations a sample", str(samples["nfe"])))
    training = _dict(summary.get("training"))
    if _is_number(training.get("steps")) and _is_number(training.get("seconds")):
        rows.append(("training", f"{training['steps']} steps, {training['seconds']:.3g} s"))
    if _is_number(summary.get("parameters")):
        rows.append(("parameters", str(summary["parameters"])))
    return rows


def _value(entry: dict[str, Any], key: str, error: str) -> str:
    stderr: Any = entry.get(error)
    text = _with_error(entry[key], stderr if _is_number(stderr) else math.nan)
    return f"{text} (n = {entry['n']})" if _is_number(entry.get("n")) else text


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _picture(directory: Path) -> str:
    """The first picture that the run lists, if it is a PNG file inside its directory."""
    try:
        listed = read_json(directory / "pictures.json")
        file, title = str(listed[0]["file"]), str(listed[0].get("title", ""))
        path = (directory / file).resolve()
        inside = path.is_relative_to(directory.resolve()) and path.is_file()
        if not inside or path.stat().st_size > _LARGEST:
            return ""
        content = path.read_bytes()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    if not content.startswith(_PNG):
        return ""
    data = base64.b64encode(content).decode()
    return f'<img alt="{escape(title)}" style="max-width:420px" src="data:image/png;base64,{data}">'


def _shape(x: Tensor) -> str:
    return " × ".join(map(str, x.shape))


def _times(times: Tensor) -> str:
    first, last = float(times[0]), float(times[-1])
    return f"{first:.3g} to {last:.3g} in {len(times) - 1} steps"


def _spread(x: Tensor) -> str:
    """Range, mean and standard deviation of the finite values."""
    values = x[x.isfinite()].double()
    if not values.numel():
        return "none is finite"
    low, high = values.aminmax()
    return f"{low:.3g} to {high:.3g}, mean {values.mean():.3g}, standard deviation {values.std(correction=0):.3g}"


def _arrived(status: Tensor) -> str:
    arrived = int((status == Status.ARRIVED).sum())
    return "all" if arrived == len(status) else f"{arrived} of {len(status)}; see status"


def _counts(values: Tensor | int) -> str:
    """A number, or the mean and the range where samples differ."""
    if isinstance(values, int):
        return str(values)
    low, high = values.double().aminmax()
    return f"{low:g}" if low == high else f"{values.double().mean():.4g} ({low:g} to {high:g})"


def _range(values: Tensor) -> str:
    low, high = values.double().aminmax()
    return f"{low:.4g} to {high:.4g}"


def _mean(values: Tensor) -> str:
    values = values.double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return _with_error(values.mean().item(), error)


def _rms(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()


def _with_error(value: float, stderr: float) -> str:
    """With as many digits as two of the error's leave; the value alone without an error."""
    if not (math.isfinite(stderr) and stderr > 0):
        return f"{value:.5g}"
    places = max(0, 1 - math.floor(math.log10(stderr)))
    return f"{value:.{places}f} ± {stderr:.{places}f}"
