"""Clip: learn the bounds of activations, reject useless bounds, and apply them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from reactood._scoring._blocks import host_blocks
from reactood._scoring._percentile import (
    check_percent,
    check_range,
    column_percentiles,
    pooled_percentiles,
    pooled_percentiles_of_sides,
)
from reactood._scoring._stream import Stream
from reactood._utils._tensors import as_tensor
from reactood._utils._warnings import warn


@dataclass(frozen=True, eq=False)
class Clip:
    """Bounds of activations: a number each for all units, or arrays with one per unit.

    ``Clip()`` changes nothing. A clip that was learned and would say nothing about the
    data has the reason in ``problem``.
    """

    lower: float | np.ndarray = -np.inf
    upper: float | np.ndarray = np.inf
    problem: str = ""

    @property
    def is_open(self):
        """Whether it changes nothing."""
        return bool(np.all(np.isposinf(self.upper)) and np.all(np.isneginf(self.lower)))

    def apply(self, block: torch.Tensor, out: torch.Tensor | None = None):
        """Return max(min(block, upper), lower).

        Where there is something to clip, the result is written to ``out`` if given;
        where there is nothing, it is ``block`` itself.
        """
        largest = torch.finfo(block.dtype).max
        ends: Any = (self.lower, self.upper)
        if np.ndim(self.lower) == np.ndim(self.upper) == 0:
            bounds: list[Any] = [None if abs(end) > largest else end for end in ends]
            if bounds == [None, None]:
                return block
            return torch.clamp(block, *bounds, out=out)
        # Tensors of bounds only, or numbers only: torch takes no mixture.
        tensors = (
            as_tensor(np.asarray(end)).to(block.device, block.dtype) for end in ends
        )
        return torch.clamp(block, *tensors, out=out)


class CountingClip:
    """A clip that counts the activations that it changes, in the pass that scores."""

    def __init__(self, clip: Clip):
        self.clip = clip
        self._n = 0
        self._n_changed = torch.tensor(0, device="cpu")

    @property
    def share(self):
        """The share of the activations that it has changed so far, a fraction."""
        return int(self._n_changed) / self._n

    def apply(self, block: torch.Tensor, out: torch.Tensor | None = None):
        """Clip as ``Clip`` does, and count; no block waits for the count."""
        clipped = self.clip.apply(block, out)
        self._n += block.numel()
        if clipped is not block:
            # A sum would make an int64 of each activation first.
            n_changed = torch.count_nonzero(clipped != block)
            self._n_changed = self._n_changed.to(block.device) + n_changed
        return clipped


def learn_clip(X, rows, *, percentile, threshold, lower_percentile, per_unit):
    """Return the clip of the rows that count; ``threshold`` overrides ``percentile``.

    ``X`` may be a Stream of rows that were seen before.
    Raises ValueError for a clip that would say nothing about the data.
    """
    if threshold is None:
        ((clip,),) = learn_clips(
            X,
            [rows],
            [percentile],
            lower_percentile=lower_percentile,
            per_unit=per_unit,
        )
        given = f"percentile={percentile}"
    else:
        upper = _as_threshold(threshold, X.shape[1])
        given = "threshold"
        qs = [] if lower_percentile is None else [lower_percentile]
        (summary,) = _summaries(X, [rows], qs, per_unit)
        lower = summary.percentiles[0] if qs else -np.inf
        clip = _checked(Clip(lower, upper), summary, X, rows, given, lower_percentile)
    if clip.problem:
        raise ValueError(clip.problem)
    _warn_of_low(clip.upper, given)
    if lower_percentile is not None and 0 < lower_percentile < 1:
        warn(
            f"lower_percentile={lower_percentile} means {lower_percentile} percent, "
            "which clips next to nothing from below. Percentiles are in percent here: "
            f"did you mean {100 * lower_percentile:g}?"
        )
    return clip


def learn_clips(X, sides, percentiles, *, lower_percentile=None, per_unit=False):
    """Return, for each set of rows, a clip for each percentile.

    All come from one look at the features. A percentile of None does not clip from
    above.
    """
    # A float32 of NumPy would make the whole computation one of float32.
    lower_percentile, *percentiles = (
        q.item() if isinstance(q, np.generic) else q
        for q in (lower_percentile, *percentiles)
    )
    for percentile in percentiles:
        effect = ", which clips nearly every activation"
        check_percent("percentile", percentile, effect=effect)
    if lower_percentile is not None:
        check_range("lower_percentile", lower_percentile)
    qs = [q for q in (lower_percentile, *percentiles) if q is not None]
    if not qs:
        return [[Clip()] * len(percentiles) for _ in sides]
    clips: list[list[Clip]] = []
    summaries = _summaries(X, sides, qs, per_unit)
    for rows, summary in zip(sides, summaries, strict=True):
        found = dict(zip(qs, summary.percentiles, strict=True))
        lower = found.get(lower_percentile, -np.inf)
        clips.append([])
        for percentile in percentiles:
            clip = Clip(lower, found.get(percentile, np.inf))
            given = f"percentile={percentile}"
            if None not in (percentile, lower_percentile):
                if lower_percentile >= percentile:
                    problem = (
                        f"lower_percentile={lower_percentile} must be below {given}."
                    )
                    clips[-1].append(replace(clip, problem=problem))
                    continue
            clips[-1].append(_checked(clip, summary, X, rows, given, lower_percentile))
    return clips


def _summaries(X, sides, qs, per_unit):
    if isinstance(X, Stream):
        return [X.summary(qs)]
    if per_unit:
        return [column_percentiles(X, qs, rows) for rows in sides]
    if len(sides) == 1:
        return [pooled_percentiles(X, qs, sides[0])]
    return pooled_percentiles_of_sides(X, qs, sides)


def _checked(clip, summary, X, rows, given, lower_percentile):
    """Return the clip, with the reason why it would say nothing about the data."""
    problem = _problem_of_upper(clip.upper, summary, X, rows, given)
    if not problem and np.any(np.asarray(clip.lower) > clip.upper):
        problem = (
            f"The lower clip is above the upper one (lower {_shown(clip.lower)}, upper "
            f"{_shown(clip.upper)}); lower lower_percentile={lower_percentile} or "
            "raise the threshold."
        )
    return replace(clip, problem=problem)


def _as_threshold(threshold, n_features):
    value = np.array(threshold, dtype=np.float64)
    if value.shape not in ((), (n_features,)):
        raise ValueError(
            f"threshold has shape {value.shape}, expected one number or one per "
            f"feature, ({n_features},)."
        )
    if np.isnan(value).any():
        raise ValueError("threshold is NaN; expected numbers, or None to learn it.")
    return value if value.ndim else float(value)


def _problem_of_upper(upper, summary, X, rows, given):
    """Return why an upper clip would say nothing about the data, or ""."""
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
        return (
            f"{given} gives a clip of {_shown(upper)}: {share:.1f} % of the "
            "activations are 0 and none is below, so every input would look the "
            f"same. {advice}"
        )
    if np.all(upper <= summary.minimum):
        return (
            f"{given} gives a clip of {_shown(upper)}, which is below every "
            f"activation or equal to the smallest (n_samples={X.shape[0]}; the "
            f"activations span {minimum:.4g} to {np.max(summary.maximum):.4g}): all "
            "would be clipped to the same value. Choose a larger clip, or give more "
            "rows."
        )
    return ""


def _warn_of_low(upper, given):
    """Warn of a clip that is valid, and most often a mistake."""
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
    if isinstance(X, Stream):
        return X.histogram.share_at_most(value)
    n = n_at_most = 0
    for block in host_blocks(X, rows):
        n += block.size
        n_at_most += np.count_nonzero(block <= value)
    return n_at_most / n


def _shown(clip):
    return f"{clip:.4g}" if np.ndim(clip) == 0 else f"at most {np.max(clip):.4g}"
