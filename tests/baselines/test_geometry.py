"""fDBD, NCI, ViM and KNN against loops over samples, and scikit-learn's contract."""

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from reactood.baselines import (
    FDBDDetector,
    KNNDetector,
    MahalanobisDetector,
    NCIDetector,
    ViMDetector,
)
from reactood.rectifiers import DICE, LTS, VRAP


@pytest.fixture
def X(rng):
    return rng.gamma(1.0, size=(60, 9))


@pytest.fixture
def new(rng):
    return rng.gamma(2.0, size=(20, 9))


@pytest.fixture
def head(rng):
    return rng.normal(size=(4, 9)), rng.normal(size=4)


OWN_NEIGHBOR = (
    "a training row that is scored once more is its own nearest neighbour, and the "
    "threshold is that of new rows"
)


@parametrize_with_checks(
    [KNNDetector(n_neighbors=1)],
    expected_failed_checks=lambda _: {
        "check_outliers_train": OWN_NEIGHBOR,
        "check_outliers_fit_predict": OWN_NEIGHBOR,
    },
)
def test_contract(estimator, check):
    check(estimator)


def test_fdbd(X, new, head):
    weight, bias = head
    mean = X.mean(axis=0)
    found = FDBDDetector(head).fit(X).score_samples(new)
    for score, h in zip(found, new, strict=True):
        z = weight @ h + bias
        best = z.argmax()
        distances = [
            abs(z[best] - z[c]) / np.linalg.norm(weight[best] - weight[c])
            for c in range(4)
            if c != best
        ]
        assert score == pytest.approx(np.mean(distances) / np.linalg.norm(h - mean))


def test_fdbd_of_classes_with_equal_weights(X):
    weight = np.array([[1.0] * 9, [1.0] * 9, [0.5] * 9])
    detector = FDBDDetector((weight, np.zeros(3))).fit(X)
    z = X.sum(axis=1)
    away = np.linalg.norm(X - X.mean(axis=0), axis=1)
    expected = 0.5 * z / np.linalg.norm(0.5 * np.ones(9)) / 2 / away
    np.testing.assert_allclose(detector.score_samples(X), expected)


def test_fdbd_at_the_mean_is_finite(X, head):
    scores = FDBDDetector(head).fit(X).score_samples(X.mean(axis=0, keepdims=True))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_nci(X, new, head, alpha):
    weight, bias = head
    found = NCIDetector(head, alpha=alpha).fit(X).score_samples(new)
    for score, h in zip(found, new, strict=True):
        w, centered = weight[(weight @ h + bias).argmax()], h - X.mean(axis=0)
        along = w @ centered / np.sqrt(centered @ centered)
        assert score == pytest.approx(along + alpha * abs(h).sum())


@pytest.mark.parametrize("n_components", [1, 5, None])
def test_vim(X, new, head, n_components):
    weight, bias = head
    detector = ViMDetector(head, n_components=n_components).fit(X)
    kept = n_components or 4
    origin = -np.linalg.pinv(weight) @ bias
    _, _, directions = np.linalg.svd(X - origin, full_matrices=True)
    null = directions[kept:]
    residual, logits = (
        lambda H: np.linalg.norm((H - origin) @ null.T, axis=1),
        lambda H: H @ weight.T + bias,
    )
    alpha = logits(X).max(axis=1).mean() / residual(X).mean()
    expected = logsumexp(logits(new), axis=1) - alpha * residual(new)
    np.testing.assert_allclose(detector.score_samples(new), expected, rtol=1e-8)
    np.testing.assert_allclose(detector.alpha_, alpha)


def test_vim_keeps_at_most_half_as_many_components_as_rows(X, head):
    assert ViMDetector(head).fit(X[:6]).residual_space_.shape == (9, 6)


@pytest.mark.parametrize("kept", [4, 9, 60])
def test_vim_without_a_residual(X, head, kept):
    rows = X[:4] if kept == 4 else X
    with pytest.raises(ValueError, match="leaves no residual: give more rows"):
        ViMDetector(head, n_components=kept).fit(rows)


def test_vim_of_rows_in_a_subspace(rng, head):
    X = rng.gamma(1.0, size=(60, 2)) @ rng.gamma(1.0, size=(2, 9))
    with pytest.raises(ValueError, match="lie in a subspace of 5 dimensions"):
        ViMDetector((head[0], np.zeros(4)), n_components=5).fit(X)


def test_vim_of_negative_logits(X, head):
    """Its scale would be below 0, and the residual speak for in-distribution."""
    low = head[0], head[1] - 200
    with pytest.raises(ValueError, match=r"largest logits are -.* Center the head"):
        ViMDetector(low).fit(X)
    weight, bias = (a - a.mean(axis=0) for a in low)
    centered = ViMDetector((weight, bias)).fit(X)
    assert centered.alpha_ > 0


@pytest.mark.parametrize("k", [1, 7])
def test_knn(X, new, k):
    detector = KNNDetector(n_neighbors=k).fit(X)
    unit = [x / np.sqrt(x @ x) for x in X]

    def kth(h, bank):
        h = h / np.sqrt(h @ h)
        return -sorted(np.linalg.norm(h - x) for x in bank)[k - 1]

    expected = [kth(h, unit) for h in new]
    np.testing.assert_allclose(detector.score_samples(new), expected, atol=1e-7)
    own = [kth(h, unit[:i] + unit[i + 1 :]) for i, h in enumerate(X)]
    np.testing.assert_allclose(detector.offset_, np.percentile(own, 5), atol=1e-7)


def test_knn_with_an_index_of_the_users(X, new):
    exact = KNNDetector(n_neighbors=3).fit(X)
    tree = KNNDetector(n_neighbors=3, index=NearestNeighbors(algorithm="kd_tree")).fit(
        X
    )
    np.testing.assert_allclose(tree.score_samples(new), exact.score_samples(new))


def test_knn_with_too_few_rows(X):
    with pytest.raises(ValueError, match="expected fewer neighbours than rows"):
        KNNDetector().fit(X[:50])


WITH_HEAD = [FDBDDetector, NCIDetector, ViMDetector]


@pytest.mark.parametrize("kind", [*WITH_HEAD, KNNDetector, MahalanobisDetector])
def test_one_row_to_learn_from(X, head, kind):
    detector = kind(head) if kind in WITH_HEAD else kind()
    with pytest.raises(
        ValueError, match=r"1 in-distribution row .*expected at least 2"
    ):
        detector.fit(X, np.where(np.arange(60) == 7, 1, -1))


@pytest.mark.parametrize("kind", [*WITH_HEAD, LTS, DICE])
def test_an_unfitted_classifier_as_head(X, kind):
    """No labels would help: none of these trains a classifier."""
    y = np.arange(60) % 3
    with pytest.raises(ValueError, match="is not fitted, and no classifier is trained"):
        kind(LogisticRegression()).fit(X, y)
    fitted = FrozenEstimator(LogisticRegression().fit(X, y))
    assert kind(fitted).fit(X, y).weight_.shape == (3, 9)


@pytest.mark.parametrize("kind", [FDBDDetector, NCIDetector])
def test_rows_that_tie_at_the_threshold_are_inside(X, head, kind):
    """However many rows are scored at once: as in ReActDetector."""
    bottom = kind(head).fit(X).score_samples(X).argmin()
    tied = np.concatenate([X, np.tile(X[bottom], (10, 1))])
    detector = kind(head, contamination=0.1).fit(tied)
    for n_rows in (1, 3, len(tied)):
        assert (detector.predict(tied[-n_rows:]) == 1).all()
    assert detector.offset_ < detector.score_samples(tied[-1:])[0]


@pytest.mark.parametrize("kind", [*WITH_HEAD, KNNDetector])
def test_decisions_rows_of_ood_and_precision(X, new, head, kind):
    detector = kind(head) if kind in WITH_HEAD else kind(5)
    both, y = np.concatenate([X, 100 + new]), np.repeat([1, -1], [60, 20])
    detector.fit(both, y)
    scores = detector.score_samples(X)
    np.testing.assert_array_equal(scores, detector.fit(X).score_samples(X))
    decision = detector.decision_function(new)
    np.testing.assert_array_equal(
        decision, detector.score_samples(new) - detector.offset_
    )
    np.testing.assert_array_equal(detector.predict(new), np.where(decision >= 0, 1, -1))
    single = detector.fit(X.astype(np.float32)).score_samples(X.astype(np.float32))
    np.testing.assert_allclose(single, scores, rtol=1e-3)
    assert single.dtype == np.float64


@pytest.mark.parametrize("kind", [*WITH_HEAD, KNNDetector])
def test_blocks_do_not_matter(X, head, kind, monkeypatch):
    detector = kind(head) if kind in WITH_HEAD else kind(5)
    expected = detector.fit(X).score_samples(X)
    for module in ("_base", "_geometry"):
        monkeypatch.setattr(f"reactood.baselines.{module}.rows_per_block", lambda _: 7)
    np.testing.assert_allclose(detector.fit(X).score_samples(X), expected, rtol=1e-10)


@pytest.mark.parametrize("kind", WITH_HEAD)
def test_after_a_clip_and_with_a_failed_refit(X, new, head, kind):
    clipped = make_pipeline(
        VRAP(low=0.0, high_percentile=90, per_unit=False), kind(head)
    )
    clipped.fit(X)
    by_hand = np.minimum(new, np.percentile(X, 90))
    alone = kind(head).fit(np.minimum(X, np.percentile(X, 90)))
    np.testing.assert_allclose(
        clipped.score_samples(new), alone.score_samples(by_hand), rtol=1e-6
    )
    before = alone.score_samples(new)
    with pytest.raises(ValueError, match="head takes features of width 9"):
        alone.fit(X[:, :5])
    np.testing.assert_array_equal(alone.score_samples(new), before)
    with pytest.raises(ValueError, match="is not linear; expected"):
        kind().fit(X)
