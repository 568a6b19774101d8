"""How Sphinx builds the documentation: `make docs`."""

project = "Almanac"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "Almanac"
default_role = "code"
myst_heading_anchors = 4
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
