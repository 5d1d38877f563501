"""Candidates: what is given is checked first, judged alike, and fitted at the end."""

import functools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline

from reactood import ReActDetector, ReActDetectorCV, scores
from reactood._scoring._left_out import leave_classes_out
from reactood._scoring._scores import several_scores
from reactood.baselines import FDBDDetector, KNNDetector, ViMDetector
from reactood.metrics import auroc
from reactood.model_selection import (
    make_surrogate_features,
    tune_detector,
    tune_percentile,
)
from reactood.model_selection._candidates import make_candidates, same
from reactood.model_selection._trial import Trial
from reactood.model_selection._tune_detector import _fitted
from reactood.rectifiers import LTS, SCALE


@pytest.fixture
def X(rng):
    return np.maximum(rng.normal(0.3, 1, (600, 12)), 0)


@pytest.fixture
def head(rng):
    return rng.normal(size=(6, 12)), rng.normal(size=6)


@pytest.fixture
def classifier(X, head):
    return LogisticRegression().fit(X, (X @ head[0].T + head[1]).argmax(axis=1))


class Recorder(OutlierMixin, BaseEstimator):
    """Any detector of others: it knows neither rows labelled -1 nor rows of NaN."""

    def fit(self, X, y=None):
        self.fitted_to_ = np.asarray(X)
        assert np.isfinite(self.fitted_to_).all()
        self.mean_ = self.fitted_to_.mean(axis=0)
        return self

    def score_samples(self, X):
        return -np.linalg.norm(np.asarray(X) - self.mean_, axis=1)

    def predict(self, X):
        return np.ones(len(X), int)


class KeepFirst(BaseEstimator):
    """Silences all units but the first."""

    def __init__(self, n=12):
        self.n = n

    def fit(self, X, y=None):
        assert np.isfinite(X).all()
        self.n_rows_ = len(X)
        return self

    def transform(self, X):
        return np.where(np.arange(X.shape[1]) < self.n, X, 0)


# --- what is given is checked before anything is judged -----------------------------


@pytest.mark.parametrize(
    "candidates",
    [
        {"percentile": [90, 150]},
        {"percentile": [-5]},
        {"percentile": ["90"]},
        {"percentile": [float("nan")]},
        {"lower_percentile": [101]},
        {"score_function": ["enrgy"]},
        {"contamination": [0.95]},
        {"temperature": [-1]},
        {"per_unit": ["yes"]},
        {"on_nan": ["ignore"]},
        [KNNDetector(contamination=0.95)],
        [make_pipeline(SCALE(), KNNDetector(n_neighbors=-1))],
    ],
    ids=str,
)
def test_candidates_out_of_range(X, head, candidates):
    with pytest.raises(ValueError, match=r"^candidates holds .*The .* parameter of "):
        tune_detector(ReActDetector(head), X, candidates=candidates)


@pytest.mark.parametrize("tune", [tune_detector, tune_percentile])
@pytest.mark.parametrize(
    "params",
    [
        {"percentile": 150},
        {"percentile": float("nan")},
        {"lower_percentile": -1},
        {"contamination": 0.95},
        {"temperature": -1},
        {"on_nan": "ignore"},
        {"per_unit": "yes"},
        {"score_function": "enrgy"},
        {"head": LogisticRegression(C=-1)},
    ],
    ids=str,
)
def test_an_estimator_out_of_range(X, head, tune, params):
    with pytest.raises(ValueError, match=r"^The .* parameter of (ReAct|Logistic)"):
        tune(ReActDetector(**{"head": head} | params), X)


def test_a_head_out_of_range_is_not_trained(X):
    y = np.arange(len(X)) % 3
    for detector in (
        ReActDetector(LogisticRegression(C=-1)),
        ReActDetectorCV(LogisticRegression(C=-1)),
    ):
        with pytest.raises(ValueError, match="'C' parameter of LogisticRegression"):
            detector.fit(X, np.where(np.arange(len(X)) % 5, y, -1))


def test_names_that_are_not_known(X, head):
    detector = ReActDetector(head)
    for candidates in ({"percentil": [None]}, [{"percentil": None}]):
        with pytest.raises(ValueError, match=r"'percentil', .*mean 'percentile' or"):
            tune_detector(detector, X, candidates=candidates)
    with pytest.raises(
        ValueError, match=r"is no parameter of ReActDetector\. Expected"
    ):
        tune_detector(detector, X, candidates={"xyz": [1]})
    with pytest.raises(ValueError, match=r"candidates holds head__D=1: Invalid param"):
        trained = ReActDetector(LogisticRegression())
        tune_detector(trained, X, candidates={"head__D": [1]})


@pytest.mark.parametrize("candidates", [{}, [], (), [{}]], ids=str)
def test_nothing_to_compare(X, head, candidates):
    with pytest.raises(ValueError, match="candidates is empty, or holds an empty dict"):
        tune_detector(ReActDetector(head), X, candidates=candidates)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"percentiles": 90}, ValueError, "'percentiles' parameter of tune_percentile"),
        ({"percentiles": [90, 101]}, ValueError, "percentiles holds 101; expected num"),
        ({"percentiles": ["90"]}, ValueError, "percentiles holds '90'; expected num"),
        ({"percentiles": [float("nan")]}, ValueError, "percentiles holds nan; expect"),
        ({"surrogate": "phase"}, ValueError, "'surrogate' parameter of tune_percent"),
        (
            {"surrogate": "phase_scrambled"},
            ValueError,
            "'phase_scrambled' cannot be made of features, .* permuted_units",
        ),
        ({"scoring": roc_auc_score}, TypeError, "not take .estimator, X, y.*make_scor"),
        ({"scoring": auroc}, TypeError, "does not take .estimator, X, y"),
        ({"scoring": 3}, ValueError, "'scoring' parameter of tune_percentile"),
        ({"cv": 1}, ValueError, "'cv' parameter of tune_percentile"),
    ],
    ids=["one", "range", "text", "nan", "typo", "image", "metric", "ours", "3", "cv"],
)
def test_tune_percentile_says_what_is_wrong(X, head, given, error, message):
    with pytest.raises(error, match=message):
        tune_percentile(ReActDetector(head), X, **given)


def test_a_search_without_folds_or_with_a_metric(X, head):
    y = np.where(np.arange(len(X)) % 3, 1, -1)
    with pytest.raises(ValueError, match=r"cv=\[\] has no folds"):
        ReActDetectorCV(head, cv=[]).fit(X, y)
    with pytest.raises(TypeError, match="make_scorer"):
        ReActDetectorCV(head, scoring=roc_auc_score).fit(X, y)


def test_two_classes_have_advice_that_can_be_followed(X, head):
    two = head[0][:2], head[1][:2]
    advice = "tune_percentile chooses by other surrogates: .*'permuted_units' on feat"
    with pytest.raises(ValueError, match=advice):
        tune_detector(ReActDetector(two), X)
    with pytest.raises(ValueError, match=advice):
        make_surrogate_features(X, "left_out_classes", head=two)


# --- values that are arrays ----------------------------------------------------------


def test_arrays_as_values(X, head):
    low, high = np.full(12, 1.5), np.full(12, 2.5)
    tuned = tune_detector(
        ReActDetector(head), X, candidates={"threshold": [low, high, low.copy()]}
    )
    assert len(tuned.cv_results_["params"]) == 3
    assert tuned.cv_results_["param_threshold"][2] is high
    assert tuned.cv_results_["failure"].tolist() == [""] * 3
    twice = head[0] * 2, head[1] * 2
    copied = tuple(a.copy() for a in head)
    tuned = tune_detector(
        ReActDetector(head), X, candidates=[{"head": twice}, {"head": copied}]
    )
    assert len(tuned.cv_results_["params"]) == 2
    assert "array(shape=(6, 12), " in tuned.summary_
    few = head[0][:4], head[1][:4]
    tuned = tune_detector(ReActDetector(head), X, candidates=[{"head": few}])
    assert "has 4 classes, but that of the estimator" in tuned.cv_results_["failure"][1]


def test_same():
    frame = pd.DataFrame({"a": [1]})
    assert same(np.arange(3), torch.arange(3)) and same(
        (1, [np.eye(2)]), (1, [np.eye(2)])
    )
    assert same(90, 90.0) and same(frame, frame)
    for one, other in [
        (np.arange(3), None),
        (np.arange(3), np.arange(4)),
        ((np.eye(2), 1), (np.eye(2), 2)),
        (frame, frame.copy()),
        ({"a": 1}, {"b": 1}),
    ]:
        assert not same(one, other)


# --- the same candidate is judged alike -----------------------------------------------


def test_parameters_that_change_no_score_share_the_products(X, head):
    detector = ReActDetector(head)
    plain = tune_detector(detector, X, candidates={"percentile": [80, 95]})
    for name, value in (
        ("contamination", 0.1),
        ("batch_size", 50),
        ("threshold", None),
        ("on_nan", "raise"),
    ):
        tuned = tune_detector(
            detector, X, candidates={"percentile": [80, 95], name: [value]}
        )
        np.testing.assert_allclose(
            tuned.cv_results_["mean_test_score"],
            plain.cv_results_["mean_test_score"],
            rtol=1e-9,
        )
    changed = make_candidates(detector, [{"on_nan": "reject"}, {"percentile": 95}])
    assert [c.shares_products for c in changed] == [True, False, True]


def by_hand(z, name):
    """Return the mean AUROC of a score, centered by all classes, without a clip."""
    parts = leave_classes_out(z.argmax(axis=1), z.shape[1], np.random.RandomState(0))
    score = logsumexp if name == "centered_energy" else np.max
    return np.mean(
        [
            roc_auc_score(known, score(z[:, kept], axis=1) - z.mean(axis=1))
            for kept, known in zip(parts.kept, parts.known, strict=True)
        ]
    )


@pytest.mark.parametrize("name", ["centered_energy", "centered_max_logit"])
@pytest.mark.parametrize("kind", ["pair", "module", "logits", "rule"])
def test_alone_as_together(X, head, name, kind):
    """Centering is by the mean of all classes, however a candidate is given."""
    given, H = head, X
    if kind == "module":
        linear = torch.nn.Linear(12, 6).double()
        with torch.no_grad():
            linear.weight[:], linear.bias[:] = map(torch.from_numpy, head)
        given = torch.nn.Sequential(linear)
    elif kind == "logits":
        given, H = None, X @ head[0].T + head[1]
    own = ReActDetector(given, percentile=None, score_function=name)
    function = getattr(scores, name)
    candidates = [
        {"score_function": function},
        {"on_nan": "reject"},
        ReActDetector(given, percentile=None, score_function=name),
        ReActDetector(given, percentile=None, score_function=function),
        {"score_function": functools.partial(function, temperature=1.0)},
    ]
    if kind == "rule":
        last = ReActDetector(percentile=None, score_function=name)
        candidates = [make_pipeline(LTS(head, percentile=1.5), last)]
    results = tune_detector(own, H, candidates=candidates).cv_results_
    together, *others = results["mean_test_score"]
    assert together == pytest.approx(by_hand(X @ head[0].T + head[1], name))
    # Alone, half of the in-distribution rows are there to learn from.
    np.testing.assert_allclose(others, together, atol=0.03)
    if kind != "rule":
        assert others[0] == others[-1] == pytest.approx(together, abs=1e-12)
        np.testing.assert_allclose(others[1:-1], others[1], atol=1e-9)
    plain = ReActDetector(given, percentile=None, score_function=name[9:])
    if kind == "pair":
        other = tune_detector(plain, H, candidates=candidates[2:3]).cv_results_
        assert other["mean_test_score"][1] == pytest.approx(others[2])


def test_functions_of_this_package_are_the_scores_of_their_names():
    logits = torch.randn(9, 5, dtype=torch.float64)
    (two,) = scores_of(
        logits, functools.partial(scores.centered_energy, temperature=2.0)
    )
    (named,) = scores_of(logits, ("centered_energy", 2.0))
    (own,) = scores_of(logits, functools.partial(scores.gen, gamma=0.3))
    torch.testing.assert_close(two, named)
    torch.testing.assert_close(own, scores.gen(logits[:, :3], gamma=0.3))


def scores_of(logits, score):
    pair = score if isinstance(score, tuple) else (score, 7.0)
    return several_scores(logits[:, :3], [pair], logits.mean(dim=1))


# --- what is fitted at the end --------------------------------------------------------


def test_a_fitted_classifier_stays_fitted(X, classifier):
    detector = ReActDetector(classifier, percentile=99)
    tuned = tune_detector(detector, X)
    frozen = tune_detector(ReActDetector(FrozenEstimator(classifier), percentile=99), X)
    np.testing.assert_array_equal(
        tuned.best_estimator_.score_samples(X), frozen.best_estimator_.score_samples(X)
    )
    np.testing.assert_array_equal(
        tuned.cv_results_["mean_test_score"], frozen.cv_results_["mean_test_score"]
    )
    assert tuned.best_estimator_.head is not classifier
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The surrogates .* do not show")
        by_percentile = tune_percentile(detector, X, percentiles=[95])
    assert by_percentile.best_estimator_.predict(X).shape == (600,)
    rule = make_pipeline(LTS(classifier), ReActDetector(percentile=None))
    tuned = tune_detector(rule, X, candidates={"percentile": [99]})
    assert tuned.best_estimator_.predict(X).shape == (600,)
    tuned = tune_detector(detector, X, candidates=[FDBDDetector(classifier), rule])
    assert tuned.cv_results_["failure"].tolist() == [""] * 3


def test_other_detectors_learn_from_known_rows_alone(rng, X, head):
    own = ReActDetector((-head[0], -head[1]), on_nan="reject", check_score=False)
    far, unknown = X[:50] + 9, np.full((5, 12), np.nan)
    both, y = np.concatenate([X, far, unknown]), np.repeat([1, -1, 1], [600, 50, 5])
    good = [Recorder(), LocalOutlierFactor(novelty=True), KNNDetector(5)]
    for candidate in good:
        candidates = make_candidates(own, [candidate])
        fitted = fit_last(own, candidates[1], both, y)
        expected = candidate.fit(X).score_samples(X)
        np.testing.assert_array_equal(fitted.score_samples(X), expected)
    frame = pd.DataFrame(both, columns=[f"u{i}" for i in range(12)])
    fitted = fit_last(own, make_candidates(own, [KNNDetector(5)])[1], frame, y)
    assert fitted.feature_names_in_[0] == "u0"


def fit_last(own, candidate, H, y):
    trial = Trial.of(
        own,
        H,
        y,
        n_parts=2,
        n_repeats=1,
        max_samples=200,
        random=np.random.RandomState(0),
    )
    return _fitted(candidate, trial, H, y)


def test_the_chosen_detector_meets_rows_of_nan_and_ood_rows(rng, X, head):
    """The whole call, with a candidate that is better than a random head."""
    noise = rng.normal(size=(600, 4)) * 50  # moves all logits together
    H = np.hstack([X, noise])
    wide = np.hstack([head[0], np.ones((6, 4))]), head[1]
    rule = make_pipeline(
        KeepFirst(12), ReActDetector(wide, percentile=None, score_function="msp")
    )
    H = np.concatenate([H, np.full((5, 16), np.nan), H[:40]])
    y = np.repeat([1, 1, -1], [600, 5, 40])
    detector = ReActDetector(wide, on_nan="reject", check_score=False)
    tuned = tune_detector(detector, H, y, candidates=[rule])
    assert tuned.best_params_ == {"estimator": rule}
    assert tuned.best_estimator_[0].n_rows_ == 600


def test_the_check_of_fit_is_silent_meanwhile(rng, X, head):
    shift = rng.gamma(1.0, size=(600, 4)) * 2
    H = np.hstack([X, shift])
    wide = np.hstack([head[0], np.ones((6, 4))]), head[1]
    with pytest.warns(UserWarning, match="check_score=False turns this check off"):
        ReActDetector(wide).fit(H[::2])
    candidates = [
        {"on_nan": "reject"},
        ReActDetector(wide, percentile=95),
        make_pipeline(SCALE(), ReActDetector(wide)),
    ]
    tuned = tune_detector(ReActDetector(wide), H, candidates=candidates)
    assert tuned.best_estimator_.get_params().get("check_score", True)
    assert candidates[1].check_score and candidates[2][-1].check_score


def test_half_precision(X, head):
    half = torch.from_numpy(X).to(torch.bfloat16)
    detector = ReActDetector(head, check_score=False)
    others = [
        KNNDetector(5),
        ViMDetector(zero_mean(head)),
        LocalOutlierFactor(novelty=True),
    ]
    tuned = tune_detector(detector, half, candidates=others)
    assert tuned.cv_results_["failure"].tolist() == [""] * 4
    fit_last(detector, make_candidates(detector, others)[1], half, None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The surrogates .* do not show")
        tuned = tune_percentile(detector, half, surrogate="permuted_units")
    assert np.isfinite(tuned.best_score_)


def zero_mean(head):
    return head[0] - head[0].mean(axis=0), head[1] - head[1].mean()


def test_an_own_setting_that_cannot_be_used_is_said(X, head):
    detector = ReActDetector(head, percentile=10)
    tuned = tune_detector(detector, X, candidates=[{"percentile": 95}])
    assert "own     cannot be used" in tuned.summary_
    assert "every input would look the same" in tuned.summary_
    assert "Your own setting cannot be used." in tuned.summary_
    assert "nan" not in tuned.summary_
