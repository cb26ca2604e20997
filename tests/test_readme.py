"""The README's blocks of Python, as they stand."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import scoresde
from scoresde.cli import main

pytestmark = pytest.mark.slow

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (directory,) = re.findall(r'scoresde\.load\("runs/(.*?)"\)', "\n".join(BLOCKS))
    with contextlib.suppress(SystemExit):
        quick = ("training.steps=2", "network.channels=8", "evaluation.samples=0", "evaluation.likelihood=0")
        main(["train", *quick, "evaluation.pictures=false", "progress=false", f"name={directory}"])
    namespace: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in BLOCKS:
            exec(compile(block, str(README), "exec"), namespace)
    errors = torch.tensor([float(v) for v in re.findall(r"-?\d\.?\d*e[+-]\d+|-?\d+\.\d+", printed.getvalue())])
    assert len(errors) > 0
    # "about 1e-5" is what the README says of them.
    assert errors.abs().median() < 1e-4
    assert namespace["out"].x.shape == (64, 1, 8, 8)
    assert torch.equal(namespace["pixels"], namespace["out"].decoded)
    assert namespace["pixels"].dtype == torch.uint8
    assert "samples of shape (1, 8, 8) in model space, decoded by Discrete(levels=17" in repr(namespace["model"])
    sde = namespace["Polynomial"]()
    t = torch.tensor([0.1, 0.5], dtype=torch.float64)
    torch.testing.assert_close(sde.time(sde.log_snr(t)), t)


def test_the_package_shows_its_public_names_alone() -> None:
    assert dir(scoresde) == sorted(scoresde.__all__)
    for name in scoresde.__all__:
        assert getattr(scoresde, name) is not None
    with pytest.raises(AttributeError, match="module 'scoresde' has no attribute 'sampler'"):
        scoresde.sampler  # noqa: B018  # type: ignore[attr-defined]


def test_what_the_readme_names_is_reached_by_the_package_alone() -> None:
    for name in ("sampling.Sampler", "training.fit", "plots.image_grid", "compare.compare", "sde.SDE", "load"):
        found: Any = scoresde
        for part in name.split("."):
            assert part in dir(found), name
            found = getattr(found, part)
        assert callable(found)


def test_an_import_of_the_package_alone_takes_neither_torch_nor_hydra(tmp_path: Path) -> None:
    program = "import sys, scoresde; print({'torch', 'hydra', 'accelerate'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
