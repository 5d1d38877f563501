"""The directive `benchmark-report`: a report of the command `benchmark`, as a table.

    .. benchmark-report:: ../reports/digits.txt

The file is `report.txt` as the command writes it: a table, an empty line, and notes.
The notes are folded away below the table; the flag `:only-table:` leaves them out.
"""

import re
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


def read_report(text):
    """Return the rows of the table, the first of which names the columns, and notes."""
    table, _, rest = text.strip("\n").partition("\n\n")
    header, *lines = table.splitlines()
    # Columns are aligned at their right and two spaces apart. A cell may be empty.
    ends = [match.end() for match in re.finditer(r"\S+(?: \S+)*", header)]
    titles = re.findall(r"\S+(?: \S+)*", header)
    rows = [titles]
    for line in lines:
        name = line.split(maxsplit=1)[0]
        starts = [len(name), *ends[1:-1]]
        cells = [line[a:b].strip() for a, b in zip(starts, ends[1:], strict=True)]
        rows.append([name, *cells])
    notes = [" ".join(note.split()) for note in re.split(r"\n(?=\S)", rest) if note]
    return rows, notes


def _escape(text):
    """Return text that reStructuredText shows as it is."""
    return re.sub(r"([\\*`_|])", r"\\\1", text)


def to_rst(rows, notes):
    """Return the lines of a table, and of its notes if there are any."""
    header, *rows = rows
    lines = [".. list-table::", "   :header-rows: 1", "   :class: report", ""]
    for i, row in enumerate([["method", *header[1:]], *rows]):
        cells = [_escape(cell) for cell in row]
        if i:
            cells[0] = f"``{row[0]}``"
        lines += [f"   {'*' if j == 0 else ' '} - {c}" for j, c in enumerate(cells)]
    lines += ["", f"{header[0]}.".replace(" %.", " in percent."), ""]
    if notes:
        lines += [".. dropdown:: How this was measured", ""]
        for note in notes:
            start, made, command = note.partition("Made with: ")
            text = f"Made with ``{command}``" if made else _escape(start)
            lines += [f"   - {text}"]
    return lines


class BenchmarkReport(SphinxDirective):
    """Show a report as a table with notes."""

    required_arguments = 1
    option_spec: ClassVar = {"only-table": directives.flag}

    def run(self):
        """Read the file and parse what `to_rst` makes of it."""
        _, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        rows, notes = read_report(Path(path).read_text(encoding="utf-8"))
        lines = to_rst(rows, [] if "only-table" in self.options else notes)
        node = nodes.container()
        self.state.nested_parse(StringList(lines, source=path), 0, node)
        return node.children


def setup(app):
    """Register the directive."""
    app.add_directive("benchmark-report", BenchmarkReport)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
