"""What a fitted detector has learned, for notebooks."""

import numpy as np


def summary_html(detector):
    """Return a table of the percentile, the clip and the offset; "" before `fit`."""
    if not hasattr(detector, "offset_"):
        return ""
    percentile = getattr(detector, "percentile", None)
    percentile = getattr(detector, "best_percentile_", percentile)
    if getattr(detector, "threshold", None) is not None:
        percentile = None
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
