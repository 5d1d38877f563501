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
from numbers import Real

import joblib
import numpy as np

from reactood._scoring._blocks import check_finite, host_blocks, take_rows
from reactood._utils._tensors import Matrix, as_float, as_tensor

SAMPLE = 1 << 17
SMALL = 1 << 20  # up to this many elements a plain copy is cheaper
COLUMNS = 32  # columns that are transposed together: two cache lines of float32


@dataclass
class Summary:
    """What one pass over the features tells."""

    percentiles: list  # a float each, or an array with one value per column
    minimum: float | np.ndarray
    maximum: float | np.ndarray


def check_percent(name: str, value: float | None, *, effect: str = "") -> None:
    """Raise for no percentile at all, and where it was likely meant as a fraction."""
    if value is None:
        return
    check_range(name, value)
    if 0 < value <= 1:
        raise ValueError(
            f"{name}={value} means {value} percent{effect}. Percentiles are in percent "
            f"here: did you mean {100 * value:g}?"
        )


def check_range(name: str, value: float) -> None:
    """Raise unless ``value`` is a number from 0 to 100; NaN is none."""
    if not isinstance(value, Real):
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}; expected a number from 0 "
            "to 100, in percent."
        )
    if not 0 <= value <= 100:
        raise ValueError(
            f"{name}={value}; expected a number from 0 to 100, in percent."
        )


def _check_all(qs: Sequence[float]) -> None:
    """Raise for what is no percentile: the search for it would not end."""
    for q in qs:
        check_range("percentile", q)


def pooled_percentiles(
    X: Matrix, qs: Sequence[float], rows: np.ndarray | None = None, *, seed: int = 0
) -> Summary:
    """Return the percentiles ``qs`` (in percent) over all elements of ``X``.

    Raises ValueError where X holds NaN or inf.
    """
    _check_all(qs)
    n = (X.shape[0] if rows is None else int(rows.sum())) * X.shape[1]
    sample_size = n if n <= SMALL else SAMPLE
    while True:
        brackets = _brackets(X, rows, qs, n, sample_size, seed)
        summary = _look(X, rows, brackets).summary(qs)
        if summary is not None:
            return summary
        sample_size *= 8  # a bracket missed: about once in 10^8 matrices


def pooled_percentiles_of_sides(
    X: Matrix, qs: Sequence[float], sides: Sequence[np.ndarray], *, seed: int = 0
) -> list[Summary]:
    """Return the percentiles of several sets of rows that overlap, as folds do.

    Rows that are in the same sets are counted together, once, and the counts added
    up: for the train sides of k folds that is one pass instead of k - 1.
    """
    _check_all(qs)
    patterns, pattern = np.unique(np.stack(sides, axis=1), axis=0, return_inverse=True)
    if len(patterns) > 2 * len(sides):
        return [pooled_percentiles(X, qs, rows, seed=seed) for rows in sides]
    union = np.any(sides, axis=0)
    n = int(union.sum()) * X.shape[1]
    brackets = _brackets(X, union, qs, n, n if n <= SMALL else SAMPLE, seed)
    looks = [
        _look(X, pattern.ravel() == i, brackets) if member.any() else None
        for i, member in enumerate(patterns)
    ]
    summaries = []
    for side, rows in enumerate(sides):
        parts = [
            look
            for look, member in zip(looks, patterns, strict=True)
            if look is not None and member[side]
        ]
        summary = _Look.joined(parts).summary(qs) if parts else None
        # The rows of one side may differ from all rows: then it gets its own brackets.
        summaries.append(summary or pooled_percentiles(X, qs, rows, seed=seed))
    return summaries


def column_percentiles(
    X: Matrix, qs: Sequence[float], rows: np.ndarray | None = None
) -> Summary:
    """Return the percentiles ``qs`` (in percent) of each column of ``X``.

    Raises ValueError where X holds NaN or inf.
    """
    _check_all(qs)
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


@dataclass
class _Look:
    """What one pass over some rows has counted."""

    n: int
    minimum: float
    maximum: float
    counts: list

    @classmethod
    def joined(cls, looks):
        """Return what a pass over the rows of all of them would have counted."""
        counts = [
            _Bracket.joined(parts)
            for parts in zip(*(look.counts for look in looks), strict=True)
        ]
        return cls(
            sum(look.n for look in looks),
            min(look.minimum for look in looks),
            max(look.maximum for look in looks),
            counts,
        )

    def summary(self, qs):
        """Return the Summary, or None where a bracket missed."""
        values = [
            count.percentile(q, self.n)
            for count, q in zip(self.counts, qs, strict=True)
        ]
        if None in values:
            return None
        return Summary(values, float(self.minimum), float(self.maximum))


def _look(X, rows, brackets):
    """Pass over the rows once."""
    look = _Look(0, np.inf, -np.inf, [_Bracket(lo, hi) for lo, hi in brackets])
    for block in host_blocks(X, rows):
        block = block.ravel(order="K")
        low, high = block.min(), block.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            check_finite(X, rows)
        look.n += block.size
        look.minimum, look.maximum = min(look.minimum, low), max(look.maximum, high)
        for count in look.counts:
            count.add(block)
    return look


class _Bracket:
    """Counts around one bracket, and the values strictly inside it."""

    def __init__(self, lo, hi):
        self.lo, self.hi = lo, hi
        self.n_below = self.n_at_lo = self.n_at_hi = 0
        self.inside = []
        self.dtype = np.dtype(np.float64)

    @classmethod
    def joined(cls, parts):
        """Return the counts of all together, of the same bracket."""
        whole = cls(parts[0].lo, parts[0].hi)
        for part in parts:
            whole.dtype = part.dtype
            whole.n_below += part.n_below
            whole.n_at_lo += part.n_at_lo
            whole.n_at_hi += part.n_at_hi
            whole.inside += part.inside
        return whole

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
        inner = [k for k in ranks if 0 <= k < len(inside)]
        if inner:
            inside.partition(inner)

        def statistic(k):
            if k < 0:
                return self.dtype.type(self.lo) if k >= -self.n_at_lo else None
            if k < len(inside):
                return inside[k]
            return self.dtype.type(self.hi) if k < len(inside) + self.n_at_hi else None

        a, b = map(statistic, ranks)
        if a is None or b is None:
            return None
        return float(interpolated(a, b, position - lower))


def interpolated(a, b, gamma):
    """Return what is between two order statistics, to numpy.percentile's last bit."""
    step = b - a  # in the features' dtype
    return b - step * (1 - gamma) if gamma >= 0.5 else a + step * gamma


def _random_elements(X, rows, size, seed):
    rng = np.random.default_rng(seed)
    index = np.arange(X.shape[0]) if rows is None else np.flatnonzero(rows)
    row = index[rng.integers(len(index), size=size)]
    row.sort()  # memory maps are read in order
    column = rng.integers(X.shape[1], size=size)
    if not isinstance(X, np.ndarray):
        row, column = (as_tensor(i).to(X.device) for i in (row, column))
    return as_float(as_tensor(X[row, column])).cpu().numpy()


def _brackets(X, rows, qs, n, sample_size, seed):
    """Return what surely encloses each percentile of the ``n`` elements."""
    if sample_size >= n or not qs:
        return [(-np.inf, np.inf)] * len(qs)
    sample = _random_elements(X, rows, sample_size, seed)
    return [_bracket(sample, q) for q in qs]


def _bracket(sample, q):
    """Return sample values that enclose percentile ``q`` of X by six sigma."""
    size = len(sample)
    p = q / 100
    margin = 6 * np.sqrt(p * (1 - p) * size) + 6
    below, above = int(p * size - margin), int(np.ceil(p * size + margin))
    lo = np.partition(sample, below)[below] if below > 0 else -np.inf
    hi = np.partition(sample, above)[above] if above < size - 1 else np.inf
    return lo, hi
