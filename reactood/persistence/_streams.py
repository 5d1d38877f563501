"""Check what a file holds of batches that a detector has learned from."""

import numpy as np
import torch

from reactood._scoring._histogram import FINITE, bucket_of
from reactood._scoring._row_sample import hashes_of
from reactood._scoring._stream import Stream
from reactood.persistence._checks import Array, Number, Unfit

PARTS = {
    "histogram": {"used", "counts", "minimum", "maximum"},
    "sample": {"keys", "rows", "counts"},
    "exact": {"q", "percentile"},
}
MOST = 2**53


def stream_of(state):
    """Return the stream of a state, whose parts were checked against each other."""
    if set(state) != {"sample_size", "per_unit", *PARTS}:
        raise Unfit(f"holds {list(state)!r:.60}, expected the counts of batches")
    for name, parts in PARTS.items():
        if not isinstance(state[name], dict) or set(state[name]) != parts:
            raise Unfit(f"has a {name} that is none")
    Number(1, MOST, integer=True).check(state["sample_size"], {})
    if not isinstance(state["per_unit"], bool):
        raise Unfit(f"has per_unit={state['per_unit']!r:.20}")
    histogram, sample = state["histogram"], state["sample"]
    rows = sample["rows"]
    Array("rows", "features").check(rows, {})
    if rows.dtype != np.float32 or not rows.shape[1]:
        raise Unfit("has a sample of other numbers than float32")
    n_columns = rows.shape[1] if state["per_unit"] else 1
    _check_histogram(histogram, n_columns)
    _check_sample(sample, state["sample_size"])
    q = _numbers(state["exact"]["q"], np.float64, (-1,))
    _numbers(state["exact"]["percentile"], np.float64, q.shape)
    stream = Stream.of_arrays(state)
    n = histogram["counts"].sum(axis=1)
    n_counted = int(sample["counts"].sum())
    if np.any(n != n[0]) or int(n.sum()) % rows.shape[1]:
        raise Unfit("has counts that are not those of whole rows")
    if n_counted > stream.n_rows or (stream.is_small and n_counted != stream.n_rows):
        raise Unfit("has a sample that is not one of the rows that were counted")
    _check_exact(stream)
    return stream


def check_stream(detector):
    """Raise Unfit unless the counts of batches are those of a detector."""
    stream = detector._stream
    for name, expected in (
        ("n_features", detector.n_features_in_),
        ("n_rows", detector.n_samples_seen_),
        ("per_unit", detector.per_unit),
        ("sample_size", detector.sample_size),
    ):
        if getattr(stream, name) != expected:
            raise Unfit(f"has counts of batches with another {name}")


def _check_histogram(histogram, n_columns):
    used = _numbers(histogram["used"], np.int64, (-1,))
    counts = _numbers(histogram["counts"], np.int64, (n_columns, len(used)))
    if np.any(used[1:] <= used[:-1]) or np.any(
        (used < FINITE[0]) | (used >= FINITE[1])
    ):
        raise Unfit("counts numbers that are none")
    if np.any(counts < 0) or np.any(counts.sum(axis=1, dtype=float) > MOST):
        raise Unfit("has counts that are none")
    for name, first in (("minimum", True), ("maximum", False)):
        extremes = histogram[name]
        if (
            not isinstance(extremes, np.ndarray)
            or extremes.dtype != np.float32
            or extremes.shape != (n_columns,)
        ):
            raise Unfit(f"has a {name} that is none")
        if not counts.any():
            continue
        # Each is in the outermost bucket that holds a number.
        ordered = counts > 0 if first else (counts > 0)[:, ::-1]
        place = ordered.argmax(axis=1)
        expected = used[place if first else len(used) - 1 - place]
        if np.any(bucket_of(torch.from_numpy(extremes)).numpy() != expected):
            raise Unfit(f"has a {name} that is not in its counts")


def _check_exact(stream):
    """Check that exact percentiles are where the histogram has them."""
    for q, value in stream.exact.items():
        if stream.per_unit or not stream.n_rows or not 0 <= q <= 100:
            raise Unfit(f"has an exact percentile {q}")
        low, high = stream.histogram.percentile_bounds(q)
        if not low <= value <= high:
            raise Unfit(f"has an exact percentile {q} that its counts exclude")


def _check_sample(sample, size):
    rows = sample["rows"]
    keys = _numbers(sample["keys"], np.int64, (len(rows),)).view(np.uint64)
    counts = _numbers(sample["counts"], np.int64, (len(rows),))
    if len(rows) > size or np.any(counts < 1) or counts.sum(dtype=float) > MOST:
        raise Unfit("has a sample that is too large, or counts that are none")
    if np.any(keys[1:] <= keys[:-1]):
        raise Unfit("has a sample that is not in order")
    if len(rows) and np.any(keys != hashes_of(torch.from_numpy(rows))):
        raise Unfit("has a sample of other rows than its hashes say")


def _numbers(array, dtype, shape):
    """Return an array of a dtype and a shape, in which -1 stands for any size."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise Unfit(f"has counts that are no array of {np.dtype(dtype)}")
    if array.ndim != len(shape) or any(
        size not in (-1, got) for size, got in zip(shape, array.shape, strict=True)
    ):
        raise Unfit(f"has counts of the shape {array.shape}")
    return array
