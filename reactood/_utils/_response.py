"""Find the method that gives an estimator's scores, and the steps before it."""

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted


def parts_of(estimator):
    """Return the steps before the last one (None if there are none), and the last."""
    if not isinstance(estimator, Pipeline):
        return None, estimator
    return estimator[:-1] if len(estimator) > 1 else None, estimator[-1]


def unfrozen(estimator):
    """Return the estimator inside a FrozenEstimator, or the estimator itself."""
    return estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator


def scoring_of(detector, *, needs_predict=False):
    """Return the method that scores: the higher, the more in-distribution.

    Raises TypeError if there is none, or if ``predict`` is needed and missing.
    """
    for name in ("score_samples", "decision_function"):
        if hasattr(detector, name):
            break
    else:
        raise TypeError(
            _no_detector(detector, "neither score_samples nor decision_function")
        )
    if needs_predict and not hasattr(detector, "predict"):
        raise TypeError(_no_detector(detector, "no predict"))
    return getattr(detector, name)


def score_and_threshold(estimator):
    """Return the name of the method that scores, and the threshold of its scores.

    The threshold is None if it is not known.
    """
    check_is_fitted(estimator)
    offset = getattr(unfrozen(parts_of(unfrozen(estimator))[1]), "offset_", None)
    if hasattr(estimator, "score_samples") and offset is not None:
        return "score_samples", np.asarray(offset).item()
    if hasattr(estimator, "decision_function"):
        return "decision_function", 0.0
    return scoring_of(estimator).__name__, None


def _no_detector(detector, methods):
    return (
        f"{type(detector).__name__} has {methods}; expected an outlier "
        "detector that can score new samples. LocalOutlierFactor has these methods "
        "with novelty=True."
    )


def copy_input_names(fitted, wrapper):
    """Copy the number and the names of features from a detector to its wrapper."""
    for name in ("n_features_in_", "feature_names_in_"):
        vars(wrapper).pop(name, None)
        if hasattr(fitted, name):
            setattr(wrapper, name, getattr(fitted, name))


def percentile_of(detector):
    """Return the percentile that defines a fitted detector's clip, or None."""
    if getattr(detector, "threshold", None) is not None:
        return None
    percentile = getattr(detector, "percentile", None)
    return getattr(detector, "best_percentile_", percentile)
