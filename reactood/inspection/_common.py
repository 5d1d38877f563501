"""Helpers of the displays: features and clip of an estimator, labels, axes, colours."""

import numpy as np
import torch
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_is_fitted

from reactood._scoring._base import BaseReActDetector
from reactood._scoring._blocks import check_finite
from reactood._utils._response import parts_of, unfrozen
from reactood._utils._sklearn import _safe_indexing
from reactood._utils._warnings import warn

# Okabe and Ito's colours, which colour-blind readers can distinguish.
ID_COLOR, OOD_COLOR, CLIP_COLOR = "#0072B2", "#D55E00", "black"


def pyplot():
    """Import matplotlib, which is optional, when something is drawn."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Drawing needs matplotlib, which is not installed. To install it: pip "
            "install 'reactood[plot]'."
        ) from error
    return plt


def axes_and_figure(ax, **options):
    """Return the axes to draw into and their figure; make new axes for None."""
    plt = pyplot()
    if ax is None:
        _, ax = plt.subplots(layout="constrained", **options)
    return ax, ax.figure


def activations(estimator, X):
    """Return the fitted detector, the features of ``X``, and the clipped features."""
    detector, features = detector_and_features(estimator, X)
    return clipped_by(detector, features)


def id_activations(estimator, X):
    """Return what `activations` does and the rows, without images that were not read.

    A detector refuses NaN unless it was told to reject images that cannot be read.
    """
    detector, features = detector_and_features(estimator, X)
    rows = np.arange(len(features))
    values = np.asarray(features)
    if getattr(detector, "on_nan", None) == "reject" and values.dtype.kind == "f":
        unread = np.isnan(values).any(axis=1)
        rows = rows[~unread]
        if len(rows) == 0:
            raise ValueError(f"None of the {len(unread)} rows of X_id could be read.")
        if unread.any():
            warn(
                f"{unread.sum()} of {len(unread)} rows of X_id hold NaN, as of images "
                "that cannot be read: left out."
            )
            features = _safe_indexing(features, rows)
    return *clipped_by(detector, features), rows


def detector_and_features(estimator, X):
    """Return the fitted detector and the features of ``X``."""
    steps, detector = parts_of(unfrozen(estimator))
    detector = unfrozen(detector)
    if not isinstance(detector, BaseReActDetector):
        kind = type(detector).__name__
        place = "is" if detector is estimator else "ends in"
        raise TypeError(
            f"estimator {place} a {kind}, expected a fitted ReActDetector, or a "
            "Pipeline that ends in one. For a fitted search, pass best_estimator_."
        )
    check_is_fitted(detector)
    features = X if steps is None else steps.transform(X)
    return detector, features.cpu() if isinstance(features, torch.Tensor) else features


def clipped_by(detector, features):
    """Return a detector, and features before and after its clip."""
    clipped = detector.rectify(features)
    check_finite(clipped)  # a detector with on_nan="reject" accepts NaN
    return detector, np.asarray(features).astype(clipped.dtype, copy=False), clipped


def id_mask(y, n_samples, name="y"):
    """Return where ``y`` is 1; raise unless its labels are 1 and -1, both present."""
    y = column_or_1d(np.asarray(y))
    if len(y) != n_samples:
        raise ValueError(
            f"{name} has {len(y)} labels for {n_samples} samples; expected one for "
            "each."
        )
    labels = np.unique(y)
    if not np.array_equal(labels, [-1, 1]):
        raise ValueError(
            f"{name} holds the labels {labels[:5].tolist()}, expected both 1 for "
            "in-distribution and -1 for out-of-distribution samples: "
            "numpy.where(is_ood, -1, 1)."
        )
    return y == 1
