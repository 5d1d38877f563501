"""The formats of a table of scores: CSV, JSON lines, and Parquet by way of these."""

import csv
import io
import json

SUFFIXES = ".csv", ".jsonl", ".parquet"
AT_ONCE = 10_000  # rows that become Parquet at a time


class CSV:
    """Rows as CSV: empty fields for values that there are not."""

    def header(self, columns):
        """Return the first line."""
        return self._lines([columns])

    def encode(self, rows):
        """Return complete lines. The bytes of paths are kept."""
        return self._lines([row.values() for row in rows])

    def _lines(self, rows):
        stream = io.StringIO(newline="")
        # repr of a float, which csv writes, is read back as the same number.
        csv.writer(stream, lineterminator="\n").writerows(rows)
        return stream.getvalue().encode("utf-8", "surrogateescape")


class JSONLines:
    """Rows as JSON objects, one a line: null for values that there are not."""

    def header(self, columns):
        """Return nothing: each row names its columns."""
        return b""

    def encode(self, rows):
        """Return complete lines."""
        return b"".join(map(self._line, rows))

    def _line(self, row):
        try:
            return f"{json.dumps(row, ensure_ascii=False)}\n".encode()
        except UnicodeEncodeError:  # bytes of a path that are no text, as escapes
            return f"{json.dumps(row)}\n".encode()


def check_parquet():
    """Raise if Parquet cannot be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "-o FILE.parquet needs pyarrow: pip install 'reactood[parquet]'. Or give a "
            "file that ends in .csv or .jsonl."
        ) from error


def write_parquet(lines, columns, path):
    """Turn a file of JSON lines into a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    # Class labels may be numbers or names; one row tells.
    with open(lines, "rb") as stream:
        classes = (json.loads(line)["class"] for line in stream)
        label = next((one for one in classes if one is not None), 0)
    kinds = {
        "score": pa.float64(),
        "p_value": pa.float64(),
        "class": pa.int64() if isinstance(label, int) else pa.string(),
    }
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns])
    with open(lines, "rb") as stream, parquet.ParquetWriter(path, schema) as writer:
        while some := [row for row, _ in zip(stream, range(AT_ONCE), strict=False)]:
            rows = [_plain(json.loads(line)) for line in some]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _plain(row):
    """Return a row whose path is text: bytes that are none are shown as escapes."""
    path = row["path"].encode("utf-8", "backslashreplace").decode()
    if isinstance(row["class"], float):
        row["class"] = str(row["class"])
    return row | {"path": path}
