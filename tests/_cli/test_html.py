"""The pieces of pages, and tables of which a spreadsheet runs nothing."""

import csv
import io

import pytest

from reactood._cli import _page as page
from reactood._cli._csv import as_csv, write_text

BAD = "<script>alert('1')</script>&\"x\""


def test_everything_but_html_is_escaped():
    pieces = (
        page.page(BAD, page.section(BAD, page.paragraphs([BAD], title=BAD))),
        page.table([BAD, BAD], [[BAD, BAD]], caption=BAD),
        page.picture(b"png", BAD, alt=BAD),
        page.element("p", BAD, class_=BAD),
        page.joined(BAD),
    )
    for piece in pieces:
        assert "<script" not in piece
        assert '"x"' not in piece
        assert "&lt;script&gt;" in piece


def test_html_is_not_escaped_twice():
    once = page.element("b", "a & b")
    assert page.element("p", once) == "<p><b>a &amp; b</b></p>"
    assert isinstance(page.joined(once, once), page.Html)
    assert page.joined("", once, "") == once


def test_a_table_has_headers_of_rows_and_columns():
    table = page.table(["set", "n"], [["a", 1], ["b", 2]], caption="sizes", soft=[1])
    assert table.count('<th scope="col">') == table.count('<th scope="row">') == 2
    assert "<caption>sizes</caption>" in table
    assert '<tr class="soft"><th scope="row">b</th><td>2</td></tr>' in table
    assert "<thead>" not in page.table([], [["a", 1]])


def test_names_that_are_no_text_can_be_written(tmp_path):
    name = b"a\xff.png".decode("utf-8", "surrogateescape")
    text = page.page("title", page.paragraphs([name]))
    assert r"a\udcff.png" in text
    write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_text() == r"a\udcff.png"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r\n-", " ="])
def test_a_spreadsheet_runs_nothing(start):
    text = as_csv(["a", "b"], [{"a": f"{start}HYPERLINK(1)", "b": -0.5}])
    row = next(csv.DictReader(io.StringIO(text, newline="")))
    assert row["a"] == f"'{start.strip()}HYPERLINK(1)"
    assert float(row["b"]) == -0.5
