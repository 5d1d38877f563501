"""Plot mean and quantiles of each unit's activation on ID and on OOD data."""

import numpy as np

from reactood._scoring._percentile import column_percentiles
from reactood.inspection._common import (
    CLIP_COLOR,
    ID_COLOR,
    OOD_COLOR,
    activations,
    axes_and_figure,
    id_mask,
)

PERCENTILES = 5, 25, 75, 95  # of each unit's activations: the ends of two bands
MOST_POINTS = 150  # more units than these are drawn in groups


class ActivationProfileDisplay:
    """Mean and quantiles of each unit's activation, on ID and on OOD data.

    The plot shows the idea of ReAct. The mean activations on in-distribution (ID) data
    are about the same for all units. On out-of-distribution (OOD) data a few units have
    far higher activations, which the clip limits.

    Lines are means. The bands are the middle half and the middle 90 % of the ID
    activations of a unit; the thin line is what 95 % of its OOD activations do not
    exceed. Where there are more than 150 units, each point is the mean over a group of
    units with neighbouring places.

    Use `from_estimator` to make one.

    Parameters
    ----------
    id_mean : ndarray of shape (n_features,)
        Mean of each unit over the ID samples, without clipping.

    id_percentiles : ndarray of shape (4, n_features)
        The percentiles 5, 25, 75 and 95 of each unit over the ID samples.

    ood_mean : ndarray of shape (n_features,)
        Mean of each unit over the OOD samples.

    ood_percentiles : ndarray of shape (4, n_features)
        The same percentiles over the OOD samples.

    threshold : float or ndarray of shape (n_features,), default=inf
        The upper clip.

    lower_threshold : float or ndarray of shape (n_features,), default=-inf
        The lower clip.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the profiles.

    figure_ : matplotlib Figure
        The figure of these axes.

    id_line_, ood_line_ : matplotlib Line2D
        The means.

    id_bands_ : list of matplotlib PolyCollection
        The middle 90 % and the middle half of the ID activations.

    ood_high_ : matplotlib Line2D
        The percentile 95 of the OOD activations.

    clip_lines_ : list of matplotlib Line2D
        The upper and the lower clip, if finite.

    See Also
    --------
    ActivationHistogramDisplay : Draws the activations of all units together.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.inspection import ActivationProfileDisplay
    >>> digits = load_digits_ood()
    >>> detector = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> photos = digits.ood["photo_flower"]
    >>> X = np.concatenate([digits.X_test, photos])
    >>> y = np.repeat([1, -1], [len(digits.X_test), len(photos)])
    >>> display = ActivationProfileDisplay.from_estimator(detector, X, y)
    >>> bool(display.ood_mean.max() > display.id_mean.max())
    True
    """

    def __init__(
        self,
        *,
        id_mean,
        id_percentiles,
        ood_mean,
        ood_percentiles,
        threshold=np.inf,
        lower_threshold=-np.inf,
    ):
        self.id_mean = id_mean
        self.id_percentiles = id_percentiles
        self.ood_mean = ood_mean
        self.ood_percentiles = ood_percentiles
        self.threshold = threshold
        self.lower_threshold = lower_threshold

    @classmethod
    def from_estimator(cls, estimator, X, y, *, sort=True, ax=None):
        """Compute the profiles and draw them.

        Parameters
        ----------
        estimator : ReActDetector or Pipeline
            A fitted detector, or a pipeline that ends in one.

        X : array-like of shape (n_samples, n_features), or images
            Features for a detector, images for a pipeline.

        y : array-like of shape (n_samples,)
            1 for ID, -1 for OOD.

        sort : bool, default=True
            Whether to sort the units by their mean on ID data; else they are in the
            order of the features.

        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : ActivationProfileDisplay
            The numbers and what was drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the detector is not fitted.
        TypeError
            If the estimator is not, and does not end in, a ReActDetector.
        ValueError
            If `y` does not hold 1 and -1, one for each sample.
        """
        detector, features, _ = activations(estimator, X)
        is_id = id_mask(y, len(features))
        id_mean, id_percentiles = profile_of(features[is_id])
        ood_mean, ood_percentiles = profile_of(features[~is_id])
        return cls(
            id_mean=id_mean,
            id_percentiles=id_percentiles,
            ood_mean=ood_mean,
            ood_percentiles=ood_percentiles,
            threshold=detector.activation_threshold_,
            lower_threshold=detector.lower_activation_threshold_,
        ).plot(ax, sort=sort)

    def plot(self, ax=None, *, sort=True):
        """Draw the profiles.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        sort : bool, default=True
            Whether to sort the units by their mean on ID data.

        Returns
        -------
        display : ActivationProfileDisplay
            This object.
        """
        self.ax_, self.figure_ = axes_and_figure(ax)
        order = np.arange(len(self.id_mean))
        if sort:
            order = np.argsort(self.id_mean, kind="stable")
        self._groups = np.array_split(order, min(len(order), MOST_POINTS))
        low, lower, upper, high = map(self._grouped, self.id_percentiles)
        self.id_bands_ = [
            self.ax_.fill_between(
                self._places, *ends, step="mid", color=ID_COLOR, alpha=alpha, lw=0
            )
            for ends, alpha in (((low, high), 0.18), ((lower, upper), 0.35))
        ]
        self.id_line_ = self._line(self.id_mean, ID_COLOR, 1.8, "ID, mean")
        self.ood_line_ = self._line(self.ood_mean, OOD_COLOR, 1.8, "OOD, mean")
        self.ood_high_ = self._line(
            self.ood_percentiles[-1], OOD_COLOR, 0.8, "OOD, 95 % are below"
        )
        self.clip_lines_ = []
        for clip, name, style in (
            (self.threshold, "clip", "--"),
            (self.lower_threshold, "lower clip", ":"),
        ):
            if np.isfinite(clip).any():
                self.clip_lines_.append(self._clip(clip, name, style))
        self.ax_.set(
            xlabel="unit, sorted by its mean on ID data" if sort else "unit",
            ylabel="activation (bands: 50 % and 90 % of ID)",
        )
        self.ax_.margins(x=0.01)
        # Below the label: units with high activations may be anywhere.
        self.ax_.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            borderaxespad=5,
            ncols=2,
            fontsize=8,
        )
        return self

    @property
    def _places(self):
        """The middle of each group of units."""
        sizes = np.array([len(group) for group in self._groups])
        return sizes.cumsum() - (sizes + 1) / 2

    def _grouped(self, values):
        return np.array([values[group].mean() for group in self._groups])

    def _line(self, values, color, width, name, **look):
        (line,) = self.ax_.plot(
            self._places,
            self._grouped(values),
            color=color,
            lw=width,
            drawstyle="steps-mid",
            label=name,
            **look,
        )
        return line

    def _clip(self, clip, name, style):
        if np.ndim(clip) == 0:
            name = f"{name} at {clip:.3g}"
            look = {"color": CLIP_COLOR, "lw": 1.3, "ls": style}
            return self.ax_.axhline(clip, label=name, **look)
        return self._line(clip, CLIP_COLOR, 1.3, f"{name} of each unit", ls=style)


def profile_of(features):
    """Return mean and percentiles of each unit."""
    mean = features.mean(axis=0, dtype=np.float64)
    return mean, np.array(column_percentiles(features, PERCENTILES).percentiles)
