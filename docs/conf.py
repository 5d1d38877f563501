"""Sphinx configuration: `make docs` at the top of the repository builds the site."""

import os
import re
from pathlib import Path

import reactood

ROOT = Path(__file__).resolve().parents[1]

project = "reactood"
author = "The reactood developers"
copyright = f"2026, {author}"
version = release = reactood.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_measured.rst"]
templates_path = ["_templates"]
default_role = "code"
extlinks = {"arxiv": ("https://arxiv.org/abs/%s", "arXiv:%s")}

# API pages: one for each public name, written to docs/api by autosummary.
autosummary_generate = True
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_class_members_toctree = False
numpydoc_show_inherited_class_members = False

# The gallery runs the scripts named plot_*.py and shows the others as they are.
sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"plot_",
    "image_scrapers": ("matplotlib",),
    "reference_url": {"reactood": None},
    "doc_module": ("reactood",),
    "backreferences_dir": "api/backreferences",
    "within_subsection_order": "ExampleTitleSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,
}

# Links to the pages of other projects need the network while building, so that they
# are made on demand only: INTERSPHINX=1 make docs
if os.environ.get("INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

# Prompts and outputs stay behind when a block is copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "reactood"
html_static_path = ["_static"]
html_css_files = ["reactood.css"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"install": [], "quickstart": [], "changelog": []}


def _append_changelog(app, docname, source):
    """Show CHANGELOG.md, whose Markdown is headings, lists, `code` and no more."""
    if docname != "changelog":
        return
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    app.env.note_dependency(str(ROOT / "CHANGELOG.md"))

    def heading(match):
        marks, title = match.groups()
        return f"{title}\n{'=-~'[len(marks) - 1] * len(title)}"

    text = re.sub(r"^(#{1,3}) (.*)$", heading, text, flags=re.MULTILINE)
    source[0] += text.replace("`", "``")


def setup(app):
    """Register what this file adds to Sphinx."""
    app.connect("source-read", _append_changelog)
