"""Tables of scores that are written while they are computed, and can be gone on with.

Beside an unfinished file ``scores.csv`` stands ``scores.csv.state.json``. It says which
detector makes the table, for which images, and how many rows and bytes are complete. A
run that finds it cuts off what is not complete and goes on. It is removed when the
table is complete.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from reactood._cli._formats import CSV, JSONLines, check_parquet, write_parquet
from reactood._utils._new_file import lock, named_errors

STATE_VERSION = 1


class Stream:
    """A table on stdout, as CSV; each batch can be read at once."""

    n_done = 0
    n_errors = 0

    def __init__(self, columns):
        self._write(CSV().header(columns))

    def append(self, rows):
        """Write rows."""
        self._write(CSV().encode(rows))
        self.n_errors += n_errors(rows)

    def finish(self):
        """Do nothing more."""

    def _write(self, content):
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Table:
    """A table in a file, complete or to be gone on with.

    Parameters
    ----------
    path : str
        The file; its suffix says the format.
    columns : tuple of str
        Names of the columns.
    paths : list of str
        The images of all rows.
    detector : str
        A digest of the detector.
    settings : dict
        What else rows depend on.
    force : bool
        Whether to start again, whatever is there.

    Attributes
    ----------
    n_done : int
        How many rows there are.
    n_errors : int
        How many of these say that an image could not be read.
    """

    def __init__(self, path, columns, paths, *, detector, settings, force=False):
        self.path, self.columns, self.paths = Path(path), columns, paths
        self.state_path = Path(f"{path}.state.json")
        self.rows_path = self.path
        as_csv = self.path.suffix.lower() == ".csv"
        self.format: CSV | JSONLines = CSV() if as_csv else JSONLines()
        self.is_parquet = self.path.suffix.lower() == ".parquet"
        if self.is_parquet:  # its end is written last: nothing could be added
            check_parquet()
            self.rows_path = Path(f"{path}.part.jsonl")
        self.identity = {
            "version": STATE_VERSION,
            "detector": detector,
            "columns": list(columns),
            **settings,
        }
        self.n_done = self.n_bytes = self.n_errors = 0
        self.hash = hashlib.sha256()
        self.stream: Any = None
        self.force = force

    def __enter__(self):
        try:
            if self.force:
                self._remove_old()
            if self.state_path.exists():
                self._go_on()
            else:
                self._start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind, error, traceback):
        if self.stream is not None and kind is not None:
            # Nothing is left of a batch that was not complete.
            self.stream.truncate(self.n_bytes)
        self._close()

    def append(self, rows):
        """Write rows, then note that they are complete."""
        self._write(self.format.encode(rows))
        for row in rows:
            self._hash(row["path"])
        self.n_done += len(rows)
        self.n_errors += n_errors(rows)
        self._write_state()

    def finish(self):
        """Say that all rows are there."""
        if self.is_parquet:
            part = Path(f"{self.path}.part")
            try:
                write_parquet(self.rows_path, self.columns, part)
                os.replace(part, self.path)
            finally:
                part.unlink(missing_ok=True)
        self._close()
        self.state_path.unlink()
        if self.is_parquet:
            self.rows_path.unlink()

    def _remove_old(self):
        if self.rows_path.exists():
            self._open("r+b")  # raises if another process is writing it
        for old in (self.state_path, self.rows_path, self.path):
            old.unlink(missing_ok=True)
        self._close()

    def _start(self):
        for path in (self.path, self.rows_path):
            if path.exists():
                raise FileExistsError(
                    f"{os.fspath(path)!r} exists already, and {self.state_path.name} "
                    "does not, so it is complete or from elsewhere. Give another -o, "
                    "or --force to replace it."
                )
        self._write_state()
        self._open("xb")
        self._write(self.format.header(self.columns))
        self._write_state()

    def _go_on(self):
        state = self._read_state()
        for name, value in self.identity.items():
            if state.get(name) != value:
                raise ValueError(self._differs(name, state.get(name), value))
        done = state["rows"]
        for path in self.paths[:done]:
            self._hash(path)
        if done > len(self.paths) or self.hash.hexdigest() != state["images"]:
            raise ValueError(
                f"{os.fspath(self.path)!r} was begun with other images: its {done} "
                f"rows are not the first {done} of the {len(self.paths)} images given "
                "now. Give the same images in the same order, another -o, or --force "
                "to start again."
            )
        self.n_done, self.n_errors = done, state["errors"]
        self._open("r+b" if self.rows_path.exists() else "xb")
        size = os.fstat(self.stream.fileno()).st_size
        if size < state["bytes"]:
            raise ValueError(
                f"{os.fspath(self.rows_path)!r} has {size} bytes, but "
                f"{self.state_path.name} says {state['bytes']}: it was changed. Give "
                "another -o, or --force to start again."
            )
        self.n_bytes = state["bytes"]
        self.stream.truncate(self.n_bytes)
        self.stream.seek(self.n_bytes)
        if not self.n_bytes:
            self._write(self.format.header(self.columns))
            self._write_state()

    def _differs(self, name, before, now):
        kind = "another detector" if name == "detector" else f"another {name}"
        return (
            f"{os.fspath(self.path)!r} was begun with {kind}, {before!r}, and this is "
            f"{now!r}. Go on with the same, give another -o, or --force to start again."
        )

    def _open(self, mode):
        # Unbuffered: what a full disk does not take is not written again at the end.
        self.stream = open(self.rows_path, mode, buffering=0)
        if lock(self.stream) is False:
            self._close()
            raise ValueError(
                f"Another process is writing {os.fspath(self.path)!r} just now. Wait "
                "for it, or give another -o."
            )

    def _write(self, content):
        rest = memoryview(content)
        with named_errors(self.rows_path):
            while rest:
                rest = rest[self.stream.write(rest) :]
            os.fsync(self.stream.fileno())
        self.n_bytes += len(content)

    def _hash(self, path):
        self.hash.update(os.fsencode(path) + b"\0")

    def _state(self):
        state = self.identity | {
            "rows": self.n_done,
            "bytes": self.n_bytes,
            "errors": self.n_errors,
            "images": self.hash.hexdigest(),
        }
        return json.dumps(state, indent=1) + "\n"

    def _write_state(self):
        part = Path(f"{self.state_path}.part")
        try:
            with named_errors(self.state_path), open(part, "w") as stream:
                stream.write(self._state())
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, self.state_path)
        finally:
            part.unlink(missing_ok=True)

    def _read_state(self):
        try:
            return json.loads(self.state_path.read_text())
        except ValueError as error:
            raise ValueError(
                f"{os.fspath(self.state_path)!r} cannot be read ({error}). Use --force "
                "to start again."
            ) from error

    def _close(self):
        if self.stream is not None:
            self.stream.close()
            self.stream = None


def n_errors(rows):
    """Return how many rows are of images that could not be read."""
    return sum(row["error"] is not None for row in rows)


def digest_of(file):
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
