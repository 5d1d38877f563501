"""Write CSV that a spreadsheet only shows, and texts with names of files in them."""

import csv
import io
import re

from reactood._utils._new_file import write_whole

FORMULA = tuple("=+-@")  # a spreadsheet reads these as the start of a formula


def as_csv(fields, rows):
    """Return dicts as CSV, with a first line of names."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(harmless, rows))
    return stream.getvalue()


def harmless(row):
    """Return cells without line breaks that no spreadsheet reads as a formula."""
    cells = {}
    for key, value in row.items():
        if isinstance(value, str):
            value = re.sub(r"[\r\n\t]+", " ", value).strip()
            value = f"'{value}" if value.startswith(FORMULA) else value
        cells[key] = value
    return cells


def shown(path):
    """Return the name of a file as it can be printed: no control characters."""
    return path if path.isprintable() else repr(path)[1:-1]


def write_text(path, text):
    """Write text as UTF-8, whole, also where names of files hold bytes that are not."""
    write_whole(path, text.encode("utf-8", "backslashreplace"))
