"""Takes features into memory, an array of the user or a file, or hands them over."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np

from reactood._utils._new_file import NewFile


class Rows:
    """Takes rows of features in any order.

    Parameters
    ----------
    n_rows : int or None
        How many rows there will be; None if only the end will tell.
    width : int
        Features per row.
    out : None, array or path
        An array of the right shape to write to, or an .npy file to make, which
        appears under its name when it is complete.
    """

    def __init__(self, n_rows, width, out=None):
        self.width = width
        self.n_written = 0
        self.part: Any = None
        self.array: Any = None
        if out is None:
            shape = (256 if n_rows is None else n_rows), width
            self.array = np.empty(shape, np.float32)
            self.n_rows = 0 if n_rows is None else n_rows
            self.growing = n_rows is None
            return
        if n_rows is None:
            raise ValueError(
                "out= needs the number of rows beforehand, which this DataLoader "
                "cannot tell; pass its dataset instead, or a DataLoader that neither "
                "shuffles nor drops images."
            )
        self.n_rows, self.growing = n_rows, False
        shape = n_rows, width
        if isinstance(out, np.ndarray):
            if out.shape != shape or out.dtype != np.float32 or not out.flags.writeable:
                access = "" if out.flags.writeable else "read-only "
                raise ValueError(
                    f"out is a {access}{out.dtype} array of shape {out.shape}, "
                    f"expected a writable float32 array of shape {shape}."
                )
            self.array = out
            return
        self.part = _Part(Path(os.fsdecode(out)), shape)
        self.array = self.part.array

    def write(self, rows, features):
        """Put features into these rows."""
        if self.growing:
            self._grow(max(rows) + 1)
        self.array[rows] = features
        self.n_written += len(rows)

    def hold(self, rows):
        """Make sure that these rows can be read again."""

    def read(self, rows):
        """Return rows that were written."""
        return self.array[rows]

    def finish(self):
        """Return all rows as an array; a file as a read-only memory map.

        Raises RuntimeError if some were never written.
        """
        if self.n_written < self.n_rows:
            self.abandon()
            raise RuntimeError(
                f"Got {self.n_written} images, and {self.n_rows} were announced: what "
                "yields them stopped early."
            )
        if self.growing:
            self._resize(self.n_rows)
        array, self.array = self.array, None
        if self.part is None:
            return array
        del array
        return self.part.publish()

    def abandon(self):
        """Remove what is incomplete."""
        self.array = None
        if self.part is not None:
            self.part.remove()

    def _grow(self, n_rows):
        self.n_rows = max(self.n_rows, n_rows)
        if n_rows > len(self.array):
            self._resize(max(n_rows, len(self.array) * 3 // 2))

    def _resize(self, n_rows):
        # Resized in place where possible, so that there are never two copies.
        self.array.resize((n_rows, self.width), refcheck=False)


class Received:
    """Hands features over to a function as they come, and keeps none of them.

    Parameters
    ----------
    receive : callable
        Takes the list of the rows, and their features as an array.
    width : int
        Features per row.
    """

    def __init__(self, receive, width):
        self.receive = receive
        self.width = width
        self._held = {}

    def hold(self, rows):
        """Make sure that these rows can be read again, when they were written."""
        self._held |= dict.fromkeys(rows)

    def read(self, rows):
        """Return rows that are held."""
        return np.stack([self._held[row] for row in rows])

    def write(self, rows, features):
        """Hand over the features of these rows."""
        features = np.broadcast_to(np.asarray(features), (len(rows), self.width))
        for row, of_row in zip(rows, features, strict=True):
            if row in self._held:
                self._held[row] = of_row.copy()
        self.receive(list(rows), np.array(features, np.float32))

    def finish(self):
        """Return nothing: all was handed over."""

    def abandon(self):
        """Do nothing: nothing was begun."""


class _Part:
    """An .npy file that is not complete yet, beside its final place."""

    def __init__(self, path, shape):
        self.path = path
        _check_place(path)
        self.array: Any = None
        self.file = NewFile(path)
        self.stream = self.file.stream
        try:
            self._allocate(shape)
        except BaseException:
            self.remove()
            raise

    def _allocate(self, shape):
        """Reserve space for all rows: writing to a map on a full disk ends the process.

        The header is numpy's own.
        """
        dtype = np.dtype(np.float32)
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.stream, header)
        self.stream.flush()
        start = self.stream.tell()
        n_bytes = start + dtype.itemsize * shape[0] * shape[1]
        try:
            _reserve(self.stream.fileno(), n_bytes)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"{error.strerror}: out={os.fspath(self.path)!r} takes {n_bytes} bytes "
                f"for {shape[0]} rows of {shape[1]} features",
            ) from error
        self.array = np.memmap(
            self.stream, dtype=dtype, mode="r+", offset=start, shape=shape
        )

    def publish(self):
        """Give the complete file its name, and return it as a read-only map."""
        try:
            self.array.flush()
        except BaseException:
            self.remove()
            raise
        self.array = None
        self.file.publish()
        return np.load(self.path, mmap_mode="r")

    def remove(self):
        """Remove the file."""
        self.array = None
        self.file.remove()


def _check_place(path):
    if path.suffix != ".npy":
        raise ValueError(
            f"out={os.fspath(path)!r}, expected a file whose name ends in .npy, or an "
            "array."
        )
    if path.is_dir():
        raise ValueError(
            f"out={os.fspath(path)!r} is a folder; expected a file in it, such as "
            f"{os.fspath(path / 'features.npy')!r}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"out={os.fspath(path)!r}: there is no folder {os.fspath(path.parent)!r}; "
            "make it first."
        )


def _reserve(descriptor, n_bytes):
    """Make a file as long as it will be, and reserve disk space if possible."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, n_bytes)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    os.truncate(descriptor, n_bytes)
