"""Configuration of the Sphinx site: MyST pages, the Furo theme, and pages generated from the code."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "inarch"
author = "the authors of inarch"
copyright = "the authors of inarch. License: Apache 2.0"
release = version = importlib.metadata.version("inarch")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"inarch {release}"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "undoc-members": False, "exclude-members": "__new__"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "code"
suppress_warnings = ["config.cache"]
