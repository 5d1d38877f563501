"""Mixins and decorators for estimators: decisions, failed refits, hints in errors."""

import functools
import inspect
from numbers import Real
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator

from reactood._utils._sklearn import (
    InvalidParameterError,
    validate_parameter_constraints,
)

FRACTIONS = "alpha", "calibration_size", "contamination", "tpr", "confidence"


class FractionHints(BaseEstimator):
    """Adds a hint to errors about a share that is no fraction. Must be first base."""

    def _validate_params(self):
        try:
            super()._validate_params()
        except ValueError as error:
            meant = _fraction_meant(lambda name: getattr(self, name, None), str(error))
            raise type(error)(f"{error}{meant}") from None


def checked(**constraints):
    """Check a function's parameters as scikit-learn checks those of an estimator.

    Unlike scikit-learn's decorator, it leaves the checks of estimators on that the
    function fits: these come from the user, and their errors keep their names.
    """

    def decorate(function):
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checking(*args, **kwargs):
            if not get_config()["skip_parameter_validation"]:
                given = signature.bind(*args, **kwargs)
                given.apply_defaults()
                try:
                    validate_parameter_constraints(
                        constraints, given.arguments, caller_name=function.__qualname__
                    )
                except InvalidParameterError as error:
                    meant = _fraction_meant(given.arguments.get, str(error))
                    raise type(error)(f"{error}{meant}") from None
            return function(*args, **kwargs)

        return checking

    return decorate


def check_params(estimator):
    """Check the parameters of an estimator, and of the estimators inside it.

    `fit` checks them too, but a search must not begin with one that cannot be fitted.
    """
    if get_config()["skip_parameter_validation"]:
        return
    for some in (estimator, *estimator.get_params().values()):
        if isinstance(some, BaseEstimator) and hasattr(some, "_parameter_constraints"):
            some._validate_params()


def _fraction_meant(value_of, message):
    """Return a hint at the fraction that was probably meant, or ""."""
    for name in FRACTIONS:
        given = value_of(name)
        if f"'{name}' parameter" not in message or not isinstance(given, Real):
            continue
        value = float(given)
        if 1 <= value <= 100:
            return f" It is a fraction: did you mean {value / 100:g}?"
        if 0.5 < value < 1:
            meant = round(1 - value, 12)
            return f" It is the share that is flagged: did you mean {meant:g}?"
    return ""


class ThresholdMixin:
    """Decides by `score_samples` and `offset_`. It must come before OutlierMixin."""

    offset_: float
    score_samples: Any

    def predict(self, X):
        """Decide which inputs are in-distribution (1) and which are not (-1).

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features), or images
            Inputs of a kind that `score_samples` takes.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            1 where `decision_function` is at least 0, else -1; also -1 where the score
            is NaN.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def decision_function(self, X):
        """Return the score minus the decision threshold.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, n_features), or images
            Inputs of a kind that `score_samples` takes.

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            `score_samples(X) - offset_`, float64; at least 0 means in-distribution.
            0 where score and `offset_` are the same infinity; NaN where the score is
            NaN.
        """
        scores = self.score_samples(X)
        with np.errstate(invalid="ignore"):  # an infinity minus itself is NaN
            decision = scores - self.offset_
        return np.where(scores == self.offset_, 0, decision)


def as_a_whole(fit):
    """Restore the attributes that an estimator had before, if its ``fit`` fails.

    scikit-learn's validation sets `n_features_in_` and `feature_names_in_` before other
    checks. `fit` must assign new values to attributes, never change values in place.
    """

    @functools.wraps(fit)
    def fit_or_restore(self, *args, **kwargs):
        before = vars(self).copy()
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return fit_or_restore
