"""What a fitted detector has learned, for notebooks."""

import numpy as np


def percentile_of(detector):
    """Return the percentile that a fitted detector's clip is; None if it is none."""
    if getattr(detector, "threshold", None) is not None:
        return None
    percentile = getattr(detector, "percentile", None)
    return getattr(detector, "best_percentile_", percentile)


def summary_html(detector):
    """Return a table of the percentile, the clip and the offset; "" before `fit`."""
    if not hasattr(detector, "offset_"):
        return ""
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
