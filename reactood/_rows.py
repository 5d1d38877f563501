"""Where features go: memory, an array of the user's, or a file."""

import os
from pathlib import Path
from typing import Any

import numpy as np


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
        self.path: Any = None
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
                    f"out is a {access}{out.dtype} array of shape {out.shape}, wanted "
                    f"a writable float32 array of shape {shape}."
                )
            self.array = out
            return
        self.path = Path(out)
        if self.path.suffix != ".npy":
            raise ValueError(
                f"out={os.fspath(out)!r}, wanted a file whose name ends in .npy, or an "
                "array."
            )
        self.part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self.array = np.lib.format.open_memmap(
            self.part, mode="w+", dtype=np.float32, shape=shape
        )

    def write(self, rows, features):
        """Put features into these rows."""
        if self.growing:
            self._grow(max(rows) + 1)
        self.array[rows] = features
        self.n_written += len(rows)

    def finish(self):
        """Return all rows as an array; a file as a read-only memory map.

        Raises RuntimeError if some were never written.
        """
        if self.n_written < self.n_rows:
            raise RuntimeError(
                f"Got {self.n_written} images, and {self.n_rows} were announced: what "
                "yields them stopped early."
            )
        if self.path is None:
            return self.array[: self.n_rows] if self.growing else self.array
        self.array.flush()
        self.array = None
        os.replace(self.part, self.path)
        return np.load(self.path, mmap_mode="r")

    def abandon(self):
        """Remove what is incomplete."""
        self.array = None
        if self.part is not None:
            self.part.unlink(missing_ok=True)

    def _grow(self, n_rows):
        self.n_rows = max(self.n_rows, n_rows)
        if n_rows > len(self.array):
            larger = np.empty((max(n_rows, 2 * len(self.array)), self.width), "f4")
            larger[: len(self.array)] = self.array
            self.array = larger
