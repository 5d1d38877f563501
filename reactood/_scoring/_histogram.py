"""Histogram: percentiles of numbers that are seen once, from counts of their bits.

The upper 16 bits of a float32 are its sign, its exponent and the first 7 bits of its
mantissa: numbers that share them are alike to 1 part in 128. There are 65,536 such
buckets, and in the order of the numbers they stand one after the other. Counts of them
give every percentile to the width of a bucket. They add up: the state is the same for
any order and any split of the data.
"""

from typing import Any

import numpy as np
import torch

from reactood._scoring._percentile import interpolated

BUCKETS = 1 << 16
FINITE = 128, BUCKETS - 128  # the buckets at both ends are of infinities and NaN
OCTAVE = 1 << 7  # buckets of one sign and exponent
ZERO = 1 << 15  # the bucket of +0 in ascending order; that of -0 is one below
# The larger the bits of a negative number, the smaller it is.
RAW_OF_BUCKET = np.concatenate([np.arange(ZERO)[::-1], np.arange(ZERO, BUCKETS)])


class Histogram:
    """Counts of float32 numbers by their upper 16 bits.

    Parameters
    ----------
    n_columns : int or None
        How many columns to count each by itself; None counts all numbers together.

    Attributes
    ----------
    used : ndarray of shape (n_used,)
        Buckets in ascending order, as the numbers are: all of them where there is one
        count of each; where there are many, those that hold a number.
    counts : ndarray of int64 of shape (n_columns or 1, n_used)
        How many numbers each holds.
    minimum, maximum : ndarray of float32 of shape (n_columns or 1,)
        The extremes.
    """

    def __init__(self, n_columns=None):
        self.is_pooled = n_columns is None
        self.n_columns = n_columns or 1
        self.used = np.arange(BUCKETS if self.is_pooled else 0)
        self.counts = np.zeros((self.n_columns, len(self.used)), np.int64)
        self.minimum = np.full(self.n_columns, np.inf, np.float32)
        self.maximum = np.full(self.n_columns, -np.inf, np.float32)

    def add(self, block: torch.Tensor):
        """Count the numbers of a matrix of float32, all finite."""
        if self.is_pooled:
            found = torch.bincount(_upper_bits(block).flatten(), minlength=BUCKETS)
            self.counts[0] += found.cpu().numpy()[RAW_OF_BUCKET]
            low, high = block.aminmax()
        else:
            # Column after column, so that their counts stay in the cache.
            self._count_columns(_upper_bits(block.T).cpu().numpy())
            low, high = block.aminmax(dim=0)
        self._widen(low.cpu().numpy(), high.cpu().numpy())

    def _count_columns(self, raw):
        seen = np.zeros(BUCKETS, bool)
        seen[raw] = True
        self._make_place(np.flatnonzero(seen[RAW_OF_BUCKET]))
        place = np.zeros(BUCKETS, np.int64)
        place[RAW_OF_BUCKET[self.used]] = np.arange(len(self.used))
        index = np.take(place, raw)
        index += np.arange(self.n_columns)[:, None] * len(self.used)
        np.add.at(self.counts.reshape(-1), index.ravel(), 1)

    def merge(self, other):
        """Add the counts of another histogram."""
        self._make_place(other.used)
        if len(self.used) == len(other.used):
            self.counts += other.counts
        else:
            self.counts[:, np.searchsorted(self.used, other.used)] += other.counts
        self._widen(other.minimum, other.maximum)

    @property
    def n(self):
        """How many numbers were counted in a column."""
        return int(self.counts[0].sum())

    def extremes(self):
        """Return the smallest and the largest number, as of the numbers."""
        return tuple(self._shaped(a.astype(float)) for a in self._extremes())

    def percentile(self, q):
        """Return the percentile ``q``; within a bucket, by linear interpolation."""
        return self._interpolated(q, self._value)

    def percentile_bounds(self, q):
        """Return two numbers that surely enclose the percentile ``q``.

        They are the ends of the bucket where it lies: above 2**-126 they differ by less
        than 1 part in 128.
        """
        return tuple(
            self._interpolated(q, lambda rank, end=end: self._ends(rank)[end])
            for end in (0, 1)
        )

    def share_at_most(self, value):
        """Return the share of the numbers in the bucket of a value or below."""
        number = torch.tensor([value], dtype=torch.float32, device="cpu")
        bucket = int(bucket_of(number))
        return self.counts[:, self.used <= bucket].sum() / self.counts.sum()

    def share_outside(self, lower, upper):
        """Return the share of all numbers below ``lower`` or above ``upper``.

        The part of the bucket of each bound is estimated by linear interpolation.
        """
        inside = self._n_below(upper, equal=True) - self._n_below(lower)
        return 1 - float(inside.sum() / self.counts.sum())

    def arrays(self):
        """Return the state as arrays by name."""
        some = self.counts.any(axis=0)
        extremes = {"minimum": self.minimum, "maximum": self.maximum}
        return {"used": self.used[some], "counts": self.counts[:, some], **extremes}

    @classmethod
    def of_arrays(cls, arrays, *, is_pooled):
        """Return the histogram of a state."""
        made = cls(None if is_pooled else len(arrays["counts"]))
        made._make_place(arrays["used"])
        made.counts[:, np.searchsorted(made.used, arrays["used"])] = arrays["counts"]
        made._widen(arrays["minimum"], arrays["maximum"])
        return made

    def _make_place(self, used):
        """Have a place for the counts of each of these buckets."""
        if len(self.used) == BUCKETS:
            return
        before, counts = self.used, self.counts
        # All buckets of an exponent at once: each time costs a copy of the counts.
        exponents = np.unique(used // OCTAVE) * OCTAVE
        together = np.union1d(before, exponents[:, None] + np.arange(OCTAVE))
        if len(together) > len(before):
            self.used = together
            self.counts = np.zeros((self.n_columns, len(together)), np.int64)
            self.counts[:, np.searchsorted(together, before)] = counts

    def _widen(self, low, high):
        self.minimum = np.minimum(self.minimum, low)
        self.maximum = np.maximum(self.maximum, high)

    def _extremes(self):
        """Return the extremes without the sign of 0."""
        return self.minimum + 0.0, self.maximum + 0.0

    def _shaped(self, values: np.ndarray) -> Any:
        """Return one value per column, or the only one as a float."""
        return float(values[0]) if self.is_pooled else values

    def _interpolated(self, q, value):
        """Interpolate between two order statistics as numpy.percentile does."""
        n = self.n
        position = (n - 1) * (q / 100)
        lower = int(np.floor(position))
        a, b = value(lower), value(min(lower + 1, n - 1))
        return self._shaped(interpolated(a, b, position - lower).astype(float))

    def _place(self, rank):
        """Return for each column which used bucket the rank is in, and how far."""
        sums = self.counts.cumsum(axis=1)
        place = (sums <= rank).sum(axis=1)
        columns = np.arange(self.n_columns)
        count = self.counts[columns, place]
        before = sums[columns, place] - count
        return place, (rank - before + 0.5) / count

    def _ends(self, rank):
        """Return the ends of the bucket of a rank, within the extremes."""
        place, _ = self._place(rank)
        return self._within(*ends_of(self.used[place]))

    def _value(self, rank):
        if rank in (0, self.n - 1):
            return self._extremes()[rank > 0]
        place, part = self._place(rank)
        bucket = self.used[place]
        low, high = self._within(*ends_of(bucket))
        value = low + (high - low) * part.astype(np.float32)
        return np.where(_is_zero(bucket), np.float32(0), value)

    def _within(self, low, high):
        smallest, largest = self._extremes()
        return np.maximum(low, smallest), np.minimum(high, largest)

    def _n_below(self, bounds, *, equal=False):
        """Return for each column about how many numbers are below a bound."""
        zero = _is_zero(self.used)
        ends = (np.where(zero, 0, end)[:, None] for end in ends_of(self.used))
        low, high = (end.T for end in self._within(*ends))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            bounds = np.asarray(bounds, np.float32).reshape(-1, 1)
            part = (bounds - low) / (high - low)
        # All numbers of a bucket may be one number: 0, or the largest of ReLU6.
        whole = bounds >= high if equal else bounds > high
        part = np.where(high > low, part.clip(0, 1), whole)
        return (self.counts * part).sum(axis=1)


class Zoom:
    """Counts the lower 16 bits of the numbers in some buckets: exact order statistics.

    A second pass over the same numbers as a histogram of one column has seen.
    """

    def __init__(self, histogram, qs):
        self.histogram = histogram
        self.qs = qs
        n = histogram.n
        ranks = {
            min(int(np.floor((n - 1) * (q / 100))) + more, n - 1)
            for q in qs
            for more in (0, 1)
        }
        self.places = {rank: int(histogram._place(rank)[0][0]) for rank in ranks}
        self.n = 0
        self.counts = {
            place: np.zeros(BUCKETS, np.int64) for place in set(self.places.values())
        }

    def add(self, block):
        """Count the numbers of a matrix of float32."""
        self.n += block.numel()
        buckets = bucket_of(block)
        for place, counts in self.counts.items():
            inside = block[buckets == int(self.histogram.used[place])]
            low = inside.view(torch.int32) & 0xFFFF
            counts += torch.bincount(low, minlength=BUCKETS).cpu().numpy()

    def percentiles(self):
        """Return the exact percentiles.

        Raises ValueError where the second pass saw other numbers than the first.
        """
        for place, counts in self.counts.items():
            seen = self.n, counts.sum()
            if seen != (self.histogram.n, self.histogram.counts[0, place]):
                raise ValueError(
                    "The second pass over the batches gave other features than the "
                    "first; exact=True needs the same ones twice. Are images augmented "
                    "at random, or are the batches an iterator, which ends once?"
                )
        return {q: self.histogram._interpolated(q, self._value) for q in self.qs}

    def _value(self, rank):
        place = self.places[rank]
        bucket = int(self.histogram.used[place])
        rank -= int(self.histogram.counts[0, :place].sum())
        counts = self.counts[place]
        if bucket < ZERO:
            low = BUCKETS - 1 - int((counts[::-1].cumsum() <= rank).sum())
        else:
            low = int((counts.cumsum() <= rank).sum())
        return _float_of(_bits_of(np.array([bucket])) << 16 | low)


def bucket_of(block):
    """Return the bucket of each float32, ascending as the numbers are."""
    raw = _upper_bits(block)
    return torch.where(raw >= ZERO, raw, ZERO - 1 - raw)


def _upper_bits(block):
    """Return the upper 16 bits as a number; 0 stands for -0, ``ZERO`` for +0."""
    return (block.contiguous().view(torch.int32) >> 16) + ZERO  # it keeps the sign


def ends_of(buckets):
    """Return the smallest and the largest float32 of each bucket."""
    bits = _bits_of(buckets) << 16
    first, last = _float_of(bits), _float_of(bits | 0xFFFF)
    negative = buckets < ZERO
    return np.where(negative, last, first), np.where(negative, first, last)


def _is_zero(buckets):
    """Return which buckets are counted as 0, as nothing else comes close to it."""
    return (buckets == ZERO) | (buckets == ZERO - 1)


def _bits_of(buckets):
    """Return the upper 16 bits of the numbers of each bucket."""
    return np.where(buckets >= ZERO, buckets - ZERO, BUCKETS - 1 - buckets)


def _float_of(bits):
    return bits.astype(np.uint32).view(np.float32)
