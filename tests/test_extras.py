"""What a plain installation can do, and the line that says which extra brings the rest."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import scoresde
from scoresde.extras import EXTRAS, need

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = {"PIL": "pillow", "hydra": "hydra-core", "sklearn": "scikit-learn", "yaml": "pyyaml"}
BASE = {"torch", "numpy", "scipy", "safetensors", "tqdm"}
# Of the public packages, those that need an extra.
PARTS = {"certificate": "plots,tables", "compare": "plots,tables", "plots": "plots"}

# As if none of the packages of extras were installed.
BLOCKED = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(EXTRAS)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
for name in {sorted(EXTRAS)!r}:
    sys.modules[name] = None
sys.meta_path.insert(0, Blocker())
"""


def blocked(program: str, *arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + program, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no parser of TOML")
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=;\[ ]", line)[0].lower() for line in requirements}


def test_the_base_needs_five_packages() -> None:
    assert names(project()["dependencies"]) == BASE


def test_each_package_is_in_the_extra_that_is_told() -> None:
    extras = project()["optional-dependencies"]
    for module, extra in EXTRAS.items():
        wanted = {"omegaconf": "omegaconf", **DISTRIBUTIONS}.get(module, module)
        assert wanted in names(extras[extra]), module


def test_all_and_test_bring_every_package_of_a_part() -> None:
    extras = project()["optional-dependencies"]

    def closure(extra: str) -> set[str]:
        found = names(extras[extra])
        for line in extras[extra]:
            inner = re.fullmatch(r"scoresde\[(.+)\]", line)
            found |= set().union(*(closure(name) for name in inner[1].split(","))) if inner else set()
        return found

    wanted = {DISTRIBUTIONS.get(module, module) for module in EXTRAS}
    assert wanted <= closure("all")
    assert wanted <= closure("test")
    assert wanted - {"torchsde"} <= closure("cli")


@pytest.mark.slow  # a fresh process
def test_the_library_works_without_any_extra() -> None:
    light = [n for n in scoresde.__all__ if n not in PARTS and hasattr(getattr(scoresde, n), "__path__")]
    assert {"sampling", "score", "sde", "likelihood", "inverse", "guidance", "interop", "data"} <= set(light)
    done = blocked(
        f"import scoresde\nfor name in {light!r}:\n    package = getattr(scoresde, name)\n"
        "    for public in package.__all__:\n"
        "        if (name, public) not in {('training', 'fit'), ('training', 'Fit'), ('training', 'make_trainer')}:\n"
        "            getattr(package, public)\n"
        """
import torch
from scoresde.likelihood import log_likelihood
means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
model = scoresde.score.GaussianMixtureScore(torch.ones(2), means, torch.full((2,), 0.01), scoresde.sde.VPSDE())
x = scoresde.sampling.Sampler(scoresde.sampling.UniPC(), scoresde.sampling.UniformLogSNR(10))(model, shape=(50, 2)).x
print((log_likelihood(model, x).log_prob - model.log_prob(x, model.sde.t_min)).abs().median() < 1e-2)
"""
    )
    assert done.stdout == "tensor(True)\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "message"),
    [
        *((f"import scoresde.{n}", f"scoresde.{n} needs .* pip install 'scoresde[{e}]'") for n, e in PARTS.items()),
        ("import scoresde; scoresde.load('DIR')", "scoresde.load needs .* pip install 'scoresde[cli]'"),
        ("from scoresde.training import fit", "scoresde.training.fit needs accelerate, .*'scoresde[train]'"),
        ("import scoresde.report", "scoresde.report needs jinja2, plotly and PyYAML, which are .*'scoresde[report]'"),
        ("from scoresde.data import digits; digits()", "digits needs scikit-learn, .*'scoresde[data]'"),
        (
            "from scoresde.metrics import PCA; import torch; PCA(1).fit(torch.randn(9, 2))",
            "PCA needs scikit-learn, which is not installed: pip install 'scoresde[data]'",
        ),
    ],
)
def test_a_part_without_its_extra_says_which_one(program: str, message: str) -> None:
    done = blocked(program)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch("ModuleNotFoundError: " + re.escape(message).replace(r"\.\*", ".*").replace(r"\ ", " "), last)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["train"], [], ["list", "samplers"], ["--complete", "tr"]])
def test_the_command_without_its_extra_says_which_one(arguments: list[str], tmp_path: Path) -> None:
    done = blocked("from scoresde.cli import main; main()", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("pip install 'scoresde[cli]'")
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_packages_that_are_there_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    need("this", "torchsde", "pandas")
    import_module("pandas")
    monkeypatch.setitem(sys.modules, "torchsde", None)
    with pytest.raises(ModuleNotFoundError, match=r"^this needs torchsde, which is not .*'scoresde\[torchsde\]'$"):
        need("this", "torchsde", "pandas")
