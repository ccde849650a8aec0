"""How the site is built: `sphinx-build -W docs docs/_build`."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import _reference  # noqa: E402

import optsearch  # noqa: E402

project, release = "optsearch", optsearch.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "optsearch"
html_copy_source = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
myst_heading_anchors = 3


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", lambda _: _reference.write(HERE / "reference"))
    app.connect("autodoc-process-docstring", _reference.marked_up)
