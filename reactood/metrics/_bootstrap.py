"""Compute the metrics of many bootstrap resamples at once."""

import numpy as np

from reactood.metrics._ranking import place_of_threshold

METRICS = "fpr", "auroc", "aupr_in", "aupr_out", "detection_error"
NUMBERS_AT_ONCE = 2**16  # half a MB in each array, so that all stay in the cache


def metrics_of_resamples(id_scores, ood_scores, *, tpr, n_bootstrap, seed):
    """Return the metrics of bootstrap resamples of ID and of each set of OOD scores.

    In each replicate all OOD sets meet the same resample of ID, as they meet the same
    ID samples in the data.

    Parameters
    ----------
    id_scores : ndarray of shape (n_id,)
        The higher, the more in-distribution.

    ood_scores : list of ndarray of shape (n_ood,)
        One array per set.

    tpr : float
        As in `fpr_at_tpr`.

    n_bootstrap : int
        Number of replicates.

    seed : int
        Of the resamples.

    Returns
    -------
    replicates : ndarray of shape (n_bootstrap, n_sets, 5)
        In the order of `METRICS`, fractions, by the paper's conventions.
    """
    id_rng, *ood_rngs = np.random.default_rng(seed).spawn(1 + len(ood_scores))
    places = [
        (places_of(id_scores, scores), places_of(scores, id_scores))
        for scores in ood_scores
    ]
    step = max(1, NUMBERS_AT_ONCE // max(len(place) for place, _ in places))
    replicates = np.empty((n_bootstrap, len(ood_scores), len(METRICS)))
    for start in range(0, n_bootstrap, step):
        rows = replicates[start : start + step]
        id_counts = resample(len(id_scores), len(rows), id_rng)
        for s, (scores, rng) in enumerate(zip(ood_scores, ood_rngs, strict=True)):
            ood_counts = resample(len(scores), len(rows), rng)
            of_id, of_ood = places[s]
            rows[:, s] = metrics_of_counts(
                id_counts.take(of_id, axis=1), ood_counts.take(of_ood, axis=1), tpr
            )
    return replicates


def places_of(scores, others):
    """Count how many of ``scores`` each threshold rejects, from none up to all.

    The thresholds are the distinct values of both; a tie with one is rejected.
    """
    values = np.unique(np.concatenate([scores, others]))
    return np.append(0, np.searchsorted(np.sort(scores), values, side="right"))


def resample(n, n_rows, rng):
    """Draw ``n`` of ``n`` sorted samples, and count the drawn among the first 0 to n.

    Column `places_of(...)` of the result is what the thresholds reject of a resample.
    """
    draws = rng.integers(n, size=(n_rows, n))
    draws += n * np.arange(n_rows)[:, None]
    counts = np.bincount(draws.ravel(), minlength=n * n_rows)
    cumulative = np.zeros((n_rows, n + 1), dtype=np.int64)
    np.cumsum(counts.reshape(n_rows, n), axis=1, out=cumulative[:, 1:])
    return cumulative


def metrics_of_counts(rejected_id, rejected_ood, tpr):
    """Return the metrics from the samples that each threshold rejects.

    Thresholds that reject the same samples add nothing to an area, so those that no
    resampled score equals do no harm.

    Parameters
    ----------
    rejected_id, rejected_ood : ndarray of shape (n_rows, n_thresholds), int64
        From none in the first column up to all in the last.

    tpr : float
        As in `fpr_at_tpr`.

    Returns
    -------
    metrics : ndarray of shape (n_rows, 5)
        In the order of `METRICS`.
    """
    n, m = int(rejected_id[0, -1]), int(rejected_ood[0, -1])
    place = place_of_threshold(n, tpr)
    at = np.argmax(rejected_id > place, axis=1)
    fpr = 1 - rejected_ood[np.arange(len(at)), at] / m

    rejected = rejected_id + rejected_ood
    auroc = _area(rejected_ood, rejected_id) / (n * m)
    # A precision of nothing is 0 divided by 1, that is 0: so the paper has it.
    precision_in = (n - rejected_id) / np.maximum(n + m - rejected, 1)
    precision_out = rejected_ood / np.maximum(rejected, 1)
    aupr_in = _area(precision_in, rejected_id) / n
    aupr_out = _area(precision_out, rejected_ood) / m
    error = (np.min(rejected_id - rejected_ood, axis=1) + m) / (n + m)
    return np.stack([fpr, auroc, aupr_in, aupr_out, error], axis=1)


def _area(height, position):
    widths = np.diff(position)
    return np.sum(widths * (height[:, 1:] + height[:, :-1]), axis=1) / 2
