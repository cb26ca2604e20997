"""Importing what a notebook uses imports only what that needs."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import scoresde

pytestmark = pytest.mark.slow  # fresh processes

# Libraries that take longer to import than all of scoresde, and those of which only some functions have use.
HEAVY = {
    "PIL",
    "accelerate",
    "hydra",
    "matplotlib",
    "omegaconf",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "torchsde",
    "yaml",
}
_NO_PACKAGES = ("__version__", "certify", "load", "load_chain", "load_classifier", "preconditioning")


@pytest.mark.parametrize("package", ["scoresde.sampling", "scoresde.likelihood", "scoresde.information"])
def test_heavy_libraries_are_imported_when_they_are_used(package: str) -> None:
    code = f"import json, sys, torch; before = set(sys.modules); import {package}; "
    code += "print(json.dumps(sorted(set(sys.modules) - before)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded: list[str] = json.loads(run.stdout)
    assert package in loaded
    assert not HEAVY & {name.partition(".")[0] for name in loaded}
    # Readers of data files are as many modules again.
    assert "scoresde.data.any_file" not in loaded


def test_packages_are_attributes_of_a_fresh_import() -> None:
    code = "import scoresde; print(scoresde.sampling.Sampler.__name__, *dir(scoresde))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["Sampler", *sorted(scoresde.__all__)]


@pytest.mark.parametrize("name", [n for n in scoresde.__all__ if n not in _NO_PACKAGES])
def test_packages_show_public_names_and_their_files(name: str) -> None:
    package: ModuleType = importlib.import_module(f"scoresde.{name}")
    public = {n for n in dir(package) if not n.startswith("_")}
    assert set(package.__all__) <= public
    assert hasattr(package, "__path__") or name == "statistics"
    if hasattr(package, "__path__"):
        others = public - set(package.__all__)
        assert all(getattr(package, n).__name__ == f"scoresde.{name}.{n}" for n in others)


def test_no_reader_of_data_is_named_like_its_file() -> None:
    """Importing a file sets its name on the package, where the function of that name would then be hidden."""
    (package,) = scoresde.data.__path__
    files = {file.stem for file in Path(package).glob("*.py")}
    assert not files & set(scoresde.data.__all__)
