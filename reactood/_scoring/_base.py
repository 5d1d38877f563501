"""The base class of ReActDetector and ReActDetectorCV: everything but `fit`."""

from numbers import Integral, Real
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from reactood._scoring._blocks import nan_rows
from reactood._scoring._clip import Clip, CountingClip
from reactood._scoring._heads import IdentityHead, LinearHead, ModuleHead
from reactood._scoring._scorer import Scorer
from reactood._scoring._scores import SCORES
from reactood._utils._display import Shown
from reactood._utils._estimators import FractionHints, ThresholdMixin
from reactood._utils._sklearn import (
    HasMethods,
    Interval,
    StrOptions,
)
from reactood._utils._tensors import as_tensor
from reactood._utils._validation import validate_array


class Detection(NamedTuple):
    """What a detector says of each row."""

    scores: np.ndarray
    labels: np.ndarray
    classes: np.ndarray


class BaseReActDetector(
    FractionHints, Shown, ThresholdMixin, OutlierMixin, BaseEstimator
):
    """Scores, decides and classifies by a clip that a subclass learns.

    A subclass takes the parameters below, and its ``fit`` ends in ``_learn``.
    """

    _parameter_constraints: ClassVar[dict] = {
        "head": [
            None,
            tuple,
            list,
            nn.Module,
            HasMethods(["fit", "predict"]),
            callable,
        ],
        "lower_percentile": [Interval(Real, 0, 100, closed="left"), None],
        "per_unit": ["boolean"],
        "score_function": [StrOptions(set(SCORES)), callable],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "device": [str, torch.device, None],
        "on_nan": [StrOptions({"raise", "reject"})],
    }

    def fit_predict(self, X, y=None):
        """Fit to `X` and return the labels of its rows.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features.

        y : array-like of shape (n_samples,), default=None
            As in `fit`.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            1 for in-distribution, -1 for out-of-distribution, for all rows of `X`.
        """
        return self.fit(X, y).predict(X)

    def score_samples(self, X):
        """Score features after clipping: the higher, the more in-distribution.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            `score_function(head(clip(X)))`, float64. NaN for rows that hold NaN, with
            `on_nan="reject"`.

        Raises
        ------
        ValueError
            If `X` holds NaN or inf; with `on_nan="reject"`, if it holds inf.
        """
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        return self._scorer(self._fitted_head()).scores(X, [self._learned_clip()])[0]

    def predict_class(self, X):
        """Return the classifier's own decision, from unclipped features.

        Clipping costs no classification accuracy: it serves the scores alone.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            The entry of `classes_` with the largest logit. With `on_nan="reject"`, NaN
            counts as 0 here, a silent unit, so that every row gets a class; that of a
            row of NaN says nothing, and `predict` rejects it.
        """
        check_is_fitted(self)
        return self._scorer(self._fitted_head()).classes(self._validate(X, reset=False))

    def detect(self, X):
        """Return scores, decisions and classes together.

        For each row what `score_samples`, `predict` and `predict_class` return. In a
        pipeline made by :func:`~reactood.make_react_pipeline`, images pass through the
        network once instead of three times.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        detection : Detection
            A named tuple of three arrays of shape (n_samples,): `scores`, float64, the
            higher, the more in-distribution; `labels`, 1 for in-distribution and -1
            for out-of-distribution; `classes`, the classifier's own decision.

        Examples
        --------
        >>> import numpy as np
        >>> from reactood import ReActDetector
        >>> X = np.random.default_rng(0).gamma(2.0, size=(99, 4))
        >>> detector = ReActDetector((np.eye(3, 4), np.zeros(3))).fit(X)
        >>> scores, labels, classes = detector.detect(X[:2])
        >>> labels
        array([ 1, -1])
        """
        scores = self.score_samples(X)
        # As in `predict`: NaN is not at least the offset.
        labels = np.where(scores - self.offset_ >= 0, 1, -1)
        return Detection(scores, labels, self.predict_class(X))

    def rectify(self, X):
        """Clip features at the thresholds that `fit` learned.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        clipped : ndarray of shape (n_samples, n_features)
            `min(X, activation_threshold_)`, and where a lower clip was asked for,
            no less than `lower_activation_threshold_`. float32 if `X` is float32 or
            half precision, else float64. NaN stays NaN, with `on_nan="reject"`.
        """
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        return self._scorer(self._fitted_head()).clipped(X, self._learned_clip())

    def _learn(self, X, head, clip, rows):
        """Take over a head and a clip, and learn the decision threshold."""
        scorer = self._scorer(head)
        counting = CountingClip(clip)
        (scores,) = scorer.scores(X, [counting], rows)
        offset = scorer.threshold(X, scores, self.contamination)
        self.__dict__.pop("_stream", None)
        self._take_head(head)
        self._set_learned(clip, counting.share, offset)
        self.n_samples_seen_ = len(scores)

    def _take_head(self, head):
        self.classes_ = head.classes
        for name in ("coef_", "intercept_", "_module_head"):
            self.__dict__.pop(name, None)
        if isinstance(head, LinearHead):
            self.coef_, self.intercept_ = head.weight, head.bias
        elif isinstance(head, ModuleHead):
            self._module_head = head

    def _set_learned(self, clip, share, offset):
        self.lower_activation_threshold_ = clip.lower
        self.activation_threshold_ = clip.upper
        self.clipped_share_ = share
        self.offset_ = offset

    def _fitted_head(self):
        """Return the head that `fit` resolved.

        It is made of public arrays where possible, so that the fitted state can be read
        without this package's private classes.
        """
        if hasattr(self, "coef_"):
            return LinearHead(self.coef_, self.intercept_, self.classes_)
        if hasattr(self, "_module_head"):
            return self._module_head
        return IdentityHead(self.n_features_in_)

    def _learned_clip(self):
        return Clip(self.lower_activation_threshold_, self.activation_threshold_)

    def _scorer(self, head):
        return Scorer(
            head,
            self.score_function,
            self.temperature,
            batch_size=self.batch_size,
            device=self.device,
            allow_nan=self._rejects_nan(),
        )

    def _validate(self, X, *, reset):
        dtypes = [np.float64, np.float32, np.float16]
        return as_tensor(validate_array(self, X, reset=reset, dtype=dtypes))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._rejects_nan()
        return tags

    def _rejects_nan(self):
        return self.on_nan == "reject"

    def _without_nan(self, X, rows):
        """Return the mask of the rows to learn from, None for all."""
        known = self._known_rows(X, rows)
        if known is not None and not known.any():
            raise ValueError(
                f"All {len(X) if rows is None else rows.sum()} in-distribution rows of "
                "X hold NaN, which on_nan='reject' leaves out, so that none is left to "
                "learn from: could no image be read?"
            )
        return known

    def _known_rows(self, X, rows):
        """Return the mask of the rows without NaN, None for all; maybe of none."""
        if not self._rejects_nan():
            return rows
        known = np.ones(len(X), bool) if rows is None else rows.copy()
        known[known] = ~nan_rows(X, rows)
        return rows if known.all() else known
