"""How far what was learned from one stream has moved in another, with intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from reactood._scoring._scores import percentile_of_counted


@dataclass(frozen=True, eq=False)
class Change:
    """A number before and after, and an interval for its change.

    Parameters
    ----------
    before, after : float, or ndarray of shape (n_features,)
        The number in the first stream and in the second.

    low, high : float, or ndarray of shape (n_features,)
        The confidence interval of `after - before`.
    """

    before: Any
    after: Any
    low: Any
    high: Any

    @property
    def moved(self):
        """Whether the interval leaves out 0: for each unit, if there is one for each.

        Returns
        -------
        moved : bool, or ndarray of bool
            True where there is a change that chance does not explain.
        """
        moved = (np.asarray(self.low) > 0) | (np.asarray(self.high) < 0)
        return moved if moved.ndim else bool(moved)


@dataclass(frozen=True, eq=False)
class Drift:
    """What :meth:`reactood.ReActDetector.drift` found; `print` shows it as a table.

    Parameters
    ----------
    clip : Change or None
        Of the upper clip, the percentile of the activations. None for a clip that is
        not learned.

    lower_clip : Change or None
        Of the lower clip, in the same way.

    clipped_share : Change
        Of the share of the activations that the first detector's clip changes, a
        fraction.

    rejected_share : Change
        Of the share of the rows that the first detector rejects, a fraction.

    score_percentiles : dict of float to Change
        Of the percentiles, in percent, of the scores that the first detector gives.

    confidence : float
        Of each interval by itself, a fraction.
    """

    clip: Change | None
    lower_clip: Change | None
    clipped_share: Change
    rejected_share: Change
    score_percentiles: dict
    confidence: float

    def __str__(self):
        rows = {
            "clip": self.clip,
            "lower clip": self.lower_clip,
            "clipped share": self.clipped_share,
            "rejected share": self.rejected_share,
            **{f"score, {q:g} %": one for q, one in self.score_percentiles.items()},
        }
        interval = f"change, {100 * self.confidence:g} % interval"
        lines = [f"{'':<16}{'before':>10}{'after':>10}  {interval}"]
        for name, change in rows.items():
            if change is None:
                continue
            moved = np.asarray(change.moved)
            if moved.ndim:
                n = np.count_nonzero(moved)
                lines.append(f"{name:<16}{n} of {len(moved)} units have moved")
                continue
            text = f"{name:<16}{change.before:>10.4g}{change.after:>10.4g}"
            text += f"  {change.low:+.4g} to {change.high:+.4g}"
            lines.append(text + ("  moved" if moved else ""))
        return "\n".join(lines)


class StreamView:
    """What one stream says through a clip, each number with its interval.

    Each method returns an estimate, and the lower and the upper end.
    """

    def __init__(self, stream, clip, scorer, confidence):
        self.stream = stream
        self.clip = clip
        self.confidence = confidence
        self._z = stats.norm.ppf((1 + confidence) / 2)
        self.rows, self.counts = stream.rows()
        (self.scores,) = scorer.scores(self.rows, [clip])

    def percentile(self, q, value):
        """The percentile ``q`` of the activations, which is known to be ``value``.

        The interval is that of the share of the activations below it, which varies from
        row to row, read off the histogram [1]_.

        References
        ----------
        .. [1] R. S. Woodruff, "Confidence intervals for medians and other position
           measures", Journal of the American Statistical Association 47, 1952.
        """
        histogram = self.stream.histogram
        if histogram.is_pooled:
            error = self._error(self.rows <= value)
        else:  # one activation for each row
            error = self._z * np.sqrt(q / 100 * (1 - q / 100) / self.stream.n_rows)
        low, high = (np.clip(q + 100 * e, 0, 100) for e in (-error, error))
        ends = histogram.percentile_bounds(low)[0], histogram.percentile_bounds(high)[1]
        return value, np.minimum(ends[0], value), np.maximum(ends[1], value)

    def clipped_share(self):
        """The share of the activations that the clip changes."""
        lower, upper = self.clip.lower, self.clip.upper
        outside = (self.rows < lower) | (self.rows > upper)
        if self.stream.is_small:
            share = np.average(outside.mean(axis=1), weights=self.counts)
        else:
            share = self.stream.histogram.share_outside(lower, upper)
        error = self._error(outside)
        return share, max(share - error, 0.0), min(share + error, 1.0)

    def rejected_share(self, offset):
        """The share of the rows that score below the decision threshold."""
        rejected = self.scores < offset
        share = np.average(rejected, weights=self.counts)
        test = stats.binomtest(int(rejected.sum()), len(rejected))
        low, high = test.proportion_ci(self.confidence, method="wilson")
        return share, min(low, share), max(high, share)

    def score_percentile(self, q):
        """The percentile ``q`` of the scores, between two order statistics."""
        n, tail = len(self.scores), (1 - self.confidence) / 2
        first, last = stats.binom.ppf([tail, 1 - tail], n, q / 100)
        ends = np.array([first - 1, last]) / max(n - 1, 1)
        at = [q, *np.clip(100 * ends, 0, 100)]
        return tuple(percentile_of_counted(self.scores, p, self.counts) for p in at)

    def _error(self, marked):
        """Half the interval of the share of the marked activations over all rows."""
        shares = marked.mean(axis=1)
        mean = np.average(shares, weights=self.counts)
        variance = np.average((shares - mean) ** 2, weights=self.counts)
        return self._z * np.sqrt(variance / self.stream.n_rows)


def change_of(before, after):
    """Return the change between two estimates with their intervals [1]_.

    References
    ----------
    .. [1] R. G. Newcombe, "Interval estimation for the difference between independent
       proportions: comparison of eleven methods", Statistics in Medicine 17, 1998,
       whose method 10 serves any two independent estimates.
    """
    (a, a_low, a_high), (b, b_low, b_high) = before, after
    low = b - a - np.hypot(b - b_low, a_high - a)
    high = b - a + np.hypot(b_high - b, a - a_low)
    return Change(*map(_plain, (a, b, low, high)))


def _plain(value):
    return value if np.ndim(value) else float(value)
