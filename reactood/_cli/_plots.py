"""Draw the figures of a page: scores with the threshold, and activations.

No name that a user has given is drawn: matplotlib would read ``$`` as a formula.
"""

import io

import numpy as np

from reactood.inspection import ActivationProfileDisplay, ScoreDistributionDisplay
from reactood.inspection._common import CLIP_COLOR, ID_COLOR, OOD_COLOR
from reactood.metrics._ranking import marks_of

SIZE = 5.6, 3.7  # inches; the text can still be read on a telephone
DPI = 160
BINS = 40


def check_matplotlib(command):
    """Raise before anything is computed if nothing could be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"reactood {command} draws with matplotlib, which is not installed. To "
            "install it: pip install 'reactood[plot]'."
        ) from error


def new_axes():
    """Return the axes of a new figure, which no backend needs to show."""
    from matplotlib.figure import Figure

    return Figure(figsize=SIZE, layout="constrained").subplots()


def png_of(figure, dpi=DPI):
    """Return a figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=dpi)
    return stream.getvalue()


def draw_scores(id_scores, ood_scores, threshold):
    """Draw the scores of an ID set and an OOD set."""
    ax = new_axes()
    ScoreDistributionDisplay.from_predictions(
        marks_of(len(id_scores), len(ood_scores)),
        np.concatenate([id_scores, ood_scores]),
        threshold=threshold,
        bins=BINS,
        ax=ax,
    )
    return _finished(ax)


def draw_unlabelled_scores(scores, threshold):
    """Draw the scores of one set, of which the truth is not known."""
    ax = new_axes()
    shown = scores if threshold is None else np.append(scores, threshold)
    edges = np.histogram_bin_edges(shown, BINS)
    sides = [(scores, ID_COLOR, "images")]
    if threshold is not None:
        accepted = scores >= threshold
        sides = [
            (scores[accepted], ID_COLOR, f"accepted (n = {accepted.sum()})"),
            (scores[~accepted], OOD_COLOR, f"rejected (n = {(~accepted).sum()})"),
        ]
    for some, color, label in sides:
        share = 100 * np.histogram(some, edges)[0] / len(scores)
        ax.stairs(share, edges, fill=True, color=color, alpha=0.3)
        ax.stairs(share, edges, color=color, lw=1.6, label=label)
    if threshold is not None:
        ax.axvline(
            threshold, color=CLIP_COLOR, lw=1.3, label=f"threshold {threshold:.4g}"
        )
    ax.set(
        xlabel="score (the higher, the more in-distribution)",
        ylabel="share of all images (%)",
    )
    ax.legend()
    return _finished(ax)


def draw_activations(detector, first, second, labels=("ID", "OOD")):
    """Draw the activations of two sets; those of an empty set are left out."""
    ax = new_axes()
    display = ActivationProfileDisplay(
        id_mean=first.mean,
        id_percentiles=first.percentiles,
        ood_mean=second.mean,
        ood_percentiles=second.percentiles,
        threshold=detector.activation_threshold_,
        lower_threshold=detector.lower_activation_threshold_,
    )
    display.plot(ax)
    for line, side, label in (
        (display.id_line_, first, f"{labels[0]}, mean"),
        (display.ood_line_, second, f"{labels[1]}, mean"),
        (display.ood_high_, second, f"{labels[1]}, 95 % are below"),
    ):
        line.set_label("_nolegend_" if np.isnan(side.mean).all() else label)
    if np.isnan(first.mean).all():
        ax.set_xlabel("unit")
    else:
        ax.set_xlabel(f"unit, sorted by its mean on {labels[0]} images")
        ax.set_ylabel(f"activation (bands: 50 % and 90 % of {labels[0]})")
    ax.legend()
    return _finished(ax)


def _finished(ax):
    ax.set_title("")  # the page says it in words
    ax.get_legend().remove()
    # Beside the axes, so that it hides nothing.
    ax.figure.legend(loc="outside upper center", ncols=2, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return png_of(ax.figure)
