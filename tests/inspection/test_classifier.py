"""Detectors as classifiers, by scikit-learn's own checks and in its own tools."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import (
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from reactood import ReActDetector, ReActDetectorCV
from reactood.baselines import MahalanobisDetector
from reactood.inspection import as_classifier
from reactood.inspection._classifier import DetectorAsClassifier

CV = StratifiedKFold(3, shuffle=True, random_state=0)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X_id, X_ood = rng.gamma(2.0, size=(200, 8)), rng.gamma(9.0, size=(60, 8))
    return np.concatenate([X_id, X_ood]), np.repeat([1, -1], [200, 60])


DETECTORS = [
    ReActDetector(),
    ReActDetectorCV(cv=3, scoring="roc_auc", percentiles=[90, None]),
    MahalanobisDetector(),
    make_pipeline(StandardScaler(), MahalanobisDetector()),
    IsolationForest(n_estimators=10, random_state=0),
]


@pytest.mark.filterwarnings("ignore:OOD rows score higher")
@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_it_agrees_with_the_detector_and_with_itself(data, detector):
    X, y = data
    fitted = clone(detector).fit(X, y)
    classifier = as_classifier(fitted)
    assert is_classifier(classifier)
    assert isinstance(classifier.classes_, np.ndarray)
    assert classifier.classes_.tolist() == [-1, 1]
    assert classifier.n_features_in_ == 8
    labels, decision = classifier.predict(X), classifier.decision_function(X)
    np.testing.assert_array_equal(labels, fitted.predict(X))
    np.testing.assert_array_equal(labels == 1, decision >= 0)
    assert classifier.score(X, y) == np.mean(labels == y)
    again = clone(classifier)
    with pytest.raises(NotFittedError):
        again.predict(X)
    np.testing.assert_allclose(again.fit(X, y).decision_function(X), decision)


def test_a_detector_with_scores_and_no_decision(data):
    class Scores(BaseEstimator):
        def fit(self, X, y=None):
            self.offset_ = 3.0
            return self

        def score_samples(self, X):
            return np.asarray(X)[:, 0]

        def predict(self, X):
            return np.where(self.score_samples(X) >= self.offset_, 1, -1)

    X, _ = data
    classifier = as_classifier(Scores().fit(X))
    decision = classifier.decision_function(X)
    np.testing.assert_array_equal(classifier.predict(X) == 1, decision >= 0)


@pytest.mark.filterwarnings("ignore:OOD rows score higher")
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("detector", DETECTORS[1:], ids=lambda d: type(d).__name__)
def test_it_is_calibrated_tuned_and_cross_validated(data, detector, frozen):
    X, y = data
    fitted = clone(detector).fit(X, y)
    classifier = as_classifier(FrozenEstimator(fitted) if frozen else fitted)
    CalibratedClassifierCV(classifier, cv=CV, ensemble=False).fit(X, y)
    calibrated = CalibratedClassifierCV(classifier, cv=CV).fit(X, y)
    p_id = calibrated.predict_proba(X)[:, 1]
    assert calibrated.classes_.tolist() == [-1, 1]
    tuned = TunedThresholdClassifierCV(classifier, cv=CV).fit(X, y)
    assert set(tuned.predict(X)) <= {-1, 1}
    aurocs = cross_val_score(classifier, X, y, cv=CV, scoring="roc_auc")
    assert np.isfinite(aurocs).all()
    if frozen:
        expected = [
            roc_auc_score(y[test], fitted.decision_function(X[test]))
            for _, test in CV.split(X, y)
        ]
        np.testing.assert_allclose(aurocs, expected)
        auroc = roc_auc_score(y, fitted.decision_function(X))
        best = max(auroc, 1 - auroc)  # calibration may find the slope negative
        assert roc_auc_score(y, p_id) == pytest.approx(best, abs=0.02)


def test_labels(data):
    X, y = data
    classifier = clone(as_classifier(ReActDetector().fit(X)))
    by_bits = clone(classifier).fit(X, (y == 1).astype(int))
    assert by_bits.classes_.tolist() == [0, 1]
    by_marks = classifier.fit(X, y)
    np.testing.assert_array_equal(by_bits.predict(X) == 1, by_marks.predict(X) == 1)
    with pytest.raises(ValueError, match=r"labels of 1 class, \[1.0\]; expected two"):
        classifier.fit(X, np.ones(len(X)))


def expected_failures(classifier):
    if isinstance(classifier.detector, ReActDetector):
        return {
            "check_estimators_nan_inf": "the check's NaN is in a row labelled as OOD, "
            "which is left out without being looked at"
        }
    return {}


@parametrize_with_checks(
    [
        DetectorAsClassifier(ReActDetector(percentile=None)),
        DetectorAsClassifier(MahalanobisDetector()),
    ],
    expected_failed_checks=expected_failures,
)
def test_contract(estimator, check):
    check(estimator)
