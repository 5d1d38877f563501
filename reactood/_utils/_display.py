"""How estimators are displayed: as short text, and as HTML with learned values."""

import html
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator

from reactood._utils._response import percentile_of
from reactood._utils._sklearn import HTMLWithMore

MOST_SHOWN = 6  # elements of an array


class Shown(HTMLWithMore):
    """Shows the shapes of arrays in the text, and learned values in a notebook.

    It must come before the other base classes.
    """

    def __repr__(self, N_CHAR_MAX=700):
        return BaseEstimator.__repr__(_brief_estimator(self), N_CHAR_MAX)

    def _more_html(self):
        return summary_html(self._detector())

    def _detector(self):
        """Return the detector whose summary is shown."""
        return self


class _Shape:
    """Is printed in the place of an array."""

    def __init__(self, array):
        kind = "array" if isinstance(array, np.ndarray) else "tensor"
        dtype = str(array.dtype).removeprefix("torch.")
        self.text = f"{kind}(shape={tuple(array.shape)}, dtype={dtype})"

    def __repr__(self):
        return self.text


def brief(value: Any) -> Any:
    """Return a value with its large arrays replaced by their shapes."""
    if isinstance(value, np.ndarray):
        return _Shape(value) if value.size > MOST_SHOWN else value
    if isinstance(value, torch.Tensor):
        return _Shape(value) if value.numel() > MOST_SHOWN else value
    if type(value) in (list, tuple):
        parts = [brief(part) for part in value]
        changed = any(a is not b for a, b in zip(parts, value, strict=True))
        return type(value)(parts) if changed else value
    if isinstance(value, BaseEstimator):
        return _brief_estimator(value)
    return value


def _brief_estimator(estimator: BaseEstimator) -> BaseEstimator:
    copy = object.__new__(type(estimator))
    for name, value in estimator.get_params(deep=False).items():
        vars(copy)[name] = brief(value)
    return copy


def summary_html(detector):
    """Return a table of the percentile, the clip and the offset; "" before `fit`.

    Where batches do not suffice for a clip and a threshold, it is the reason.
    """
    try:
        if not hasattr(detector, "clipped_share_"):
            return ""
    except (ValueError, RuntimeError) as error:
        return f"<p>{html.escape(str(error))}</p>"
    percentile = percentile_of(detector)
    clip = np.asarray(detector.activation_threshold_)
    shown = f"{clip.min():.4g}"
    if clip.ndim:
        shown += f" to {clip.max():.4g}, one per unit"
    cells = {
        "percentile p": "none" if percentile is None else f"{percentile:g} %",
        "clip c": shown,
        "clipped activations": f"{100 * detector.clipped_share_:.1f} %",
        "offset": f"{detector.offset_:.4g}",
    }
    names = "".join(f"<th>{name}</th>" for name in cells)
    values = "".join(f"<td>{value}</td>" for value in cells.values())
    return f"<table><tr>{names}</tr><tr>{values}</tr></table>"
