"""The pages in docs/ and beside the README: their Python runs, and their links lead somewhere."""

import contextlib
import io
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from scoresde.likelihood import Exact, log_likelihood
from scoresde.sampling import DPMSolverPP, EDMHeun
from scoresde.score import GaussianMixtureScore
from scoresde.sde import VPSDE

ROOT = Path(__file__).parent.parent
# Of `docs/` without what the site makes of other files; `test_site.py` has more of its pages.
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.stem != "index"] + sorted(ROOT.glob("*.md"))
ABOUT_CODE = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_relative_links_lead_to_files(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", ABOUT_CODE, ids=[page.name for page in ABOUT_CODE])
def test_files_and_objects_that_a_page_names_exist(page: Path) -> None:
    # As `scoresde/sde/base.py`, `sde/base.py`, `conf/sde/vp.yaml` and `sde.base.SDE`; capitals stand for any name.
    for quoted in set(re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))):
        if re.fullmatch(r"[a-z_]+(/[a-z_]*)+(\.(py|yaml|md))?", quoted):
            assert any((folder / quoted).exists() for folder in (ROOT, ROOT / "scoresde")), quoted
        elif (
            re.fullmatch(r"[a-z_]+(\.(?!yaml|json|npz|md|pt)\w+)+", quoted)
            and (ROOT / "scoresde" / quoted.partition(".")[0]).is_dir()
        ):
            assert pkgutil.resolve_name(f"scoresde.{quoted}") is not None


def test_the_samplers_of_the_architecture_page_run() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    printed = io.StringIO()
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "docs/architecture.md", "exec"), namespace)
    rows = [line.split() for line in printed.getvalue().splitlines()]
    assert [int(nfe) for nfe, _ in rows] == [35, 26, 401]
    assert all(abs(float(std) - 1.01**0.5) < 0.05 for _, std in rows)
    assert namespace["edm"].solver == EDMHeun()
    assert namespace["sde_2m"].solver == DPMSolverPP(2, sde=True)


def test_the_evaluation_page_runs() -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    block, published = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(published, "docs/evaluation.md", "exec"), {})
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "docs/evaluation.md", "exec"), {})
    modes, copies = printed.getvalue().splitlines()
    assert modes.startswith("1.0000 ± ")
    assert copies.startswith(block.rpartition("# ")[2].strip())


def test_the_information_page_runs() -> None:
    text = (ROOT / "docs" / "information.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "docs/information.md", "exec"), {})
    lines = printed.getvalue().splitlines()
    assert lines[0].startswith("LocalDimension(1 at log SNR 4")
    assert lines[2].endswith("agree)")
    assert len(lines) == 4


def test_the_chains_page_runs() -> None:
    text = (ROOT / "docs" / "chains.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "docs/chains.md", "exec"), {})
    first, bound, known, last = printed.getvalue().splitlines()
    numbers = [float(v) for v in re.findall(r"-?\d+\.\d+", bound)]
    assert abs(numbers[0] - numbers[2]) < 0.2 + 4 * numbers[1]
    assert all(abs(float(line.split()[2]) - 1.1**0.5) < 0.06 for line in (first, last))
    assert int(known.split()[-1].rstrip("%")) > 90


def test_the_guidance_page_runs() -> None:
    text = (ROOT / "docs" / "guidance.md").read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(compile(block, "docs/guidance.md", "exec"), namespace)


def test_the_page_on_inverse_problems_runs() -> None:
    text = (ROOT / "docs" / "inverse.md").read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
            exec(compile(block, "docs/inverse.md", "exec"), namespace)
    matrix, noise = namespace["operator"].matrix(), namespace["problem"].noise.covariance((2,))
    # The precision of a component of the posterior is that of the prior plus that of the measurement.
    gained = matrix.T @ torch.linalg.inv(noise) @ matrix
    eigenvalues = torch.linalg.eigvalsh(torch.linalg.inv(gained + 10 * torch.eye(3, dtype=torch.float64)))
    torch.testing.assert_close(namespace["posterior"].variances[0].sort().values, eigenvalues)


def test_the_networks_page_runs() -> None:
    text = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    printed = io.StringIO()
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
            exec(compile(block, "docs/networks.md", "exec"), namespace)
    assert printed.getvalue() == "torch.Size([1, 2, 64])\n"


def test_the_textbook_likelihood_is_what_the_package_computes() -> None:
    text = (ROOT / "docs" / "likelihood.md").read_text(encoding="utf-8")
    block, in_pairs = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    namespace: dict[str, Any] = {}
    exec(compile(block, "docs/likelihood.md", "exec"), namespace)
    # In one dimension a probe of signs gives the trace itself.
    means = torch.tensor([[-1.0], [0.5]], dtype=torch.float64)
    model = GaussianMixtureScore(torch.tensor([1.0, 2.0]), means, torch.tensor([0.05, 0.1]).double(), VPSDE())
    x = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]
    found = namespace["textbook"](model, x)
    ours = log_likelihood(model, x, tol=1e-6, divergence=Exact(), prior="plain").log_prob
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-5)
    # The two are wrong alike: the prior is not the mixture at t_max.
    assert (found - model.log_prob(x, model.sde.t_min)).abs().max() < 1e-3
    namespace |= {"one": model, "other": model, "pixels": x}
    exec(compile(in_pairs, "docs/likelihood.md", "exec"), namespace)
    assert namespace["out"].differences[0].ties == 7


def test_the_uses_of_densities_run() -> None:
    text = (ROOT / "docs" / "densities.md").read_text(encoding="utf-8")
    printed = io.StringIO()
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
            exec(compile(block, "docs/densities.md", "exec"), namespace)
    weights, inside = printed.getvalue().splitlines()
    assert "log Z = 1.43" in weights
    assert 0.9 < float(inside.partition("(")[2].partition(",")[0]) <= 1.0
    assert namespace["equal"].shape == (1000, 2)


def test_the_page_on_steering_runs() -> None:
    text = (ROOT / "docs" / "steering.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(block, "docs/steering.md", "exec"), namespace)
    assert namespace["equal"].shape == (2000, 2)
    assert float(namespace["out"].ess.min()) > 0.1


def test_published_versions_are_those_of_the_package() -> None:
    import scoresde

    assert f"\nversion: {scoresde.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{scoresde.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_function_of_the_page_on_checkpoints_runs() -> None:
    text = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "def denoised" in b]
    namespace: dict[str, Any] = {}
    exec(compile(block, "docs/checkpoints.md", "exec"), namespace)
    assert abs(float(namespace["out"].x.std()) - 1) < 0.1
