"""Left-out classes: the parts, tune_detector against loops, the check of `fit`."""

import importlib.util
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax
from sklearn.base import (
    BaseEstimator,
    OneToOneFeatureMixin,
    TransformerMixin,
    clone,
)
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from torch import nn

from reactood import ReActDetector, TorchFeatureExtractor, make_react_pipeline
from reactood._scoring._left_out import LEAST_ROWS, TooFewClasses, leave_classes_out
from reactood._scoring._scorer import Scorer
from reactood.baselines import KNNDetector, MahalanobisDetector
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.model_selection import (
    make_surrogate_features,
    tune_detector,
    tune_percentile,
)
from reactood.model_selection._candidates import PERCENTILES, SCORES
from reactood.model_selection._trial import Trial
from reactood.rectifiers import DICE, LTS, SCALE


def network(rng, n_rows=600, n_classes=8, n_units=40, common=0.0):
    """Return features of a made-up network, and its head.

    ``common`` is how strongly the logits of a row move up and down together, by units
    that say nothing of the class.
    """
    weight = rng.normal(0, 0.5, (n_classes, n_units))
    weight -= weight.mean(axis=0)
    y = rng.integers(0, n_classes, n_rows)
    X = np.maximum(rng.normal(0.3, 1.0, (n_rows, n_units)), 0)
    X += np.maximum(weight[y], 0) * rng.gamma(3, 1 / 3, (n_rows, 1))
    bias = -weight @ X.mean(axis=0)
    if common:
        X = np.hstack([X, common * rng.gamma(1.0, size=(n_rows, 4))])
        weight = np.hstack([weight, np.ones((n_classes, 4))])
    return X, (weight, bias)


@pytest.fixture
def X_head(rng):
    return network(rng)


# --- parts ---------------------------------------------------------------------------


@given(
    n_classes=st.integers(3, 40),
    n_parts=st.integers(2, 12),
    n_repeats=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_each_class_is_left_out_once_each_time(n_classes, n_parts, n_repeats, seed):
    predicted = np.tile(np.arange(n_classes), 2 * LEAST_ROWS)
    parts = leave_classes_out(
        predicted,
        n_classes,
        np.random.RandomState(seed),
        n_parts=n_parts,
        n_repeats=n_repeats,
    )
    left_out = ~parts.kept
    assert len(np.unique(left_out, axis=0)) == len(left_out)  # none is there twice
    one_time = min(n_parts, n_classes) if n_classes > 3 else 3
    np.testing.assert_array_equal(left_out[:one_time].sum(axis=0), 1)
    times = left_out.sum(axis=0)
    assert (times <= n_repeats).all()
    if len(parts) == n_repeats * one_time:  # else a part came again
        assert (times == n_repeats).all()
    assert (parts.kept.sum(axis=1) > 1).all()
    sizes = left_out.sum(axis=1)
    assert sizes.max() - sizes.min() <= 1
    for kept, known, labels in zip(parts.kept, parts.known, parts.labels, strict=True):
        np.testing.assert_array_equal(known, [kept[c] for c in predicted])
        np.testing.assert_array_equal(labels, np.where(known, 1, -1))


@pytest.mark.parametrize(("n_classes", "most"), [(3, 3), (4, 6)])
def test_parts_that_come_again_are_dropped(n_classes, most):
    predicted = np.tile(np.arange(n_classes), 2 * LEAST_ROWS)
    parts = leave_classes_out(
        predicted, n_classes, np.random.RandomState(0), n_repeats=50
    )
    assert len(parts) == len(np.unique(parts.kept, axis=0)) == most


def test_classes_with_rows_are_spread_over_the_parts():
    predicted = np.repeat([3, 500, 600, 999], 20)
    for seed in range(20):
        parts = leave_classes_out(predicted, 1000, np.random.RandomState(seed))
        assert len(parts) == 6
        np.testing.assert_array_equal(parts.known.sum(axis=1), 40)


def test_parts_of_few_rows_are_dropped():
    predicted = np.repeat([0, 1, 2, 3], [100, LEAST_ROWS - 2, 1, 0])
    parts = leave_classes_out(predicted, 4, np.random.RandomState(0), n_parts=4)
    assert len(parts) == 0


def test_two_classes_cannot_be_left_out():
    with pytest.raises(TooFewClasses, match=r"has 2 classes; expected three or more"):
        leave_classes_out(np.zeros(9, int), 2, np.random.RandomState(0))


# --- tune_detector against a loop ----------------------------------------------------


def scores_of(z, mean, name):
    if name == "gen":
        p = np.sort(softmax(z, axis=1), axis=1)[:, -100:]
        return -(p**0.1 * (1 - p) ** 0.1).sum(axis=1)
    return {
        "energy": logsumexp(z, axis=1),
        "centered_energy": logsumexp(z, axis=1) - mean,
        "centered_max_logit": z.max(axis=1) - mean,
        "max_logit": z.max(axis=1),
        "msp": softmax(z, axis=1).max(axis=1),
    }[name]


@pytest.mark.parametrize("n_parts", [2, 3])
def test_every_candidate_against_a_loop(X_head, n_parts):
    X, head = X_head
    weight, bias = head
    tuned = tune_detector(
        ReActDetector(head), X, n_parts=n_parts, n_repeats=2, random_state=3
    )
    parts = leave_classes_out(
        (X @ weight.T + bias).argmax(axis=1),
        len(bias),
        np.random.RandomState(3),
        n_parts=n_parts,
        n_repeats=2,
    )
    results = tuned.cv_results_
    assert len(results["params"]) == len(SCORES) * len(PERCENTILES)
    for i, params in enumerate(results["params"]):
        p = params["percentile"]
        clip = np.inf if p is None else np.percentile(X, p)
        z = np.minimum(X, clip) @ weight.T + bias
        for k, (kept, known) in enumerate(zip(parts.kept, parts.known, strict=True)):
            scores = scores_of(z[:, kept], z.mean(axis=1), params["score_function"])
            expected = roc_auc_score(known, scores)
            assert results[f"split{k}_test_score"][i] == pytest.approx(
                expected, abs=1e-9
            )
    splits = np.array([results[f"split{k}_test_score"] for k in range(2 * n_parts)])
    np.testing.assert_allclose(results["mean_test_score"], splits.mean(axis=0))
    assert tuned.best_score_ == results["mean_test_score"][tuned.best_index_]
    assert tuned.own_score_ == results["mean_test_score"][0]
    error = 1 - results["mean_test_score"]
    near = [
        params
        for params, e in zip(results["params"], error, strict=True)
        if e <= 1.2 * error.min() + 1e-9
    ]
    assert tuned.near_best_ == near


@pytest.mark.parametrize("kind", ["module", "sklearn", "logits"])
def test_heads_of_every_kind(X_head, kind):
    X, (weight, bias) = X_head
    expected = tune_detector(ReActDetector((weight, bias)), X).cv_results_
    if kind == "module":
        linear = nn.Linear(*weight.T.shape).double()
        with torch.no_grad():
            linear.weight[:], linear.bias[:] = map(torch.from_numpy, (weight, bias))
        head, H = nn.Sequential(linear), X
    elif kind == "sklearn":
        head, H = LogisticRegression().fit(X, (X @ weight.T + bias).argmax(1)), X
        head.coef_, head.intercept_ = weight, bias
        head = FrozenEstimator(head)
    else:
        head, H = None, X @ weight.T + bias
    candidates = {"score_function": list(SCORES), "percentile": [None]}
    found = tune_detector(
        ReActDetector(head, percentile=None), H, candidates=candidates
    ).cv_results_
    for params, score in zip(found["params"], found["mean_test_score"], strict=True):
        i = expected["params"].index(params)
        assert score == pytest.approx(expected["mean_test_score"][i], abs=1e-9)


def test_single_precision_and_blocks(X_head):
    X, head = X_head
    double = tune_detector(ReActDetector(head), X).cv_results_["mean_test_score"]
    single = tune_detector(
        ReActDetector(head, batch_size=7), torch.from_numpy(X).float()
    ).cv_results_["mean_test_score"]
    np.testing.assert_allclose(single, double, atol=2e-3)


# --- the choice ----------------------------------------------------------------------


def test_a_network_with_a_common_shift_gets_a_centered_score(rng):
    X, head = network(rng, common=1.0)
    with pytest.warns(
        UserWarning, match=r"worse than 'centered_energy' .*tune_detector chooses"
    ):
        ReActDetector(head).fit(X)
    tuned = tune_detector(ReActDetector(head), X)
    assert tuned.best_params_["score_function"] == "centered_energy"
    assert tuned.best_score_ > tuned.own_score_ + 0.03
    assert "times as many errors" in tuned.summary_
    n_equal = len(tuned.near_best_)
    assert "35 settings (score and percentile) were compared; " in tuned.summary_
    assert n_equal > 1 and f"; {n_equal} of them count as eq" in tuned.summary_
    assert "score_function='centered_energy'" in tuned.summary_


@pytest.mark.parametrize("gap", [0.0, 1e-3])
def test_no_ratio_of_errors_that_the_rows_cannot_show(monkeypatch, X_head, gap):
    aurocs = np.array([[0.9983, 1 - gap]] * 2)
    monkeypatch.setattr(Trial, "judge", lambda *args: (aurocs, ["", ""]))
    X, head = X_head  # 600 rows
    tuned = tune_detector(ReActDetector(head), X, candidates={"percentile": [95]})
    assert tuned.best_index_ == 1
    assert "times as many" not in tuned.summary_
    assert f"AUROC is 0.9983 with your own setting and {1 - gap:.4f} " in tuned.summary_
    assert "; 1 of them makes fewer errors than 600 rows can" in tuned.summary_


def test_none_of_the_others_is_as_good(monkeypatch, X_head):
    aurocs = np.array([[0.8, 0.9]] * 2)
    monkeypatch.setattr(Trial, "judge", lambda *args: (aurocs, ["", ""]))
    X, head = X_head
    tuned = tune_detector(ReActDetector(head), X, candidates={"percentile": [95]})
    assert "makes 2.0 times as many errors (1 - AUROC)" in tuned.summary_
    assert "; none of the others counts as equal to the best." in tuned.summary_


def test_the_summary_names_score_and_percentile_only_where_they_vary(X_head):
    X, head = X_head
    tuned = tune_detector(ReActDetector(head), X, candidates={"per_unit": [True]})
    assert "2 settings were compared; " in tuned.summary_


def test_a_setting_that_is_right_is_kept(X_head):
    X, head = X_head
    detector = ReActDetector(head, percentile=99)
    tuned = tune_detector(detector, X)
    assert tuned.best_index_ == 0
    assert tuned.best_params_ == {"score_function": "energy", "percentile": 99}
    assert "Your own setting is kept" in tuned.summary_
    np.testing.assert_array_equal(
        tuned.best_estimator_.score_samples(X), detector.fit(X).score_samples(X)
    )


def test_the_same_seed_the_same_choice_and_nothing_is_changed(X_head):
    X, head = X_head
    before = X.copy(), head[0].copy()
    detector = ReActDetector(head)
    one, other = (tune_detector(detector, X, random_state=5) for _ in range(2))
    np.testing.assert_array_equal(
        one.cv_results_["mean_test_score"], other.cv_results_["mean_test_score"]
    )
    another = tune_detector(detector, X, random_state=6).cv_results_
    assert (another["split0_test_score"] != one.cv_results_["split0_test_score"]).any()
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(head[0], before[1])
    assert not hasattr(detector, "offset_")
    assert one.best_estimator_.head[0] is not head[0]
    pickle.loads(pickle.dumps(one))


def test_a_grid_and_a_list(X_head):
    X, head = X_head
    grid = {"percentile": [90, 95], "per_unit": [False, True]}
    tuned = tune_detector(ReActDetector(head), X, candidates=grid)
    own = {"score_function": "energy", "percentile": 90.0, "per_unit": False}
    assert tuned.cv_results_["params"][0] == own
    others = [{**own, "percentile": 95, "per_unit": each} for each in (False, True)]
    for params in (*others, {**own, "per_unit": True}):
        assert params in tuned.cv_results_["params"][1:]
    assert len(tuned.cv_results_["params"]) == 4
    listed = tune_detector(
        ReActDetector(head), X, candidates=[{"percentile": 95, "per_unit": True}]
    )
    i = tuned.cv_results_["params"].index(others[1])
    assert listed.cv_results_["mean_test_score"][-1] == pytest.approx(
        tuned.cv_results_["mean_test_score"][i]
    )


def test_detectors_of_other_kinds(X_head):
    X, head = X_head
    plain = ReActDetector(percentile=None)
    others = [
        KNNDetector(5),
        MahalanobisDetector(),
        make_pipeline(SCALE(), ReActDetector(head, percentile=None)),
        make_pipeline(LTS(head), plain),
        make_pipeline(DICE(head), plain),
        make_pipeline(SCALE(), ReActDetector(head, score_function="centered_energy")),
    ]
    tuned = tune_detector(ReActDetector(head), X, candidates=others)
    results = tuned.cv_results_
    assert results["failure"].tolist() == [""] * 7
    assert [p.get("estimator") for p in results["params"][1:]] == others
    assert (results["mean_test_score"] > 0.5).all()
    # One of them by hand: the first part, every second row to learn from.
    parts = leave_classes_out(
        (X @ head[0].T + head[1]).argmax(axis=1), 8, np.random.RandomState(0)
    )
    known = parts.known[0]
    learned = known.copy()
    learned[np.flatnonzero(known)[1::2]] = False
    reduced = head[0][parts.kept[0]], head[1][parts.kept[0]]
    lts = make_pipeline(LTS(reduced), plain).fit(X[learned])
    expected = roc_auc_score(known[~learned], lts.score_samples(X[~learned]))
    assert results["split0_test_score"][4] == pytest.approx(expected)


class FirstUnits(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Silences the units that move all logits."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.where(np.arange(X.shape[1]) < 40, X, 0)


def test_another_detector_can_be_the_choice(rng):
    X, (weight, bias) = network(rng, common=4.0)
    good = make_pipeline(FirstUnits(), ReActDetector((weight, bias)))
    tuned = tune_detector(
        ReActDetector((weight, bias), check_score=False), X, candidates=[good]
    )
    assert tuned.best_params_ == {"estimator": good}
    assert tuned.best_estimator_.predict(X).shape == (600,)
    assert not hasattr(good[-1], "offset_")


def test_candidates_that_fail_have_a_reason(X_head):
    X, head = X_head
    X = np.where(X < 1.5, 0, X)
    zeros = 100 * np.mean(X == 0)
    tuned = tune_detector(
        ReActDetector(head, percentile=95),
        X,
        candidates=[{"percentile": zeros - 5}, KNNDetector(5000)],
    )
    results = tuned.cv_results_
    assert np.isnan(results["mean_test_score"]).tolist() == [False, True, True]
    assert "every input would look the same" in results["failure"][1]
    assert "expected fewer neighbours" in results["failure"][2]


def test_only_some_rows_are_chosen_by(X_head):
    X, head = X_head
    tuned = tune_detector(ReActDetector(head), X, max_samples=400)
    assert tuned.summary_.startswith("400 rows, 8 classes")
    params = tuned.best_params_
    fitted = ReActDetector(head, **params).fit(X)
    assert tuned.best_estimator_.offset_ == fitted.offset_


def test_ood_rows_and_rows_of_nan_are_left_out(X_head):
    X, head = X_head
    expected = tune_detector(ReActDetector(head), X).cv_results_["mean_test_score"]
    more = np.concatenate([X, X[:50] + 9, np.full((5, X.shape[1]), np.nan)])
    y = np.repeat([1, -1, 1], [len(X), 50, 5])
    tuned = tune_detector(ReActDetector(head, on_nan="reject"), more, y)
    np.testing.assert_array_equal(tuned.cv_results_["mean_test_score"], expected)


# --- what is said --------------------------------------------------------------------


def test_few_rows_are_said(X_head):
    X, head = X_head
    with pytest.warns(UserWarning, match="choice rests on 200 rows.* give 500 or more"):
        tune_detector(ReActDetector(head), X[:200])
    with pytest.raises(ValueError, match="so few classes that none can be left out"):
        tune_detector(ReActDetector(head), X[:6])


def test_scores_that_detect_nothing_are_said(X_head):
    X, head = X_head
    detector = ReActDetector(head, score_function=lambda z: torch.sin(1e6 * z.sum(1)))
    with pytest.warns(UserWarning, match="No candidate detects left-out classes"):
        tune_detector(detector, X, candidates=[{"percentile": 95}])


def test_misuse(X_head):
    X, head = X_head
    for estimator in (IsolationForest(), make_pipeline(SCALE(), IsolationForest())):
        with pytest.raises(TypeError, match="expected a ReActDetector or a Pipeline"):
            tune_detector(estimator, X)
    with pytest.raises(ValueError, match=r"threshold=1.0, which overrides any"):
        tune_detector(ReActDetector(head, threshold=1.0), X)
    with pytest.raises(TypeError, match="candidates holds 95; expected dicts"):
        tune_detector(ReActDetector(head), X, candidates=[95])
    two = head[0][:2], head[1][:2]
    with pytest.raises(ValueError, match=r"has 2 classes; expected three or more"):
        tune_detector(ReActDetector(two), X)
    with pytest.raises(ValueError, match="None of the candidates can be used"):
        tune_detector(
            ReActDetector(head, percentile=10), X, candidates=[{"percentile": 5}]
        )


# --- surrogates ----------------------------------------------------------------------


def test_left_out_classes_as_surrogates(X_head):
    X, head = X_head
    parts = make_surrogate_features(X, "left_out_classes", head=head, random_state=1)
    assert len(parts) == 6
    predicted = (X @ head[0].T + head[1]).argmax(axis=1)
    for part in parts:
        weight, bias = part.head
        assert weight.shape == (4, X.shape[1])
        rows = {tuple(row) for row in part.X_ood}
        assert len(part.X_id) + len(part.X_ood) == len(X)
        for row, best in zip(X, predicted, strict=True):
            assert (tuple(row) in rows) == (head[1][best] not in bias)
    few = make_surrogate_features(X, "left_out_classes", head=head, n_samples=9)
    assert {len(part.X_ood) for part in few} == {9}
    logits = X @ head[0].T + head[1]
    (part, *_) = make_surrogate_features(logits, "left_out_classes", head=nn.Identity())
    ReActDetector(part.head, percentile=None).fit(part.X_id).predict(part.X_ood)
    with pytest.raises(ValueError, match="needs the head from which classes are left"):
        make_surrogate_features(X, "left_out_classes")


def test_tune_percentile_by_left_out_classes(X_head):
    X, head = X_head
    every = tune_detector(ReActDetector(head), X).cv_results_
    candidates = [80, 95, 90.0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The surrogates .* do not show")
        tuned = tune_percentile(ReActDetector(head), X, percentiles=[80, 95])
    assert tuned.cv_results_["param_percentile"].tolist() == [*candidates, None]
    for i, percentile in enumerate([*candidates, None]):
        params = {"score_function": "energy", "percentile": percentile}
        score = every["mean_test_score"][every["params"].index(params)]
        assert tuned.cv_results_["mean_test_score"][i] == pytest.approx(score)
    assert tuned.best_score_ == tuned.cv_results_["mean_test_score"][tuned.best_index_]
    assert tuned.unclipped_score_ == tuned.cv_results_["mean_test_score"][-1]


def test_a_tie_with_no_clip_keeps_the_own_percentile(X_head):
    X, head = X_head
    detector = ReActDetector(head, percentile=97)
    for surrogate in ("left_out_classes", "gaussian_noise"):
        with pytest.warns(UserWarning, match=r"do not show .* percentile=97 is kept"):
            tuned = tune_percentile(
                detector, X, surrogate=surrogate, percentiles=[95, 99]
            )
        assert tuned.best_percentile_ == 97
        assert {97, None} <= set(tuned.near_best_percentiles_)


def test_heads_of_two_classes_have_other_surrogates(X_head):
    X, (weight, bias) = X_head
    detector = ReActDetector((weight[:2], bias[:2]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        default = tune_percentile(detector, X).cv_results_["mean_test_score"]
        permuted = tune_percentile(detector, X, surrogate="permuted_units")
    np.testing.assert_array_equal(default, permuted.cv_results_["mean_test_score"])
    with pytest.raises(ValueError, match="has 2 classes"):
        tune_percentile(detector, X, surrogate="left_out_classes")


def test_each_image_passes_once():
    X = load_digits_ood().X_test
    passed = []

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = digits_classifier()

        def forward(self, x):
            passed.append(len(x))
            return self.net(x)

    tuned = tune_detector(make_react_pipeline(Counted), X)
    assert len(X) <= sum(passed) <= len(X) + 40  # and a few for the proof of the head
    assert tuned.best_estimator_.predict(X).shape == (len(X),)


def test_a_pipeline_on_the_digits():
    digits = load_digits_ood()
    pipeline = make_react_pipeline(digits_classifier)
    tuned = tune_detector(pipeline, digits.X_test)
    H = pipeline[:-1].fit_transform(digits.X_test)
    expected = tune_detector(ReActDetector(pipeline[:-1][-1].head_), H)
    np.testing.assert_allclose(
        tuned.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    by_hand = clone(pipeline).set_params(
        **{f"detector__{name}": value for name, value in tuned.best_params_.items()}
    )
    np.testing.assert_array_equal(
        tuned.best_estimator_.score_samples(digits.X_test[:9]),
        by_hand.fit(digits.X_test).score_samples(digits.X_test[:9]),
    )


# --- the check of fit ----------------------------------------------------------------


def test_the_check_is_silent_where_it_should_be(X_head, rng):
    X, head = X_head
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReActDetector(head).fit(X)
        bad_X, bad_head = network(rng, common=1.0)
        ReActDetector(bad_head, check_score=False).fit(bad_X)
        ReActDetector(bad_head).fit(bad_X[:299])
        ReActDetector(bad_head, score_function="centered_energy").fit(bad_X)
        ReActDetector(bad_head, score_function=lambda z: z.amax(1)).fit(bad_X)
        two = bad_head[0][:2], bad_head[1][:2]
        ReActDetector(two).fit(bad_X)
        # Left-out classes say nothing of heads with several true labels at once.
        ReActDetector(bad_head, score_function="joint_energy").fit(bad_X)
        one_class = bad_X[(bad_X @ bad_head[0].T + bad_head[1]).argmax(1) == 0]
        ReActDetector(bad_head).fit(np.tile(one_class, (20, 1)))


def test_the_check_reads_in_distribution_rows_only(rng):
    X, head = network(rng, common=1.0)
    y = np.where(np.arange(600) < 299, 1, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReActDetector(head).fit(X, y)
    both = np.concatenate([X, X + 5])
    with pytest.warns(UserWarning, match="tune_detector"):
        ReActDetector(head).fit(both, np.repeat([1, -1], 600))


def test_the_check_without_a_clip(rng, monkeypatch):
    """It says so, and scores nothing twice."""
    X, head = network(rng, common=1.0)
    clips = []
    scored = Scorer.scores_of_reduced

    def counted(self, X, some, *args):
        clips.append(len(some))
        return scored(self, X, some, *args)

    monkeypatch.setattr(Scorer, "scores_of_reduced", counted)
    with pytest.warns(UserWarning, match="worse than .* without a clip on this"):
        ReActDetector(head, percentile=None).fit(X)
    with pytest.warns(UserWarning, match="with the same clip on this"):
        ReActDetector(head, percentile=90).fit(X)
    with pytest.warns(UserWarning, match="percentile=None, lower_percentile=5 detects"):
        ReActDetector(head, percentile=None, lower_percentile=5).fit(X)
    assert clips == [1, 2, 2]


REAL = {  # network: whether the default is a trap, and images to learn from
    "pqf_resnet18": (True, "imagenet-val", 3),
    "mobilenet_v2": (False, "imagenet-val", 3),
}
SLOW = {
    "densenet_cifar10": (True, "cifar10-jpeg", 6),
    "pqf_resnet50_large": (True, "imagenet-val", 3),
    "ktb_resnet50_large_blocks": (False, "imagenet-val", 3),
    "resnet20": (False, "cifar10-jpeg", 4),
    "resnet56": (False, "cifar10-jpeg", 4),
}


def real_network(folder, name):
    """Return a module, and the transform of images that lie there."""
    file = {
        "mobilenet_v2": "mobilenet_v2.py",
        "pqf_resnet18": "imagenet-resnets/imagenet_resnets.py",
        "pqf_resnet50_large": "imagenet-resnets/imagenet_resnets.py",
        "ktb_resnet50_large_blocks": "imagenet-resnets/imagenet_resnets.py",
    }.get(name, "cifar-nets/cifar_nets.py")
    if not (folder / file).exists():
        pytest.skip(f"the folder of real models has no {file}")
    spec = importlib.util.spec_from_file_location("nets", folder / file)
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    if name == "mobilenet_v2":
        return nets.load(), nets.preprocess()
    if hasattr(nets.preprocess, "transforms"):
        return nets.load(name), nets.preprocess
    return nets.load(name), nets.preprocess(name)


@pytest.mark.parametrize(
    "name", [*REAL, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_the_check_on_real_networks(real_data, name):
    is_a_trap, folder, every = (REAL | SLOW)[name]
    model, preprocess = real_network(real_data, name)
    images = sorted(map(str, (real_data / folder).rglob("*.*")))[::every]
    extractor = TorchFeatureExtractor(model, preprocess=preprocess)
    H = extractor.fit_transform(images)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ReActDetector(extractor.head_).fit(H)
    assert any("tune_detector" in str(w.message) for w in caught) == is_a_trap
    tuned = tune_detector(ReActDetector(extractor.head_, check_score=False), H)
    assert (tuned.best_index_ > 0) == is_a_trap


def signed_features(seed):
    """Return features with rare, very negative activations, and their head."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(10, 40)) / np.sqrt(40)
    y = rng.integers(0, 10, 600)
    X = weight[y] * 8 * rng.uniform(0.5, 1.5, (600, 1)) + rng.normal(size=(600, 40))
    negative = rng.random(X.shape) < 0.02
    X[negative] = -30 * rng.random(negative.sum())
    return X, (2 * weight, np.zeros(10))


def test_signed_features_are_checked_with_a_clip_from_both_sides():
    X, head = signed_features(1)
    message = r"lower_percentile=5 and the same upper clip .* 54 % of the activations"
    with pytest.warns(UserWarning, match=message):
        ReActDetector(head, percentile=95).fit(X)
    ReActDetector(
        head, percentile=95, lower_percentile=5, score_function="centered_energy"
    ).fit(X)


def test_features_after_a_relu_get_no_hint_about_signs(rng):
    X, head = network(rng, common=1.0)
    with pytest.warns(UserWarning, match="worse than") as caught:
        ReActDetector(head).fit(X)
    assert "negative" not in str(caught[0].message)
