"""Copies of the user's estimators, to judge and to fit: the originals never change."""

import copy

from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

CHECK = "check_score"


def with_params(detector, **params):
    """Return an unfitted detector with other parameters; the head is not copied."""
    if any("__" in name for name in params):
        return clone(detector).set_params(**params)
    shared = type(detector)(**detector.get_params(deep=False))
    return shared.set_params(**params)


def unfitted(estimator):
    """Return an unfitted copy, in which the classifiers in heads stay fitted.

    ``clone`` would drop what they have learned, though a head that is fitted is used as
    it is where there are no labels to train it on.
    """
    heads = {
        name: copy.deepcopy(value)
        for name, value in estimator.get_params().items()
        if name.rpartition("__")[2] == "head"
        and hasattr(value, "fit")
        and not isinstance(value, FrozenEstimator)  # clone does not copy it
    }
    return clone(estimator).set_params(**heads)


def fit_unchecked(detector, *data):
    """Fit a detector without the check of its score, also one inside a pipeline."""
    params = detector.get_params()
    checks = {n: on for n, on in params.items() if n.rpartition("__")[2] == CHECK}
    detector.set_params(**dict.fromkeys(checks, False)).fit(*data)
    return detector.set_params(**checks)
