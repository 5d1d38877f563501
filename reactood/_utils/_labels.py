"""Read labels: find in-distribution rows, and labels that may mean OOD."""

from numbers import Real

import numpy as np
import torch
from sklearn.utils import check_consistent_length, column_or_1d

from reactood._utils._warnings import warn

# Labels that mark ID and OOD rows agree with a binary classifier's decisions by at most
# 0.75: if it assigns all OOD rows to one class, and half of the ID rows to each class.
AGREEMENT_OF_CLASSES = 0.8
MINUS_ONE = "-1", "-1.0", b"-1", b"-1.0"


def id_rows(y, X, *, some=True):
    """Return y as an array and the mask of rows that are not labelled -1.

    ``some`` asks for at least one such row.
    """
    if y is None:
        return None, None
    if isinstance(y, torch.Tensor):
        y = y.detach().cpu().numpy()
    y = column_or_1d(y, warn=True)
    check_consistent_length(X, y)
    if y.dtype.kind == "b":
        raise TypeError(
            "y is boolean; expected 1 for in-distribution (or class labels) and -1 for "
            "out-of-distribution rows: numpy.where(is_ood, -1, 1)."
        )
    if y.dtype.kind in "iuf":
        rows, missing = y != -1, np.isnan(y)
    else:
        rows = np.array([not _is_minus_one(label) for label in y])
        missing = np.array([is_missing(label) for label in y])
    if missing.any():
        raise ValueError(
            f"y has no label for {missing.sum()} of {len(y)} rows, the first of them "
            f"row {missing.argmax()}; label every row, 1 or by its class, and -1 for "
            "OOD."
        )
    if rows.all():
        return y, None
    if some and not rows.any():
        raise ValueError(
            f"All {len(y)} rows are labelled -1, out-of-distribution; fit learns from "
            "in-distribution rows, labelled 1 or by their class."
        )
    return y, rows


def check_marks(y, classify=None):
    """Warn if labels without -1 may be meant to mark OOD rows.

    Call it for labels with which nothing is trained. Class labels have no effect there
    and need no warning: they are recognised by ``classify()``, which returns the
    decisions of a classifier on the same rows.
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
        "numpy.where(is_ood, -1, 1). If the values are class labels, leave y out: no "
        "classifier is trained here."
    )


def _is_minus_one(label):
    """Return whether a label is -1, or -1 as text, as NumPy stores it next to names."""
    return label == -1 if isinstance(label, Real) else label in MINUS_ONE


def is_missing(label):
    """Return whether a label is None, NaN or pandas' NA."""
    if label is None or type(label).__name__ == "NAType":
        return True
    return isinstance(label, Real) and label != label
