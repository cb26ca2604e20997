"""The documentation site: `sphinx-build -W --keep-going docs docs/_build/html`, which asks no network."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "_ext")]

from scoresde.version import __version__  # noqa: E402

project = "scoresde"
author = "The scoresde developers"
copyright = author
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "staging", "markdown_docstrings", "known_names"]
exclude_patterns = ["_build", "_ext", "_tables", "_examples"]

# Pages are Markdown with headings that can be linked to.
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

# Notebooks are shown with the outputs that they are saved with; the tests run them.
nb_execution_mode = "off"
nb_merge_streams = True

# Docstrings are in Google's style, with Markdown in them.
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Other args", "params_style")]
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "code"

html_theme = "furo"
html_title = f"scoresde {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
