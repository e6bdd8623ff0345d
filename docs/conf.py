"""The site: ``python -m sphinx -W --keep-going -b html docs docs/_build/html`` (extra ``docs``), without a network."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_extensions")]  # this checkout's package, and what is beside this file

import also_optax  # noqa: E402

project = "also_optax"
author = ""
project_copyright = "the authors of also_optax, Apache-2.0"
release = version = also_optax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",
    "sphinx_design",
    "gallery",
    "repository",
]
exclude_patterns = ["_build", "_extensions"]
templates_path = ["_templates"]
default_role = "code"  # docstrings write `losses` as optax does

html_theme = "sphinx_book_theme"
html_title = "also_optax"
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_copy_source = False
html_domain_indices = html_use_index = False  # the page of the API is one, in an order that says something

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
nb_execution_mode = "off"  # the notebooks are built, and their outputs stored

autodoc_preserve_defaults = True
autodoc_typehints = "none"  # `Args` says shapes and ranges, which types do not
napoleon_attr_annotations = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
