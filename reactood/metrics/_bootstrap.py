"""Compute the metrics of many bootstrap resamples at once."""

import numpy as np

from reactood.metrics._ranking import place_of_threshold

METRICS = "fpr", "auroc", "aupr_in", "aupr_out", "detection_error"
NUMBERS_AT_ONCE = 2**16  # half a MB per array: all arrays fit into the CPU's cache


def metrics_of_resamples(id_scores, ood_scores, *, tpr, n_bootstrap, seed):
    """Return the metrics of bootstrap resamples of the ID scores and the OOD scores.

    Within a replicate, all OOD sets are compared with the same resample of the ID
    scores.

    Parameters
    ----------
    id_scores : ndarray of shape (n_id,)
        Scores of the ID samples: the higher, the more in-distribution.

    ood_scores : list of ndarray of shape (n_ood,)
        Scores of the OOD samples, one array per set.

    tpr : float
        As in `fpr_at_tpr`.

    n_bootstrap : int
        Number of replicates.

    seed : int
        Seed of the resampling.

    Returns
    -------
    replicates : ndarray of shape (n_bootstrap, n_sets, 5)
        Fractions, in the order of `METRICS`, by the paper's conventions.
    """
    id_rng, *ood_rngs = np.random.default_rng(seed).spawn(1 + len(ood_scores))
    places = [
        (places_of(id_scores, scores), places_of(scores, id_scores))
        for scores in ood_scores
    ]
    step = max(1, NUMBERS_AT_ONCE // max(len(place) for place, _ in places))
    replicates = np.empty((n_bootstrap, len(ood_scores), len(METRICS)))
    for start in range(0, n_bootstrap, step):
        block = replicates[start : start + step]
        id_counts = resample(len(id_scores), len(block), id_rng)
        for s, (scores, rng) in enumerate(zip(ood_scores, ood_rngs, strict=True)):
            ood_counts = resample(len(scores), len(block), rng)
            of_id, of_ood = places[s]
            block[:, s] = metrics_of_counts(
                id_counts.take(of_id, axis=1), ood_counts.take(of_ood, axis=1), tpr
            )
    return replicates


def places_of(scores, others):
    """Count how many of ``scores`` each threshold rejects, in ascending order.

    The thresholds are the distinct values of both arrays, after one that rejects
    nothing. A score that equals the threshold is rejected.
    """
    values = np.unique(np.concatenate([scores, others]))
    return np.append(0, np.searchsorted(np.sort(scores), values, side="right"))


def resample(n, n_replicates, rng):
    """Draw ``n`` of ``n`` sorted samples, with replacement, and return running counts.

    Column ``k`` of the result counts the draws among the first ``k`` samples. So the
    columns ``places_of(...)`` count what each threshold rejects in a resample.
    """
    draws = rng.integers(n, size=(n_replicates, n))
    draws += n * np.arange(n_replicates)[:, None]
    counts = np.bincount(draws.ravel(), minlength=n * n_replicates)
    cumulative = np.zeros((n_replicates, n + 1), dtype=np.int64)
    np.cumsum(counts.reshape(n_replicates, n), axis=1, out=cumulative[:, 1:])
    return cumulative


def metrics_of_counts(rejected_id, rejected_ood, tpr):
    """Return the metrics, given how many samples each threshold rejects.

    A threshold may reject the same samples as the one before it. It then adds nothing
    to the areas. So thresholds that equal no resampled score change no metric.

    Parameters
    ----------
    rejected_id, rejected_ood : ndarray of shape (n_replicates, n_thresholds), int64
        Numbers of rejected samples: 0 in the first column, all in the last.

    tpr : float
        As in `fpr_at_tpr`.

    Returns
    -------
    metrics : ndarray of shape (n_replicates, 5)
        Fractions, in the order of `METRICS`.
    """
    n, m = int(rejected_id[0, -1]), int(rejected_ood[0, -1])
    place = place_of_threshold(n, tpr)
    at = np.argmax(rejected_id > place, axis=1)
    fpr = 1 - rejected_ood[np.arange(len(at)), at] / m

    rejected = rejected_id + rejected_ood
    auroc = _area(rejected_ood, rejected_id) / (n * m)
    # If nothing is accepted or rejected, precision is 0, as in the paper's code.
    precision_in = (n - rejected_id) / np.maximum(n + m - rejected, 1)
    precision_out = rejected_ood / np.maximum(rejected, 1)
    aupr_in = _area(precision_in, rejected_id) / n
    aupr_out = _area(precision_out, rejected_ood) / m
    error = (np.min(rejected_id - rejected_ood, axis=1) + m) / (n + m)
    return np.stack([fpr, auroc, aupr_in, aupr_out, error], axis=1)


def _area(height, position):
    widths = np.diff(position)
    return np.sum(widths * (height[:, 1:] + height[:, :-1]), axis=1) / 2
