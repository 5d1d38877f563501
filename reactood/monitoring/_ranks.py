"""Online ranks: the place of each score among all scores before it."""

import numpy as np

MIN_RECENT = 1024
PAIRWISE = 32  # scores in a batch that are compared with each other directly
EARLIER = np.tri(PAIRWISE, k=-1, dtype=bool)


class Bag:
    """Scores in ascending order, to which batches are added.

    Recent scores are kept apart, so that one new score does not move all of them. They
    join the others when there are more than a few times the square root.
    """

    def __init__(self, scores, recent=()):
        self.scores = scores
        self.recent = np.asarray(recent, np.float64)

    def __len__(self):
        return len(self.scores) + len(self.recent)

    def add(self, new):
        """Add scores, one after the other.

        Returns how many scores were below each new one when it was added, and how many
        were equal to it, itself included.
        """
        below, equal = earlier_in_batch(new)
        order = np.argsort(new, kind="stable")
        ascending = new[order]  # a search for ascending values uses the memory in order
        for scores in (self.scores, self.recent):
            left = np.searchsorted(scores, ascending, side="left")
            below[order] += left
            equal[order] += np.searchsorted(scores, ascending, side="right") - left
        self.recent = merged(self.recent, ascending)
        if len(self.recent) > max(MIN_RECENT, 4 * len(self.scores) ** 0.5):
            self.scores = merged(self.scores, self.recent)
            self.recent = self.recent[:0]
        return below, equal + 1


def merged(large, small):
    """Return two ascending arrays as one."""
    return np.insert(large, np.searchsorted(large, small), small)


def earlier_in_batch(new):
    """Return how many earlier scores of a batch are below each one, and how many equal.

    Pieces of few scores are compared in pairs. Then each right half of a piece twice as
    long is looked up in its left half, and so on, as in a merge sort.
    """
    n = len(new)
    n_pieces = 1 << max(0, (n - 1) // PAIRWISE).bit_length()
    ranks = np.unique(new, return_inverse=True)[1].reshape(-1)
    padded = np.full(n_pieces * PAIRWISE, n, np.int64)  # a rank above all
    padded[:n] = ranks
    pieces = padded.reshape(-1, PAIRWISE)
    this, other = pieces[:, :, None], pieces[:, None, :]
    below = np.count_nonzero((other < this) & EARLIER, axis=2).ravel()
    equal = np.count_nonzero((other == this) & EARLIER, axis=2).ravel()
    half = PAIRWISE
    while half < n:
        halves = padded.reshape(-1, 2, half)
        # Each pair of halves has a range of numbers of its own, so that one search
        # serves all.
        n_pairs = len(halves)
        shift = np.arange(n_pairs)[:, None] * (n + 1)
        left = (np.sort(halves[:, 0], axis=1) + shift).ravel()
        right = (halves[:, 1] + shift).ravel()
        first = np.searchsorted(left, right, side="left")
        last = np.searchsorted(left, right, side="right")
        before = np.repeat(np.arange(n_pairs) * half, half)
        below.reshape(-1, 2, half)[:, 1] += (first - before).reshape(-1, half)
        equal.reshape(-1, 2, half)[:, 1] += (last - first).reshape(-1, half)
        half *= 2
    return below[:n], equal[:n]
