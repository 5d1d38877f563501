"""The base class of all rectifiers: validation and checks."""

from numbers import Real
from typing import ClassVar

import numpy as np
from sklearn.base import (
    BaseEstimator,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from reactood._scoring._blocks import take_rows
from reactood._scoring._percentile import (
    check_percent,
)
from reactood._utils._display import Shown
from reactood._utils._estimators import as_a_whole
from reactood._utils._labels import id_rows
from reactood._utils._sklearn import Interval, _fit_context

PERCENT = Interval(Real, 0, 100, closed="neither")
FLOATS = np.float64, np.float32


class BaseRectifier(Shown, TransformerMixin, BaseEstimator):
    """Validates features; a rule defines ``_learn`` and ``_shape``."""

    _parameter_constraints: ClassVar[dict] = {}
    allow_signed = (
        True  # a parameter of the rules that assume activations of at least 0
    )

    @_fit_context(prefer_skip_nested_validation=True)
    @as_a_whole
    def fit(self, X, y=None):
        """Learn from in-distribution features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        y : array-like of shape (n_samples,), default=None
            Rows where `y` is -1 are out-of-distribution and left out.

        Returns
        -------
        self : object
            The fitted rectifier.
        """
        for name in ("percentile", "low_percentile", "high_percentile"):
            check_percent(name, getattr(self, name, None))
        X = self._checked(X, reset=True)
        _, rows = id_rows(y, X)
        self._learn(take_rows(X, rows))
        return self

    def transform(self, X):
        """Apply the rule to features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        shaped : ndarray of shape (n_samples, n_features)
            The changed features, in the floating dtype of `X`.
        """
        check_is_fitted(self)
        return self._shape(self._checked(X, reset=False))

    def _checked(self, X, *, reset):
        X = validate_data(self, X, reset=reset, dtype=FLOATS)
        if self.allow_signed or X.min() >= 0:
            return X
        name = type(self).__name__
        raise ValueError(
            f"Negative values in data passed to {name}: down to {X.min():.3g}. Its "
            "rule assumes activations of at least 0, as after a ReLU. For signed "
            "activations, use BATS or the clip of ReActDetector; or pass "
            "allow_signed=True to apply the rule anyway."
        )

    def _learn(self, X):
        """Learn nothing; rules that learn from the training rows override this."""

    def __sklearn_is_fitted__(self):
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = not self.allow_signed
        return tags
