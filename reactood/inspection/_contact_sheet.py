"""Show the images with the highest and the lowest scores."""

import numpy as np
from sklearn.utils import check_array, column_or_1d

from reactood._scoring._base import BaseReActDetector
from reactood._utils._response import score_and_threshold, unfrozen
from reactood.inspection._common import (
    ID_COLOR,
    OOD_COLOR,
    axes_and_figure,
)
from reactood.inspection._pictures import displayable, draw_picture, source_of

COLUMNS = 8  # images per row of the sheet
STEP_X, STEP_Y = 1.12, 1.34  # from image to image, in image widths, with the caption
HEADING = 0.45  # space for a heading, in image widths
WIDTH = 6.4  # inches


class ContactSheetDisplay:
    """The images with the highest and with the lowest scores.

    Use `from_estimator` or `from_predictions` to make one.

    Parameters
    ----------
    most : list of ndarray of shape (height, width) or (height, width, n_channels)
        The most in-distribution images, the highest score first, in a form that
        matplotlib draws: uint8, or floats in [0, 1].

    most_scores : ndarray of shape (n_shown,)
        Scores of these images: the higher, the more in-distribution.

    most_indices : ndarray of shape (n_shown,)
        Indices of these images among the images given.

    least : list of ndarray
        The least in-distribution images, the lowest score first.

    least_scores : ndarray of shape (n_shown,)
        Scores of these images.

    least_indices : ndarray of shape (n_shown,)
        Indices of these images among the images given.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with all images.

    figure_ : matplotlib Figure
        The figure of these axes.

    images_ : list of matplotlib AxesImage
        The images, the most in-distribution ones first.

    captions_ : list of matplotlib Text
        The scores below the images.

    Examples
    --------
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.inspection import ContactSheetDisplay
    >>> digits = load_digits_ood()
    >>> detector = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> display = ContactSheetDisplay.from_estimator(detector, digits.ood["letters"])
    >>> len(display.most), len(display.least)
    (8, 8)
    """

    def __init__(
        self,
        *,
        most,
        most_scores,
        most_indices,
        least,
        least_scores,
        least_indices,
    ):
        self.most = most
        self.most_scores = most_scores
        self.most_indices = most_indices
        self.least = least
        self.least_scores = least_scores
        self.least_indices = least_indices

    @classmethod
    def from_estimator(cls, estimator, images, *, n=8, ax=None):
        """Score images and draw those with the highest and with the lowest scores.

        Parameters
        ----------
        estimator : Pipeline
            A fitted pipeline from images to scores. The scores are those of
            `score_samples` if there is one, else of `decision_function`; both rank
            the images in the same order.

        images : array of images, or list of images or paths
            A uint8 array of shape (n_samples, height, width[, n_channels]) or
            (n_samples, n_channels, height, width); a float array of shape (n_samples,
            n_channels, height, width), each image of which is scaled to [0, 1] to be
            shown; or a list of PIL images, of arrays, or of paths. Only the files that
            are shown are opened a second time.

        n : int, default=8
            Number of highest and of lowest scores to show; all if there are fewer.

        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : ContactSheetDisplay
            The images, their scores and what was drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the pipeline is not fitted.
        TypeError
            If the estimator takes features, or has no scores.
        """
        method, _ = score_and_threshold(estimator)
        if isinstance(unfrozen(estimator), BaseReActDetector):
            raise TypeError(
                f"{type(estimator).__name__} takes features, expected a fitted "
                "Pipeline that takes images; or use from_predictions(images, "
                "detector.score_samples(features))."
            )
        scores = getattr(estimator, method)(images)
        return cls.from_predictions(images, scores, n=n, ax=ax)

    @classmethod
    def from_predictions(cls, images, scores, *, n=8, ax=None):
        """Draw the images with the highest and with the lowest of given scores.

        Parameters
        ----------
        images : array of images, or list of images or paths
            As in `from_estimator`.

        scores : array-like of shape (n_samples,)
            Scores: the higher, the more in-distribution.

        n : int, default=8
            Number of highest and of lowest scores to show; all if there are fewer.

        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : ContactSheetDisplay
            The images, their scores and what was drawn.

        Raises
        ------
        TypeError
            If the images are of another kind.
        ValueError
            If there is not one finite score for each image, or `n` is below 1.
        """
        if n < 1:
            raise ValueError(f"n={n}; expected at least 1 image of each end.")
        source = source_of(images)
        scores = column_or_1d(
            check_array(np.asarray(scores), ensure_2d=False, dtype=np.float64)
        )
        if len(source) != len(scores):
            raise ValueError(
                f"Got {len(scores)} scores for {len(source)} images; expected one for "
                "each."
            )
        most, least = ends_of(scores, n)
        return cls(
            most=[displayable(source.image(i)) for i in most],
            most_scores=scores[most],
            most_indices=most,
            least=[displayable(source.image(i)) for i in least],
            least_scores=scores[least],
            least_indices=least,
        ).plot(ax)

    def plot(self, ax=None):
        """Draw the sheet.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : ContactSheetDisplay
            This object.
        """
        columns = min(COLUMNS, max(len(self.most), len(self.least)))
        lines = sum(-(-len(side) // columns) for side in (self.most, self.least))
        width, height = columns * STEP_X, lines * STEP_Y + 2 * HEADING
        self.ax_, self.figure_ = axes_and_figure(
            ax, figsize=(WIDTH, WIDTH * height / width)
        )
        self.images_, self.captions_ = [], []
        top = self._block(
            "Most in-distribution (highest scores)",
            ID_COLOR,
            self.most,
            self.most_scores,
            columns,
            0,
        )
        self._block(
            "Least in-distribution (lowest scores)",
            OOD_COLOR,
            self.least,
            self.least_scores,
            columns,
            top,
        )
        self.ax_.set(xlim=(0, width - STEP_X + 1), ylim=(height, 0), aspect="equal")
        self.ax_.set_axis_off()
        return self

    def _block(self, heading, color, images, scores, columns, top):
        """Draw a heading and images below it; return where the next block begins."""
        self.ax_.text(
            0, top + HEADING - 0.1, heading, color=color, weight="bold", va="bottom"
        )
        top += HEADING
        for place, (image, score) in enumerate(zip(images, scores, strict=True)):
            line, column = divmod(place, columns)
            x, y = column * STEP_X + 0.5, top + line * STEP_Y + 0.5
            self.images_.append(draw_picture(self.ax_, image, x, y))
            caption = {"fontsize": 8, "ha": "center", "va": "top"}
            self.captions_.append(self.ax_.text(x, y + 0.54, f"{score:.4g}", **caption))
        return top + (place // columns + 1) * STEP_Y


def ends_of(scores, n):
    """Return the indices of the n highest and of the n lowest scores, in order."""
    ascending = np.argsort(scores, kind="stable")
    return ascending[::-1][:n], ascending[:n]
