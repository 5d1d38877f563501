"""What a detector's clip does to a set: the share clipped, mean and percentiles."""

from dataclasses import dataclass

import numpy as np

from reactood._scoring._base import BaseReActDetector
from reactood.inspection._profile import PERCENTILES, profile_of

ROWS = 1024  # at a time, so that no copy of all features is made


@dataclass
class Activations:
    """The activations of a set, for each unit, and what the clip changes of them.

    Parameters
    ----------
    mean : ndarray of shape (n_features,)
        Mean of each unit, before the clip.
    percentiles : ndarray of shape (4, n_features)
        Those that an ActivationProfileDisplay draws.
    share : float
        The share of all activations that the clip changes, a fraction.
    change : float
        By how much the clip changes an activation, the mean over all of them.
    """

    mean: np.ndarray
    percentiles: np.ndarray
    share: float
    change: float


def clips(detector):
    """Return whether a detector has a clip that can change something."""
    if not isinstance(detector, BaseReActDetector):
        return False
    upper = np.isfinite(detector.activation_threshold_).any()
    return bool(upper or np.isfinite(detector.lower_activation_threshold_).any())


def activations_of(X, detector):
    """Return the activations of a set, a block of rows at a time; X may be empty."""
    X = np.asarray(X)
    n_rows, n_units = X.shape
    if not n_rows:
        unknown = np.full(n_units, np.nan)
        four = np.tile(unknown, (len(PERCENTILES), 1))
        return Activations(unknown, four, np.nan, np.nan)
    mean, percentiles = profile_of(X)
    n_changed, change = 0, 0.0
    for start in range(0, n_rows, ROWS):
        block = X[start : start + ROWS]
        taken = np.abs(block - detector.rectify(block))
        n_changed += np.count_nonzero(taken)
        change += taken.sum(dtype=np.float64)
    return Activations(mean, percentiles, n_changed / X.size, change / X.size)
