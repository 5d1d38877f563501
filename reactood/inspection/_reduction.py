"""Plot how much the clip lowers each unit: measured and predicted by theory."""

import numpy as np

from reactood.inspection._common import (
    ID_COLOR,
    OOD_COLOR,
    activations,
    axes_and_figure,
    id_mask,
)
from reactood.theory import fit_activations, mean_reduction


class ReductionDisplay:
    """The mean reduction of each unit, measured against the paper's prediction.

    For the prediction, the model of the ReAct paper, a rectified epsilon-skew-normal
    distribution, is fitted to each unit. A point on the diagonal is a unit whose
    prediction equals the measurement. If the paper's argument is right, OOD points are
    further to the right than ID points.

    Use `from_estimator` to make one.

    Parameters
    ----------
    id_measured, id_predicted : ndarray of shape (n_features,)
        Mean reduction of each unit by the clip on in-distribution (ID) samples, in
        units of the activations. A prediction is NaN if the unit has no fit.

    ood_measured, ood_predicted : ndarray of shape (n_features,)
        The same on out-of-distribution (OOD) samples.

    id_fit, ood_fit : Bunch
        The result of :func:`~reactood.theory.fit_activations`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the points.

    figure_ : matplotlib Figure
        The figure of these axes.

    id_points_, ood_points_ : matplotlib Line2D
        One point for each unit.

    See Also
    --------
    reactood.theory.mean_reduction : Computes the prediction.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.inspection import ReductionDisplay
    >>> digits = load_digits_ood()
    >>> detector = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> photos = digits.ood["photo_china"]
    >>> X = np.concatenate([digits.X_test, photos])
    >>> y = np.repeat([1, -1], [len(digits.X_test), len(photos)])
    >>> display = ReductionDisplay.from_estimator(detector, X, y)
    >>> display.id_measured.shape, display.ood_predicted.shape
    ((96,), (96,))
    """

    def __init__(
        self,
        *,
        id_measured,
        id_predicted,
        ood_measured,
        ood_predicted,
        id_fit,
        ood_fit,
    ):
        self.id_measured = id_measured
        self.id_predicted = id_predicted
        self.ood_measured = ood_measured
        self.ood_predicted = ood_predicted
        self.id_fit = id_fit
        self.ood_fit = ood_fit

    @classmethod
    def from_estimator(cls, estimator, X, y, *, ax=None):
        """Measure the reductions, fit the model, predict and draw.

        Parameters
        ----------
        estimator : ReActDetector or Pipeline
            A fitted detector that clips only from above, or a pipeline that ends in
            one.

        X : array-like of shape (n_samples, n_features), or images
            Features for a detector, images for a pipeline.

        y : array-like of shape (n_samples,)
            1 for ID, -1 for OOD.

        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : ReductionDisplay
            The numbers and what was drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the detector is not fitted.
        TypeError
            If the estimator is not, and does not end in, a ReActDetector.
        ValueError
            If features are negative, if the detector does not clip or clips from
            below too, or if `y` does not hold 1 and -1, one for each sample.
        """
        detector, features, clipped = activations(estimator, X)
        c = detector.activation_threshold_
        if not np.isfinite(c).all() or np.any(detector.lower_activation_threshold_ > 0):
            raise ValueError(
                "The detector has no upper clip, or a lower clip above 0; expected a "
                "detector that clips only from above, as in the theory: set "
                "percentile, and lower_percentile=None."
            )
        is_id = id_mask(y, len(features))
        sides: dict = {}
        for name, rows in (("id", is_id), ("ood", ~is_id)):
            fit = fit_activations(features[rows])
            known = np.isfinite(fit.mu)
            excess = features[rows] - clipped[rows]
            taken = excess.mean(axis=0, dtype=np.float64)
            predicted = np.full_like(fit.mu, np.nan)
            clip = np.broadcast_to(c, known.shape)[known]
            predicted[known] = mean_reduction(
                fit.mu[known], fit.sigma[known], fit.epsilon[known], c=clip
            )
            sides |= {
                f"{name}_measured": taken,
                f"{name}_predicted": predicted,
                f"{name}_fit": fit,
            }
        return cls(**sides).plot(ax)

    def plot(self, ax=None):
        """Draw the points.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : ReductionDisplay
            This object.
        """
        self.ax_, self.figure_ = axes_and_figure(ax)
        self.id_points_, self.ood_points_ = (
            self.ax_.plot(
                measured,
                predicted,
                marker,
                ms=4,
                alpha=0.6,
                color=color,
                label=f"{name}, mean over units {np.mean(measured):.3g}",
            )[0]
            for measured, predicted, marker, color, name in (
                (self.id_measured, self.id_predicted, "o", ID_COLOR, "ID"),
                (self.ood_measured, self.ood_predicted, "^", OOD_COLOR, "OOD"),
            )
        )
        self.ax_.axline((0, 0), slope=1, color="black", lw=0.8, label="as predicted")
        self.ax_.set(
            xlabel="measured reduction by the clip, mean per unit (activation)",
            ylabel="predicted reduction (activation)",
        )
        self.ax_.legend()
        return self
