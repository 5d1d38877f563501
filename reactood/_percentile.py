"""Exact percentiles of a large matrix, without a copy of it.

``numpy.percentile`` copies the matrix and partitions the copy. Here a random sample
brackets the two order statistics that the percentile lies between, and one pass counts
what is below the bracket and collects the few values inside it. The answer is that of
``numpy.percentile(X, q, method="linear")``; the sample only decides how many values
are collected, never which value comes out.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import joblib
import numpy as np

from reactood._blocks import (
    Matrix,
    as_float,
    as_tensor,
    check_finite,
    host_blocks,
    take_rows,
)

SAMPLE = 1 << 17
SMALL = 1 << 20  # up to this many elements a plain copy is cheaper
COLUMNS = 32  # columns that are transposed together: two cache lines of float32


@dataclass
class Summary:
    """What one pass over the features tells."""

    percentiles: list  # a float each, or an array with one value per column
    minimum: float | np.ndarray
    maximum: float | np.ndarray


def pooled_percentiles(
    X: Matrix, qs: Sequence[float], rows: np.ndarray | None = None, *, seed: int = 0
) -> Summary:
    """Return the percentiles ``qs`` (in percent) over all elements of ``X``.

    Raises ValueError where X holds NaN or inf.
    """
    n = (X.shape[0] if rows is None else int(rows.sum())) * X.shape[1]
    sample_size = n if n <= SMALL else SAMPLE
    while True:
        if sample_size >= n:
            brackets = [(-np.inf, np.inf)] * len(qs)
        else:
            sample = _random_elements(X, rows, sample_size, seed)
            brackets = [_bracket(sample, q) for q in qs]
        counts = [_Bracket(lo, hi) for lo, hi in brackets]
        minimum, maximum = np.inf, -np.inf
        for block in host_blocks(X, rows):
            block = block.ravel(order="K")
            low, high = block.min(), block.max()
            if not (np.isfinite(low) and np.isfinite(high)):
                check_finite(X, rows)
            minimum, maximum = min(minimum, low), max(maximum, high)
            for count in counts:
                count.add(block)
        values = [count.percentile(q, n) for count, q in zip(counts, qs, strict=True)]
        if None not in values:
            return Summary(values, float(minimum), float(maximum))
        sample_size *= 8  # a bracket missed: about once in 10^8 matrices


def column_percentiles(
    X: Matrix, qs: Sequence[float], rows: np.ndarray | None = None
) -> Summary:
    """Return the percentiles ``qs`` (in percent) of each column of ``X``.

    Raises ValueError where X holds NaN or inf.
    """

    X = as_tensor(X)
    # Each thread holds some columns: never more than a twentieth of all together.
    n_columns = min(COLUMNS, max(1, X.shape[1] // 20))
    n_threads = max(1, X.shape[1] // (20 * n_columns))

    def summarize(start):
        part = take_rows(X[:, start : start + n_columns], rows)
        part = as_float(as_tensor(part)).cpu().numpy()
        columns = np.array(part.T, order="C")
        low, high = columns.min(axis=1), columns.max(axis=1)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            check_finite(X, rows)
        values = [np.percentile(columns, q, axis=1, overwrite_input=True) for q in qs]
        return low, high, values

    # Sorting releases the interpreter lock, so threads share the work.
    with ThreadPoolExecutor(min(joblib.effective_n_jobs(-1), n_threads)) as pool:
        parts = list(pool.map(summarize, range(0, X.shape[1], n_columns)))
    low, high, values = zip(*parts, strict=True)
    percentiles = [np.concatenate(value) for value in zip(*values, strict=True)]
    return Summary(percentiles, np.concatenate(low), np.concatenate(high))


class _Bracket:
    """Counts around one bracket, and the values strictly inside it."""

    def __init__(self, lo, hi):
        self.lo, self.hi = lo, hi
        self.n_below = self.n_at_lo = self.n_at_hi = 0
        self.inside = []
        self.dtype = np.dtype(np.float64)

    def add(self, block):
        self.dtype = block.dtype
        lo, hi = block.dtype.type(self.lo), block.dtype.type(self.hi)
        above_lo = block > lo
        n_below = np.count_nonzero(block < lo)
        self.n_below += n_below
        self.n_at_lo += block.size - n_below - np.count_nonzero(above_lo)
        self.n_at_hi += np.count_nonzero(block == hi) if hi > lo else 0
        above_lo &= block < hi
        self.inside.append(block[above_lo])

    def percentile(self, q, n):
        """Interpolate as numpy does, or return None where the bracket missed."""
        position = (n - 1) * (q / 100)
        lower = int(np.floor(position))
        upper = min(lower + 1, n - 1)
        inside = np.concatenate(self.inside)
        first = self.n_below + self.n_at_lo  # rank of the first value inside
        ranks = [k - first for k in (lower, upper)]
        wanted = [k for k in ranks if 0 <= k < len(inside)]
        if wanted:
            inside.partition(wanted)

        def statistic(k):
            if k < 0:
                return self.dtype.type(self.lo) if k >= -self.n_at_lo else None
            if k < len(inside):
                return inside[k]
            return self.dtype.type(self.hi) if k < len(inside) + self.n_at_hi else None

        a, b = map(statistic, ranks)
        if a is None or b is None:
            return None
        # numpy's own interpolation, in the features' dtype, equal to the last bit
        gamma = position - lower
        step = b - a
        return float(b - step * (1 - gamma) if gamma >= 0.5 else a + step * gamma)


def _random_elements(X, rows, size, seed):
    rng = np.random.default_rng(seed)
    index = np.arange(X.shape[0]) if rows is None else np.flatnonzero(rows)
    row = index[rng.integers(len(index), size=size)]
    row.sort()  # memory maps are read in order
    column = rng.integers(X.shape[1], size=size)
    if not isinstance(X, np.ndarray):
        row, column = (as_tensor(i).to(X.device) for i in (row, column))
    return as_float(as_tensor(X[row, column])).cpu().numpy()


def _bracket(sample, q):
    """Return sample values that enclose percentile ``q`` of X by six sigma."""
    size = len(sample)
    p = q / 100
    margin = 6 * np.sqrt(p * (1 - p) * size) + 6
    below, above = int(p * size - margin), int(np.ceil(p * size + margin))
    lo = np.partition(sample, below)[below] if below > 0 else -np.inf
    hi = np.partition(sample, above)[above] if above < size - 1 else np.inf
    return lo, hi
