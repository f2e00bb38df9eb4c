"""How `make docs` renders these pages and the reference."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from neo_edge import __version__

project = "neo_edge"
version = release = __version__
copyright = "the neo_edge authors"  # noqa: A001 - the name that Sphinx reads
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstring_forms",
    "page_order",
]
exclude_patterns = ["sphinx"]

html_theme = "furo"
html_title = f"neo_edge {__version__}"
html_copy_source = False

myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
default_role = "py:obj"  # single backticks in docstrings: a link where the name is documented, else code
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_include_init_with_doc = False
autoclass_content = "both"
