"""Histograms of ranks: their band is that of uniform ranks, and their form tells in what samples are wrong."""

from pathlib import Path

import pytest
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from scoresde.certificate import Exact, Function, PosteriorExam, posterior_frame
from scoresde.certificate.mixtures import draws, generator
from scoresde.certificate.posterior_frame import RANKS
from scoresde.certificate.rank_picture import rank_pictures
from scoresde.certificate.ranks import BINS, counts, expected_counts
from scoresde.inverse import NoNoise, Problem
from scoresde.plots import save
from tests.certificate.test_posterior import FIRST, PRIOR, PROBLEM, posterior, wider
from tests.problems import F64


def shifted(y: Tensor, n: int, seed: int) -> Tensor:
    """Exact draws that are moved by half a standard deviation."""
    exact = posterior(y)
    assert exact.statistics is not None
    assert exact.statistics.covariance is not None
    return draws(exact, n, generator(seed)) + 0.5 * exact.statistics.covariance.diagonal().sqrt()


def test_places_are_counted_in_equal_parts() -> None:
    assert counts(torch.tensor([0.0, 0.124, 0.126, 0.5, 0.999, 1.0], dtype=F64)) == [2, 1, 0, 0, 1, 0, 0, 2]


@pytest.mark.parametrize("truths", [16, 128, 1000])
def test_the_band_holds_all_bars_of_uniform_ranks_in_99_of_100(truths: int) -> None:
    low, high = expected_counts(truths)
    parts = torch.randint(BINS, (4000, truths), generator=torch.Generator().manual_seed(0))
    bars = torch.nn.functional.one_hot(parts, BINS).sum(1)
    inside = float(((bars >= low) & (bars <= high)).all(1).double().mean())
    assert inside > 0.99 - 3 * (0.99 * 0.01 / 4000) ** 0.5
    narrower = float(((bars > low) & (bars < high)).all(1).double().mean()) if low > 0 else 0.0
    assert narrower < 0.99


def test_the_form_of_a_histogram_tells_what_is_wrong(tmp_path: Path) -> None:
    exam = PosteriorExam(PRIOR, PROBLEM, measurements=24)
    made = {"exact": Exact(PRIOR), "wider": Function(wider), "shifted": Function(shifted)}
    rows = [
        {"method": name, "problem": "first", "steps": None if name == "exact" else 1, **exam.run(method, 1)}
        for name, method in made.items()
    ]
    bars = {row["method"]: [[int(n) for n in row[name].split()] for name in RANKS] for row in rows}
    low, high = expected_counts(24 * 8)
    for name, all_bars in bars.items():
        assert all(len(each) == BINS and sum(each) == 24 * 8 for each in all_bars), name
    assert all(low <= n <= high for each in bars["exact"] for n in each)
    # Samples that are too wide have few truths at their ends, and truths lie to one side of those that are moved.
    narrowest = RANKS.index("ranks_narrowest")
    hill, slope = bars["wider"][narrowest], bars["shifted"][narrowest]
    assert hill[0] + hill[-1] < 0.7 * (hill[3] + hill[4])
    assert max(sum(slope[:2]), sum(slope[-2:])) > 1.5 * min(sum(slope[:2]), sum(slope[-2:]))
    pictures = rank_pictures(posterior_frame(rows))
    assert list(pictures) == ["first"]
    axes = pictures["first"].axes
    assert len(axes) == 3 * len(RANKS)
    assert [ax.get_ylabel() for ax in axes[::4]] == ["exact", "wider", "shifted"]
    drawn = [patch.get_height() for patch in axes[4].patches if isinstance(patch, Rectangle)]
    assert drawn[-BINS:] == bars["wider"][0]
    assert all(ax.get_ylim()[1] > max(map(max, bars["exact"])) for ax in axes[:4])
    save(pictures["first"], tmp_path / "ranks.png")


def test_without_noise_there_are_no_ranks_in_density() -> None:
    row = PosteriorExam(PRIOR, Problem(FIRST, NoNoise()), measurements=2, samples=40).run(Exact(PRIOR), 1)
    assert row["ranks_density"] == ""
    frame = posterior_frame([{"method": "exact", "problem": "first", "noise": 0.0, **row}])
    (picture,) = rank_pictures(frame).values()
    assert [ax.get_title() for ax in picture.axes] == ["widest axis", "narrowest axis", "distance"]


def test_rows_without_ranks_have_no_picture() -> None:
    assert rank_pictures(posterior_frame([{"method": "exact", "problem": "first", "sw2": 0.1}])) == {}
