"""Draw the figures of a report, similar to the paper's first figure."""

import numpy as np

from reactood._cli._plots import png_of
from reactood.detector import ReActDetector
from reactood.inspection import ActivationProfileDisplay, ScoreDistributionDisplay
from reactood.metrics._ranking import marks_of

DPI = 110


def draw(benchmark):
    """Return (caption, PNG) pairs; none without matplotlib, or without a clip."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    calibration, test, *ood = benchmark.features.values()
    inputs = benchmark.inputs
    # The table has what the check of `fit` finds.
    plain = ReActDetector(inputs.head, percentile=None, check_score=False)
    clipped = ReActDetector(
        inputs.head,
        percentile=inputs.percentile,
        threshold=inputs.threshold,
        check_score=False,
    )
    plain.fit(calibration)
    try:
        clipped.fit(calibration)
    except ValueError:
        return []
    drawn = []
    for name, X in zip(benchmark.task.ood, ood, strict=True):
        figure = Figure(figsize=(15, 4), layout="constrained")
        axes = figure.subplots(1, 3)
        both = np.concatenate([test, X])
        y = marks_of(len(test), len(X))
        ScoreDistributionDisplay.from_estimator(plain, both, y, ax=axes[0])
        ActivationProfileDisplay.from_estimator(clipped, both, y, ax=axes[1])
        ScoreDistributionDisplay.from_estimator(clipped, both, y, ax=axes[2])
        titles = "Energy, without the clip", "Activations", "Energy, with the clip"
        for ax, title in zip(axes, titles, strict=True):
            ax.set_title(title)
        caption = (
            f"{name}: scores of ID and OOD images without the clip, the activations of "
            "each unit, and scores with the clip."
        )
        drawn.append((caption, png_of(figure, DPI)))
    return drawn
