"""Read a feature matrix block by block, and check its values.

Blocks are small enough to stay in the processor's cache, so that several operations
on a block cost one pass over memory, and no step needs a second copy of the matrix.
A matrix is a NumPy array (a memory map too) or a tensor on any device; ``rows`` is a
boolean mask of the rows that count, or None for all of them.
"""

from collections.abc import Iterator

import numpy as np
import torch

from reactood._utils._tensors import Matrix, as_float, as_tensor, to_device

BLOCK_ELEMENTS = 1 << 22  # 16 MiB of float32: about the last-level cache
MOST_ROWS_NAMED = 20
DEVICE_BLOCK_ELEMENTS = 1 << 26  # accelerators are fast at large operations


def rows_per_block(width: int, device: str | torch.device = "cpu") -> int:
    """Return how many rows of ``width`` elements make one block."""
    on_cpu = torch.device(device).type == "cpu"
    elements = BLOCK_ELEMENTS if on_cpu else DEVICE_BLOCK_ELEMENTS
    return max(1, elements // max(1, width))


class Workspace:
    """Memory for the result of one operation, the same for block after block.

    Fresh memory for each would cost its page faults, and torch's many small objects
    in between would keep the allocator from using it again.
    """

    def __init__(self):
        self._memory = None

    def of(self, block: torch.Tensor, width: int) -> torch.Tensor:
        """Return a tensor of shape (len(block), width) for what comes of ``block``."""
        if self._memory is None or len(self._memory) < len(block):
            self._memory = block.new_empty(len(block), width)
        return self._memory[: len(block)]


def tensor_blocks(
    X: Matrix,
    rows: np.ndarray | None = None,
    *,
    n_rows: int,
    device: torch.device | None = None,
) -> Iterator[torch.Tensor]:
    """Yield blocks of ``n_rows`` rows as float tensors on ``device`` (default: X's)."""
    index = None if rows is None or rows.all() else np.flatnonzero(rows)
    for start in range(0, X.shape[0] if index is None else len(index), n_rows):
        some = slice(start, start + n_rows)
        block = X[some] if index is None else _rows_at(X, index[some])
        block = as_tensor(block)
        target = block.device if device is None else device
        if target.type == "mps":  # it has no float64
            block = block.to(torch.float32)
        yield to_device(as_float(block), target)


def host_blocks(
    X: Matrix, rows: np.ndarray | None = None, *, n_rows: int | None = None
) -> Iterator[np.ndarray]:
    """Yield blocks of rows as float NumPy arrays."""
    n_rows = n_rows or rows_per_block(
        32 * X.shape[1]
    )  # comparisons are fastest inside the L2 cache
    if isinstance(X, torch.Tensor) and X.device.type != "cpu":
        n_rows *= 64  # one transfer per block, so few large blocks
    for block in tensor_blocks(X, rows, n_rows=n_rows, device=torch.device("cpu")):
        yield block.numpy()


def nan_rows(X: Matrix, rows: np.ndarray | None = None) -> np.ndarray:
    """Return which of the rows that count hold NaN."""
    found = []
    for block in tensor_blocks(X, rows, n_rows=rows_per_block(X.shape[1])):
        suspect = ~block.sum(dim=1).isfinite()
        if suspect.any():
            suspect = block.isnan().any(dim=1)
        found.append(suspect.cpu().numpy())
    return np.concatenate([np.zeros(0, bool), *found])


def check_finite(
    X: Matrix, rows: np.ndarray | None = None, *, allow_nan: bool = False
) -> None:
    """Raise ValueError if ``X`` holds NaN or inf: how many, and in which rows."""
    n_nan = n_inf = 0
    bad_rows: list[int] = []
    n_rows = rows_per_block(X.shape[1])
    for start in range(0, X.shape[0], n_rows):
        block = as_float(as_tensor(X[start : start + n_rows])).cpu().numpy()
        bad = np.isinf(block) if allow_nan else ~np.isfinite(block)
        if rows is not None:
            bad[~rows[start : start + n_rows]] = False
        if bad.any():
            bad_rows += (start + np.flatnonzero(bad.any(axis=1))).tolist()
            block_nan = np.count_nonzero(np.isnan(block[bad]))
            n_nan += block_nan
            n_inf += np.count_nonzero(bad) - block_nan
    if bad_rows:
        shown = ", ".join(map(str, bad_rows[:MOST_ROWS_NAMED]))
        raise ValueError(
            f"X holds non-finite values, {n_nan} NaN and {n_inf} inf, in "
            f"{len(bad_rows)} of {X.shape[0]} rows, the first in row {bad_rows[0]} "
            f"({shown}{', ...' if len(bad_rows) > MOST_ROWS_NAMED else ''}); features "
            "must be finite. Leave those rows out, or find out what made them: a "
            "broken image, or half precision that overflowed?"
        )


def take_rows(X: Matrix, rows: np.ndarray | None) -> Matrix:
    """Return the rows of ``X`` that count: a view where that is all of them."""
    return X if rows is None or rows.all() else _rows_at(X, np.flatnonzero(rows))


def _rows_at(X, index):
    return X[torch.from_numpy(index).to(X.device) if torch.is_tensor(X) else index]
