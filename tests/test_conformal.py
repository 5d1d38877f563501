"""p-values against counts, and their guarantee by simulation."""

import numpy as np
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from sklearn.utils.estimator_checks import parametrize_with_checks

from reactood import ReActDetector, make_react_pipeline
from reactood.conformal import ConformalDetector
from reactood.datasets import digits_classifier, load_digits_ood

ALPHAS = st.one_of(st.floats(0.05, 0.95), st.sampled_from([0.05, 0.07, 0.1, 1 / 3]))


class Reader(OutlierMixin, BaseEstimator):
    """Scores a sample by its first feature."""

    def fit(self, X, y=None, sample_weight=None):
        self.n_features_in_, self.seen_ = 1, (X, y, sample_weight)
        return self

    def score_samples(self, X):
        return np.asarray(X, dtype=float)[:, 0]


def column(values):
    return np.asarray(values, dtype=float)[:, None]


def calibrated(scores, **parameters):
    return ConformalDetector(FrozenEstimator(Reader().fit(None)), **parameters).fit(
        column(scores)
    )


@given(
    calibration=st.lists(st.integers(0, 9), min_size=20, max_size=60),  # many ties
    new=st.lists(st.integers(-1, 10), min_size=1, max_size=20),
    alpha=ALPHAS,
)
def test_p_values_count(calibration, new, alpha):
    detector = calibrated(calibration, alpha=alpha)
    p = detector.p_values(column(new))
    n = len(calibration)
    expected = [(1 + sum(c <= s for c in calibration)) / (n + 1) for s in new]
    np.testing.assert_array_equal(p, expected)
    labels = detector.predict(column(new))
    np.testing.assert_array_equal(labels == -1, p <= alpha)
    np.testing.assert_array_equal(
        detector.decision_function(column(new)) < 0, p <= alpha
    )


@pytest.mark.parametrize("alpha", [0.05, 0.07, 0.29, 1 / 3, 0.5])
@pytest.mark.parametrize("n", [19, 20, 29, 99, 100, 199])
def test_the_threshold_is_where_it_is_promised(alpha, n):
    detector = calibrated(range(n), alpha=alpha)
    rejected = sum(detector.predict(column(range(n))) == -1)
    # A score that is tied with a calibration score counts it: one fewer.
    assert (rejected + 1) / (n + 1) <= alpha < (rejected + 2) / (n + 1)


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.05), (50, 0.1), (333, 0.07)])
def test_the_rate_of_false_alarms_is_inside_its_binomial_bounds(n, alpha):
    rng = np.random.default_rng(n)
    repeats = 1000
    false_alarms = sum(
        int(calibrated(scores[:-1], alpha=alpha).predict(column(scores[-1:]))[0] == -1)
        for scores in rng.normal(size=(repeats, n + 1))
    )
    rate = int(alpha * (n + 1) + 1e-9) / (n + 1)  # exact, for scores without ties
    low, high = binom.interval(1 - 1e-6, repeats, rate)
    assert low <= false_alarms <= high
    assert rate <= alpha


def test_the_rate_of_a_real_detector():
    rng = np.random.default_rng(0)
    repeats, alpha, alarms = 200, 0.1, 0
    for seed in range(repeats):
        X = rng.normal(size=(79, 3))
        forest = OneClassSVM(nu=0.5)
        detector = ConformalDetector(forest, alpha=alpha, random_state=seed)
        detector.fit(X[:-1])
        assert len(detector.calibration_scores_) == 39
        alarms += int(detector.predict(X[-1:])[0] == -1)
    low, high = binom.interval(1 - 1e-6, repeats, 4 / 40)
    assert low <= alarms <= high


@pytest.mark.parametrize("method", ["bh", "by"])
def test_the_false_discovery_rate(method):
    rng = np.random.default_rng(1)
    alpha, proportions, power = 0.2, [], []
    for _ in range(400):
        detector = calibrated(rng.normal(size=200), alpha=alpha)
        new = np.concatenate([rng.normal(size=60), rng.normal(-4, 1, size=20)])
        flagged = detector.predict_fdr(column(new), method=method) == -1
        proportions.append(flagged[:60].sum() / max(1, flagged.sum()))
        power.append(flagged[60:].mean())
    error = np.std(proportions) / np.sqrt(400)
    assert np.mean(proportions) <= alpha * 60 / 80 + 4 * error
    assert np.mean(power) > (0.8 if method == "bh" else 0.3)
    if method == "bh":  # the bound is sharp for independent calibration
        assert np.mean(proportions) > 0.08


def test_held_out_rows_are_not_fitted_to(rng):
    X, y = column(rng.permutation(100)), np.where(np.arange(100) % 4, 7, -1)
    detector = ConformalDetector(Reader(), calibration_size=30, random_state=0)
    detector.fit(X, y, sample_weight=np.arange(100))
    fitted, labels, weight = detector.estimator_.seen_
    assert len(detector.calibration_scores_) == 30 and len(fitted) == 45
    assert (labels == 7).all() and (X[weight] == fitted).all()
    both = np.append(fitted[:, 0], detector.calibration_scores_)
    assert sorted(both) == sorted(X[y == 7][:, 0])
    again = clone(detector).fit(X, y)
    np.testing.assert_array_equal(
        again.calibration_scores_, detector.calibration_scores_
    )


@pytest.mark.parametrize("size", [0.07, 0.29, 0.57, 0.5])
def test_the_number_held_out_is_the_share_given(size):
    detector = ConformalDetector(Reader(), alpha=0.3, calibration_size=size)
    held_out = detector.fit(column(range(100))).calibration_scores_
    assert len(held_out) == round(100 * size)


def test_samples_without_a_score_are_rejected_and_do_not_calibrate(rng):
    scores = rng.normal(size=100)
    scores[::10] = np.nan
    detector = calibrated(scores, alpha=0.1)
    assert len(detector.calibration_scores_) == 90
    expected = calibrated(scores[~np.isnan(scores)], alpha=0.1)
    assert detector.offset_ == expected.offset_
    new = column([np.nan, 9, np.nan])
    np.testing.assert_array_equal(detector.p_values(new), [1 / 91, 1, 1 / 91])
    assert detector.predict(new).tolist() == [-1, 1, -1]
    assert detector.predict_fdr(new).tolist() == [-1, 1, -1]
    with pytest.raises(ValueError, match=r"at least 9 .* only 5 have a score"):
        calibrated(np.repeat([np.nan, 1], [95, 5]), alpha=0.1)


def test_around_a_detector_that_rejects_nan(rng):
    X = rng.gamma(2.0, size=(200, 4))
    X[::20] = np.nan
    detector = ConformalDetector(
        ReActDetector(rng.normal(size=(3, 4)), on_nan="reject"), random_state=0
    )
    detector.set_params(estimator__head=(rng.normal(size=(3, 4)), np.zeros(3))).fit(X)
    p = detector.p_values(X)
    assert (p[::20] == p.min()).all() and (detector.predict(X)[::20] == -1).all()


def test_metadata_is_routed(rng):
    X = rng.normal(size=(100, 1))
    with sklearn.config_context(enable_metadata_routing=True):
        inner = Reader().set_fit_request(sample_weight=True)
        detector = ConformalDetector(inner, random_state=0)
        detector.fit(X, sample_weight=np.arange(100))
        fitted, _, weight = detector.estimator_.seen_
        assert (X[weight] == fitted).all()


def test_images_and_searches():
    digits = load_digits_ood()
    pipeline = make_react_pipeline(digits_classifier)
    detector = ConformalDetector(pipeline, alpha=0.1, random_state=0)
    detector.fit(digits.X_test[::2])
    false_alarms = np.mean(detector.predict(digits.X_test[1::2]) == -1)
    assert false_alarms < 0.2
    assert np.mean(detector.predict(digits.ood["letters"]) == -1) > 0.5
    H = pipeline[:-1].fit_transform(digits.X_test)
    H_ood = pipeline[:-1].transform(digits.ood["letters"])
    search = GridSearchCV(
        ConformalDetector(ReActDetector(pipeline[-1].head), random_state=0),
        {"estimator__percentile": [80, 95]},
        scoring="roc_auc",
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
    ).fit(np.concatenate([H, H_ood]), np.repeat([1, -1], [len(H), len(H_ood)]))
    assert search.best_score_ > 0.8


def test_class_labels_reach_a_head(rng):
    X = rng.normal(size=(200, 4))
    labels = (X[:, 0] > 0).astype(int)
    detector = ConformalDetector(ReActDetector(LogisticRegression()), random_state=0)
    assert detector.fit(X, labels).estimator_.classes_.tolist() == [0, 1]


def test_marks_of_ood_rows_other_than_minus_one_warn(rng):
    X, y = rng.gamma(2.0, size=(200, 4)), np.arange(200) % 2
    head = rng.normal(size=(2, 4)), np.zeros(2)
    for inner in (
        Reader(),
        ReActDetector(head),
        make_pipeline(StandardScaler(), ReActDetector(head)),
        FrozenEstimator(Reader().fit(None)),
        FrozenEstimator(ReActDetector(head).fit(X)),
    ):
        with pytest.warns(UserWarning, match="no -1, so that all") as caught:
            ConformalDetector(inner, random_state=0).fit(X, y)
        assert len(caught) == 1
    labels = ReActDetector(head).fit(X).predict_class(X)
    for inner in (ReActDetector(head), FrozenEstimator(ReActDetector(head).fit(X))):
        ConformalDetector(inner, random_state=0).fit(X, labels)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"alpha": 5}, "'alpha' .*It is a fraction: did you mean 0.05"),
        ({"alpha": 0.01}, "needs at least 99 calibration samples, but only 20"),
        ({"calibration_size": 40}, r"leaves none to fit.*FrozenEstimator"),
        ({"calibration_size": 1.0}, "calibration_size"),
    ],
)
def test_bad_parameters(rng, parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        ConformalDetector(Reader(), **parameters).fit(rng.normal(size=(40, 1)))


def test_bad_detectors(rng):
    X = rng.normal(size=(80, 2))
    with pytest.raises(TypeError, match=r"neither score_samples .*novelty=True"):
        ConformalDetector(LocalOutlierFactor()).fit(X)
    with pytest.raises(NotFittedError):
        ConformalDetector(IsolationForest()).predict(X)
    with pytest.raises(NotFittedError):
        ConformalDetector(FrozenEstimator(IsolationForest())).fit(X)
    with pytest.raises(ValueError, match="All 80 rows are labelled -1"):
        ConformalDetector(IsolationForest()).fit(X, np.full(80, -1))
    with pytest.raises(TypeError, match="X is the path 'photos', which cannot be div"):
        ConformalDetector(IsolationForest()).fit("photos")
    with pytest.raises(ValueError, match="method='mine' is not known"):
        calibrated(range(50)).predict_fdr(X, method="mine")
    novelty = ConformalDetector(LocalOutlierFactor(novelty=True), random_state=0)
    assert novelty.fit(X).p_values(X).shape == (80,)


@pytest.mark.filterwarnings("ignore:y holds the values")  # of the checks, any
@parametrize_with_checks(
    [
        ConformalDetector(
            IsolationForest(n_estimators=5, random_state=0), alpha=0.3, random_state=0
        ),
        ConformalDetector(ReActDetector(), alpha=0.3, random_state=0),
    ],
)
def test_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("bottom", [-np.inf, np.inf])
def test_a_threshold_at_infinity(bottom):
    """As of a density that is 0 for many samples."""
    calibration = np.where(np.arange(200) % 10 < 3, bottom, np.arange(200.0))
    new = np.array([-np.inf, 3.0, np.inf])
    detector = calibrated(calibration, alpha=0.1 if bottom < 0 else 0.9)
    p_values = detector.p_values(column(new))
    np.testing.assert_array_equal(
        detector.predict(column(new)), np.where(p_values <= detector.alpha, -1, 1)
    )
    assert not np.isnan(detector.decision_function(column(new))).any()
