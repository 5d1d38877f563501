"""The base class of detectors on features: validation, OOD rows, the threshold."""

from numbers import Real
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data

from reactood._scoring._blocks import rows_per_block
from reactood._scoring._scores import check_spread, threshold_of
from reactood._utils._estimators import FractionHints, ThresholdMixin, as_a_whole
from reactood._utils._labels import id_rows
from reactood._utils._sklearn import Interval, _fit_context

FLOATS = np.float64, np.float32


class BaseFeatureDetector(FractionHints, ThresholdMixin, OutlierMixin, BaseEstimator):
    """Validates and decides; a rule is in ``_learn`` and ``_score``."""

    _parameter_constraints: ClassVar[dict] = {
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }

    contamination: float

    @_fit_context(prefer_skip_nested_validation=False)  # some hold estimators
    @as_a_whole
    def fit(self, X, y=None):
        """Learn from in-distribution features, and learn the decision threshold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        y : array-like of shape (n_samples,), default=None
            Rows where `y` is -1 are out-of-distribution and left out.

        Returns
        -------
        self : object
            The fitted detector.
        """
        X = validate_data(self, X, dtype=FLOATS, ensure_min_samples=2)
        y, rows = id_rows(y, X)
        if rows is not None:
            X, y = X[rows], y[rows]
        if len(X) < 2:
            raise ValueError(
                f"X has {len(X)} in-distribution row (n_samples={len(rows)}); expected "
                "at least 2, as a detector learns from those alone."
            )
        scores = self._learn(X, y)
        check_spread(scores, X)
        self.offset_ = threshold_of(scores, self.contamination, X)
        return self

    def score_samples(self, X):
        """Score features: the higher, the more in-distribution.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            Of float64.
        """
        check_is_fitted(self)
        return self._scores(validate_data(self, X, dtype=FLOATS, reset=False))

    def _learn(self, X, y):
        """Learn from in-distribution rows and their labels; return their scores."""
        raise NotImplementedError

    def _score(self, X):
        """Return the scores of one block of rows."""
        raise NotImplementedError

    def _scores(self, X):
        blocks = gen_batches(len(X), rows_per_block(X.shape[1]))
        return np.concatenate([self._score(X[rows]) for rows in blocks]).astype(float)
