"""The wheel, away from the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import scoresde

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (path,) = out.glob("*.whl")
    return path


def test_wheel_has_the_configuration_and_the_template(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"scoresde/conf/{p.relative_to(ROOT / 'conf')}" for p in (ROOT / "conf").rglob("*.yaml")}
    assert configs
    assert configs <= names
    templates = "scoresde/report/templates"
    assert {f"{templates}/run.html.j2", f"{templates}/sweep.html.j2", f"{templates}/script.js"} <= names


def test_wheel_says_that_it_is_typed_and_which_version_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert "scoresde/py.typed" in archive.namelist()
        metadata = archive.read(f"scoresde-{scoresde.__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {scoresde.__version__}\n" in metadata
    assert "\nClassifier: Typing :: Typed\n" in metadata


def test_source_distribution_has_the_pages_beside_the_code(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    pages = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"}
    documents = {str(p.relative_to(ROOT)) for folder in ("docs", "examples") for p in (ROOT / folder).glob("*.*")}
    assert documents
    assert {*pages, *documents, "constraints.txt"} <= names


def test_command_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    done = subprocess.run(
        [sys.executable, "-m", "scoresde.cli", "train", "sde=ve", "--cfg", "job"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "scoresde.sde.VESDE" in done.stdout
    where = subprocess.run(
        [sys.executable, "-c", "import scoresde; print(scoresde.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(site))  # and not the checkout
