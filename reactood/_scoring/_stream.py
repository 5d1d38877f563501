"""Stream: what is kept of feature rows that are seen once."""

import numpy as np
import torch

from reactood._scoring._blocks import check_finite, rows_per_block, tensor_blocks
from reactood._scoring._histogram import Histogram
from reactood._scoring._percentile import Summary
from reactood._scoring._row_sample import RowSample

MOST_UNEVEN = 6  # standard errors of the number of rows that a sample stands for


class Stream:
    """A histogram of all activations, and a random sample of the rows.

    Both are the same for any order of the rows and any split into batches, and those of
    two streams add up.

    Parameters
    ----------
    n_features : int
        Columns of the features.
    per_unit : bool
        Whether to count the activations of each column by themselves.
    sample_size : int
        Rows to keep.
    """

    def __init__(self, n_features, *, per_unit, sample_size):
        self.n_features = n_features
        self.per_unit = per_unit
        self.histogram = Histogram(n_features if per_unit else None)
        self.sample = RowSample(sample_size, n_features)
        self.exact: dict[float, float] = {}  # percentiles that a second pass found
        self._half_way = False

    @property
    def n_rows(self):
        return self.histogram.n // (self.n_features if self.histogram.is_pooled else 1)

    @property
    def shape(self):
        return self.n_rows, self.n_features

    @property
    def sample_size(self):
        return self.sample.size

    @property
    def is_small(self):
        """Whether the sample holds every row."""
        return self.n_rows <= self.sample_size

    def add(self, X, rows=None):
        """Take in the rows that count, or none, if they hold NaN or inf."""
        self.check_whole()
        _check_range(X, rows)
        self._half_way, self.exact = True, {}
        for block in float32_blocks(X, rows):
            self.histogram.add(block)
            self.sample.add(block)
        self._half_way = False

    def merge(self, other):
        """Take in all rows of another stream, which stays as it is."""
        self.check_whole()
        other.check_whole()
        self._half_way, self.exact = True, {}
        self.histogram.merge(other.histogram)
        self.sample.merge(other.sample)
        self._half_way = False

    def check_whole(self):
        """Raise RuntimeError if rows were taken in half."""
        if self._half_way:
            raise RuntimeError(
                "A batch was interrupted, so that a part of its rows is counted and "
                "the others are not. Begin again, or load a state that was saved."
            )

    def summary(self, qs):
        """Return the percentiles and the extremes of all rows."""
        percentiles = [
            self.exact[q] if q in self.exact else self.histogram.percentile(q)
            for q in qs
        ]
        return Summary(percentiles, *self.histogram.extremes())

    def rows(self):
        """Return the rows of the sample, and how often each came."""
        arrays = self.sample.arrays()
        return arrays["rows"], arrays["counts"]

    @property
    def is_uneven(self):
        """Whether the sample does not stand for its share of all rows.

        That is so where many rows are copies of few: these are either in the sample, or
        not.
        """
        n_counted = self.sample.n_counted
        if n_counted == self.n_rows:
            return False
        share = (float(self.sample.limit) + 1) / 2**64
        error = 1 / np.sqrt(self.sample_size)
        return abs(np.log(n_counted / (self.n_rows * share))) > MOST_UNEVEN * error

    def arrays(self):
        """Return the state as arrays by name, from which it can be made again."""
        self.check_whole()
        return {
            "sample_size": self.sample_size,
            "per_unit": self.per_unit,
            "histogram": self.histogram.arrays(),
            "sample": self.sample.arrays(),
            "exact": {
                "q": np.array(list(self.exact), float),
                "percentile": np.array(list(self.exact.values()), float),
            },
        }

    @classmethod
    def of_arrays(cls, state):
        """Return the stream of a state."""
        made = cls(
            state["sample"]["rows"].shape[1],
            per_unit=state["per_unit"],
            sample_size=state["sample_size"],
        )
        made.histogram = Histogram.of_arrays(
            state["histogram"], is_pooled=not made.per_unit
        )
        made.sample = RowSample.of_arrays(made.sample_size, state["sample"])
        exact = state["exact"]
        made.exact = dict(
            zip(exact["q"].tolist(), exact["percentile"].tolist(), strict=True)
        )
        return made


def float32_blocks(X, rows=None):
    """Yield the rows that count as float32, in blocks that the cache holds."""
    n_rows = rows_per_block(8 * X.shape[1], X.device)
    for block in tensor_blocks(X, rows, n_rows=n_rows):
        yield block.to(torch.float32)


def _check_range(X, rows):
    """Raise ValueError for NaN, inf, and what is inf in float32."""
    n_bad = 0
    for block in float32_blocks(X, rows):
        n_bad = n_bad + (~block.sum().isfinite()).long()  # read at the end
    if n_bad:
        check_finite(X, rows)
        if any(not block.isfinite().all() for block in float32_blocks(X, rows)):
            raise ValueError(
                "X holds numbers beyond the range of float32, in which rows that are "
                "seen once are counted; scale the features."
            )
