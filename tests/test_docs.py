"""What the documentation adds to Sphinx: reports as tables, pages as Markdown."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

import reactood
import reactood.inspection

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REPORTS = sorted((DOCS / "reports").glob("*.txt"))


def load(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_a_report_is_a_table_with_all_its_cells(path):
    pytest.importorskip("sphinx")
    text = path.read_text()
    rows, notes = load("benchmark_report").read_report(text)
    assert {len(row) for row in rows} == {len(rows[0])}
    words = " ".join(" ".join(row) for row in rows).split()
    assert words == text.split("\n\n")[0].split()
    assert " ".join(notes).split() == text.split("\n\n", 1)[1].split()


def test_an_empty_cell_of_a_report_stays_in_its_column():
    pytest.importorskip("sphinx")
    text = "FPR95 / AUROC, %       a         b   clip\n"
    text += "msp              1.0 / 2  10.0 / 3\n"
    text += "msp+react          error  10.0 / 3  1.347\n"
    rows, notes = load("benchmark_report").read_report(text)
    assert rows[1] == ["msp", "1.0 / 2", "10.0 / 3", ""]
    assert rows[2] == ["msp+react", "error", "10.0 / 3", "1.347"]
    assert notes == []


def test_a_page_as_markdown():
    pytest.importorskip("bs4")
    pytest.importorskip("markdownify")
    html = """<h1>Title<a class="headerlink" href="#title">#</a></h1>
    <p>See <a href="b.html#c">b</a> and <a href="https://a.org/b.html">a</a>, f_x.</p>
    <div class="highlight-python"><div class="highlight"><pre><span>x = 1</span>
    </pre></div></div><p>\\(h_i * 2\\)</p>"""
    text = load("markdown_pages").to_markdown(html)
    assert text.startswith("# Title\n")
    assert "[b](b.md#c)" in text and "[a](https://a.org/b.html), f_x." in text
    assert "```python\nx = 1\n" in text
    assert "\\(h_i * 2\\)" in text


def test_the_versions_that_are_written_down_agree():
    version = reactood.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{version}}}" in (DOCS / "cite.rst").read_text()
    versions = json.loads((DOCS / "versions.json").read_text())
    assert version in [entry["version"] for entry in versions]


def test_every_example_is_in_the_gallery_once():
    index = (ROOT / "examples" / "GALLERY_HEADER.rst").read_text()
    scripts = [path.stem for path in (ROOT / "examples").glob("plot_*.py")]
    assert sorted(re.findall(r"\.\./examples/(\w+)\.py", index)) == sorted(scripts)
    listed = re.findall(r"^   (plot_\w+)$", index, flags=re.MULTILINE)
    assert sorted(listed) == sorted(scripts)


def test_every_display_is_shown():
    page = (DOCS / "user_guide" / "seeing.rst").read_text()
    for name in reactood.inspection.__all__:
        if name.endswith("Display"):
            assert f"grid-item-card:: {name}\n" in page
