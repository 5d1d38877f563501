"""Each shaping rule against a loop over samples, and scikit-learn's contract."""

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from reactood import ReActDetector
from reactood.model_selection import OODSplit
from reactood.rectifiers import ASH, BATS, DICE, LTS, SCALE, VRAP, BFAct

RULES = [BATS(), VRAP(), BFAct(), ASH(), ASH(kind="p"), ASH(kind="b"), SCALE()]
ASSUME_POSITIVE = [VRAP, BFAct, ASH, SCALE]


@pytest.fixture
def X(rng):
    return rng.gamma(1.0, size=(40, 11))


@pytest.fixture
def head(rng):
    return rng.normal(size=(4, 11)), rng.normal(size=4)


@parametrize_with_checks(RULES)
def test_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("n_std", [0.5, 1.05])
def test_bats(X, n_std):
    found = BATS(n_std).fit(X).transform(2 * X)
    for unit in range(X.shape[1]):
        mean = sum(X[:, unit]) / len(X)
        std = np.sqrt(sum((X[:, unit] - mean) ** 2) / len(X))
        for row in range(len(X)):
            h = max(mean - n_std * std, min(mean + n_std * std, 2 * X[row, unit]))
            assert found[row, unit] == pytest.approx(h)


def piecewise(h, low, high):
    if h < low:
        return 0
    return high if h > high else h


@pytest.mark.parametrize("per_unit", [True, False])
def test_vra(X, per_unit):
    found = VRAP(30, 80, per_unit=per_unit).fit(X).transform(X)
    for (row, unit), h in np.ndenumerate(X):
        values = X[:, unit] if per_unit else X
        low, high = np.percentile(values, 30), np.percentile(values, 80)
        assert found[row, unit] == pytest.approx(piecewise(h, low, high))
    by_hand = VRAP(low=0.5, high=1.0).fit(X).transform(X)
    expected = [[piecewise(h, 0.5, 1.0) for h in sample] for sample in X]
    np.testing.assert_array_equal(by_hand, expected)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_bfact(X, order):
    found = BFAct(80, order=order).fit(X).transform(3 * X)
    c = np.percentile(X, 80)
    for h, shaped in zip(3 * X.ravel(), found.ravel(), strict=True):
        assert shaped == pytest.approx(h / (1 + (h / c) ** (2 * order)) ** 0.5)


@pytest.mark.parametrize("percentile", [10, 65, 90, 99])
def test_ash_and_scale(X, percentile):
    n_kept = max(1, 11 - round(11 * percentile / 100))
    shaped = {kind: ASH(percentile, kind=kind).fit_transform(X) for kind in "pbs"}
    scaled = SCALE(percentile).fit_transform(X)
    for row, sample in enumerate(X):
        kept = sorted(range(11), key=lambda unit: -sample[unit])[:n_kept]
        total, top = sum(sample), sum(sample[unit] for unit in kept)
        for unit, h in enumerate(sample):
            stays = unit in kept
            assert shaped["p"][row, unit] == (h if stays else 0)
            assert shaped["b"][row, unit] == pytest.approx(
                total / n_kept if stays else 0
            )
            assert shaped["s"][row, unit] == pytest.approx(
                h * np.exp(total / top) if stays else 0
            )
            assert scaled[row, unit] == pytest.approx(h * np.exp(total / top))


@pytest.mark.parametrize(
    "rule", [ASH(), ASH(kind="p"), ASH(kind="b"), SCALE()], ids=repr
)
def test_a_sample_without_activations_stays_so(rule):
    assert not rule.fit_transform(np.zeros((2, 6))).any()


@pytest.mark.parametrize("percentile", [10, 70, 95])
def test_dice(X, head, percentile):
    weight, bias = head
    found = DICE(head, percentile).fit(X).transform(2 * X)
    contributions = np.array(
        [[w * np.mean(X[:, unit]) for unit, w in enumerate(row)] for row in weight]
    )
    limit = np.percentile(contributions, percentile)
    for row, sample in enumerate(2 * X):
        for k in range(4):
            logit = bias[k] + sum(
                weight[k, unit] * h
                for unit, h in enumerate(sample)
                if contributions[k, unit] > limit
            )
            assert found[row, k] == pytest.approx(logit)


def test_dice_and_react_in_one_pipeline(X, head):
    """DICE on clipped features, scored by the energy of its logits."""
    clip = VRAP(low=0, high=1.0)
    detector = make_pipeline(clip, DICE(head, 50), ReActDetector(percentile=None))
    detector.fit(X)
    clipped = np.minimum(X, 1.0)
    contribution = head[0] * clipped.mean(axis=0)
    sparse = np.where(contribution > np.median(contribution), head[0], 0)
    expected = logsumexp(clipped @ sparse.T + head[1], axis=1)
    np.testing.assert_allclose(detector.score_samples(X), expected)


def test_dice_needs_a_linear_head(X):
    with pytest.raises(ValueError, match="head=None is not linear; expected"):
        DICE().fit(X)


def test_dice_names_its_logits(X, head):
    names = DICE(head).fit(X).get_feature_names_out()
    assert list(names) == ["dice0", "dice1", "dice2", "dice3"]


@pytest.mark.parametrize("rule", ASSUME_POSITIVE)
def test_signed_features_are_refused_unless_told_otherwise(rule, X):
    signed = X - 0.5
    with pytest.raises(
        ValueError, match=f"passed to {rule.__name__}: down to -0.*BATS"
    ):
        rule().fit(signed)
    with pytest.raises(ValueError, match="Negative values in data"):
        rule().fit(X).transform(signed)
    assert rule(allow_signed=True).fit(signed).transform(signed).shape == X.shape


@pytest.mark.parametrize("rule", [*RULES, DICE(percentile=50)], ids=repr)
def test_ood_rows_teach_nothing(rule, X, head):
    if isinstance(rule, DICE):
        rule.set_params(head=head)
    y = np.where(np.arange(40) < 30, 1, -1)
    found = rule.fit(X, y).transform(X)
    np.testing.assert_array_equal(found, rule.fit(X[:30]).transform(X))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_float32_stays(rule, X):
    assert rule.fit(X).transform(X.astype(np.float32)).dtype == np.float32


def test_a_search_over_a_rule(rng, head):
    X = np.concatenate([rng.gamma(2, size=(90, 11)), rng.gamma(0.5, 4, size=(40, 11))])
    y = np.repeat([1, -1], [90, 40])
    search = GridSearchCV(
        make_pipeline(BATS(), ReActDetector(head, percentile=None)),
        {"bats__n_std": [0.5, 1.0, 3.0]},
        scoring="roc_auc",
        cv=OODSplit(3, random_state=0),
    ).fit(X, y)
    best = search.best_estimator_
    assert roc_auc_score(y, best.score_samples(X)) == pytest.approx(
        search.best_score_, abs=0.15
    )


@pytest.mark.parametrize(
    "rule, message",
    [
        (VRAP(low=2, high=1), "low below high"),
        (VRAP(80, 20), "low_percentile below"),
        (BFAct(2), "expected a value above 0: raise percentile"),
        (ASH(0), "percentile"),
        (ASH(0.65), "percentile=0.65 means 0.65 percent.*did you mean 65?"),
        (SCALE(0.8), "did you mean 80?"),
        (BFAct(0.95), "did you mean 95?"),
        (VRAP(0.6), "low_percentile=0.6 means .*did you mean 60?"),
        (VRAP(60, 0.95), "high_percentile=0.95 means .*did you mean 95?"),
        (DICE(percentile=0.7), "did you mean 70?"),
        (ASH(kind="x"), "kind"),
        (BATS(-1), "n_std"),
    ],
    ids=repr,
)
def test_errors(rule, message, X):
    X[:20] = 0
    with pytest.raises(ValueError, match=message):
        rule.fit(X)


@pytest.mark.parametrize("percentile", [50, 90, 99.9])
def test_lts(X, head, percentile):
    weight, bias = head
    found = LTS(head, percentile).fit(X).transform(X)
    for row, sample in enumerate(X):
        n_kept = max(1, 11 - round(11 * percentile / 100))
        ratio = sum(sample) / sum(sorted(sample)[-n_kept:])
        expected = [
            ratio**2 * (sample @ w + b) for w, b in zip(weight, bias, strict=True)
        ]
        np.testing.assert_allclose(found[row], expected)


def test_lts_counts_negative_features_as_silent(head):
    X = np.array([[-1.0, 3, 1, *[-2.0] * 8], [-1.0, -3, -1, *[-2.0] * 8]])
    rule = LTS(head, 90, allow_signed=True).fit(X)
    logits = X @ head[0].T + head[1]
    np.testing.assert_allclose(rule.transform(X)[0], (4 / 3) ** 2 * logits[0])
    np.testing.assert_allclose(rule.transform(X)[1], logits[1])
    with pytest.raises(ValueError, match="Negative values in data passed to LTS"):
        LTS(head).fit(X)


def test_lts_in_a_pipeline_names_logits(X, head):
    detector = make_pipeline(LTS(head), ReActDetector(percentile=None)).fit(X)
    assert detector[0].get_feature_names_out().tolist() == [
        "lts0",
        "lts1",
        "lts2",
        "lts3",
    ]
    expected = logsumexp(detector[0].transform(X), axis=1)
    np.testing.assert_allclose(detector.score_samples(X), expected)
    with pytest.raises(ValueError, match="head=None is not linear; expected"):
        LTS().fit(X)
