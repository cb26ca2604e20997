"""One self-contained page about a run, a sweep, or any folder of runs.

The page needs no network and no server: charts are drawn by a library that it carries along. Everything in it
that comes from run directories is text, escaped, or a PNG file inside such a directory, so that a stranger's runs
can be looked at.
"""

from scoresde.extras import need as _need

_need("scoresde.report", "jinja2", "plotly", "yaml")

from pathlib import Path

from scoresde.report.run_page import run_page
from scoresde.report.sweep_page import sweep_page
from scoresde.storage.files import write_bytes

__all__ = ["write_report"]


def write_report(directory: str | Path) -> Path:
    """Write `report.html` of a run directory, or of all runs in a folder, from whatever is there.

    Of a run it reads `config.yaml`, and where they exist `summary.json`, `metrics.jsonl`, `comparison.csv`,
    `pictures.json` and the figures it lists (without it, those in `samples/`). A directory without `config.yaml`
    is a sweep if `jobs/` lists its jobs, and else a folder that run directories lie in, at any depth. What cannot
    be read is left out, and the page says so.

    Returns:
        The path of `report.html`, written whole or not at all.

    Raises:
        FileNotFoundError: No such directory, or one without runs.
    """
    directory = Path(directory)
    make = run_page if (directory / "config.yaml").is_file() else sweep_page
    page = make(directory)
    path = directory / "report.html"
    write_bytes(path, page.encode(errors="replace"))
    return path
