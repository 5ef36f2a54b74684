"""Settings of the documentation site: `python -m sphinx docs DIR` builds it, without a network."""

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the reference describes the checkout, installed or not

project = "show1_jax"
author = "the authors of show1_jax"
copyright = "the authors of show1_jax; Apache License 2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

# --- pages in Markdown ------------------------------------------------------------------------------------------------
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # a test runs the notebooks
OUTSIDE = {
    "../benchmarks/README.md": "measurements.md",
    "../launch/README.md": "clusters.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changelog.md",
}
"""Pages of the site that include a file from outside of `docs/`. Pages link to the file, for readers of a checkout."""

# --- reference --------------------------------------------------------------------------------------------------------
default_role = "literal"  # docstrings have names between single backticks
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
nitpicky = True
nitpick_ignore_regex = [
    # The inventories of Python and of other projects are on the network.
    (r"py:class", r"(collections|fractions|pathlib|typing|jax|jaxlib|jaxtyping|numpy)\..*|ndarray"),
    (r"py:class", r"'.*'"),  # shapes
    # Types of rarely used arguments, which are not public.
    (r"py:class", r"show1_jax\.(cascade\.noise\.NoiseSource|nn\.config\.Architecture)"),
]

# --- look -------------------------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = "show1_jax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def link_to_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Lead links to files outside of `docs/` to the pages that include them."""
    for file, page in OUTSIDE.items():
        source[0] = source[0].replace(f"]({file}", f"]({page}")


def link_from_docs(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    """Make the links of an included file, which are relative to its own folder, relative to `docs/`."""

    def link(match: re.Match[str]) -> str:
        file = os.path.relpath(ROOT / "docs" / path.parent / match[1], ROOT / "docs")
        return f"]({OUTSIDE.get(file, file)}"

    content[0] = re.sub(r"\]\((?!\w+:|#)([^)#\s]+)", link, content[0])


def keep_colons(app: Sphinx, what: str, name: str, entry: object, options: object, lines: list[str]) -> None:
    """Hide an attribute's first line from napoleon, which takes all that stands before a colon for its type."""
    if what in ("attribute", "property"):
        lines.insert(0, "\\ ")  # an escaped space is no text


def hide_defaults(
    app: Sphinx, what: str, name: str, entry: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Leave out the arguments of settings: dozens, which are listed with their defaults below the class."""
    return ("" if what == "class" and hasattr(entry, "from_dict") else signature), returns


def setup(app: Sphinx) -> None:
    """Register the hooks of this file."""
    app.connect("autodoc-process-signature", hide_defaults)
    app.connect("source-read", link_to_pages)
    app.connect("include-read", link_from_docs)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # napoleon's has 500
