"""Settings of the documentation: guides in Markdown, the reference from docstrings."""

from calo4pqvae import __version__

project = "calo4pqvae"
author = "The calo4pqvae developers"
project_copyright = "The calo4pqvae developers, Apache-2.0"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
suppress_warnings = ["ref.python"]  # attributes of several classes share a name, such as "layers"
html_theme = "furo"
html_title = f"calo4pqvae {__version__}"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
