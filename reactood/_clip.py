"""The clip that ReAct learns, and what makes one degenerate."""

import warnings

import numpy as np
import torch

from reactood._blocks import host_blocks
from reactood._percentile import column_percentiles, pooled_percentiles


def learn_clip(X, rows, *, percentile, threshold, lower_percentile, per_unit):
    """Return the lower and the upper clip, floats or one value per column.

    Raises ValueError for a clip that would say nothing about the data.
    """
    if threshold is not None:
        percentile = None
    upper, lower = _as_threshold(threshold, X.shape[1]), -np.inf
    _check_percents(percentile, lower_percentile)
    qs = [q for q in (lower_percentile, percentile) if q is not None]
    if threshold is None and not qs:
        return lower, upper
    summary = (column_percentiles if per_unit else pooled_percentiles)(X, qs, rows)
    if percentile is not None:
        upper = summary.percentiles[-1]
    if lower_percentile is not None:
        lower = summary.percentiles[0]
    _check_upper(upper, summary, X, rows, percentile)
    if np.any(np.asarray(lower) > upper):
        raise ValueError(
            f"The lower clip is above the upper one (lower {_shown(lower)}, upper "
            f"{_shown(upper)}); lower lower_percentile={lower_percentile} or raise "
            "the threshold."
        )
    return lower, upper


def rectify(block, clip, out=None):
    """Return max(min(block, upper), lower) for a tensor and ``clip=(lower, upper)``.

    Where there is something to clip, the result is written to ``out`` if given.
    """
    if clip is None:
        return block
    largest = torch.finfo(block.dtype).max
    lower, upper = clip
    if np.ndim(lower) == np.ndim(upper) == 0:
        bounds = [None if abs(c) > largest else c for c in clip]
        if bounds == [None, None]:
            return block
    else:  # tensors of bounds only, or numbers only: torch takes no mixture
        bounds = [
            torch.as_tensor(c, dtype=block.dtype, device=block.device) for c in clip
        ]
    return torch.clamp(block, *bounds, out=out)


def _as_threshold(threshold, n_features):
    if threshold is None:
        return np.inf
    value = np.array(threshold, dtype=np.float64)
    if value.shape not in ((), (n_features,)):
        raise ValueError(
            f"threshold has shape {value.shape}, wanted one number or one per "
            f"feature, ({n_features},)."
        )
    if np.isnan(value).any():
        raise ValueError("threshold is NaN; wanted numbers, or None to learn it.")
    return value if value.ndim else float(value)


def _check_percents(percentile, lower_percentile):
    if percentile is not None and percentile <= 1:
        raise ValueError(
            f"percentile={percentile} means {percentile} percent, which clips nearly "
            f"every activation. Percentiles are in percent here: did you mean "
            f"{100 * percentile:g}?"
        )
    if None not in (percentile, lower_percentile) and lower_percentile >= percentile:
        raise ValueError(
            f"lower_percentile={lower_percentile} must be below "
            f"percentile={percentile}."
        )


def _check_upper(upper, summary, X, rows, percentile):
    given = f"percentile={percentile}" if percentile is not None else "threshold"
    minimum = np.min(summary.minimum)
    if minimum >= 0 and np.max(upper) <= 0:
        share = 100 * _share_at_most(0, X, rows)
        advice = (
            f"Choose a percentile above {share:.1f}, or check the features: dead "
            "units, or the wrong layer?"
            if share < 100
            else "The features hold nothing else: dead units, or the wrong layer?"
        )
        if percentile is None:
            advice = "A clip must be above 0."
        raise ValueError(
            f"{given} gives a clip of {_shown(upper)}: {share:.1f} % of the "
            "activations are 0 and none is below, so every input would look the "
            f"same. {advice}"
        )
    if np.all(upper <= summary.minimum):
        raise ValueError(
            f"{given} gives a clip of {_shown(upper)}, which is below every "
            f"activation or equal to the smallest (n_samples={X.shape[0]}; the "
            f"activations span {minimum:.4g} to {np.max(summary.maximum):.4g}): all "
            "would be clipped to the same value. Choose a larger clip, or give more "
            "rows."
        )
    if np.ndim(upper) and minimum >= 0 and np.any(upper <= 0):
        dead = np.count_nonzero(upper <= 0)
        warnings.warn(
            f"{given} gives {dead} of {len(upper)} units a clip of 0: they are 0 in "
            "most rows, and no longer count. Raise the percentile, or use "
            "per_unit=False, if they should.",
            UserWarning,
            stacklevel=5,
        )
    elif np.ndim(upper) == 0 and upper <= 0:
        warnings.warn(
            f"{given} gives a clip of {_shown(upper)}, not above 0: most activations "
            "are negative. ReAct is made for features that are mostly positive, as "
            "after a ReLU; is this the right layer?",
            UserWarning,
            stacklevel=5,
        )


def _share_at_most(value, X, rows):
    n = n_at_most = 0
    for block in host_blocks(X, rows):
        n += block.size
        n_at_most += np.count_nonzero(block <= value)
    return n_at_most / n


def _shown(clip):
    return f"{clip:.4g}" if np.ndim(clip) == 0 else f"at most {np.max(clip):.4g}"
