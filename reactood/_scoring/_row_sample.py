"""RowSample: a random sample of the rows of a stream, the same for any order."""

import functools
import threading

import numpy as np
import torch

MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64
LARGEST = np.uint64(2**64 - 1)
HASH_BLOCK = 1 << 18  # words of 64 bits that are hashed together: 2 MiB


class RowSample:
    """Keeps the distinct rows with the smallest hashes, and how often each came.

    A hash of a row's bits is a random number that belongs to the row. The rows with the
    ``size`` smallest ones are therefore a random sample of the distinct rows, whatever
    their order, and the sample of two streams together follows from those of each.
    Their counts are exact: what is among the smallest at the end was so all the time.

    Attributes
    ----------
    limit : uint64
        The largest hash that can still matter.
    """

    def __init__(self, size, n_features):
        self.size = size
        self._keys = np.empty(0, np.uint64)
        self._counts = np.empty(0, np.int64)
        self._rows = np.empty((0, n_features), np.float32)
        self._n = 0  # places in use
        self._n_distinct = 0  # the first ones, in which no key is twice
        self.limit = LARGEST
        self._sorting = threading.Lock()

    def add(self, block):
        """Take in a matrix of float32."""
        keys = hashes_of(block)
        kept = np.flatnonzero(keys <= self.limit)
        rows = block[torch.from_numpy(kept).to(block.device)].cpu().numpy()
        self._take(keys[kept], rows, np.ones(len(kept), np.int64))

    def merge(self, other):
        """Take in the sample of other rows."""
        if other is self:  # rows must not move while they are read
            other = RowSample.of_arrays(self.size, self.arrays())
        used = slice(other._n)
        self._take(other._keys[used], other._rows[used], other._counts[used])

    def those_among(self, larger):
        """Return the rows that can be in the sample of all rows that `larger` saw."""
        larger._sort_out()
        arrays = self.arrays()
        kept = arrays["keys"].view(np.uint64) <= larger.limit
        some = {name: array[kept] for name, array in arrays.items()}
        return RowSample.of_arrays(self.size, some)

    @property
    def n_counted(self):
        """How many rows the kept ones stand for."""
        self._sort_out()
        return int(self._counts[: self._n].sum())

    def arrays(self):
        """Return the state as arrays by name, in the order of the hashes."""
        self._sort_out()
        order = np.argsort(self._keys[: self._n])
        keys, rows, counts = (a[order] for a in (self._keys, self._rows, self._counts))
        return {"keys": keys.view(np.int64), "rows": rows, "counts": counts}

    @classmethod
    def of_arrays(cls, size, arrays):
        """Return the sample of a state."""
        made = cls(size, arrays["rows"].shape[1])
        keys = arrays["keys"].view(np.uint64)
        made._take(keys, arrays["rows"], arrays["counts"])
        made._sort_out()
        return made

    def _take(self, keys, rows, counts):
        start = 0
        while start < len(keys):
            if self._n == len(self._keys):
                self._make_room(len(keys) - start)
            some = slice(start, start + len(self._keys) - self._n)
            matter = keys[some] <= self.limit
            places = slice(self._n, self._n + np.count_nonzero(matter))
            self._keys[places] = keys[some][matter]
            self._rows[places] = rows[some][matter]
            self._counts[places] = counts[some][matter]
            self._n, start = places.stop, some.stop

    def _make_room(self, n_more):
        # Some more places than rows, so that they are sorted out now and then only.
        most = self.size + max(1, self.size // 4)
        if self._n == most:
            self._sort_out()
            return
        n_places = min(max(2 * self._n, self._n + n_more), most)
        for name in ("_keys", "_counts", "_rows"):
            before = getattr(self, name)
            array = np.empty((n_places, *before.shape[1:]), before.dtype)
            array[: self._n] = before[: self._n]
            setattr(self, name, array)

    def _sort_out(self):
        """Keep the smallest hashes, each once, in the first places.

        To read a sample sorts it out too, and several threads may read at once.
        """
        with self._sorting:
            if self._n != self._n_distinct:
                self._keep_smallest(self._n)

    def _keep_smallest(self, n):
        keys, places, which = np.unique(
            self._keys[:n], return_index=True, return_inverse=True
        )
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, which, self._counts[:n])
        kept = places[: self.size]
        self._counts[kept] = counts[: self.size]
        n_kept = len(kept)
        holes = np.setdiff1d(np.arange(n_kept), kept, assume_unique=True)
        moved = kept[kept >= n_kept]
        for array in (self._keys, self._rows, self._counts):
            array[holes] = array[moved]
        self._n = self._n_distinct = n_kept
        if n_kept == self.size:
            self.limit = keys[self.size - 1]


def hashes_of(block):
    """Return a 64-bit hash of each row of a matrix of float32.

    A weighted sum of the bits, 64 at a time, with fixed odd weights, modulo 2**64; bits
    are mixed before and after. It is no protection against rows made to collide.
    """
    if block.shape[1] % 2:
        block = torch.nn.functional.pad(block, (0, 1))
    words = block.contiguous().view(torch.int64)
    weights = _weights(words.shape[1]).to(block.device)
    n_rows = max(1, HASH_BLOCK // max(1, words.shape[1]))
    spread = int(np.uint64(MIX[1]).view(np.int64))
    sums = []
    for some in words.split(n_rows):
        # Numbers of few digits end in zeros, which a product would keep.
        some = some * spread
        some ^= (some >> 32) & 0xFFFFFFFF
        sums.append((some * weights).sum(dim=1))
    return _mixed(torch.cat(sums).cpu().numpy().view(np.uint64))


@functools.lru_cache(maxsize=8)
def _weights(n_words):
    """Return the odd weights of a row's words: the same for every block."""
    weights = _mixed(np.arange(n_words, dtype=np.uint64)) | np.uint64(1)
    return torch.from_numpy(weights.view(np.int64))


def _mixed(numbers):
    """Return numbers whose bits all depend on all bits of the given ones."""
    with np.errstate(over="ignore"):
        z = numbers + np.uint64(MIX[0])
        z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX[1])
        z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX[2])
        return z ^ (z >> np.uint64(31))
