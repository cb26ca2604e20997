"""Pages: templates, and the script and charting library that they carry along.

A page may run two scripts, which its Content-Security-Policy names by their hashes: `script.js`, and plotly.js,
unpacked from the page itself. plotly.js is 4.8 MB and would be most of every page; packed it is 2.0 MB. It is left
out of a page without charts.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scoresde.report.traces import Chart

__all__ = ["render"]

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, charts: Sequence[Chart], scripts: bool, **context: Any) -> str:
    """A page as text.

    Args:
        template: The name of a file in `templates/`.
        charts: Charts that the template shows, by their numbers.
        scripts: Whether the page has sortable tables, so that it needs `script.js` even without charts.
    """
    allowed = []
    script = library = data = Markup()
    if charts or scripts:
        script = Markup((_TEMPLATES / "script.js").read_text(encoding="utf-8"))
        allowed.append(_hash(script))
    if charts:
        library, digest = _plotly()
        allowed.append(digest)
        data = _json([{"traces": c.traces, "layout": c.layout} for c in charts])
    policy = f"default-src 'none'; img-src data:{' blob:' if charts else ''}; style-src 'unsafe-inline'; "
    policy += f"script-src {' '.join(allowed) or repr('none')}; base-uri 'none'; form-action 'none'"
    return (
        _environment()
        .get_template(template)
        .render(
            **context,
            policy=Markup(policy),
            style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),
            script=script,
            library=library,
            data=data,
        )
    )


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _json(value: Any) -> Markup:
    """JSON that can stand in a script element: no character in it can end that or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def _plotly() -> tuple[Markup, str]:
    """plotly.js, packed, and its hash."""
    from plotly.offline import get_plotlyjs

    source = get_plotlyjs()
    packed = gzip.compress(source.encode(), 6, mtime=0)
    return Markup(base64.b64encode(packed).decode()), _hash(source)
