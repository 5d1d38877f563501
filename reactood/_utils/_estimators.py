"""What several estimators share: refits that fail as a whole, and hints in errors."""

import functools
from numbers import Real

from sklearn.base import BaseEstimator


class FractionHints(BaseEstimator):
    """Says what was likely meant where a share is no fraction. A base to come first."""

    def _validate_params(self):
        try:
            super()._validate_params()
        except ValueError as error:
            raise type(error)(f"{error}{_fraction_meant(self, str(error))}") from None


def _fraction_meant(estimator, message):
    for name in ("alpha", "calibration_size", "contamination"):
        given = getattr(estimator, name, None)
        if f"'{name}' parameter" not in message or not isinstance(given, Real):
            continue
        value = float(given)
        if 1 <= value <= 100:
            return f" It is a fraction: did you mean {value / 100:g}?"
        if 0.5 < value < 1:
            meant = round(1 - value, 12)
            return f" It is the share that is flagged: did you mean {meant:g}?"
    return ""


def as_a_whole(fit):
    """Give an estimator back what it had learned before, where its ``fit`` fails.

    scikit-learn's validation stores `n_features_in_` and `feature_names_in_` before
    anything else is looked at. Attributes are rebound by `fit`, never changed in place.
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
