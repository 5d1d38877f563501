"""The clip that ReAct learns, and what makes one degenerate."""

import numpy as np
import torch

from reactood._scoring._blocks import host_blocks
from reactood._scoring._percentile import (
    check_percent,
    column_percentiles,
    pooled_percentiles,
    pooled_percentiles_of_sides,
)
from reactood._utils._warnings import warn


def learn_clip(X, rows, *, percentile, threshold, lower_percentile, per_unit):
    """Return the lower and the upper clip, floats or one value per column.

    Raises ValueError for a clip that would say nothing about the data.
    """
    candidate = None if threshold is not None else percentile
    ((clip,),) = learn_clips(
        X,
        [rows],
        [candidate],
        threshold=threshold,
        lower_percentile=lower_percentile,
        per_unit=per_unit,
    )
    if isinstance(clip, ValueError):
        raise clip
    given = "threshold" if candidate is None else f"percentile={percentile}"
    _warn_of_low(clip[1], given)
    if lower_percentile is not None and 0 < lower_percentile < 1:
        warn(
            f"lower_percentile={lower_percentile} means {lower_percentile} percent, "
            "which clips next to nothing from below. Percentiles are in percent here: "
            f"did you mean {100 * lower_percentile:g}?"
        )
    return clip


def learn_clips(
    X, sides, percentiles, *, threshold=None, lower_percentile=None, per_unit=False
):
    """Return, for each set of rows, a clip for each percentile.

    All come from one look at the features. In the place of a clip that would say
    nothing about the data, there is a ValueError.
    """
    for percentile in percentiles:
        effect = ", which clips nearly every activation"
        check_percent("percentile", percentile, effect=effect)
    fixed = _as_threshold(threshold, X.shape[1])
    qs = [q for q in (lower_percentile, *percentiles) if q is not None]
    if threshold is None and not qs:
        return [[(-np.inf, fixed)] * len(percentiles) for _ in sides]
    if per_unit:
        summaries = [column_percentiles(X, qs, rows) for rows in sides]
    elif len(sides) == 1:
        summaries = [pooled_percentiles(X, qs, sides[0])]
    else:
        summaries = pooled_percentiles_of_sides(X, qs, sides)
    clips: list = []
    for rows, summary in zip(sides, summaries, strict=True):
        found = dict(zip(qs, summary.percentiles, strict=True))
        lower = found.get(lower_percentile, -np.inf)
        clips.append([])
        for percentile in percentiles:
            upper = found.get(percentile, fixed)
            given = "threshold" if percentile is None else f"percentile={percentile}"
            try:
                _check_percents(percentile, lower_percentile)
                _check_upper(upper, summary, X, rows, given)
                _check_order(lower, upper, lower_percentile)
                clips[-1].append((lower, upper))
            except ValueError as error:
                clips[-1].append(error)
    return clips


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
    if None not in (percentile, lower_percentile) and lower_percentile >= percentile:
        raise ValueError(
            f"lower_percentile={lower_percentile} must be below "
            f"percentile={percentile}."
        )


def _check_order(lower, upper, lower_percentile):
    if np.any(np.asarray(lower) > upper):
        raise ValueError(
            f"The lower clip is above the upper one (lower {_shown(lower)}, upper "
            f"{_shown(upper)}); lower lower_percentile={lower_percentile} or raise "
            "the threshold."
        )


def _check_upper(upper, summary, X, rows, given):
    minimum = np.min(summary.minimum)
    if minimum >= 0 and np.max(upper) <= 0:
        share = 100 * _share_at_most(0, X, rows)
        advice = (
            f"Choose a percentile above {share:.1f}, or check the features: dead "
            "units, or the wrong layer?"
            if share < 100
            else "The features hold nothing else: dead units, or the wrong layer?"
        )
        if given == "threshold":
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


def _warn_of_low(upper, given):
    """Warn of a clip that is no error, and seldom what is wanted."""
    if np.ndim(upper) and np.any(upper == 0):
        warn(
            f"{given} gives {np.count_nonzero(upper == 0)} of {len(upper)} units a "
            "clip of 0: they are 0 in most rows, and no longer count. Raise the "
            "percentile, or use per_unit=False, if they should.",
        )
    elif np.ndim(upper) == 0 and upper <= 0:
        warn(
            f"{given} gives a clip of {_shown(upper)}, not above 0: most activations "
            "are negative. ReAct is made for features that are mostly positive, as "
            "after a ReLU; is this the right layer?",
        )


def _share_at_most(value, X, rows):
    n = n_at_most = 0
    for block in host_blocks(X, rows):
        n += block.size
        n_at_most += np.count_nonzero(block <= value)
    return n_at_most / n


def _shown(clip):
    return f"{clip:.4g}" if np.ndim(clip) == 0 else f"at most {np.max(clip):.4g}"
