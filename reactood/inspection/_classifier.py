"""as_classifier: an outlier detector as a binary classifier of ID and OOD."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils import assert_all_finite, column_or_1d, get_tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from reactood._utils._display import Shown
from reactood._utils._estimators import as_a_whole
from reactood._utils._response import copy_input_names, score_and_threshold

ID, OOD = 1, -1


def as_classifier(estimator):
    """Present a fitted outlier detector as a classifier of OOD (-1) and ID (1).

    Use it for tools of scikit-learn that take only binary classifiers, such as
    ``RocCurveDisplay.from_estimator``, ``CalibratedClassifierCV`` or
    ``TunedThresholdClassifierCV``. In-distribution (ID) is the positive class.

    Parameters
    ----------
    estimator : outlier detector or Pipeline
        A fitted detector with `predict`, and with `decision_function` or
        `score_samples`. It is neither copied nor changed.

    Returns
    -------
    classifier : estimator
        Its `classes_` are -1 for out-of-distribution (OOD) and 1 for ID. Its methods
        are `predict` and `decision_function`, which is above 0 for ID.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the detector is not fitted.
    TypeError
        If the detector has no scores.

    See Also
    --------
    ScoreDistributionDisplay : Draws the scores.

    Notes
    -----
    The returned classifier is already fitted. Cross-validation, which clones it and
    fits the clone, fits a clone of the detector, with `y` of 1 for ID and -1 for OOD
    rows. Detectors of this package then leave out the OOD rows. To keep the detector
    as it was fitted, pass ``FrozenEstimator(detector)``.

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
    score_and_threshold(estimator)
    classifier = DetectorAsClassifier(estimator)
    classifier._take(estimator, np.array([OOD, ID]))
    return classifier


class DetectorAsClassifier(Shown, ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """A detector with the interface of a binary classifier."""

    def __init__(self, detector):
        self.detector = detector

    @as_a_whole
    def fit(self, X, y):
        """Fit a clone of the detector; the greater of the two labels is ID."""
        classes, marks = _marks(self, y)
        self._take(clone(self.detector).fit(X, marks), classes)
        return self

    def _take(self, detector, classes):
        self.detector_, self.classes_ = detector, classes
        copy_input_names(detector, self)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "detector_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.detector).input_tags
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.poor_score = True  # it learns from only one class
        return tags

    def predict(self, X):
        """Return the label of ID where the detector predicts 1, else that of OOD."""
        check_is_fitted(self)
        return self.classes_[(self.detector_.predict(X) == ID).astype(int)]

    def decision_function(self, X):
        """Return how far the scores are above the detector's threshold."""
        check_is_fitted(self)
        if hasattr(self.detector_, "decision_function"):
            return self.detector_.decision_function(X)
        _, threshold = score_and_threshold(self.detector_)
        return self.detector_.score_samples(X) - (threshold or 0)


def _marks(classifier, y):
    """Return the two labels, and for each row 1 (the greater label) or -1."""
    if y is None:
        raise ValueError(
            f"This {type(classifier).__name__} estimator requires y to be passed, but "
            "the target y is None; expected 1 for in-distribution and -1 for "
            "out-of-distribution rows."
        )
    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    if type_of_target(y) != "binary":
        raise ValueError(
            "Only binary classification is supported. The type of the target is "
            f"{type_of_target(y)}."
        )
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y holds labels of {len(classes)} class, {classes.tolist()}; expected "
            "two: 1 for in-distribution and -1 for out-of-distribution rows."
        )
    return classes, np.where(codes == 1, ID, OOD)
