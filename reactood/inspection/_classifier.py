"""Outlier detectors for those of scikit-learn's displays that want classifiers."""

from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from reactood.inspection._common import score_method

ID, OOD = 1, -1


def as_classifier(estimator):
    """Present a fitted outlier detector as a classifier of OOD (-1) and ID (1).

    For what scikit-learn does for binary classifiers alone, such as
    ``RocCurveDisplay.from_estimator``. In-distribution (ID) is the positive class.

    Parameters
    ----------
    estimator : outlier detector or Pipeline
        A fitted detector with `predict`, and with `decision_function` or
        `score_samples`. It is neither copied nor altered.

    Returns
    -------
    classifier : estimator
        With `classes_`, which are -1 for out-of-distribution (OOD) and 1 for ID,
        `predict` and `decision_function`: the higher, the more in-distribution.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the detector is not fitted.
    TypeError
        If it has no scores.

    See Also
    --------
    ScoreDistributionDisplay : The scores themselves.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.metrics import RocCurveDisplay
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.inspection import as_classifier
    >>> digits = load_digits_ood()
    >>> detector = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> letters = digits.ood["letters"]
    >>> X = np.concatenate([digits.X_test, letters])
    >>> y = np.repeat([1, -1], [len(digits.X_test), len(letters)])
    >>> display = RocCurveDisplay.from_estimator(
    ...     as_classifier(detector), X, y, name="ReAct"
    ... )
    >>> round(float(display.roc_auc), 2)
    0.96
    """
    score_method(estimator)
    return DetectorAsClassifier(estimator)


class DetectorAsClassifier(ClassifierMixin, BaseEstimator):
    """A fitted detector behind the interface of a binary classifier."""

    classes_ = (OOD, ID)

    def __init__(self, detector):
        self.detector = detector

    def fit(self, X, y=None):
        """Change nothing: the detector is fitted."""
        return self

    def __sklearn_is_fitted__(self):
        check_is_fitted(self.detector)
        return True

    def predict(self, X):
        return self.detector.predict(X)

    def decision_function(self, X):
        method, _ = score_method(self.detector)
        return getattr(self.detector, method)(X)
