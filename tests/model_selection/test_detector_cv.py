"""The percentile by cross-validation: GridSearchCV's choice in much less time."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import reactood
from reactood import ReActDetector, ReActDetectorCV, make_react_pipeline
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.metrics import auroc, fpr_at_tpr, ood_scorers

CV = StratifiedKFold(4, shuffle=True, random_state=3)
PERCENTILES = 10, 65, 80, 85, 90, 95, 99, None


def features(rng, n_id=160, n_ood=60, width=12):
    X_id = np.maximum(rng.normal(0.3, 1, (n_id, width)), 0)
    X_ood = np.maximum(rng.normal(0, 1, (n_ood, width)), 0)
    X_ood[:, :3] *= rng.gamma(1, 3, (n_ood, 3))
    X = np.concatenate([X_id, X_ood]).astype(np.float32)
    return X, np.repeat([1, -1], [n_id, n_ood])


@pytest.fixture
def head(rng):
    return rng.normal(size=(5, 12)), rng.normal(size=5)


@pytest.fixture
def data(rng):
    return features(rng)


@pytest.mark.parametrize(
    ("scoring", "theirs"),
    [
        ("fpr95", ood_scorers()["neg_fpr_at_tpr"]),
        ("roc_auc", "roc_auc"),
        ("average_precision", "average_precision"),
        ("auroc", ood_scorers()["auroc"]),
    ],
)
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"per_unit": True},
        {"lower_percentile": 5.0},
        {"score_function": "msp", "temperature": 3.0},
    ],
)
# Zeros in half of the features: the lowest candidates fail, there and here.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
@pytest.mark.filterwarnings("ignore:percentile=.* units a clip of 0")
def test_same_as_grid_search(data, head, scoring, theirs, parameters):
    X, y = data
    ours = ReActDetectorCV(
        head, percentiles=PERCENTILES, scoring=scoring, cv=CV, **parameters
    ).fit(X, y)
    search = GridSearchCV(
        ReActDetector(head, **parameters),
        {"percentile": PERCENTILES},
        scoring=theirs,
        cv=CV,
    ).fit(X, y)
    for key in ("mean_test_score", "std_test_score", "split2_test_score"):
        np.testing.assert_allclose(ours.cv_results_[key], search.cv_results_[key])
    np.testing.assert_array_equal(
        ours.cv_results_["rank_test_score"], search.cv_results_["rank_test_score"]
    )
    assert ours.cv_results_["params"] == search.cv_results_["params"]
    assert ours.best_percentile_ == search.best_params_["percentile"]
    assert ours.best_score_ == pytest.approx(search.best_score_)
    assert ours.best_index_ == search.best_index_
    best = search.best_estimator_
    assert ours.offset_ == best.offset_
    np.testing.assert_array_equal(ours.score_samples(X), best.score_samples(X))


@pytest.mark.filterwarnings("ignore:OOD rows score higher")
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), cv=st.integers(2, 5))
def test_scores_are_those_of_detectors_fitted_by_hand(seed, cv):
    rng = np.random.default_rng(seed)
    X, y = features(rng, 60, 20, 6)
    X = X.astype(float)
    head = rng.normal(size=(3, 6)), np.zeros(3)
    ours = ReActDetectorCV(head, percentiles=[99, 80], cv=cv).fit(X, y)
    folds = StratifiedKFold(cv, shuffle=True, random_state=0).split(X, y)
    for i, (train, test) in enumerate(folds):
        for j, percentile in enumerate([99, 80]):
            train_id = X[train][y[train] == 1]
            clip = np.percentile(train_id, percentile)
            z = np.minimum(X[test], clip) @ head[0].T
            scores = np.log(np.exp(z).sum(axis=1))
            assert ours.cv_results_[f"split{i}_test_score"][j] == pytest.approx(
                -fpr_at_tpr(y[test], scores)
            )


def test_a_classifier_is_trained_in_each_fold(rng):
    X, y = features(rng)
    labels = np.where(y == 1, (X[:, 0] > X[:, 1]).astype(int), -1)
    head = LogisticRegression()
    ours = ReActDetectorCV(head, percentiles=(80, 95), scoring=by_auroc, cv=CV)
    ours.fit(X, labels)
    splits = CV.split(X, y)
    for fold, (train, test) in enumerate(splits):
        detector = ReActDetector(head, percentile=80).fit(X[train], labels[train])
        expected = auroc(y[test], detector.decision_function(X[test]))
        assert ours.cv_results_[f"split{fold}_test_score"][0] == pytest.approx(expected)
    assert set(ours.classes_) == {0, 1}


by_auroc = make_scorer(auroc, response_method="decision_function")


def test_what_failed_says_why(data, head):
    X, y = data
    detector = ReActDetectorCV(head, percentiles=[10, 90]).fit(X, y)
    assert np.isnan(detector.cv_results_["mean_test_score"][0])
    assert "of the activations are 0" in detector.cv_results_["failure"][0]
    assert detector.cv_results_["failure"][1] == ""
    assert detector.best_percentile_ == 90
    with pytest.raises(ValueError, match=r"None of percentiles=\[10, 20\] can be used"):
        ReActDetectorCV(head, percentiles=[10, 20]).fit(X, y)


@pytest.mark.parametrize(
    ("y", "cv", "sentence"),
    [
        (None, 5, "Got no y .*; expected some rows labelled -1.*tune_percentile"),
        ([0, 1], 5, r"labels \[0, 1\] .*; expected some rows labelled -1"),
        ([1, -1], KFold(4), r"Fold 0 has no out-of-distribution .*shuffle=True"),
        ([-1, 1], KFold(4), r"Fold 0 has no in-distribution .*shuffle=True"),
    ],
)
def test_misuse(data, head, y, cv, sentence):
    X, _ = data
    y = None if y is None else np.repeat(y, [160, 60])
    with pytest.raises(ValueError, match=sentence):
        ReActDetectorCV(head, cv=cv).fit(X, y)


@pytest.mark.parametrize("percentiles", [[], [0], [90, 101], ["90"], [0.9]])
def test_bad_candidates(data, head, percentiles):
    with pytest.raises(ValueError, match=r"percent"):
        ReActDetectorCV(head, percentiles=percentiles).fit(*data)


@pytest.mark.parametrize("per_unit", [False, True])
def test_candidates_not_above_the_lower_percentile_fail_alone(data, head, per_unit):
    X, y = data
    detector = ReActDetectorCV(head, lower_percentile=10, per_unit=per_unit, cv=3)
    results = detector.fit(X, y).cv_results_
    failed = results["failure"] != ""
    assert failed.tolist() == [True] + 6 * [False]
    assert "lower_percentile=10 must be below percentile=10" in results["failure"][0]
    assert np.isfinite(results["mean_test_score"][1:]).all()
    with pytest.raises(ValueError, match=r"None of percentiles=.* must be below"):
        ReActDetectorCV(head, percentiles=[10, 65], lower_percentile=70).fit(X, y)


def test_rows_of_nan_are_left_out_of_the_choice(data, head):
    X, y = (part.copy() for part in data)
    unknown = np.zeros(len(X), bool)
    unknown[[1, len(X) - 1]] = True  # ID and OOD
    X[unknown] = np.nan
    folds = list(CV.split(X, y))
    ours = ReActDetectorCV(head, cv=folds, on_nan="reject").fit(X, y)
    place = np.cumsum(~unknown) - 1
    kept = [[place[side[~unknown[side]]] for side in fold] for fold in folds]
    expected = ReActDetectorCV(head, cv=kept).fit(X[~unknown], y[~unknown])
    np.testing.assert_allclose(
        ours.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    assert ours.best_percentile_ == expected.best_percentile_
    assert ours.offset_ == pytest.approx(expected.offset_)
    assert (ours.predict(X)[unknown] == -1).all()
    with pytest.raises(ValueError, match="NaN"):
        ReActDetectorCV(head, cv=folds).fit(X, y)


def test_labels_the_wrong_way_round_warn(rng, head):
    X, y = features(rng)
    X[y == -1] *= 0.01  # far less energy, so surely below
    bias_free = np.abs(head[0]), np.zeros(5)
    assert ReActDetectorCV(bias_free).fit(X, y).best_score_ > -0.2
    with pytest.warns(UserWarning, match=r"labels the wrong way round"):
        ReActDetectorCV(bias_free, percentiles=[None]).fit(X, -y)


def test_groups_reach_the_splitter(data, head):
    class Splitter:
        def split(self, X, y, groups):
            assert (groups == "here").all()
            yield from CV.split(X, y)

        def get_n_splits(self, X=None, y=None, groups=None):
            return 4

    X, y = data
    detector = ReActDetectorCV(head, cv=Splitter())
    assert detector.fit(X, y, groups=np.repeat("here", len(y))).n_splits_ == 4


def test_it_is_a_detector(data, head):
    X, y = data
    detector = clone(ReActDetectorCV(head, percentiles=(80, 95), contamination=0.1))
    assert "percentile" not in detector.get_params()
    detector.fit(X, y)
    assert (detector.predict(X[y == 1]) == -1).mean() == pytest.approx(0.1, abs=0.01)
    assert detector.predict_class(X).shape == (220,)
    assert detector.rectify(X).max() == np.float32(detector.activation_threshold_)
    assert reactood.ReActDetectorCV is ReActDetectorCV


class WithOOD(ReActDetectorCV):
    """Calls every third row out-of-distribution: the checks know no such labels."""

    def fit(self, X, y=None):
        """Fit."""
        n = X.shape[0] if hasattr(X, "shape") else len(np.asarray(X))
        return super().fit(X, np.where(np.arange(n) % 3 == 1, -1, 1))


ID_ROWS = "contamination is a share of the ID rows, the check counts all"


@pytest.mark.filterwarnings("ignore:OOD rows score higher")
@pytest.mark.filterwarnings("ignore:percentile=")
@parametrize_with_checks(
    [WithOOD(percentiles=(85, 95, None), cv=2)],
    expected_failed_checks=lambda estimator: dict.fromkeys(
        ["check_outliers_fit_predict", "check_outliers_train"], ID_ROWS
    ),
)
def test_contract(estimator, check):
    check(estimator)


def test_marks_of_ood_rows_other_than_minus_one(rng):
    X = rng.gamma(2.0, size=(60, 4))
    with pytest.raises(ValueError, match=r"labels \[0, 1\].*where\(is_ood, -1, 1\)"):
        ReActDetectorCV(percentiles=[90, None]).fit(X, np.arange(60) % 2)


def test_folds_that_repeat_rows_are_refused(rng):
    X, y = rng.gamma(2, size=(200, 8)), np.repeat([1, -1], [150, 50])
    head = rng.normal(size=(3, 8)), np.zeros(3)
    repeated = [(np.arange(150), np.r_[np.repeat(149, 50), 100:200])]
    with pytest.raises(ValueError, match=r"Fold 0 holds a row more than once.*GridS"):
        ReActDetectorCV(head, cv=repeated).fit(X, y)


def test_scorers_that_cannot_judge(rng):
    X, y = rng.gamma(2, size=(200, 8)), np.repeat([1, -1], [150, 50])
    head = rng.normal(size=(3, 8)), np.zeros(3)
    with pytest.raises(ValueError, match="returned NaN for all of them"):
        ReActDetectorCV(head, scoring=lambda *a: np.nan, percentiles=[90]).fit(X, y)
    with pytest.raises(ValueError, match="'accuracy' uses more than decision_function"):
        ReActDetectorCV(head, scoring="accuracy").fit(X, y)


# --- lists of scores, and pipelines --------------------------------------------------


def test_a_list_of_scores_equals_a_grid_search(data, head):
    X, y = data
    cv = StratifiedKFold(3, shuffle=True, random_state=1)
    functions, percentiles = ["msp", "energy", "centered_energy"], [80, 95, None]
    detector = ReActDetectorCV(
        head,
        percentiles=percentiles,
        score_function=functions,
        scoring="roc_auc",
        cv=cv,
    ).fit(X, y)
    search = GridSearchCV(
        ReActDetector(head),
        {"score_function": functions, "percentile": percentiles},
        scoring="roc_auc",
        cv=cv,
    ).fit(X, y)
    found = detector.cv_results_
    assert len(found["params"]) == 9
    for params, score in zip(found["params"], found["mean_test_score"], strict=True):
        i = search.cv_results_["params"].index(params)
        assert score == pytest.approx(search.cv_results_["mean_test_score"][i])
    assert detector.best_score_ == pytest.approx(search.best_score_)
    best = {
        "percentile": detector.best_percentile_,
        "score_function": detector.best_score_function_,
    }
    expected = ReActDetector(head, **best).fit(X, y).score_samples(X)
    np.testing.assert_allclose(detector.score_samples(X), expected)
    loaded = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(loaded.predict(X), detector.predict(X))


@pytest.mark.parametrize(
    "functions, sentence",
    [
        ([], "score_function is empty; expected at least one"),
        (["energy", "energie"], "score_function holds 'energie'; expected functions"),
    ],
)
def test_bad_lists_of_scores(data, head, functions, sentence):
    X, y = data
    with pytest.raises(ValueError, match=sentence):
        ReActDetectorCV(head, score_function=functions).fit(X, y)


def test_a_pipeline_on_images():
    digits = load_digits_ood()
    X = np.concatenate([digits.X_test, digits.ood["letters"]])
    y = np.repeat([1, -1], [len(digits.X_test), len(digits.ood["letters"])])
    pipeline = make_react_pipeline(digits_classifier)
    detector = ReActDetectorCV(pipeline, scoring="roc_auc").fit(X, y)
    extractor = pipeline[:-1].fit(X)
    H = extractor.transform(X)
    alone = ReActDetectorCV(extractor[-1].head_, scoring="roc_auc").fit(H, y)
    assert detector.best_percentile_ == alone.best_percentile_
    np.testing.assert_array_equal(detector.predict(X[:50]), alone.predict(H[:50]))
    np.testing.assert_array_equal(
        detector.predict_class(X[:50]), alone.predict_class(H[:50])
    )
    np.testing.assert_array_equal(detector.rectify(X[:5]), alone.rectify(H[:5]))
    assert not hasattr(pipeline[-1], "offset_")
    loaded = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(
        loaded.score_samples(X[:9]), detector.score_samples(X[:9])
    )
    assert clone(detector).head is not pipeline


def test_a_pipeline_of_something_else_is_no_head(data):
    X, y = data
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    with pytest.raises(ValueError, match="head=Pipeline is not fitted"):
        ReActDetectorCV(pipeline).fit(X, y)
