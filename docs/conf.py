"""How Sphinx builds the site: `make docs`."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the code of this checkout, not another's

project = "AutoProxy"
project_copyright = "the authors of AutoProxy, Apache-2.0"
release = metadata.version("autoproxy")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_heading_anchors = 4  # links to headings are those of a Git host: page.md#heading
default_role = "code"  # docstrings put names between single backticks

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "AutoProxy"
html_copy_source = False
html_show_sphinx = False
