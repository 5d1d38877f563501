"""ood_report: its numbers against the metrics, its intervals against resampling."""

import html
import pickle
import sys
import warnings
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from reactood import ReActDetector, make_react_pipeline, metrics
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.metrics import OODReport, ood_report
from reactood.metrics._bootstrap import (
    METRICS,
    metrics_of_counts,
    metrics_of_resamples,
    places_of,
)

FUNCTIONS = {
    "fpr": metrics.fpr_at_tpr,
    "auroc": metrics.auroc,
    "aupr_in": metrics.aupr_in,
    "aupr_out": metrics.aupr_out,
    "detection_error": metrics.detection_error,
}
SCORES = st.lists(st.integers(0, 8), min_size=1, max_size=30)  # many ties
TIED = pytest.mark.filterwarnings("ignore:The scores are tied at the top")


class Given(OutlierMixin, BaseEstimator):
    """A detector whose score is the first column, and whose threshold is 0."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def score_samples(self, X):
        return np.asarray(X)[:, 0]

    def predict(self, X):
        return np.where(self.score_samples(X) >= 0, 1, -1)


def all_metrics(id_scores, ood_scores, tpr):
    """Return what the metrics say, in the order of `FUNCTIONS`."""
    y = labelled(id_scores, ood_scores)
    return [
        function(*y, **({"tpr": tpr} if name == "fpr" else {}))
        for name, function in FUNCTIONS.items()
    ]


def column(*values):
    return np.asarray(values, dtype=float)[:, None]


def labelled(id_scores, ood_scores):
    y_true = np.repeat([1, -1], [len(id_scores), len(ood_scores)])
    return y_true, np.concatenate([id_scores, ood_scores])


@pytest.fixture
def sets(rng):
    X_id = rng.normal(1.5, size=(80, 1))
    return X_id, {
        "near": rng.normal(0, size=(50, 1)),
        "far": rng.normal(-3, size=(30, 1)),
    }


@pytest.fixture
def report(sets):
    return ood_report(Given().fit([[0]]), *sets, n_bootstrap=50, random_state=0)


@pytest.mark.parametrize("tpr", [0.95, 0.8])
def test_rows_hold_what_the_metrics_return(sets, tpr):
    X_id, X_ood = sets
    report = ood_report(Given().fit([[0]]), X_id, X_ood, tpr=tpr, n_bootstrap=None)
    for name, X in X_ood.items():
        row = report[name]
        expected = all_metrics(X_id[:, 0], X[:, 0], tpr)
        assert [row[metric] for metric in FUNCTIONS] == pytest.approx(expected)
        assert row["n"] == len(X)
        assert row["ood_rejected"] == np.mean(X < 0)
    assert report.n_id == len(X_id)
    assert report.id_accepted == np.mean(X_id >= 0)


def test_the_mean_row_is_the_unweighted_mean(report):
    near, far, mean = report.rows
    assert [row["ood"] for row in report.rows] == ["near", "far", "mean"]
    assert mean["n"] is None
    for metric in (*METRICS, "ood_rejected"):
        assert mean[metric] == pytest.approx((near[metric] + far[metric]) / 2)


def test_one_set_needs_no_mean_and_no_name(sets):
    X_id, X_ood = sets
    report = ood_report(Given().fit([[0]]), X_id, X_ood["near"], n_bootstrap=None)
    assert [row["ood"] for row in report.rows] == ["OOD"]
    one = ood_report(Given().fit([[0]]), X_id, {"mean": X_ood["near"]}, n_bootstrap=0)
    assert [row["ood"] for row in one.rows] == ["mean"]


@TIED
@given(
    data=st.data(),
    id_scores=SCORES,
    ood_scores=SCORES,
    tpr=st.floats(0.05, 1) | st.just(0.95),
)
def test_counts_give_what_the_metrics_return_for_a_resample(
    data, id_scores, ood_scores, tpr
):
    """A resample told by how often each sample is drawn, and the same written out."""

    def drawn(scores):
        index = st.integers(0, len(scores) - 1)
        rows = st.lists(index, min_size=len(scores), max_size=len(scores))
        return np.sort(scores)[data.draw(rows)]

    def rejected(scores, resample, others):
        counts = [np.count_nonzero(resample == value) for value in np.unique(scores)]
        of_sorted = np.zeros(len(scores) + 1, dtype=int)
        ends = np.searchsorted(np.sort(scores), np.unique(scores), side="right")
        of_sorted[ends] = np.cumsum(counts)
        return of_sorted[places_of(scores, others)][None]

    id_scores, ood_scores = np.array(id_scores), np.array(ood_scores)
    id_drawn, ood_drawn = drawn(id_scores), drawn(ood_scores)
    found = metrics_of_counts(
        rejected(id_scores, id_drawn, ood_scores),
        rejected(ood_scores, ood_drawn, id_scores),
        tpr,
    )
    expected = all_metrics(id_drawn, ood_drawn, tpr)
    np.testing.assert_allclose(found[0], expected, atol=1e-12)


def test_replicates_are_those_of_a_plain_bootstrap(rng):
    """The same distribution as resampling by hand, set by set."""
    id_scores = rng.normal(1, size=60).round(1)
    ood_scores = [rng.normal(size=40).round(1), rng.normal(-1, size=25).round(1)]
    found = metrics_of_resamples(
        id_scores, ood_scores, tpr=0.9, n_bootstrap=4000, seed=0
    )
    expected = np.empty_like(found[:1000])
    for replicate in expected:
        id_drawn = rng.choice(id_scores, len(id_scores))
        for row, scores in zip(replicate, ood_scores, strict=True):
            row[:] = all_metrics(id_drawn, rng.choice(scores, len(scores)), 0.9)
    spread = expected.std(axis=0)
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(found.std(axis=0), spread, rtol=0.12)
    # Sets share their ID resample, so that their metrics move together.
    both = np.corrcoef(found[:, :, 1].T)[0, 1], np.corrcoef(expected[:, :, 1].T)[0, 1]
    assert both[0] == pytest.approx(both[1], abs=0.1)
    assert both[0] > 0.1


def test_intervals_cover_the_truth(rng):
    """AUROC of two normals whose means are √2 apart is Φ(1)."""
    covered = 0
    detector = Given().fit([[0]])
    for repeat in range(300):
        report = ood_report(
            detector,
            rng.normal(np.sqrt(2), size=(100, 1)),
            rng.normal(size=(100, 1)),
            n_bootstrap=300,
            confidence=0.9,
            random_state=repeat,
        )
        row = report["OOD"]
        covered += row["auroc_low"] <= 0.8413447 <= row["auroc_high"]
    assert 0.84 <= covered / 300 <= 0.95  # 0.9, four standard errors, a little bias


def test_intervals_repeat_and_grow_with_confidence(sets):
    detector = Given().fit([[0]])

    def run(**options):
        return ood_report(detector, *sets, n_bootstrap=200, **options)["near"]

    first = run(random_state=3)
    assert first == run(random_state=3) != run(random_state=4)
    wide = run(random_state=3, confidence=0.99)
    assert wide["auroc_low"] < first["auroc_low"] < first["auroc"]
    assert wide["auroc_high"] > first["auroc_high"] > first["auroc"]


def test_scores_the_wrong_way_round_draw_a_warning(sets):
    X_id, X_ood = sets
    detector = Given().fit([[0]])
    with pytest.warns(UserWarning, match="wrong way round.*sign of a custom"):
        ood_report(detector, -X_id, {name: -X for name, X in X_ood.items()})
    one_good = {"bad": X_id + 9, "good": X_ood["far"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ood_report(detector, X_id, one_good, n_bootstrap=0)


def test_accuracy_with_and_without_the_clip(rng):
    X = rng.gamma(1.0, size=(300, 6))
    head = np.eye(6), np.zeros(6)
    detector = ReActDetector(head, percentile=60, check_score=False).fit(X)
    labels = X.argmax(axis=1)
    report = ood_report(detector, X, 0.1 * X, y_id=labels, n_bootstrap=0)
    assert report.id_accuracy == 1
    clipped = np.minimum(X, detector.activation_threshold_).argmax(axis=1)
    assert report.id_accuracy_clipped == np.mean(clipped == labels) < 1
    assert "class accuracy 100.0% (" in str(report)


def test_pipelines_transform_each_set_once(sets):
    X_id, X_ood = sets
    seen = []

    def half(X):
        seen.append(len(X))
        return X / 2

    pipeline = make_pipeline(FunctionTransformer(half), Given()).fit(X_id)
    seen.clear()
    report = ood_report(pipeline, X_id, X_ood, random_state=0)
    assert seen == [80, 50, 30]
    alone = ood_report(
        Given().fit(X_id),
        X_id / 2,
        {name: X / 2 for name, X in X_ood.items()},
        random_state=0,
    )
    assert report == alone


@pytest.mark.parametrize(
    "detector",
    [
        IsolationForest(random_state=0),
        EllipticEnvelope(),
        LocalOutlierFactor(novelty=True),
    ],
    ids=lambda detector: type(detector).__name__,
)
def test_any_outlier_detector(detector, rng):
    detector.fit(rng.normal(size=(100, 2)))
    y_id = np.zeros(50)  # which no outlier detector can be right or wrong about
    report = ood_report(
        detector,
        rng.normal(size=(50, 2)),
        rng.normal(5, size=(50, 2)),
        y_id=y_id,
        n_bootstrap=20,
    )
    assert report["OOD"]["auroc"] > 0.95
    assert report.id_accuracy is None


def test_text(report):
    text = str(report)
    assert text == repr(report)
    assert max(map(len, text.splitlines())) <= 80
    near, number = report["near"], r"{:.1f}".format
    cell = f"{number(100 * near['auroc'])} [{number(100 * near['auroc_low'])}, "
    assert cell in text
    for word in ("near", "far", "mean", "FPR95", "AUROC", "95 %", "50 resamples"):
        assert word in text


def test_html_escapes_names(sets):
    X_id, X_ood = sets
    name = "<b>& co"
    report = ood_report(Given().fit([[0]]), X_id, {name: X_ood["far"]}, n_bootstrap=0)
    markup = report._repr_html_()
    assert html.escape(name) in markup
    assert name not in markup
    assert markup.count("<tr>") == 2


def test_frame(report):
    pd = pytest.importorskip("pandas")
    frame = report.to_frame()
    assert list(frame.index) == ["near", "far", "mean"]
    assert frame.loc["far", "n"] == 30
    assert frame.loc["mean", "n"] is pd.NA
    assert frame.loc["near", "fpr_high"] == report["near"]["fpr_high"]


def test_without_pandas(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install pandas.*report.rows"):
        report.to_frame()
    assert "near" in str(report)


def test_pickles(report):
    assert pickle.loads(pickle.dumps(report)) == report
    assert OODReport(**asdict(report)) == report


def test_unknown_name(report):
    with pytest.raises(
        KeyError, match=r"'textures'; there are .*'near', 'far', 'mean'"
    ):
        report["textures"]


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"tpr": 95}, ValueError, "fraction"),
        ({"confidence": 95}, ValueError, r"Got 95 .* did you mean 0.95"),
        ({"confidence": 0}, ValueError, r"range \(0.0, 1.0\)"),
        ({"n_bootstrap": -1}, ValueError, r"range \[0, inf\)"),
        ({"n_bootstrap": 2.5}, ValueError, "must be an int"),
        ({"X_ood": {}}, ValueError, "holds no sets"),
        ({"X_ood": {1: column(1)}}, TypeError, "a set named 1, a int"),
        ({"X_ood": {"mean": column(1), "b": column(2)}}, ValueError, "another name"),
        ({"X_ood": {"empty": np.empty((0, 1))}}, ValueError, r"X_ood\['empty'\] is em"),
        ({"X_id": np.empty((0, 1))}, ValueError, "X_id is empty"),
        (
            {"X_ood": {"bad": column(0, np.nan, np.inf)}},
            ValueError,
            r"2 of 3 .*sample 1",
        ),
        (
            {"detector": FunctionTransformer()},
            TypeError,
            "has neither score_samples nor decision_function",
        ),
    ],
)
def test_errors(change, error, message):
    options = {
        "detector": Given().fit([[0]]),
        "X_id": column(1, 2, 3),
        "X_ood": {"a": column(-1, 0)},
    }
    with pytest.raises(error, match=message):
        ood_report(**(options | change))


@pytest.mark.parametrize(
    "y_id, message",
    [
        ([0, 1], "2 labels for 3 samples"),
        (["a", "b", "c"], "none of the detector's cl"),
    ],
)
def test_labels_that_do_not_fit(y_id, message):
    detector = ReActDetector((np.eye(2), np.zeros(2)), percentile=90)
    detector.fit([[1.0, 0.0], [0.0, 2.0]])
    with pytest.raises(ValueError, match=message):
        ood_report(detector, np.ones((3, 2)), np.eye(2), y_id=y_id)


def test_not_fitted():
    with pytest.raises(NotFittedError):
        ood_report(IsolationForest(), column(1), column(2))


def test_labels_of_a_classifier_are_refused():
    class Classifier(Given):
        def predict(self, X):
            return np.zeros(len(X))

    with pytest.raises(ValueError, match="is it an outlier detector"):
        ood_report(Classifier().fit([[0]]), column(1, 2), column(0))


def test_features_with_names(rng):
    """As of a pipeline with set_output(transform="pandas")."""
    X = pd.DataFrame(rng.gamma(2, size=(80, 4)), columns=list("abcd"))
    detector = ReActDetector((rng.gamma(2, size=(3, 4)), np.zeros(3))).fit(X)
    y = detector.predict_class(X)
    report = ood_report(detector, X, {"dim": 0.1 * X}, y_id=y)
    assert report.id_accuracy == 1


def test_images_that_cannot_be_read_are_left_out():
    digits = load_digits_ood()
    pipeline = make_react_pipeline(digits_classifier, on_error="nan")
    pipeline.fit(digits.X_train)
    X_id, y_id = digits.X_test[:60].copy(), digits.y_test[:60]
    letters = digits.ood["letters"][:50].copy()
    X_id[[3, 9]], letters[5] = np.nan, np.nan
    good = np.delete(np.arange(60), [3, 9])
    options = {"n_bootstrap": 50, "random_state": 0}
    expected = ood_report(
        pipeline, X_id[good], np.delete(letters, 5, 0), y_id=y_id[good], **options
    )
    with pytest.warns(UserWarning) as noted:
        found = ood_report(pipeline, X_id, letters, y_id=y_id, **options)
    said = [str(warning.message) for warning in noted]
    assert "2 of 60 images of X_id could not be read: left out." in said
    assert any(text.startswith("1 of 50 images of ") for text in said)
    assert found.rows == expected.rows and found.n_id == 58
    for name in "id_accepted", "id_accuracy", "id_accuracy_clipped":
        assert getattr(found, name) == getattr(expected, name)
    X_id[:] = np.nan
    with (
        pytest.raises(ValueError, match="None of the 60 images of X_id could be read"),
        pytest.warns(UserWarning),
    ):
        ood_report(pipeline, X_id, letters)
