"""What results look like in a notebook."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from scoresde import plots, reprs
from scoresde.data import Discrete
from scoresde.likelihood import Exact, bits_per_dim, elbo, log_likelihood
from scoresde.runs.directory import Run
from scoresde.sampling import Adaptive, Heun, KarrasGrid, Sampler, Samples, UniformTime
from scoresde.score import GaussianMixtureScore
from scoresde.sde import VPSDE


class _Reader(HTMLParser):
    """Rows of text, images and any other tags; fails on tags that are not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def _read(shown: object) -> dict[str, str]:
    return dict(_Reader(shown._repr_html_()).rows)  # type: ignore[attr-defined]


@pytest.fixture
def model() -> GaussianMixtureScore:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    return GaussianMixtureScore(torch.ones(2), means, torch.full((2,), 0.04), VPSDE())


def test_table_escapes() -> None:
    page = _Reader(reprs.table("<b>&", [("<script>alert(1)</script>", '"a" & <td>')], "<i>"))
    assert page.tags == {"div", "b", "table", "tr", "th", "td"}
    assert page.rows == [["<script>alert(1)</script>", '"a" & <td>']]
    assert page.text.startswith("<b>&")
    assert page.text.endswith("<i>")


def test_samples_say_their_cost_and_range(model: GaussianMixtureScore) -> None:
    out = Sampler(Heun(), KarrasGrid(7), denoise=False)(model, (5, 2), trajectory=True)
    rows = _read(out)
    assert rows["shape"] == "5 × 2"
    assert rows["trajectory"] == "8 × 5 × 2"
    assert rows["evaluations a sample"] == "14"
    assert rows["times"] == "1 to 0.001 in 7 steps"
    assert rows["values"].startswith(f"{out.x.min():.3g} to {out.x.max():.3g}")
    assert rows["finite"] == "all"
    assert rows["dtype, device"] == "float64, cpu"
    assert "arrived" not in rows


def test_samples_of_an_adaptive_solver(model: GaussianMixtureScore) -> None:
    rows = _read(Sampler(Adaptive(), UniformTime(1))(model, (16, 2)))
    assert rows["arrived"] == "all"
    assert " to " in rows["evaluations a sample"]


def test_samples_that_are_not_finite_are_counted() -> None:
    x = torch.tensor([[0.0, 1.0], [float("nan"), 3.0], [float("inf"), 0.0]])
    out = Samples(x, 3, torch.tensor([1.0, 0.0]), status=torch.tensor([0, 1, 0]))
    rows = _read(out)
    assert rows["finite"] == "1 of 3 samples"
    assert rows["arrived"] == "2 of 3; see status"
    assert rows["values"].startswith("0 to 3, mean 1,")
    assert _read(Samples(x[1:2, :1], 3, torch.tensor([1.0, 0.0])))["values"] == "none is finite"


def test_samples_with_densities_say_their_mean_and_its_error() -> None:
    x, times = torch.zeros(3, 2), torch.tensor([1.0, 0.0])
    log_prob = torch.tensor([1.0, 3.0, float("nan")], dtype=torch.float64)
    error = torch.tensor([1.0, 1.0, float("nan")], dtype=torch.float64)
    # Of the two that arrived: a scatter of √2/√2, and the solver's 1 with a correlation of 0.2, √(1.2/2).
    assert _read(Samples(x, 3, times, log_prob=log_prob, solver_stderr=error))["log-density, mean"] == "2.0 ± 1.3 nats"
    assert "log-density, mean" not in _read(Samples(x, 3, times))


def test_log_likelihood(model: GaussianMixtureScore) -> None:
    out = log_likelihood(model, torch.zeros(1, 2) + torch.arange(3.0)[:, None] / 4, divergence=Exact())
    rows = _read(out)
    error = float(out.log_prob.std()) / 3**0.5
    mean, stderr = rows["mean over samples"].removesuffix(" nats").split(" ± ")
    assert float(mean) == pytest.approx(float(out.log_prob.mean()), abs=error / 10)
    assert float(stderr) == pytest.approx(error, rel=0.06)
    assert rows["standard error from probes"] == "none, exact trace"
    assert rows["samples"] == "3, of shape (2,)"
    assert "± " not in _read(log_likelihood(model, torch.zeros(1, 2)))["mean over samples"]


def test_bits_and_bounds() -> None:
    exact = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 6), torch.full((1,), 0.1), VPSDE())
    pixels = torch.tensor([[3, 4, 3, 4, 2, 5], [4, 4, 3, 3, 4, 4]])
    out = bits_per_dim(exact, pixels, Discrete(8), elbo_draws=4)
    rows = _read(out)
    assert rows["mean over samples"].startswith(f"{out.mean:.2f}"[:4])
    assert rows["dequantisation"].endswith("average")
    assert rows["samples"] == "2"
    assert "by the evidence lower bound" in rows
    bound = elbo(exact, torch.zeros(3, 6), draws=4, seed=0)
    assert _read(bound)["samples, draws"] == "3, 4 each"


def _run(directory: Path) -> Run:
    config = {
        "data": {"_target_": "scoresde.data.digits"},
        "sde": {"_target_": "scoresde.sde.VPSDE"},
        "sampler": {"_target_": "scoresde.sampling.Sampler", "solver": {"_target_": "scoresde.sampling.Heun"}},
        "objective": {"_target_": "<b>x</b>"},
    }
    directory.mkdir(exist_ok=True)
    (directory / "config.yaml").write_text("{}\n")
    return Run(directory, OmegaConf.create(config))


def test_run_shows_choices_numbers_and_a_picture(tmp_path: Path) -> None:
    run = _run(tmp_path / "ring-1234")
    run.add_to_summary(
        likelihood={"bits_per_dim": 2.34567, "stderr": 0.0123, "n": 360, "nats": -3.0},
        samples={"nfe": 21, "metrics": {"frechet_distance": {"value": 0.5, "stderr": 0.1, "n": 99}}},
        training={"steps": 1400, "seconds": 61.23},
        parameters=1000,
    )
    plots.save(plots.image_grid(torch.zeros(1, 1, 4, 4)), run.directory / "samples" / "a.png")
    run.add_picture("samples/a.png", 'two "moons"', "")
    page = _Reader(run._repr_html_())
    rows = dict(page.rows)
    assert rows["bits/dim, held out"] == "2.346 ± 0.012 (n = 360)"
    assert rows["frechet distance"] == "0.50 ± 0.10 (n = 99)"
    assert rows["evaluations a sample"] == "21"
    assert rows["data"] == "digits"
    assert rows["sampler"] == "Sampler, Heun"
    assert rows["objective"] == "<b>x</b>"
    assert rows["training"] == "1400 steps, 61.2 s"
    assert "ring-1234" in page.text
    assert page.images[0]["alt"] == 'two "moons"'
    assert str(page.images[0]["src"]).startswith("data:image/png;base64,")
    assert repr(run) == f"Run({str(tmp_path / 'ring-1234')!r})"


@pytest.mark.parametrize(
    ("summary", "pictures"),
    [
        (None, None),
        ("{", "["),
        ("[1]", '[{"file": 3}]'),
        ('{"likelihood": 3, "samples": {"metrics": [1]}, "training": {"steps": "x"}}', '{"a": 1}'),
    ],
)
def test_run_without_results_or_with_broken_files(tmp_path: Path, summary: str | None, pictures: str | None) -> None:
    run = _run(tmp_path / "run")
    for name, text in (("summary.json", summary), ("pictures.json", pictures)):
        if text is not None:
            (run.directory / name).write_text(text)
    page = _Reader(run._repr_html_())
    assert dict(page.rows)["sde"] == "VPSDE"
    assert not page.images


def test_run_shows_nothing_from_outside_its_directory(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    plots.save(plots.image_grid(torch.zeros(1, 1, 4, 4)), tmp_path / "secret.png")
    (run.directory / "text.png").write_text("no picture")
    for file in ("../secret.png", str(tmp_path / "secret.png"), "text.png", "missing.png"):
        (run.directory / "pictures.json").write_text(json.dumps([{"file": file, "title": "", "caption": ""}]))
        assert not _Reader(run._repr_html_()).images, file
