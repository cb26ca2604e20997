"""Code in backticks that names something public leads to its place in the reference.

A name is known by itself where one package has it (`Sampler`), and by the packages before it (`sampling.Sampler`,
`scoresde.sampling.Sampler`). So pages need no markup for links, and none can be stale.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

_NAME = re.compile(r"([A-Za-z_][\w.]*)(\(.*\))?")
# Words of the language and of figures, which are also names of functions here.
_PLAIN = {"file", "table", "arrays", "compare", "save", "samples", "edit", "digits", "text", "decode", "encode", "idx"}


def names(app: Sphinx) -> dict[str, tuple[str, str]]:
    """Page and anchor of what is documented, by every name that tells it from all others."""
    found: dict[str, set[tuple[str, str]]] = {}
    for full, entry in app.env.domains["py"].objects.items():
        if entry.aliased or not full.startswith("scoresde."):
            continue
        parts = full.split(".")
        kept = len(parts) - (entry.objtype in ("method", "property", "attribute"))
        for start in range(min(3, kept)):
            found.setdefault(".".join(parts[start:]), set()).add((entry.docname, entry.node_id))
    return {name: places.copy().pop() for name, places in found.items() if len(places) == 1}


def link(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Turn literals of a page that are known names into links."""
    if not hasattr(app, "known_names"):
        app.known_names = names(app)  # type: ignore[attr-defined]
    known: dict[str, tuple[str, str]] = app.known_names
    for literal in list(doctree.findall(nodes.literal)):
        match = _NAME.fullmatch(literal.astext())
        place = known.get(match[1]) if match and match[1] not in _PLAIN else None
        inside = isinstance(literal.parent, nodes.reference | nodes.title)
        if place is not None and not inside:
            reference = make_refnode(app.builder, page, place[0], place[1], literal.deepcopy())
            literal.replace_self(reference)


def setup(app: Sphinx) -> dict[str, Any]:
    """Join Sphinx."""
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
