"""Outlier detectors of any library: their steps, and the method that scores."""

from sklearn.pipeline import Pipeline


def parts_of(estimator):
    """Return the steps before the last one, None where there are none, and the last."""
    if not isinstance(estimator, Pipeline):
        return None, estimator
    return estimator[:-1] if len(estimator) > 1 else None, estimator[-1]


def scoring_of(detector):
    """Return the method that scores: the higher, the more in-distribution; or None."""
    for name in ("score_samples", "decision_function"):
        if hasattr(detector, name):
            return getattr(detector, name)
    return None


def copy_input_names(fitted, wrapper):
    """Give a wrapper the number and the names of features that its detector knows."""
    for name in ("n_features_in_", "feature_names_in_"):
        vars(wrapper).pop(name, None)
        if hasattr(fitted, name):
            setattr(wrapper, name, getattr(fitted, name))


def percentile_of(detector):
    """Return the percentile that a fitted detector's clip is; None if it is none."""
    if getattr(detector, "threshold", None) is not None:
        return None
    percentile = getattr(detector, "percentile", None)
    return getattr(detector, "best_percentile_", percentile)
