"""What the saved notebooks must be, without running them; `pytest --nbmake notebooks` runs them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = (
    "1_tour",
    "2_comparing_samplers",
    "3_likelihoods",
    "4_bring_your_own",
    "5_guidance",
    "6_inverse_problems",
    "7_from_2015_to_score_sdes",
)
LARGEST = 1_500_000  # bytes
# Home and temporary folders, an environment's packages, drive letters, and addresses of objects.
LOCAL = re.compile(r"/(?:home|root|Users|tmp|private|opt|work|mnt)/|site-packages|\b[A-Z]:\\|0x[0-9a-f]{6,}")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="an installed package has no notebooks")


def _read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def _outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", ())]


def _text(output: dict[str, Any]) -> str:
    """What is read of an output; base64 of pictures left out."""
    data = output.get("data", {})
    parts = [output.get("text", "")] + [v for k, v in data.items() if k.startswith("text/")]
    text = "".join("".join(part) for part in parts)
    return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)


def test_these_are_all() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_saved_with_outputs_of_a_whole_run(name: str) -> None:
    code = [cell for cell in _read(name)["cells"] if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in code]
    assert counts == list(range(1, len(code) + 1))
    outputs = _outputs(_read(name))
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_no_errors_warnings_or_empty_pictures_in_outputs(name: str) -> None:
    for output in _outputs(_read(name)):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", _text(output)
        assert "Figure size" not in _text(output) or "image/png" in output["data"]
        assert not re.search(r"\b(?:nan|inf)\b", _text(output).lower()), _text(output)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_machine_is_saved(name: str) -> None:
    notebook = _read(name)
    assert notebook["metadata"]["kernelspec"] == {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    for output in _outputs(notebook):
        found = LOCAL.search(_text(output))
        assert found is None, found
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_only_public_names_are_used(name: str) -> None:
    source = "\n".join("".join(cell["source"]) for cell in _read(name)["cells"] if cell["cell_type"] == "code")
    assert not re.search(r"(?:import|\.)\s*_[a-z]", source)
    assert "http" not in source
