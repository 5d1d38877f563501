"""Plot the mean activation of each unit on ID and on OOD data."""

import numpy as np

from reactood.inspection._common import (
    CLIP_COLOR,
    ID_COLOR,
    OOD_COLOR,
    activations,
    axes_and_figure,
    id_mask,
)


class ActivationProfileDisplay:
    """Mean and standard deviation of each unit's activation, on ID and on OOD data.

    The plot shows the idea of ReAct. The mean activations on in-distribution (ID) data
    are about the same for all units. On out-of-distribution (OOD) data a few units have
    far higher activations, which the clip limits.

    Use `from_estimator` to make one.

    Parameters
    ----------
    id_mean, id_std : ndarray of shape (n_features,)
        Mean and standard deviation of each unit over the ID samples, without clipping.

    ood_mean, ood_std : ndarray of shape (n_features,)
        The same over the OOD samples.

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

    id_band_, ood_band_ : matplotlib PolyCollection
        Bands of one standard deviation to each side of the mean.

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
        id_std,
        ood_mean,
        ood_std,
        threshold=np.inf,
        lower_threshold=-np.inf,
    ):
        self.id_mean = id_mean
        self.id_std = id_std
        self.ood_mean = ood_mean
        self.ood_std = ood_std
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
        id_mean, id_std = _moments(features[is_id])
        ood_mean, ood_std = _moments(features[~is_id])
        return cls(
            id_mean=id_mean,
            id_std=id_std,
            ood_mean=ood_mean,
            ood_std=ood_std,
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
        self.ood_band_, self.ood_line_ = self._profile(
            self.ood_mean[order], self.ood_std[order], "OOD", OOD_COLOR
        )
        self.id_band_, self.id_line_ = self._profile(
            self.id_mean[order], self.id_std[order], "ID", ID_COLOR
        )
        self.clip_lines_ = []
        for clip, name, style in (
            (self.threshold, "clip", "--"),
            (self.lower_threshold, "lower clip", ":"),
        ):
            if np.isfinite(clip).any():
                self.clip_lines_.append(self._clip(clip, order, name, style))
        self.ax_.set(
            xlabel="unit, sorted by its mean on ID data" if sort else "unit",
            ylabel="activation, mean ± standard deviation",
        )
        self.ax_.margins(x=0.01)
        self.ax_.legend()
        return self

    def _profile(self, mean, std, name, color):
        places = np.arange(len(mean))
        band = self.ax_.fill_between(
            places, mean - std, mean + std, step="mid", color=color, alpha=0.25, lw=0
        )
        (line,) = self.ax_.plot(
            places, mean, color=color, lw=1.6, drawstyle="steps-mid", label=name
        )
        return band, line

    def _clip(self, clip, order, name, style):
        look = {"color": CLIP_COLOR, "lw": 1.3, "ls": style}
        if np.ndim(clip) == 0:
            return self.ax_.axhline(clip, label=f"{name} at {clip:.3g}", **look)
        (line,) = self.ax_.plot(
            clip[order], drawstyle="steps-mid", label=f"{name} of each unit", **look
        )
        return line


def _moments(features):
    return features.mean(axis=0, dtype=np.float64), features.std(
        axis=0, dtype=np.float64
    )
