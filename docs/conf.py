"""The documentation's site: `make docs` builds it from the pages of this folder with Sphinx."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "Knowledge distillation cookbook"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = project
html_copy_source = False
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
default_role = "code"
autodoc_typehints = "description"
OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./(?!README\.md)[^)]*\)")  # a link to a file that is no page


def read(app, page: str, source: list[str]) -> None:
    """Makes links to the README links to the first page, and links to other files plain text."""
    text = source[0].replace("](../README.md", "](index.md")
    source[0] = OUTSIDE.sub(r"\1", text)


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read)
