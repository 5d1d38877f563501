"""What the detector asks of labels and scores."""

import functools
from numbers import Real

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_consistent_length, column_or_1d

from reactood._warnings import warn

# Marks of ID and OOD rows agree with the classes of a binary classifier by at most
# 0.75, where its decision on OOD rows is always the one and on ID rows as often this
# as that.
AGREEMENT_OF_CLASSES = 0.8
LEAST_LEVELS = 1000  # scores of float64 that there must be between the extremes


class FractionHints(BaseEstimator):
    """Says what was likely meant where a share is no fraction. A base to come first."""

    def _validate_params(self):
        try:
            super()._validate_params()
        except ValueError as error:
            raise type(error)(f"{error}{_fraction_meant(self, str(error))}") from None


def _fraction_meant(estimator, message):
    for name in ("alpha", "calibration_size", "contamination"):
        given = getattr(estimator, name, None)
        if f"'{name}' parameter" not in message or not isinstance(given, Real):
            continue
        value = float(given)
        if 1 <= value <= 100:
            return f" It is a fraction: did you mean {value / 100:g}?"
        if 0.5 < value < 1:
            meant = round(1 - value, 12)
            return f" It is the share that is flagged: did you mean {meant:g}?"
    return ""


def as_a_whole(fit):
    """Give an estimator back what it had learned before, where its ``fit`` fails.

    scikit-learn's validation stores `n_features_in_` and `feature_names_in_` before
    anything else is looked at. Attributes are rebound by `fit`, never changed in place.
    """

    @functools.wraps(fit)
    def fit_or_restore(self, *args, **kwargs):
        before = vars(self).copy()
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return fit_or_restore


def id_rows(y, X):
    """Return y as an array and the mask of rows that are not labelled -1."""
    if y is None:
        return None, None
    if isinstance(y, torch.Tensor):
        y = y.detach().cpu().numpy()
    y = column_or_1d(y, warn=True)
    check_consistent_length(X, y)
    if y.dtype.kind == "b":
        raise TypeError(
            "y is boolean; wanted 1 for in-distribution (or class labels) and -1 for "
            "out-of-distribution rows: numpy.where(is_ood, -1, 1)."
        )
    if y.dtype.kind in "iuf":
        rows, missing = y != -1, np.isnan(y)
    else:
        rows = np.array([not _is_minus_one(label) for label in y])
        missing = np.array([_is_missing(label) for label in y])
    if missing.any():
        raise ValueError(
            f"y misses {missing.sum()} of {len(y)} labels, the first in row "
            f"{missing.argmax()}; label every row, 1 or by its class, and -1 for OOD."
        )
    if rows.all():
        return y, None
    if not rows.any():
        raise ValueError(
            f"All {len(y)} rows are labelled -1, out-of-distribution; fit learns from "
            "in-distribution rows, labelled 1 or by their class."
        )
    return y, rows


def check_marks(y, classify=None):
    """Warn where labels without -1 may be meant to mark OOD rows.

    To be called for labels that nothing is trained on. Class labels, which are of no
    use there and do no harm, are told by ``classify()``, a classifier's decision on
    the same rows.
    """
    values = [] if y is None else sorted(set(y.tolist()), key=str)
    if len(values) != 2:
        return
    if classify is not None:
        predicted = classify()
        agreement = [np.mean(predicted[y == value] == value) for value in values]
        if np.mean(agreement) >= AGREEMENT_OF_CLASSES:
            return
    warn(
        f"y holds the values {values[0]!r} and {values[1]!r} and no -1, so that all "
        f"{len(y)} rows are taken as in-distribution. If one of the values marks "
        "out-of-distribution rows, mark these by -1 and the others by 1: "
        "numpy.where(is_ood, -1, 1). Class labels are not used here, as no classifier "
        "is trained: leave y out."
    )


def _is_minus_one(label):
    """Tell -1, also as the text that NumPy makes of it beside names of classes."""
    return label == -1 if isinstance(label, Real) else label in ("-1", b"-1")


def _is_missing(label):
    if label is None or type(label).__name__ == "NAType":
        return True
    return isinstance(label, Real) and label != label


def check_result(result, n_rows):
    """Raise unless a score function returned one score per row."""
    shape = getattr(result, "shape", None)
    if shape is None or tuple(shape) != (n_rows,):
        got = type(result).__name__ if shape is None else f"shape {tuple(shape)}"
        raise ValueError(
            f"score_function returned {got}, wanted a tensor with one score per row, "
            f"({n_rows},)."
        )


def check_scores(scores):
    """Raise if scores of finite features are NaN or infinite."""
    bad = ~np.isfinite(scores)
    if bad.any():
        raise ValueError(
            f"{bad.sum()} of {len(scores)} rows get a score of NaN or inf, though "
            f"their features are finite, the first being number "
            f"{bad.argmax()}: does the head overflow, does score_function= "
            "take a logarithm or a root, or is the temperature very low?"
        )


def check_spread(scores, X, common=0.0):
    """Raise if all scores are the same, as far as their precision tells.

    ``common`` is a part of all scores that is exact, and of which only the rounding of
    float64 matters.
    """
    single = str(X.dtype).removeprefix("torch.") != "float64"
    rounding = 4 * np.finfo(np.float32 if single else np.float64).eps
    least = max(
        rounding * np.abs(scores - common).max(),
        LEAST_LEVELS * np.finfo(np.float64).eps * np.abs(scores).max(),
    )
    if len(scores) > 1 and np.ptp(scores) <= least:
        raise ValueError(
            f"All {len(scores)} training rows (n_features={X.shape[1]}) get the same "
            f"score, {scores[0]:.6g}: nothing can be told apart. Are all rows of X "
            "alike, are the head's weights all 0, does the clip cut everything off, "
            "or is the temperature very high?"
        )
