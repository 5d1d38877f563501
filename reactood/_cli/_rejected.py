"""How many in-distribution images a threshold rejects, and how far chance goes.

The threshold is an order statistic of the scores of the images that set it. The share
of new in-distribution images below the k-th lowest of n scores follows a beta
distribution with parameters k and n + 1 - k, whatever the network and the score.
"""

import math

from scipy import stats

from reactood._cli._inputs import counted
from reactood.conformal import _most_rejected

FEW = 300  # images that set the threshold; below, the range is said
TAIL = 0.025  # on each side of a range of 95 %
MORE = (
    "Clearly more images are rejected than expected of in-distribution images: some of "
    "these images are unlike those of the fit, or the camera or the preprocessing has "
    "changed, or the network was trained on the images of the fit."
)


def range_of_new(n_fit, contamination):
    """Return the ends of the 95 % range of the share of new ID images rejected.

    The threshold is the linear percentile of `n_fit` scores, and so lies between two
    order statistics: one gives the lower end, the other the upper.
    """
    first, last = _orders(n_fit, contamination)
    return (
        float(stats.beta.ppf(TAIL, first, n_fit + 1 - first)),
        float(stats.beta.ppf(1 - TAIL, last, n_fit + 1 - last)),
    )


def note_of_few(detector):
    """Return how far chance goes where few images set the threshold, or ""."""
    n = getattr(detector, "n_samples_seen_", None)
    contamination = getattr(detector, "contamination", None)
    if n is None or contamination is None or n >= FEW:
        return ""
    low, high = range_of_new(n, contamination)
    return (
        f"The threshold rests on {counted(n)}: it rejects between {100 * low:.1f} and "
        f"{100 * high:.1f} % of new images like these (95 % interval). More images "
        "make this range narrower."
    )


def clearly_more(n_rejected, n_images, whole, classifier):
    """Return whether more images are rejected than chance explains for ID images.

    Chance has a part in the threshold, too, where it is known how many images set it.

    Parameters
    ----------
    n_rejected, n_images : int
        Of the images that were judged.
    whole, classifier : estimator
        The whole detector, which may be conformal, and the detector in it.
    """
    share = getattr(classifier, "contamination", None)
    n_seen = getattr(classifier, "n_samples_seen_", None)
    if hasattr(whole, "calibration_scores_"):
        n_fit = len(whole.calibration_scores_)
        order = _most_rejected(whole.alpha, n_fit)
    elif share is None:
        return False
    elif n_seen is None:
        return bool(stats.binom.sf(n_rejected - 1, n_images, share) < TAIL)
    else:
        n_fit = min(n_seen, getattr(classifier, "sample_size", n_seen))
        _, order = _orders(n_fit, share)
    chance = stats.betabinom.sf(n_rejected - 1, n_images, order, n_fit + 1 - order)
    return bool(chance < TAIL)


def _orders(n, share):
    """Return between which of n scores, counted from 1, a linear percentile lies."""
    place = round(share * (n - 1), 9)  # as floats, 0.07 * 100 is a little more than 7
    return math.floor(place) + 1, math.ceil(place) + 1
