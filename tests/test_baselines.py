"""The baselines against references of a few lines, and scikit-learn's contract."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from reactood.baselines import MahalanobisDetector
from reactood.metrics import ood_report
from reactood.rectifiers import BATS


@pytest.fixture
def data(rng):
    y = rng.integers(0, 3, size=300)
    spread = rng.normal(size=(5, 5))
    return 4 * rng.normal(size=(3, 5))[y] + rng.normal(size=(300, 5)) @ spread, y


@parametrize_with_checks(
    [MahalanobisDetector(), MahalanobisDetector(LedoitWolf(assume_centered=True))]
)
def test_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("shift", [0, 1e4])
def test_mahalanobis(data, shift, rng):
    X, y = data
    new = rng.normal(scale=5, size=(40, 5)) + shift
    X = X + shift
    detector = MahalanobisDetector().fit(X, y)
    means = [X[y == k].mean(axis=0) for k in range(3)]
    centered = np.concatenate([X[y == k] - means[k] for k in range(3)])
    precision = np.linalg.inv(centered.T @ centered / len(X))
    expected = [-min(mahalanobis(x, m, precision) ** 2 for m in means) for x in new]
    np.testing.assert_allclose(detector.score_samples(new), expected, rtol=1e-6)
    np.testing.assert_allclose(detector.means_, means)
    np.testing.assert_allclose(detector.precision_, precision, rtol=1e-6, atol=1e-9)
    assert np.mean(detector.predict(X) == -1) == pytest.approx(0.05, abs=0.004)


def test_mahalanobis_tells_what_lies_between_classes(data, rng):
    X, y = data
    between = X.mean(axis=0) + 0.5 * rng.normal(size=(50, 5))
    labels = np.repeat([1, -1], [300, 50])
    rows = np.concatenate([X, between])

    def auroc(detector):
        return roc_auc_score(labels, detector.score_samples(rows))

    by_class = MahalanobisDetector().fit(X, y)
    pooled = MahalanobisDetector().fit(X)
    assert auroc(by_class) > auroc(pooled)
    assert pooled.means_.shape == (1, 5)


def test_mahalanobis_leaves_ood_rows_out(data, rng):
    X, y = data
    mixed = np.concatenate([X, rng.normal(50, size=(20, 5))])
    labels = np.concatenate([y, np.full(20, -1)])
    one, other = (
        MahalanobisDetector().fit(mixed, labels),
        MahalanobisDetector().fit(X, y),
    )
    np.testing.assert_array_equal(one.score_samples(mixed), other.score_samples(mixed))
    assert list(one.classes_) == [0, 1, 2]


def test_mahalanobis_with_features_that_depend_on_each_other(data):
    """The pseudo-inverse sees the same distances as without the copies."""
    X, y = data
    alone = MahalanobisDetector().fit(X, y).score_samples(X)
    twice = MahalanobisDetector().fit(np.hstack([X, X]), y)
    np.testing.assert_allclose(twice.score_samples(np.hstack([X, X])), alone, rtol=1e-6)


def test_mahalanobis_float32(data):
    X, y = data
    one = MahalanobisDetector().fit(X.astype(np.float32), y)
    other = MahalanobisDetector().fit(X, y)
    np.testing.assert_allclose(one.score_samples(X), other.score_samples(X), rtol=1e-3)


def test_mahalanobis_of_clipped_features_and_in_a_report(data, rng):
    X, y = data
    detector = make_pipeline(BATS(2.0), MahalanobisDetector()).fit(X, y)
    report = ood_report(detector, X, {"far": rng.normal(9, 9, size=(50, 5))})
    assert report["far"]["auroc"] > 0.5


def test_mahalanobis_needs_classes_that_vary():
    with pytest.raises(ValueError, match="do not vary around the means of their 2 cla"):
        MahalanobisDetector().fit([[1.0, 2.0], [3.0, 4.0]], ["a", "b"])
