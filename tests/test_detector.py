"""ReActDetector against a few lines of numpy, and every promise of its docstring."""

import gc
import pickle
import warnings
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from reactood import ReActDetector, ReActDetectorCV
from reactood._scoring import _percentile
from reactood._utils._tensors import as_tensor
from reactood.baselines import MahalanobisDetector
from reactood.conformal import ConformalDetector
from reactood.detector import MOST_CHECKED
from reactood.inspection import as_classifier
from reactood.pipeline import ReActPipeline
from reactood.rectifiers import BATS, DICE

SCORES = {
    "energy": lambda f, t: t * logsumexp(f / t, axis=1),
    "msp": lambda f, t: softmax(f / t, axis=1).max(axis=1),
    "max_logit": lambda f, t: f.max(axis=1),
    "entropy": lambda f, t: (softmax(f / t, axis=1) * log_softmax(f / t, axis=1)).sum(
        1
    ),
}


@pytest.fixture
def X(rng):
    return np.maximum(rng.normal(0.3, 1, size=(200, 16)), 0)


@pytest.fixture
def head(rng):
    return rng.normal(size=(5, 16)), rng.normal(size=5)


def logits(X, head):
    return X @ head[0].T + head[1]


# --- the maths ---------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("percentile", [None, 65, 90.0, 100])
@pytest.mark.parametrize("per_unit", [False, True])
def test_equals_numpy(X, head, score, temperature, percentile, per_unit):
    detector = ReActDetector(
        head,
        percentile=percentile,
        per_unit=per_unit,
        score_function=score,
        temperature=temperature,
        contamination=0.1,
    ).fit(X)
    axis = 0 if per_unit else None
    clip = np.inf if percentile is None else np.percentile(X, percentile, axis=axis)
    scores = SCORES[score](logits(np.minimum(X, clip), head), temperature)
    offset = np.percentile(scores, 10)
    np.testing.assert_array_equal(detector.activation_threshold_, clip)
    np.testing.assert_allclose(detector.score_samples(X), scores, rtol=1e-10)
    np.testing.assert_allclose(detector.offset_, offset, rtol=1e-10)
    np.testing.assert_array_equal(
        detector.predict(X), np.where(detector.decision_function(X) >= 0, 1, -1)
    )
    np.testing.assert_array_equal(
        detector.predict_class(X), logits(X, head).argmax(axis=1)
    )
    np.testing.assert_array_equal(detector.rectify(X), np.minimum(X, clip))


@pytest.mark.parametrize("per_unit", [False, True])
def test_two_sided_clip(rng, head, per_unit):
    X = rng.normal(0.5, 1, size=(100, 16))
    detector = ReActDetector(head, lower_percentile=5, per_unit=per_unit).fit(X)
    low, high = np.percentile(X, [5, 90], axis=0 if per_unit else None)
    np.testing.assert_allclose(detector.lower_activation_threshold_, low, rtol=1e-12)
    np.testing.assert_allclose(detector.rectify(X), np.clip(X, low, high), rtol=1e-12)
    scores = logsumexp(logits(np.clip(X, low, high), head), axis=1)
    np.testing.assert_allclose(detector.score_samples(X), scores, rtol=1e-10)


@pytest.mark.parametrize("threshold", [1.0, 2, np.full(16, 0.7)])
def test_threshold_by_hand_overrides_the_percentile(X, head, threshold):
    detector = ReActDetector(head, threshold=threshold, percentile=50).fit(X)
    np.testing.assert_array_equal(detector.activation_threshold_, threshold)
    np.testing.assert_array_equal(detector.rectify(X), np.minimum(X, threshold))


def test_percentile_100_scores_the_training_rows_as_without_clipping(X, head):
    with_clip = ReActDetector(head, percentile=100).fit(X)
    without = ReActDetector(head, percentile=None).fit(X)
    np.testing.assert_array_equal(with_clip.score_samples(X), without.score_samples(X))
    assert without.activation_threshold_ == np.inf


@settings(deadline=None, max_examples=50)
@given(low=st.floats(55, 99), high=st.floats(55, 99), seed=st.integers(0, 2**32 - 1))
def test_with_a_positive_head_the_score_grows_with_the_clip(low, high, seed):
    rng = np.random.default_rng(seed)
    X = rng.gamma(1.0, size=(30, 6))
    head = rng.uniform(size=(3, 6)), rng.normal(size=3)
    low, high = sorted([low, high])
    scores = [
        ReActDetector(head, percentile=p).fit(X).score_samples(X) for p in (low, high)
    ]
    assert (scores[0] <= scores[1] + 1e-12).all()


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1))
def test_energy_never_exceeds_the_ceiling_of_a_rectified_network(seed):
    rng = np.random.default_rng(seed)
    W, b = rng.normal(size=(4, 6)), rng.normal(size=4)
    detector = ReActDetector((W, b)).fit(rng.gamma(1.0, size=(50, 6)))
    ceiling = logsumexp(b + detector.activation_threshold_ * np.maximum(W, 0).sum(1))
    assert detector.score_samples(rng.gamma(1.0, 1e3, size=(50, 6))).max() <= ceiling


def test_contamination_is_the_share_of_training_rows_flagged(X, head):
    for contamination in (0.01, 0.05, 0.25, 0.5):
        labels = ReActDetector(head, contamination=contamination).fit_predict(X)
        assert np.mean(labels == -1) == pytest.approx(contamination, abs=1 / len(X))


def test_scores_are_float64_and_do_not_depend_on_the_batch_size(X, head):
    X = X.astype(np.float32)
    expected = ReActDetector(head).fit(X).score_samples(X)
    assert expected.dtype == np.float64
    for batch_size in (1, 7, 200, 1000):
        scores = ReActDetector(head, batch_size=batch_size).fit(X).score_samples(X)
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


# --- what X may be -----------------------------------------------------------------


def read_only_memmap(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_container_gives_the_same(X, head, dtype, tmp_path):
    X = X.astype(dtype)
    expected = ReActDetector(head).fit(X)
    for other in (
        X.tolist() if dtype == np.float64 else X,
        pd.DataFrame(X),
        read_only_memmap(X, tmp_path),
        np.asfortranarray(X),
        np.ascontiguousarray(X[::-1])[::-1],
        X.astype(np.dtype(dtype).newbyteorder()),
        torch.from_numpy(X),
        torch.from_numpy(X).T.contiguous().T,
    ):
        detector = ReActDetector(head).fit(other)
        assert detector.activation_threshold_ == pytest.approx(
            expected.activation_threshold_, rel=1e-7
        )
        for a, b in [
            (detector.score_samples(other), expected.score_samples(X)),
            (detector.rectify(other), expected.rectify(X)),
        ]:
            assert isinstance(a, np.ndarray)
            np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensors_are_computed_in_float32(X, head, dtype):
    X = torch.from_numpy(X).to(dtype)
    expected = ReActDetector(head).fit(X.float())
    detector = ReActDetector(head).fit(X)
    assert detector.activation_threshold_ == expected.activation_threshold_
    np.testing.assert_array_equal(
        detector.score_samples(X), expected.score_samples(X.float())
    )


def test_numpy_half_precision_and_integers(X, head):
    half = X.astype(np.float16)
    detector = ReActDetector(head).fit(half)
    expected = ReActDetector(head).fit(half.astype(np.float32))
    assert detector.activation_threshold_ == expected.activation_threshold_
    integers = np.random.default_rng(0).integers(0, 9, size=(50, 16))
    for Z in (integers, torch.from_numpy(integers)):
        assert ReActDetector(head).fit(Z).activation_threshold_ == np.percentile(Z, 90)


def test_no_warning_and_no_change_of_the_input(X, head):
    frozen = X.copy()
    frozen.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReActDetector(head).fit(frozen).predict(frozen)
    np.testing.assert_array_equal(frozen, X)


def test_feature_names_are_kept(X, head):
    frame = pd.DataFrame(X, columns=[f"unit{i}" for i in range(16)])
    detector = ReActDetector(head).fit(frame)
    assert detector.feature_names_in_.tolist() == list(frame)
    with pytest.raises(ValueError, match="feature names"):
        detector.predict(frame[frame.columns[::-1]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("per_unit", [False, True])
def test_cuda_tensors_and_devices(X, head, per_unit):
    X = X.astype(np.float32)
    expected = ReActDetector(head, per_unit=per_unit).fit(X)
    y = np.where(np.arange(len(X)) % 5, 1, -1)
    masked = ReActDetector(head, per_unit=per_unit).fit(X, y)
    cuda = torch.from_numpy(X).cuda()
    for detector, features in [
        (ReActDetector(head, per_unit=per_unit), cuda),
        (ReActDetector(head, per_unit=per_unit, device="cuda"), X),
        (ReActDetector(head, per_unit=per_unit, device="cpu"), cuda),
    ]:
        detector.fit(features)
        np.testing.assert_array_equal(
            detector.activation_threshold_, expected.activation_threshold_
        )
        np.testing.assert_allclose(
            detector.score_samples(features), expected.score_samples(X), rtol=1e-4
        )
        np.testing.assert_array_equal(detector.rectify(features), expected.rectify(X))
        detector.fit(features, y)
        np.testing.assert_allclose(detector.offset_, masked.offset_, rtol=1e-4)


# --- heads -------------------------------------------------------------------------


def test_every_form_of_a_linear_head_gives_the_same(X, head):
    weight, bias = head
    linear = nn.Linear(16, 5, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))
    expected = ReActDetector(head).fit(X).score_samples(X)
    for form in (
        list(head),
        (weight.tolist(), bias.tolist()),
        (torch.from_numpy(weight).requires_grad_(), torch.from_numpy(bias)),
        linear,
        nn.Sequential(nn.Dropout(), linear),
        lambda: head,
        lambda: linear,
    ):
        detector = ReActDetector(form).fit(X)
        np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-10)
        assert detector.classes_.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(ReActDetector(linear).fit(X).coef_, weight)
    np.testing.assert_array_equal(ReActDetector(linear).fit(X).intercept_, bias)


def test_a_head_without_bias(X):
    linear = nn.Linear(16, 3, bias=False)
    np.testing.assert_array_equal(ReActDetector(linear).fit(X).intercept_, np.zeros(3))


def test_a_nonlinear_module_is_used_in_eval_mode_and_left_as_it_is(X):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Dropout(0.5), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    before = {k: v.clone() for k, v in module.state_dict().items()}
    detector = ReActDetector(module).fit(X)
    clipped = np.minimum(X, np.percentile(X, 90)).astype(np.float32)
    reference = nn.Sequential(*list(module)[1:])
    with torch.no_grad():
        expected = reference(torch.from_numpy(clipped)).logsumexp(1).numpy()
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-5)
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert not hasattr(detector, "coef_")


def test_a_frozen_classifier_is_used_as_it_is(X, rng):
    y = rng.integers(0, 3, len(X))
    classifier = LogisticRegression().fit(X, y)
    detector = ReActDetector(FrozenEstimator(classifier))
    for fitted in (detector.fit(X), clone(detector).fit(X, 2 - y)):
        np.testing.assert_array_equal(fitted.coef_, classifier.coef_)
        np.testing.assert_array_equal(fitted.predict_class(X), classifier.predict(X))


def test_an_unfitted_classifier_is_trained_on_labels_without_ood_rows(X, rng):
    y = rng.integers(0, 3, len(X))
    y[::4] = -1
    head = LogisticRegression()
    detector = ReActDetector(head).fit(X, y)
    reference = LogisticRegression().fit(X[y != -1], y[y != -1])
    np.testing.assert_allclose(detector.coef_, reference.coef_)
    np.testing.assert_array_equal(detector.classes_, [0, 1, 2])
    assert not hasattr(head, "coef_")


def test_string_labels(X):
    y = np.where(X[:, 0] > 0.5, "cat", "dog")
    detector = ReActDetector(LogisticRegression()).fit(X, y)
    assert set(detector.predict_class(X)) <= {"cat", "dog"}
    assert (detector.predict_class(X) == y).mean() > 0.9


@pytest.mark.parametrize("classifier", [LogisticRegression(), RidgeClassifier()])
def test_a_binary_classifier_has_two_symmetric_logits(X, classifier):
    y = (X[:, 0] > 0.5).astype(int)
    detector = ReActDetector(classifier, percentile=None, score_function="msp")
    detector.fit(X, y)
    reference = clone(classifier).fit(X, y)
    z = np.abs(reference.decision_function(X))
    np.testing.assert_allclose(detector.score_samples(X), 1 / (1 + np.exp(-z)))
    np.testing.assert_array_equal(detector.predict_class(X), reference.predict(X))


def one_logit_heads():
    """Return a binary classifier of one output in every form, and its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(16, 1, dtype=torch.float64)
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    hooked = nn.Linear(16, 1, dtype=torch.float64)
    hooked.load_state_dict(linear.state_dict())
    hooked.register_forward_hook(lambda module, args, output: output)
    forms = {
        "linear": linear,
        "arrays": (weight, bias),
        "tensors": (linear.weight, linear.bias),
        "module": nn.Sequential(nn.Dropout(), linear),
        "hooked": hooked,
        "recipe": lambda: linear,
        "recipe of arrays": lambda: [weight, bias],
        "recipe of a module": lambda: nn.Sequential(linear),
    }
    return weight, bias, forms


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("form", [*one_logit_heads()[2], "logits"])
def test_a_head_of_one_logit_has_two_classes(X, form, score):
    weight, bias, forms = one_logit_heads()
    z = X @ weight.T + bias
    both = np.concatenate([-z, z], axis=1) / 2
    features, head = (z, None) if form == "logits" else (X, forms[form])
    detector = ReActDetector(head, percentile=None, score_function=score)
    detector.fit(features)
    assert detector.classes_.tolist() == [0, 1]
    expected = SCORES[score](both, 1)
    np.testing.assert_allclose(detector.score_samples(features), expected, rtol=1e-10)
    np.testing.assert_array_equal(detector.predict_class(features), z[:, 0] > 0)
    if hasattr(detector, "coef_"):
        np.testing.assert_allclose(X @ detector.coef_.T + detector.intercept_, both)


def test_a_head_of_one_logit_treats_both_classes_alike(rng):
    X = rng.normal(0, 3, size=(400, 16)).astype(np.float32)
    detector = ReActDetector(nn.Linear(16, 1), percentile=None).fit(X)
    rejected = detector.predict(X) == -1
    classes = detector.predict_class(X)
    assert all(rejected[classes == k].any() for k in (0, 1))
    unbiased = ReActDetector(nn.Linear(16, 1, bias=False), percentile=None).fit(X)
    np.testing.assert_allclose(
        unbiased.score_samples(X), unbiased.score_samples(-X), rtol=1e-6
    )


class NoLogits(nn.Module):
    def forward(self, features):
        return features[:, :0]


@pytest.mark.parametrize("head", [(np.ones((0, 16)), np.ones(0)), NoLogits()])
def test_a_head_without_classes(X, head):
    with pytest.raises(ValueError, match="head has no classes"):
        ReActDetector(head).fit(X)


def test_without_a_head_the_features_are_logits(X):
    detector = ReActDetector(percentile=None).fit(X)
    np.testing.assert_allclose(detector.score_samples(X), logsumexp(X, axis=1))
    np.testing.assert_array_equal(detector.predict_class(X), X.argmax(axis=1))


def test_a_callable_score_gets_logits(X, head):
    def margin(logits):
        top = logits.topk(2, dim=1).values
        return top[:, 0] - top[:, 1]

    detector = ReActDetector(head, percentile=None, score_function=margin).fit(X)
    top = np.sort(logits(X, head), axis=1)
    np.testing.assert_allclose(detector.score_samples(X), top[:, -1] - top[:, -2])


@pytest.mark.parametrize("threshold", [1.0, np.full(16, 0.7)])
@pytest.mark.parametrize("per_unit", [False, True])
def test_a_threshold_beside_a_lower_percentile(rng, head, threshold, per_unit):
    X = rng.normal(0.3, 1, size=(100, 16))
    detector = ReActDetector(
        head, threshold=threshold, lower_percentile=5, per_unit=per_unit
    ).fit(X)
    low = np.percentile(X, 5, axis=0 if per_unit else None)
    np.testing.assert_allclose(detector.rectify(X), np.clip(X, low, threshold))


def test_code_that_works_in_place_does_not_touch_the_features(rng, tmp_path):
    X = rng.normal(0.5, 1, size=(50, 8)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    memmap = np.load(tmp_path / "X.npy", mmap_mode="r")
    before = X.copy()
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 3))
    for features in (X, memmap, torch.from_numpy(X)):
        ReActDetector(module, percentile=None).fit(features).predict_class(features)
        ReActDetector(module).fit(features).predict_class(features)
        ReActDetector(
            percentile=None, score_function=lambda logits: logits.mul_(2).amax(1)
        ).fit(features)
    np.testing.assert_array_equal(X, before)


def test_what_was_passed_may_change_after_fit(X, head, rng):
    y = rng.integers(0, 3, len(X))
    classifier = LogisticRegression().fit(X, y)
    linear = nn.Linear(16, 3)
    threshold = np.full(16, 0.7)
    weight, bias = (a.copy() for a in head)
    detectors = [
        ReActDetector((weight, bias), threshold=threshold).fit(X),
        ReActDetector(linear).fit(X),
        ReActDetector((linear.weight, linear.bias)).fit(X),
        ReActDetector(FrozenEstimator(classifier)).fit(X),
    ]
    before = [d.score_samples(X) for d in detectors]
    weight *= -1
    threshold *= 0.1
    classifier.coef_ *= -1
    with torch.no_grad():
        linear.weight.mul_(-1)
    for detector, scores in zip(detectors, before, strict=True):
        np.testing.assert_array_equal(detector.score_samples(X), scores)


def test_a_failed_refit_leaves_the_first_fit(X, head):
    detector = ReActDetector(head).fit(X)
    before = detector.decision_function(X)
    with pytest.raises(ValueError, match="did you mean"):
        detector.set_params(head=(-head[0], head[1]), percentile=0.5).fit(X)
    np.testing.assert_array_equal(detector.decision_function(X), before)


def test_a_refit_leaves_nothing_of_the_first(X, head):
    detector = ReActDetector(head).fit(X).set_params(head=None).fit(X)
    assert not hasattr(detector, "coef_") and not hasattr(detector, "intercept_")


def test_linear_layers_with_a_mind_of_their_own(X):
    class Cosine(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(
                nn.functional.normalize(x), nn.functional.normalize(self.weight)
            )

    hooked = nn.Linear(16, 3)
    hooked.register_forward_hook(lambda module, args, output: 2 * output)
    x = torch.from_numpy(X).float()
    for module in (Cosine(16, 3), hooked):
        detector = ReActDetector(module, percentile=None).fit(X.astype(np.float32))
        with torch.no_grad():
            expected = module(x).logsumexp(1)
        scores = detector.score_samples(X.astype(np.float32))
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_sparse_coefficients(X, rng):
    y = rng.integers(0, 3, len(X))
    classifier = LogisticRegression().fit(X, y).sparsify()
    detector = ReActDetector(FrozenEstimator(classifier)).fit(X)
    np.testing.assert_array_equal(detector.predict_class(X), classifier.predict(X))


def test_a_module_built_by_a_function_may_be_uncopyable(X):
    def build():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(16, 3))
        module.cached = module[0].weight * 2
        return module

    with pytest.raises(ValueError, match="a function that builds a new module"):
        ReActDetector(build()).fit(X)
    assert ReActDetector(build).fit(X).classes_.tolist() == [0, 1, 2]


def test_devices_by_name(X, head):
    expected = ReActDetector(head).fit(X).score_samples(X)
    for device in ("cpu", torch.device("cpu")):
        scores = ReActDetector(head, device=device).fit(X).score_samples(X)
        np.testing.assert_array_equal(scores, expected)
    with pytest.raises(ValueError, match="device='cudaa' cannot be used here"):
        ReActDetector(head, device="cudaa").fit(X)


# --- y -----------------------------------------------------------------------------


@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize("kind", [np.asarray, list, torch.tensor, pd.Series])
def test_rows_labelled_minus_one_are_left_out(X, head, kind, per_unit):
    y = np.where(np.arange(len(X)) % 3, 1, -1)
    detector = ReActDetector(head, per_unit=per_unit)
    expected = clone(detector).fit(X[y == 1])
    detector.fit(np.where(y[:, None] == 1, X, np.nan), kind(y))
    np.testing.assert_array_equal(
        detector.activation_threshold_, expected.activation_threshold_
    )
    assert detector.offset_ == pytest.approx(expected.offset_, rel=1e-12)


def test_fit_predict_leaves_ood_rows_out_and_labels_all(X, head):
    y = np.where(np.arange(len(X)) % 3, 1, -1)
    detector = ReActDetector(head)
    labels = detector.fit_predict(X, y)
    np.testing.assert_array_equal(labels, clone(detector).fit(X[y == 1]).predict(X))


@pytest.mark.parametrize(
    "y",
    [
        np.array(["cat", "dog", -1] * 10),  # which NumPy turns into text
        np.array(["cat", "dog", -1] * 10, dtype=object),
        pd.Series(["cat", "dog", "-1"] * 10),
        np.array([0.0, 1.0, -1.0] * 10),
    ],
)
def test_minus_one_in_any_guise(X, y):
    X = X[:30]
    expected = ReActDetector().fit(X[np.arange(30) % 3 != 2])
    detector = ReActDetector().fit(X, y)
    assert detector.activation_threshold_ == expected.activation_threshold_
    trained = ReActDetector(LogisticRegression()).fit(X, y)
    assert len(trained.classes_) == 2


@pytest.mark.parametrize(
    ("y", "error", "sentence"),
    [
        ([True, False] * 15, TypeError, "y is boolean; expected 1"),
        (
            [1.0, np.nan, 1.0] * 10,
            ValueError,
            "y has no label for 10 of 30 rows.*row 1",
        ),
        (["a", None, "b"] * 10, ValueError, "y has no label for 10 of 30 rows.*row 1"),
    ],
)
def test_labels_that_say_nothing(X, y, error, sentence):
    with pytest.raises(error, match=sentence):
        ReActDetector().fit(
            X[:30], np.array(y, dtype=None if error is TypeError else object)
        )


MARKS = [[0, 1], [0.0, 1.0], [1, 2], ["ood", "id"]]


@pytest.mark.parametrize("marks", MARKS, ids=str)
@pytest.mark.parametrize(
    "form", [lambda head: head, lambda head: (head[0][:2], head[1][:2]), lambda _: None]
)
def test_marks_of_ood_rows_other_than_minus_one_warn(X, head, form, marks):
    y = np.array(marks)[(np.arange(200) % 3 > 0).astype(int)]
    with pytest.warns(UserWarning, match="no -1, so that all 200 rows are taken as in"):
        ReActDetector(form(head)).fit(X, y)
    with pytest.warns(UserWarning, match=r"numpy\.where\(is_ood, -1, 1\)"):
        ReActDetector(form(head)).fit(X, pd.Series(y))


def test_marks_with_a_frozen_classifier_warn(X, rng):
    classifier = LogisticRegression().fit(X, rng.integers(0, 3, len(X)))
    with pytest.warns(UserWarning, match="no -1"):
        ReActDetector(FrozenEstimator(classifier)).fit(X, np.arange(200) % 2)


def test_class_labels_do_not_warn(X, head, rng):
    two = head[0][:2], head[1][:2]
    by_network = logits(X, two).argmax(axis=1)
    noisy = np.where(rng.random(200) < 0.1, 1 - by_network, by_network)
    names = np.where(X[:, 0] > 0.5, "cat", "dog")
    cases = [
        (two, noisy),  # of a network with two classes
        (head, np.arange(200) % 5),
        (head, np.ones(200)),
        (LogisticRegression(), noisy),  # trained on them
        (LogisticRegression(), names),
        (FrozenEstimator(LogisticRegression().fit(X, names)), names),
        (head, np.where(np.arange(200) % 3, 1, -1)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form, y in cases:
            ReActDetector(form).fit(X, y)


def test_a_class_may_be_named_nan(X):
    y = np.array(["nan", "None"] * 100)
    assert len(ReActDetector(LogisticRegression()).fit(X, y).classes_) == 2


# --- inside scikit-learn -----------------------------------------------------------


def two_kinds(rng):
    X_id = np.maximum(rng.normal(0.5, 1, size=(120, 16)), 0)
    X_ood = np.where(rng.random((80, 16)) < 0.15, 6.0, 0.0) + rng.random((80, 16)) / 9
    return np.concatenate([X_id, X_ood]), np.repeat([1, -1], [120, 80])


def test_grid_search_over_the_percentile_with_refit_on_id_rows(head, rng):
    X, y = two_kinds(rng)
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(
        ReActDetector(head), {"percentile": [70, 90, None]}, scoring="roc_auc", cv=cv
    ).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = clone(search.best_estimator_).fit(X[y == 1])
    assert search.best_estimator_.offset_ == pytest.approx(best.offset_)
    for scoring in ("average_precision", "balanced_accuracy"):
        scores = cross_val_score(ReActDetector(head), X, y, scoring=scoring, cv=cv)
        assert np.isfinite(scores).all()


def test_two_processes(head, rng):
    X, y = two_kinds(rng)
    search = [
        GridSearchCV(
            ReActDetector(head),
            {"percentile": [70, 90]},
            scoring="roc_auc",
            cv=StratifiedKFold(2, shuffle=True, random_state=0),
            n_jobs=n_jobs,
        ).fit(X, y)
        for n_jobs in (1, 2)
    ]
    a, b = (s.cv_results_["mean_test_score"] for s in search)
    np.testing.assert_allclose(a, b)
    fitted = ReActDetector(head).fit(X, y)
    halves = joblib.Parallel(n_jobs=2)(
        joblib.delayed(fitted.score_samples)(part) for part in np.array_split(X, 2)
    )
    np.testing.assert_allclose(np.concatenate(halves), fitted.score_samples(X))


@pytest.mark.parametrize("form", ["arrays", "linear", "module", "frozen", "none"])
def test_clone_set_params_and_pickle(X, head, form, rng):
    y = rng.integers(0, 3, len(X))
    torch.manual_seed(0)
    forms = {
        "arrays": head,
        "linear": nn.Linear(16, 3),
        "module": nn.Sequential(nn.ReLU(), nn.Linear(16, 3)),
        "frozen": FrozenEstimator(LogisticRegression().fit(X, y)),
        "none": None,
    }
    detector = ReActDetector(forms[form]).fit(X)
    copies = [
        clone(detector).fit(X),
        pickle.loads(pickle.dumps(detector)),
        ReActDetector().set_params(head=forms[form]).fit(X),
    ]
    for copy in copies:
        np.testing.assert_array_equal(copy.score_samples(X), detector.score_samples(X))
        np.testing.assert_array_equal(copy.predict_class(X), detector.predict_class(X))


def test_inside_a_pipeline_with_another_transformer(X, rng):
    y = rng.integers(0, 2, len(X))
    pipeline = make_pipeline(StandardScaler(), ReActDetector(LogisticRegression()))
    labels = pipeline.fit(X, y).predict(X)
    assert np.mean(labels == -1) == pytest.approx(0.05, abs=0.01)
    assert hasattr(pipeline, "score_samples") and hasattr(pipeline, "decision_function")


def test_the_signs_are_those_of_other_outlier_detectors(head, rng):
    X, y = two_kinds(rng)
    forest = IsolationForest(random_state=0).fit(X[y == 1])
    detector = ReActDetector(head).fit(X, y)
    assert set(detector.predict(X)) == set(forest.predict(X)) == {-1, 1}


# --- bad input ---------------------------------------------------------------------


def test_non_finite_features(X, head):
    bad = X.copy()
    bad[17, 3], bad[17, 4], bad[40, 0] = np.nan, np.inf, -np.inf
    sentence = r"1 NaN and 2 inf, in 2 of 200 rows, the first in row 17"
    detector = ReActDetector(head).fit(X)
    for call in (
        ReActDetector(head).fit,
        ReActDetector(head, percentile=None).fit,
        ReActDetector(head, per_unit=True).fit,
        detector.score_samples,
        detector.predict,
        detector.predict_class,
        detector.rectify,
    ):
        with pytest.raises(ValueError, match=sentence):
            call(bad)
        with pytest.raises(ValueError, match=sentence):
            call(torch.from_numpy(bad))


def some_nan(X):
    """Return X with NaN in three rows, and which."""
    X, unknown = X.copy(), np.zeros(len(X), bool)
    unknown[[3, 50, 199]] = True
    X[3] = X[50, 4] = X[199, :2] = np.nan
    return X, unknown


HEADS = {
    "arrays": lambda head: head,
    "module": lambda head: nn.Sequential(nn.Linear(16, 5, dtype=torch.float64)),
    "none": lambda head: None,
}


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, pd.DataFrame])
@pytest.mark.parametrize("score", [*SCORES, lambda z: z.nan_to_num().amax(1)])
@pytest.mark.parametrize("form", HEADS)
def test_rows_of_nan_are_rejected(X, head, form, score, kind):
    bad, unknown = some_nan(X)
    detector = ReActDetector(
        HEADS[form](head), score_function=score, on_nan="reject", batch_size=64
    )
    expected = clone(detector).fit(X[~unknown])
    detector.fit(kind(bad))
    for name in ("activation_threshold_", "offset_", "clipped_share_"):
        assert getattr(detector, name) == pytest.approx(getattr(expected, name))
    for method in ("score_samples", "decision_function"):
        scores = getattr(detector, method)(kind(bad))
        np.testing.assert_array_equal(np.isnan(scores), unknown)
        np.testing.assert_allclose(
            scores[~unknown], getattr(expected, method)(X[~unknown]), rtol=1e-12
        )
    labels = detector.predict(kind(bad))
    assert labels.dtype.kind == "i" and (labels[unknown] == -1).all()
    np.testing.assert_array_equal(labels[~unknown], expected.predict(X[~unknown]))
    np.testing.assert_array_equal(
        detector.predict_class(kind(bad)), expected.predict_class(np.nan_to_num(bad))
    )
    np.testing.assert_array_equal(
        detector.rectify(kind(bad)), np.minimum(bad, detector.activation_threshold_)
    )


def test_rows_of_nan_beside_rows_left_out(X, head):
    bad, unknown = some_nan(X)
    y = np.where(np.arange(200) % 3, 1, -1)  # the first unknown row too
    detector = ReActDetector(head, on_nan="reject", per_unit=True).fit(bad, y)
    kept = (y == 1) & ~unknown
    expected = ReActDetector(head, per_unit=True).fit(X[kept])
    np.testing.assert_array_equal(
        detector.activation_threshold_, expected.activation_threshold_
    )
    assert detector.offset_ == pytest.approx(expected.offset_)
    classes = X[:, 0] > 0.5
    trained = ReActDetector(LogisticRegression(), on_nan="reject")
    trained.fit(bad, np.where(classes, "cat", "dog"))
    by_hand = LogisticRegression().fit(X[~unknown], classes[~unknown])
    np.testing.assert_allclose(trained.coef_[1] * 2, -by_hand.coef_[0])


def test_nan_is_an_error_unless_rejected_and_inf_always_is(X, head):
    bad, _ = some_nan(X)
    rejecting = ReActDetector(head, on_nan="reject").fit(bad)
    infinite = bad.copy()
    infinite[7, 2] = np.inf
    for method in ("fit", "score_samples", "predict", "predict_class", "rectify"):
        with pytest.raises(ValueError, match=r"0 NaN and 1 inf, in 1 of 200.* row 7"):
            getattr(rejecting, method)(infinite)
        with pytest.raises(ValueError, match="NaN and 0 inf, in 3 of 200 rows"):
            getattr(ReActDetector(head).fit(X), method)(bad)
    with pytest.raises(ValueError, match="All 200 in-distribution rows of X hold NaN"):
        ReActDetector(head, on_nan="reject").fit(np.full_like(X, np.nan))
    y = np.ones(200)
    y[3:] = -1
    bad[:3, 0] = np.nan
    with pytest.raises(ValueError, match="All 3 in-distribution rows of X hold NaN"):
        ReActDetector(head, on_nan="reject").fit(bad, y)
    with pytest.raises(ValueError, match="'on_nan' parameter"):
        ReActDetector(head, on_nan="ignore").fit(X)


def test_clean_rows_are_scored_alike_whatever_becomes_of_nan(X, head):
    X[5] = 1e200  # whose sum of squares overflows, but is no NaN
    one, other = (
        ReActDetector(head, on_nan=kind).fit(X) for kind in ("raise", "reject")
    )
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))
    assert one.offset_ == other.offset_


def test_metrics_and_displays_say_that_scores_are_nan(X, head):
    from reactood.inspection import explain_clipping
    from reactood.metrics import auroc, ood_report

    bad, _ = some_nan(X)
    detector = ReActDetector(head, on_nan="reject").fit(bad)
    y = np.where(np.arange(200) % 2, 1, -1)
    with pytest.raises(ValueError, match=r"NaN for 3 of 200 .* number 3.*on_nan='rej"):
        auroc(y, detector.score_samples(bad))
    with pytest.raises(ValueError, match=r"3 of 200 scores of X_id are NaN.*sample 3"):
        ood_report(detector, bad, X)
    with pytest.raises(ValueError, match=r"3 of 200 scores of .*'OOD'.* are NaN"):
        ood_report(detector, X, bad)
    with pytest.raises(ValueError, match="NaN and 0 inf, in 3 of 200 rows"):
        explain_clipping(detector, bad)


def test_more_zeros_than_the_percentile(X, head):
    X = np.where(np.arange(16) < 11, 0, X + 0.1)
    with pytest.raises(
        ValueError, match=r"clip of 0: 68\.8 % of the activations are 0"
    ):
        ReActDetector(head, percentile=60).fit(X)
    with pytest.raises(ValueError, match=r"Choose a percentile above 68\.8"):
        ReActDetector(head, percentile=60).fit(torch.from_numpy(X))
    with pytest.raises(ValueError, match="The features hold nothing else"):
        ReActDetector(head).fit(np.zeros((10, 16)))


@pytest.mark.parametrize("threshold", [0, -1.5])
def test_a_clip_not_above_zero(X, head, threshold):
    with pytest.raises(ValueError, match="A clip must be above 0"):
        ReActDetector(head, threshold=threshold).fit(X)


def test_a_clip_below_every_activation(X, head):
    with pytest.raises(ValueError, match="below every activation"):
        ReActDetector(head, threshold=0.5).fit(X + 1)


def test_a_clip_not_above_zero_on_signed_features_warns(X, head):
    with pytest.warns(UserWarning, match="most activations are negative"):
        ReActDetector(head).fit(X - 5)


def test_dead_units_warn_with_per_unit_clips(X, head):
    X[:, :3] = 0
    with pytest.warns(UserWarning, match="3 of 16 units a clip of 0"):
        ReActDetector(head, per_unit=True).fit(X)


@pytest.mark.parametrize("percentile", [0.9, 0.5, 1])
def test_a_fraction_for_a_percentile(X, percentile):
    with pytest.raises(ValueError, match=f"did you mean {100 * percentile:g}"):
        ReActDetector(percentile=percentile).fit(X)


def test_a_fraction_for_a_lower_percentile_warns(X, head):
    with pytest.warns(UserWarning, match="lower_percentile=0.05 .* did you mean 5?"):
        ReActDetector(head, lower_percentile=0.05).fit(X)


@pytest.mark.parametrize(("given", "meant"), [(5, "0.05"), (1, "0.01"), (0.95, "0.05")])
def test_a_percentage_for_a_fraction(X, given, meant):
    for detector in (
        ReActDetector(contamination=given),
        ReActDetectorCV(contamination=given),
        MahalanobisDetector(contamination=given),
    ):
        with pytest.raises(ValueError, match=f"Got {given} .* did you mean {meant}"):
            detector.fit(X, np.where(np.arange(200) % 5, 1, -1))
    with pytest.raises(ValueError, match=r"Got -1 instead\.$"):
        ReActDetector(contamination=-1).fit(X)


def test_lower_clip_above_the_upper_one(X, head):
    with pytest.raises(ValueError, match="lower_percentile=95 must be below"):
        ReActDetector(head, percentile=90, lower_percentile=95).fit(X)
    with pytest.raises(ValueError, match="lower clip is above the upper one"):
        ReActDetector(head, threshold=0.1, lower_percentile=95).fit(X)


@pytest.mark.parametrize(
    "parameters",
    [
        {"score_function": lambda logits: (logits[:, 0] - 5).log()},
        {"temperature": 1e-320},
    ],
)
def test_scores_that_are_not_finite(X, head, parameters):
    with pytest.raises(ValueError, match="rows get a score of NaN or inf, though"):
        ReActDetector(head, **parameters).fit(X)


def test_nan_in_a_row_that_is_left_out_is_not_reported(X, head):
    X[3, 0] = X[7, 1] = np.nan
    y = np.where(np.arange(len(X)) == 3, -1, 1)
    with pytest.raises(ValueError, match="in 1 of 200 rows, the first in row 7"):
        ReActDetector(head).fit(X, y)


def test_a_support_vector_classifier(X, rng):
    from sklearn.svm import SVC

    with pytest.raises(ValueError, match="one row per class: a fitted linear"):
        ReActDetector(SVC(kernel="linear")).fit(X, rng.integers(0, 3, len(X)))


def test_constant_scores(X, head):
    with pytest.raises(ValueError, match="get the same score"):
        ReActDetector(head, percentile=None).fit(np.repeat(X[:1], 20, axis=0))
    with pytest.raises(ValueError, match="are the head's weights all 0"):
        ReActDetector((0 * head[0], head[1]), score_function="msp").fit(X)


def test_head_of_another_width_names_both(X):
    with pytest.raises(ValueError, match=r"width 12, but X has 16 features"):
        ReActDetector((np.ones((3, 12)), np.ones(3))).fit(X)
    with pytest.raises(ValueError, match=r"width 12, but X has 16 features"):
        ReActDetector(nn.Linear(12, 3)).fit(X)
    with pytest.raises(ValueError, match="could not take features of width 16"):
        ReActDetector(nn.Sequential(nn.Linear(12, 3))).fit(X)


@pytest.mark.parametrize(
    ("bad", "error", "sentence"),
    [
        (
            (1, 2, 3),
            ValueError,
            r"tuple of length 3, expected the pair \(weight, bias\)",
        ),
        ((np.ones((16, 3)), np.ones(3)), ValueError, "has shapes"),
        ((np.full((3, 16), np.nan), np.ones(3)), ValueError, "NaN or inf weights"),
        (StandardScaler(), ValueError, "'head' parameter"),
        (IsolationForest(), TypeError, "expected .* a scikit-learn classifier"),
        (nn.Flatten(0), ValueError, "expected a tensor of logits"),
        (LogisticRegression(), ValueError, "not fitted and y holds no class labels"),
        (lambda: "nothing", TypeError, "head is a str"),
        (lambda: None, TypeError, "returned None; expected it to return the head"),
        (lambda h: h, TypeError, "cannot be called without arguments"),
        (nn.LazyLinear(3), ValueError, "final linear layer is lazy"),
        (
            FrozenEstimator(LogisticRegression()),
            ValueError,
            "head=LogisticRegression has no coef_",
        ),
    ],
)
def test_bad_heads(X, bad, error, sentence):
    with pytest.raises(error, match=sentence):
        ReActDetector(bad).fit(X)


def test_a_classifier_that_is_not_linear(X, rng):
    from sklearn.tree import DecisionTreeClassifier

    with pytest.raises(ValueError, match=r"no coef_ .* a fitted linear classifier is"):
        ReActDetector(DecisionTreeClassifier()).fit(X, rng.integers(0, 2, len(X)))


def test_a_tensor_that_requires_grad(X):
    with pytest.raises(ValueError, match=r"requires grad.*pass X\.detach"):
        ReActDetector().fit(torch.from_numpy(X).requires_grad_())


def test_only_ood_rows(X):
    with pytest.raises(ValueError, match="All 200 rows are labelled -1"):
        ReActDetector().fit(X, np.full(200, -1))


def test_labels_of_another_length(X):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ReActDetector().fit(X, [1, -1])


def test_a_score_function_of_the_wrong_shape(X):
    with pytest.raises(ValueError, match="expected a tensor with one score per row"):
        ReActDetector(score_function=lambda logits: logits.sum()).fit(X)
    with pytest.raises(ValueError, match="score_function returned list"):
        ReActDetector(score_function=lambda logits: [0]).fit(X)
    detector = ReActDetector(score_function=lambda logits: logits.numpy().max(axis=1))
    assert detector.fit(X).score_samples(X).shape == (200,)


def test_unknown_score_function_names_the_known(X):
    with pytest.raises(ValueError, match=r"'energy'.*Got 'enrgy' instead"):
        ReActDetector(score_function="enrgy").fit(X)


@pytest.mark.parametrize("threshold", [np.nan, np.ones(3)])
def test_bad_thresholds(X, threshold):
    with pytest.raises(ValueError, match=r"threshold (is NaN|has shape)"):
        ReActDetector(threshold=threshold).fit(X)


def test_wrong_tensor_width_and_kind(X):
    detector = ReActDetector().fit(X)
    with pytest.raises(ValueError, match="X has 3 features, but ReActDetector"):
        detector.predict(torch.ones(2, 3))
    with pytest.raises(ValueError, match="Expected 2D array"):
        detector.predict(torch.ones(16))
    with pytest.raises(ValueError, match="Complex data not supported"):
        detector.predict(torch.ones(2, 16, dtype=torch.complex64))
    with pytest.raises(TypeError, match="expected a dense one"):
        detector.predict(torch.ones(2, 16).to_sparse())


def test_unfitted(X):
    for method in ("predict", "score_samples", "rectify", "predict_class"):
        with pytest.raises(NotFittedError):
            getattr(ReActDetector(), method)(X)


# --- in a notebook ------------------------------------------------------------------


def test_text_shows_shapes_of_arrays(rng):
    head = rng.normal(size=(40, 24)), rng.normal(size=40)
    tensors = tuple(map(torch.from_numpy, head))
    shape = "array(shape=(40, 24), dtype=float64)"
    for estimator in (
        ReActDetector(head),
        ReActDetectorCV(head),
        ReActDetector(tensors),
        ReActDetector(threshold=np.ones((40, 24))),
        ConformalDetector(ReActDetector(head)),
        DICE(head),
        clone(as_classifier(ReActDetector(head).fit(rng.normal(1, size=(50, 24))))),
        ReActPipeline([("bats", BATS()), ("detector", ReActDetector(head))]),
    ):
        for text in (repr(estimator), str(estimator)):
            flat = " ".join(text.split())
            assert shape in flat.replace("tensor(", "array(")
            assert len(text) < 300
    assert repr(ReActDetector(percentile=80)) == "ReActDetector(percentile=80)"
    assert "[0.0, 1.0]" in repr(ReActDetector(([[0.0, 1.0]], [1.0])))
    frozen = FrozenEstimator(LogisticRegression())
    assert "FrozenEstimator(estimator=LogisticRegression())" in repr(
        ReActDetector(frozen)
    )


@pytest.fixture
def read(monkeypatch):
    """Count the elements that are read of the tensor in ``read.X``."""
    counter = SimpleNamespace(X=None, n=0)
    getitem = torch.Tensor.__getitem__

    def counted(self, index):
        found = getitem(self, index)
        if self.shape == counter.X.shape and self.data_ptr() == counter.X.data_ptr():
            counter.n += found.numel()
        return found

    monkeypatch.setattr(torch.Tensor, "__getitem__", counted)
    return counter


@pytest.mark.parametrize(
    ("parameters", "n_passes"),
    [
        ({}, 2),
        ({"lower_percentile": 5}, 2),
        ({"per_unit": True}, 2),
        ({"threshold": 1.0}, 2),  # the first finds the smallest and the largest
        ({"percentile": None}, 1),
    ],
)
def test_fit_reads_a_memory_map_twice(rng, tmp_path, read, parameters, n_passes):
    X = np.maximum(rng.standard_normal((6000, 200), dtype=np.float32), 0)
    assert X.size > _percentile.SMALL
    mapped = read_only_memmap(X, tmp_path)
    head = rng.normal(size=(9, 200)).astype(np.float32), np.zeros(9, np.float32)
    read.X = as_tensor(mapped)
    fitted = ReActDetector(head, check_score=False, **parameters).fit(mapped)
    drawn = n_passes == 2 and not {"per_unit", "threshold"} & set(parameters)
    assert read.n == n_passes * X.size + drawn * _percentile.SAMPLE

    unclipped = {"percentile": None} == parameters
    clip = np.inf if unclipped else fitted.activation_threshold_
    below = X < fitted.lower_activation_threshold_
    assert fitted.clipped_share_ == (below | (X > clip)).mean()
    read.n = 0
    fitted.score_samples(mapped)
    assert read.n == X.size


def test_the_check_of_the_score_reads_few_rows_of_a_memory_map(rng, tmp_path, read):
    X = np.maximum(rng.standard_normal((6000, 200), dtype=np.float32), 0)
    mapped = read_only_memmap(X, tmp_path)
    head = 3 * rng.normal(size=(9, 200)).astype(np.float32), np.zeros(9, np.float32)
    read.X = as_tensor(mapped)
    ReActDetector(head, check_score=False).fit(mapped)
    unchecked, read.n = read.n, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a made-up head
        ReActDetector(head).fit(mapped)
    assert 0 < read.n - unchecked <= 3 * MOST_CHECKED * X.shape[1]


def test_blocks_leave_nothing_behind(X, head):
    """Small tensors between large ones make a process grow with its rows."""
    n_tensors = []

    def score(logits):
        n_tensors.append(sum(type(thing) is torch.Tensor for thing in gc.get_objects()))
        return logits.amax(dim=1)

    detector = ReActDetector(head, score_function=score, batch_size=7).fit(X)
    n_tensors.clear()
    detector.score_samples(X)
    assert len(n_tensors) == 29
    assert n_tensors[-1] == n_tensors[1]


def test_no_block_waits_for_a_count(X, head, monkeypatch):
    """On a GPU, a number that is read makes all computations end first."""
    calls = []
    for name in ("__int__", "__bool__", "__float__", "item"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, real=real: (calls.append(1), real(self))[1]
        )
    n_calls = []
    for batch_size in (200, 7):
        calls.clear()
        ReActDetector(head, batch_size=batch_size, check_score=False).fit(X)
        n_calls.append(len(calls))
    assert n_calls[0] == n_calls[1] > 0


@pytest.mark.parametrize("per_unit", [False, True])
def test_html_shows_what_was_learned(rng, per_unit):
    X = rng.gamma(2, size=(200, 5)).astype(np.float32)
    detector = ReActDetector((rng.normal(size=(3, 5)), np.zeros(3)), per_unit=per_unit)
    assert "clipped activations" not in detector._repr_html_()
    detector.fit(X)
    clip = np.percentile(X, 90, axis=0 if per_unit else None)
    assert detector.clipped_share_ == (X > clip).mean()
    bundle = detector._repr_mimebundle_()
    for html in (detector._repr_html_(), bundle["text/html"]):
        assert html.count("clipped activations") == 1
        for value in ("90 %", "10.0 %", f"{detector.offset_:.4g}", f"{clip.min():.4g}"):
            assert f">{value}" in html
    assert "ReActDetector" in bundle["text/plain"]


def test_the_share_that_is_clipped(rng):
    X = rng.normal(size=(100, 4))
    head = rng.normal(size=(3, 4)), np.zeros(3)
    y = np.where(np.arange(100) % 3, 1, -1)
    detector = ReActDetector(head, percentile=90, lower_percentile=20).fit(X, y)
    id_rows = X[y == 1]
    changed = (id_rows > np.percentile(id_rows, 90)) | (
        id_rows < np.percentile(id_rows, 20)
    )
    assert detector.clipped_share_ == changed.mean()
    assert ReActDetector(head, percentile=None).fit(X).clipped_share_ == 0
    html = ReActDetector(head, threshold=0.5).fit(X)._repr_html_()
    assert "<td>none</td><td>0.5</td>" in html


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_rows_that_tie_at_the_threshold_are_accepted_in_any_company(rng, dtype, share):
    """How many rows are scored at once changes the last bits of a score."""
    blank = rng.gamma(2, size=(1, 96))
    X = np.r_[np.repeat(blank, 950, 0), rng.gamma(2, size=(50, 96))].astype(dtype)
    head = rng.normal(size=(10, 96)), np.zeros(10)
    detector = ReActDetector(head, contamination=share).fit(X)
    together = detector.predict(X)
    alone = np.concatenate([detector.predict(X[i : i + 1]) for i in range(0, 1000, 7)])
    np.testing.assert_array_equal(alone, together[::7])
    assert (together[:950] == 1).all()


def test_the_threshold_is_a_percentile_where_no_rows_tie(X, head):
    detector = ReActDetector(head).fit(X)
    assert detector.offset_ == np.percentile(detector.score_samples(X), 5)


@pytest.mark.parametrize("mark", [-1, -1.0])
def test_marks_that_numpy_made_text_of(rng, mark):
    y = np.array(["cat", "dog", mark])[np.repeat([0, 1, 2], [60, 60, 30])]
    X = rng.gamma(2, size=(150, 8))
    X[120:] *= 10
    detector = ReActDetector(LogisticRegression()).fit(X, y)
    assert detector.classes_.tolist() == ["cat", "dog"]
    assert detector.activation_threshold_ == np.percentile(X[:120], 90)


def test_class_labels_that_are_objects(X, rng):
    labels = rng.integers(0, 3, len(X))
    expected = ReActDetector(LogisticRegression()).fit(X, labels)
    detector = ReActDetector(LogisticRegression()).fit(X, labels.astype(object))
    np.testing.assert_array_equal(detector.coef_, expected.coef_)
    assert detector.classes_.tolist() == [0, 1, 2]


@pytest.mark.parametrize("head", ["callable", "module"])
def test_rows_of_nan_reach_no_function_of_the_user(rng, head):
    def strict(logits):
        assert logits.isfinite().all()
        return logits.amax(1)

    class Strict(nn.Linear):
        def forward(self, X):
            assert X.isfinite().all()
            return super().forward(X)

    X = rng.gamma(2, size=(60, 8)).astype(np.float32)
    module = Strict(8, 3)
    plain = ReActDetector(module, score_function=strict).fit(X)
    X[7, 2] = np.nan
    detector = ReActDetector(module, score_function=strict, on_nan="reject").fit(X)
    scores = detector.score_samples(X)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [7]
    assert np.isnan(X[7, 2])
    assert detector.predict_class(X).shape == (60,)
    assert plain.predict(X[:5]).shape == (5,)


def test_integer_tensors_are_judged_as_what_they_are_computed_in(rng, head):
    X = rng.integers(0, 50, size=(200, 16)) + 10**8
    positive = np.abs(head[0]), head[1]
    expected = ReActDetector(positive).fit(X.astype(float))
    detector = ReActDetector(positive).fit(torch.tensor(X))
    assert detector.offset_ == expected.offset_


def test_memory_laid_out_in_odd_ways(X, head):
    expected = ReActDetector(head).fit(X.astype(np.float32)).score_samples(X[:9])
    record = np.zeros(len(X), dtype=[("id", "i1"), ("features", "<f4", (16,))])
    record["features"] = X
    part = torch.tensor(X, dtype=torch.float32)
    negative = torch.complex(part, -part).conj().imag
    assert negative.is_neg()
    for odd in (record["features"], negative):
        scores = ReActDetector(head).fit(odd).score_samples(odd[:9])
        np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_a_clip_per_unit_in_read_only_memory(X, head, tmp_path):
    detector = ReActDetector(head, per_unit=True).fit(X)
    joblib.dump(detector, tmp_path / "detector.joblib")
    loaded = joblib.load(tmp_path / "detector.joblib", mmap_mode="r")
    np.testing.assert_array_equal(loaded.score_samples(X), detector.score_samples(X))


@pytest.mark.parametrize("marks", [(1, 0), ("id", "ood")])
def test_marks_that_would_train_a_fitted_head_warn(rng, marks):
    X = rng.gamma(2, size=(300, 8))
    classes = (X @ rng.normal(size=(8, 5))).argmax(1)
    head = LogisticRegression().fit(X, classes)
    y = np.array(marks)[np.repeat([0, 1], [250, 50])]
    with pytest.warns(UserWarning, match=r"fitted to 5 classes.*y holds 2 values.*-1"):
        ReActDetector(head).fit(X, y)
    ReActDetector(head).fit(X, classes)  # without a warning
    ReActDetector(head).fit(X[classes < 4], classes[classes < 4])


def test_a_linear_layer_with_another_forward_is_a_module(X):
    linear = nn.Linear(16, 3)
    plain = ReActDetector(linear).fit(X).score_samples(X)
    linear.forward = lambda features: (
        10 * nn.functional.linear(features, linear.weight, linear.bias)
    )
    changed = ReActDetector(linear).fit(X).score_samples(X)
    assert not np.allclose(changed, plain)


def test_a_percentile_of_numpy_is_a_number():
    """A float32 would make the clip one of float32."""
    rng = np.random.default_rng(0)
    X, head = rng.gamma(2, size=(200, 8)), (rng.normal(size=(3, 8)), np.zeros(3))
    clips = {
        float(ReActDetector(head, percentile=q).fit(X).activation_threshold_)
        for q in (90, 90.0, np.float32(90), np.float64(90), np.int64(90))
    }
    assert clips == {np.percentile(X, 90)}
