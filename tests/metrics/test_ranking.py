"""Every metric against a brute-force count, on scores with many ties."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_curve
from sklearn.model_selection import StratifiedKFold, cross_validate

from reactood import ReActDetector
from reactood.metrics import (
    aupr_in,
    aupr_out,
    auroc,
    detection_error,
    fpr_at_tpr,
    ood_scorers,
)

SCORES = st.lists(st.integers(0, 8), min_size=1, max_size=60)  # many ties
METRICS = fpr_at_tpr, auroc, aupr_in, aupr_out, detection_error


def labelled(id_scores, ood_scores):
    y_true = [1] * len(id_scores) + [-1] * len(ood_scores)
    return y_true, [*id_scores, *ood_scores]


def thresholds(*scores):
    """Return everything that tells the scores apart, from below all to the highest."""
    return [-np.inf, *sorted({s for group in scores for s in group})]


def area(points):
    """Sum trapezoids under (position, height) pairs."""
    return sum(
        abs(b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points)
    )


LEVELS = {0.95: 0.05, 0.9: 0.1, 0.8: 0.2, 0.99: 0.01, 0.7: 0.3, 0.5: 0.5, 1: 0}
TPR = st.sampled_from([*LEVELS]) | st.floats(0.05, 1)
FEW_VALUES = st.integers(0, 5).map(float)  # many ties
MANY = st.lists(FEW_VALUES, min_size=1, max_size=200)


@pytest.mark.filterwarnings("ignore:The scores are tied at the top")
@given(id_scores=MANY, ood_scores=SCORES, tpr=st.sampled_from([*LEVELS]))
def test_equals_a_count(id_scores, ood_scores, tpr):
    index = min(round(LEVELS[tpr] * len(id_scores)), len(id_scores) - 1)
    threshold = sorted(id_scores)[index]
    accepted = sum(score > threshold for score in ood_scores)
    y_true = [1] * len(id_scores) + [-1] * len(ood_scores)
    assert fpr_at_tpr(y_true, id_scores + ood_scores, tpr=tpr) == pytest.approx(
        accepted / len(ood_scores)
    )


@pytest.mark.parametrize("tpr", LEVELS)
def test_the_papers_index_for_any_number_of_samples(tpr):
    for n in range(1, 201):
        index = min(round(LEVELS[tpr] * n), n - 1)
        ood = np.append(np.arange(n) + 0.5, n + 1)  # one above each ID score
        y_true = np.repeat([1, -1], [n, n + 1])
        fpr = fpr_at_tpr(y_true, np.append(np.arange(n), ood), tpr=tpr)
        assert fpr == pytest.approx((n + 1 - index) / (n + 1)), n


def openood_fpr(conf, is_ood, tpr):
    """Do what OpenOOD does."""
    fpr_list, tpr_list, _ = roc_curve(is_ood, -conf)
    return fpr_list[np.argmax(tpr_list >= tpr)]


@given(id_scores=MANY, ood_scores=MANY, tpr=TPR)
def test_other_conventions_equal_what_they_name(id_scores, ood_scores, tpr):
    y_true, y_score = map(np.array, labelled(id_scores, ood_scores))
    fprs, tprs, _ = roc_curve(y_true == 1, y_score)
    assert (
        fpr_at_tpr(y_true, y_score, tpr=tpr, convention="sklearn")
        == (fprs[np.argmax(tprs >= tpr)])
    )
    assert fpr_at_tpr(y_true, y_score, tpr=tpr, convention="openood") == (
        openood_fpr(y_score, y_true == -1, tpr)
    )
    place = int(tpr * len(id_scores))
    threshold = np.sort(id_scores)[-place]
    assert fpr_at_tpr(y_true, y_score, tpr=tpr, convention="vim") == (
        pytest.approx(np.mean(np.array(ood_scores) >= threshold))
    )


@given(
    id_scores=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200, unique=True),
    ood_scores=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50, unique=True),
    tpr=TPR,
)
def test_conventions_equal_a_count_without_ties(id_scores, ood_scores, tpr):
    assume(not set(id_scores) & set(ood_scores))
    y_true, y_score = labelled(id_scores, ood_scores)

    def accepted(scores, threshold):
        return np.mean(np.array(scores) >= threshold)

    def rejected(scores, threshold):
        return np.mean(np.array(scores) <= threshold)

    highest = max(t for t in y_score if accepted(id_scores, t) >= tpr)
    assert fpr_at_tpr(y_true, y_score, tpr=tpr, convention="sklearn") == (
        pytest.approx(accepted(ood_scores, highest))
    )
    lowest = min(t for t in y_score if rejected(ood_scores, t) >= tpr)
    assert fpr_at_tpr(y_true, y_score, tpr=tpr, convention="openood") == (
        pytest.approx(rejected(id_scores, lowest))
    )


@given(id_scores=SCORES, ood_scores=SCORES)
def test_auroc_counts_pairs(id_scores, ood_scores):
    pairs = [(a > b) + 0.5 * (a == b) for a in id_scores for b in ood_scores]
    assert auroc(*labelled(id_scores, ood_scores)) == pytest.approx(np.mean(pairs))


@given(id_scores=SCORES, ood_scores=SCORES)
def test_aupr_is_the_area_under_all_points(id_scores, ood_scores):
    points_in, points_out = [], [(0, 0)]
    for t in thresholds(id_scores, ood_scores):
        n_id = sum(s > t for s in id_scores)
        n_ood = sum(s > t for s in ood_scores)
        if n_id + n_ood:
            points_in.append((n_id / len(id_scores), n_id / (n_id + n_ood)))
        n_id, n_ood = len(id_scores) - n_id, len(ood_scores) - n_ood
        if n_id + n_ood:
            points_out.append((n_ood / len(ood_scores), n_ood / (n_id + n_ood)))
    data = labelled(id_scores, ood_scores)
    assert aupr_in(*data) == pytest.approx(area([*points_in, (0, 0)]))
    assert aupr_out(*data) == pytest.approx(area(points_out))


@given(id_scores=SCORES, ood_scores=SCORES)
def test_average_precision_sums_steps(id_scores, ood_scores):
    def average_precision(positive, negative):
        total, before = 0.0, 0.0
        for t in sorted(set(positive + negative), reverse=True):
            n, m = (sum(s >= t for s in group) for group in (positive, negative))
            total += (n / len(positive) - before) * n / (n + m)
            before = n / len(positive)
        return total

    data = labelled(id_scores, ood_scores)
    expected = average_precision(id_scores, ood_scores)
    assert aupr_in(*data, convention="sklearn") == pytest.approx(expected)
    expected = average_precision([-s for s in ood_scores], [-s for s in id_scores])
    assert aupr_out(*data, convention="sklearn") == pytest.approx(expected)


@given(id_scores=SCORES, ood_scores=SCORES)
def test_detection_error_is_that_of_the_best_threshold(id_scores, ood_scores):
    mistakes = [
        (sum(s <= t for s in id_scores), sum(s > t for s in ood_scores))
        for t in thresholds(id_scores, ood_scores)
    ]
    n, m = len(id_scores), len(ood_scores)
    data = labelled(id_scores, ood_scores)
    expected = min(a + b for a, b in mistakes) / (n + m)
    assert detection_error(*data) == pytest.approx(expected)
    expected = min(a / n + b / m for a, b in mistakes) / 2
    assert detection_error(*data, convention="balanced") == pytest.approx(expected)


def test_scorers_judge_any_detector(rng):
    X = np.concatenate([rng.normal(size=(90, 2)), rng.normal(8, 1, size=(30, 2))])
    y = np.repeat([1, -1], [90, 30])
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    forest = IsolationForest(random_state=0)
    results = cross_validate(
        forest, X, y, scoring=ood_scorers(tpr=0.9), cv=cv, return_indices=True
    )
    for fold, (train, test) in enumerate(
        zip(*results["indices"].values(), strict=True)
    ):
        scores = forest.fit(X[train]).decision_function(X[test])
        expected = {
            "auroc": auroc(y[test], scores),
            "aupr_in": aupr_in(y[test], scores),
            "aupr_out": aupr_out(y[test], scores),
            "neg_fpr_at_tpr": -fpr_at_tpr(y[test], scores, tpr=0.9),
            "neg_detection_error": -detection_error(y[test], scores),
        }
        for name, value in expected.items():
            assert results[f"test_{name}"][fold] == value


class Reader(OutlierMixin, BaseEstimator):
    """Scores an input by its own value."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def decision_function(self, X):
        return X[:, 0]


def test_scorers_say_what_a_fold_of_one_class_lacks():
    scorer = ood_scorers()["auroc"]
    with pytest.raises(ValueError, match=r"labels \[1\].*shuffle=True"):
        scorer(Reader().fit(None), np.ones((3, 1)), [1, 1, 1])


def test_the_papers_threshold_is_at_index_2500_of_50000():
    id_scores = np.arange(50_000.0)
    ood = [2499.0, 2500.0, 2501.0]
    y_true = np.repeat([1, -1], [50_000, 3])
    assert fpr_at_tpr(y_true, np.append(id_scores, ood)) == pytest.approx(1 / 3)


def test_perfect_and_reversed():
    y_true = np.repeat([1, -1], 50)
    assert fpr_at_tpr(y_true, np.arange(100)[::-1]) == 0
    assert fpr_at_tpr(y_true, np.arange(100)) == 1


def test_a_score_that_is_always_the_same_warns():
    with pytest.warns(UserWarning, match="tied at the top"):
        assert fpr_at_tpr([1, 1, -1], [1.0, 1.0, 1.0]) == 0


@pytest.mark.parametrize(
    ("y_true", "y_score", "tpr", "sentence"),
    [
        ([1, 0], [1, 2], 0.95, r"holds the labels \[0, 1\], expected both 1"),
        ([1, 1], [1, 2], 0.95, r"holds the labels \[1\]"),
        ([1, -1], [1, 2], 95, r"Got 95 instead. It is a fraction: did you mean 0.95"),
        ([1, -1], [1, np.nan], 0.95, "NaN"),
        ([1, -1, 1], [1, 2], 0.95, "inconsistent numbers"),
    ],
)
def test_bad_input(y_true, y_score, tpr, sentence):
    with pytest.raises(ValueError, match=sentence):
        fpr_at_tpr(y_true, y_score, tpr=tpr)
    if tpr <= 1:
        for metric in METRICS:
            with pytest.raises(ValueError, match=sentence):
                metric(y_true, y_score)


@pytest.mark.parametrize("metric", [fpr_at_tpr, aupr_in, aupr_out, detection_error])
def test_unknown_conventions(metric):
    with pytest.raises(
        ValueError, match=r"'convention' .* among .*'paper'.* Got 'mine'"
    ):
        metric([1, -1], [1.0, 0.0], convention="mine")


def test_scorers_say_how_ood_rows_are_marked(rng):
    detector = ReActDetector().fit(rng.gamma(2.0, size=(60, 4)))
    for scorer in ood_scorers().values():
        with pytest.raises(ValueError, match=r"\[0, 1\].*numpy.where\(is_ood, -1, 1\)"):
            scorer(detector, rng.gamma(2.0, size=(20, 4)), np.arange(20) % 2)
