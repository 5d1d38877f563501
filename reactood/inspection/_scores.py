"""Plot the score distributions of ID and OOD samples, with thresholds."""

import numpy as np
from sklearn.utils import check_array, column_or_1d

from reactood._utils._response import score_and_threshold
from reactood.inspection._common import (
    CLIP_COLOR,
    ID_COLOR,
    OOD_COLOR,
    axes_and_figure,
    id_mask,
)
from reactood.metrics import auroc, fpr_at_tpr
from reactood.metrics._ranking import place_of_threshold

TPR = 0.95


class ScoreDistributionDisplay:
    """Histograms of the scores of ID and of OOD samples.

    Each histogram is in per cent of its own samples; both have the same bins. The
    solid line is the detector's own threshold. The dashed line is the threshold that
    accepts 95 % of the in-distribution (ID) samples shown, at which the FPR95 is
    computed. It is left out if it is too close to the solid line.

    Use `from_estimator` or `from_predictions` to make one.

    Parameters
    ----------
    id_scores : ndarray of shape (n_id,)
        Scores of ID samples: the higher, the more in-distribution.

    ood_scores : ndarray of shape (n_ood,)
        Scores of out-of-distribution (OOD) samples.

    auroc : float
        Area under the ROC curve, a fraction; the higher, the better.

    fpr95 : float
        The share of OOD samples above `tpr_threshold`, a fraction; the lower, the
        better. By the convention of the ReAct paper.

    tpr_threshold : float
        The score that 95 % of the ID samples reach.

    threshold : float, default=None
        The detector's own threshold; None for none.

    score_name : str, default=None
        Name of the scores, for the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the histograms.

    figure_ : matplotlib Figure
        The figure of these axes.

    id_patch_, ood_patch_ : matplotlib StepPatch
        The histograms.

    threshold_line_ : matplotlib Line2D or None
        The detector's threshold.

    tpr_line_ : matplotlib Line2D or None
        The 95 % TPR threshold; None if it is too close to the other line.

    See Also
    --------
    reactood.metrics.ood_report : Computes the numbers for several OOD sets.
    as_classifier : Gives access to scikit-learn's displays, such as the ROC curve.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.inspection import ScoreDistributionDisplay
    >>> digits = load_digits_ood()
    >>> detector = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> photos = digits.ood["photo_china"]
    >>> X = np.concatenate([digits.X_test, photos])
    >>> y = np.repeat([1, -1], [len(digits.X_test), len(photos)])
    >>> display = ScoreDistributionDisplay.from_estimator(detector, X, y)
    >>> round(display.auroc, 2)
    0.92
    """

    def __init__(
        self,
        *,
        id_scores,
        ood_scores,
        auroc,
        fpr95,
        tpr_threshold,
        threshold=None,
        score_name=None,
    ):
        self.id_scores = id_scores
        self.ood_scores = ood_scores
        self.auroc = auroc
        self.fpr95 = fpr95
        self.tpr_threshold = tpr_threshold
        self.threshold = threshold
        self.score_name = score_name

    @classmethod
    def from_estimator(cls, estimator, X, y, *, bins=40, ax=None):
        """Score samples and draw the distributions.

        Parameters
        ----------
        estimator : outlier detector or Pipeline
            A fitted outlier detector with `score_samples` or `decision_function`, or a
            pipeline that ends in one. If it has `score_samples` and `offset_`, these
            are shown as scores and threshold, else `decision_function` and 0.

        X : array-like of shape (n_samples, n_features), or images
            Samples of a kind that the estimator takes.

        y : array-like of shape (n_samples,)
            1 for ID, -1 for OOD.

        bins : int or array-like of bin edges, default=40
            Bins for both histograms.

        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : ScoreDistributionDisplay
            The numbers and what was drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        TypeError
            If the estimator has no scores.
        ValueError
            If `y` does not hold 1 and -1, one for each sample.
        """
        method, threshold = score_and_threshold(estimator)
        return cls.from_predictions(
            y,
            getattr(estimator, method)(X),
            threshold=threshold,
            score_name=method,
            bins=bins,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls, y_true, y_score, *, threshold=None, score_name=None, bins=40, ax=None
    ):
        """Draw the distributions of given scores.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            1 for ID, -1 for OOD.

        y_score : array-like of shape (n_samples,)
            Scores: the higher, the more in-distribution.

        threshold : float, default=None
            A threshold to draw: scores of at least this much are accepted.

        score_name : str, default=None
            Name of the scores, for the axis.

        bins : int or array-like of bin edges, default=40
            Bins for both histograms.

        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : ScoreDistributionDisplay
            The numbers and what was drawn.

        Raises
        ------
        ValueError
            If `y_true` does not hold 1 and -1, one for each score, or if scores are
            NaN or infinite.
        """
        y_score = column_or_1d(
            check_array(np.asarray(y_score), ensure_2d=False, dtype=np.float64)
        )
        is_id = id_mask(y_true, len(y_score), "y_true")
        id_scores, ood_scores = y_score[is_id], y_score[~is_id]
        return cls(
            id_scores=id_scores,
            ood_scores=ood_scores,
            auroc=auroc(y_true, y_score),
            fpr95=fpr_at_tpr(y_true, y_score, tpr=TPR),
            tpr_threshold=np.sort(id_scores)[
                place_of_threshold(len(id_scores), TPR)
            ].item(),
            threshold=threshold,
            score_name=score_name,
        ).plot(ax, bins=bins)

    def plot(self, ax=None, *, bins=40):
        """Draw the distributions.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        bins : int or array-like of bin edges, default=40
            Bins for both histograms.

        Returns
        -------
        display : ScoreDistributionDisplay
            This object.
        """
        self.ax_, self.figure_ = axes_and_figure(ax)
        scores = np.concatenate([self.id_scores, self.ood_scores])
        edges = np.histogram_bin_edges(scores, bins)
        self.id_patch_ = self._histogram(self.id_scores, edges, "ID", ID_COLOR)
        self.ood_patch_ = self._histogram(self.ood_scores, edges, "OOD", OOD_COLOR)
        self.threshold_line_ = self.tpr_line_ = None
        apart = np.inf
        if self.threshold is not None:
            self.threshold_line_ = self.ax_.axvline(
                self.threshold,
                color=CLIP_COLOR,
                lw=1.3,
                label=f"threshold {self.threshold:.4g}",
            )
            apart = abs(self.threshold - self.tpr_threshold)
        if apart > 0.005 * np.ptp(edges):
            self.tpr_line_ = self.ax_.axvline(
                self.tpr_threshold,
                color=CLIP_COLOR,
                lw=1.3,
                ls="--",
                label=f"95 % TPR at {self.tpr_threshold:.4g}",
            )
        self.ax_.set(
            title=f"AUROC {self.auroc:.3f}, FPR95 {self.fpr95:.3f} (fractions)",
            xlabel=f"{self.score_name or 'score'} (the higher, the more "
            "in-distribution)",
            ylabel="share of samples (%)",
        )
        self.ax_.legend()
        return self

    def _histogram(self, scores, edges, name, color):
        share = 100 * np.histogram(scores, edges)[0] / len(scores)
        self.ax_.stairs(share, edges, fill=True, color=color, alpha=0.3)
        return self.ax_.stairs(
            share, edges, color=color, lw=1.6, label=f"{name} (n = {len(scores)})"
        )
