"""Sphinx configuration: `make docs` at the top of the repository builds the site."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import urllib.request
import warnings
from pathlib import Path

# One thread for each library: the examples are small, and threads that wait for each
# other take many times as long on a machine that is busy. Libraries read these when
# they are imported, so that this comes before any import.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import torch

import reactood

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def _short_warning(message, category, *_, **__):
    """Return a warning of an example without the path of the machine that built it."""
    return textwrap.fill(f"{category.__name__}: {message}", 88) + "\n"


warnings.formatwarning = _short_warning

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

project = "reactood"
author = "The reactood developers"
copyright = f"2026, {author}"
version = release = reactood.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "benchmark_report",
    "markdown_pages",
    "thumbnails",
]
exclude_patterns = ["_build", "_measured.rst", "sg_execution_times.rst"]
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
    "thumbnail_size": (560, 350),
}
gallery_thumbnails = {
    "plot_digits_ood": (2, 0.33, 1, 0, 0.9),
    "plot_displays": (2, 0, 1),
    "plot_judging": (2, 0, 1),
    "plot_no_ood_selection": (2, 0, 0.51),
    "plot_one_image_explained": (1, 0, 1, 0, 0.43),
    "plot_own_head": (1, 0, 0.545),
    "plot_p_values": (1, 0, 1),
    "plot_paper_batchnorm": (1, 0, 0.52),
    "plot_paper_figure1": (1, 0, 0.5, 0, 0.5),
    "plot_paper_layers": (1, 0, 0.84),
    "plot_paper_normalisation": (1, 0, 1),
    "plot_paper_percentiles": (1, 0.34, 0.67),
    "plot_paper_scores": (1, 0, 0.54),
    "plot_paper_theory": (1, 0, 0.5),
    "plot_percentile_search": (1, 0, 0.795),
    "plot_which_score": (1, 0, 0.51),
}

# Links to the pages of other projects need the network while building. An inventory
# that cannot be reached would be a warning, so it is left out; INTERSPHINX=0 asks for
# none.
INVENTORIES = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
    "sklearn": "https://scikit-learn.org/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}


def _reachable(url):
    """Return whether a project's inventory can be read."""
    try:
        urllib.request.urlopen(f"{url}objects.inv", timeout=3).close()
    except OSError:
        return False
    return True


intersphinx_mapping = {}
if os.environ.get("INTERSPHINX", "1") != "0":
    for _project, _url in INVENTORIES.items():
        if not _reachable(_url):
            break  # most likely there is no network: do not wait for the others
        intersphinx_mapping[_project] = (_url, None)

# Formulas are drawn by a copy of MathJax in the site, so that they need no network. One
# file is enough: as SVG, they need no fonts.
_mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
MATHJAX = _mathjax / "static" / "mathjax" / "tex-svg.js"
mathjax_path = "tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}

# Prompts and outputs stay behind when a block is copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Where the site and the repository are is known where they are published: DOCS_URL is
# the address above all versions; GitHub's runners set the others.
SITE = os.environ.get("DOCS_URL", "/")
VERSIONS = json.loads((ROOT / "docs" / "versions.json").read_text(encoding="utf-8"))
if "DOCS_URL" in os.environ:
    (_own,) = [entry for entry in VERSIONS if entry["version"] == version]
    html_baseurl = SITE + _own["path"]
llms_summary = "Out-of-distribution detection with ReAct for scikit-learn and PyTorch."


def _repository():
    """Return the address of the repository, or None if this is a copy without one."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
    command = ["git", "-C", str(ROOT), "config", "remote.origin.url"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    url = answer.stdout.strip().removesuffix(".git")
    url = re.sub(r"^git@([^:]+):", r"https://\1/", url)
    return url if url.startswith("https://") else None


html_theme = "pydata_sphinx_theme"
html_title = "reactood"
html_static_path = ["_static"]
html_css_files = ["reactood.css"]
html_favicon = "_static/favicon.svg"
html_show_sourcelink = False
html_theme_options = {
    "logo": {
        "image_light": "_static/logo-light.svg",
        "image_dark": "_static/logo-dark.svg",
        "alt_text": "reactood",
    },
    "switcher": {"json_url": "_static/switcher.json", "version_match": version},
    "check_switcher": False,  # it is written at the end of the build
    "navigation_with_keys": False,
    "show_prev_next": True,
    "show_toc_level": 2,
    "header_links_before_dropdown": 4,
    "navbar_end": ["version-switcher", "theme-switcher", "navbar-icon-links"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
if repository := _repository():
    html_theme_options["icon_links"] = [
        {"name": "Repository", "url": repository, "icon": "fa-solid fa-code-branch"}
    ]
_alone = "install", "quickstart", "changelog", "cheatsheet", "faq", "glossary", "cite"
html_sidebars = {name: [] for name in _alone}


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


def _group_gallery(app, docname, source):
    """Show the gallery in the groups of its header, without one more list of all."""
    if docname == "auto_examples/index":
        header = ROOT / "examples" / "GALLERY_HEADER.rst"
        source[0] = header.read_text(encoding="utf-8")
        app.env.note_dependency(str(header))


def _add_files(app, exception):
    """Copy MathJax, and write the list of versions from docs/versions.json."""
    if exception is not None or app.builder.name != "html":
        return
    static = Path(app.outdir, "_static")
    shutil.copy(MATHJAX, static)
    links = [entry | {"url": SITE + entry["path"]} for entry in VERSIONS]
    (static / "switcher.json").write_text(json.dumps(links), encoding="utf-8")


def setup(app):
    """Register what this file adds to Sphinx."""
    app.connect("source-read", _append_changelog)
    app.connect("source-read", _group_gallery)
    app.connect("build-finished", _add_files)
