"""Plot the distribution of all activations, with the clip."""

import numpy as np

from reactood._utils._response import percentile_of
from reactood.inspection._common import (
    CLIP_COLOR,
    ID_COLOR,
    OOD_COLOR,
    activations,
    axes_and_figure,
)


class ActivationHistogramDisplay:
    """Histogram of the activations of all units and samples, with the clip.

    The axis of the counts is logarithmic. Activations that are exactly 0, of which
    there are many after a ReLU, are not drawn; the title states their share.

    Use `from_estimator` to make one.

    Parameters
    ----------
    counts : ndarray of shape (n_bins,)
        Numbers of activations other than 0.

    bin_edges : ndarray of shape (n_bins + 1,)
        Edges of the bins, in units of the activations.

    zero_share : float
        The share of activations that are exactly 0, a fraction.

    above_share : float
        The share of activations that are clipped from above, a fraction.

    below_share : float, default=0.0
        The share of activations that are clipped from below, a fraction.

    threshold : float or ndarray of shape (n_features,), default=inf
        The upper clip.

    lower_threshold : float or ndarray of shape (n_features,), default=-inf
        The lower clip.

    percentile : float, default=None
        The percentile of the training activations that is the upper clip, in percent;
        None if the clip was given as a value.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the histogram.

    figure_ : matplotlib Figure
        The figure of these axes.

    patch_ : matplotlib StepPatch
        The histogram.

    clip_artists_ : list
        One artist for each clip: a line or, if each unit has its own clip, a band from
        the lowest to the highest.

    See Also
    --------
    ActivationProfileDisplay : Compares ID with OOD data, unit by unit.

    Examples
    --------
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.inspection import ActivationHistogramDisplay
    >>> digits = load_digits_ood()
    >>> detector = make_react_pipeline(digits_classifier, percentile=90)
    >>> detector = detector.fit(digits.X_train)
    >>> display = ActivationHistogramDisplay.from_estimator(detector, digits.X_train)
    >>> round(display.above_share, 3)
    0.1
    """

    def __init__(
        self,
        *,
        counts,
        bin_edges,
        zero_share,
        above_share,
        below_share=0.0,
        threshold=np.inf,
        lower_threshold=-np.inf,
        percentile=None,
    ):
        self.counts = counts
        self.bin_edges = bin_edges
        self.zero_share = zero_share
        self.above_share = above_share
        self.below_share = below_share
        self.threshold = threshold
        self.lower_threshold = lower_threshold
        self.percentile = percentile

    @classmethod
    def from_estimator(cls, estimator, X, *, bins=60, ax=None):
        """Count the activations and draw them.

        Parameters
        ----------
        estimator : ReActDetector or Pipeline
            A fitted detector, or a pipeline that ends in one.

        X : array-like of shape (n_samples, n_features), or images
            Features for a detector, images for a pipeline.

        bins : int or array-like of bin edges, default=60
            As in :func:`numpy.histogram`.

        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : ActivationHistogramDisplay
            The numbers and what was drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the detector is not fitted.
        TypeError
            If the estimator is not, and does not end in, a ReActDetector.
        """
        detector, features, clipped = activations(estimator, X)
        counts, bin_edges = np.histogram(features[features != 0], bins)
        return cls(
            counts=counts,
            bin_edges=bin_edges,
            zero_share=np.mean(features == 0).item(),
            above_share=np.mean(features > clipped).item(),
            below_share=np.mean(features < clipped).item(),
            threshold=detector.activation_threshold_,
            lower_threshold=detector.lower_activation_threshold_,
            percentile=percentile_of(detector),
        ).plot(ax)

    def plot(self, ax=None):
        """Draw the histogram.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : ActivationHistogramDisplay
            This object.
        """
        self.ax_, self.figure_ = axes_and_figure(ax)
        self.patch_ = self.ax_.stairs(
            self.counts, self.bin_edges, fill=True, color=ID_COLOR, alpha=0.85
        )
        self.ax_.set_yscale("log")
        self.ax_.set_ylim(bottom=0.7)
        of = "" if self.percentile is None else f", percentile {self.percentile:g}"
        self.clip_artists_ = [
            self._clip(clip, name, style)
            for clip, name, style in (
                (self.threshold, f"clip{{}}{of}", "--"),
                (self.lower_threshold, "lower clip{}", ":"),
            )
            if np.isfinite(clip).any()
        ]
        shares = [f"{self.above_share:.1%} above the clip"]
        if np.isfinite(self.lower_threshold).any():
            shares.append(f"{self.below_share:.1%} below the lower clip")
        if self.zero_share:
            shares.append(f"{self.zero_share:.1%} exactly 0 (not drawn)")
        self.ax_.set(
            title=", ".join(shares),
            xlabel="activation",
            ylabel="count (units × samples, logarithmic)",
        )
        if self.clip_artists_:
            self.ax_.legend()
        return self

    def _clip(self, clip, name, style):
        if np.ndim(clip) == 0:
            return self.ax_.axvline(
                clip, color=CLIP_COLOR, ls=style, label=name.format(f" at {clip:.3g}")
            )
        ends = np.min(clip), np.max(clip)
        span = " of each unit, {:.3g} to {:.3g}".format(*ends)
        return self.ax_.axvspan(
            *ends, color=OOD_COLOR, alpha=0.25, lw=0, label=name.format(span)
        )
