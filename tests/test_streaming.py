"""Detectors that learn from batches, against `fit` on all rows at once."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from reactood import ReActDetector
from reactood._scoring._stream import Stream

RNG = np.random.default_rng(0)
N = 900
X = np.maximum(RNG.normal(size=(N, 16)), 0).astype(np.float32)
HEAD = RNG.normal(size=(5, 16)).astype(np.float32), np.zeros(5, np.float32)
SETTINGS = {
    "plain": {},
    "both ends": {"lower_percentile": 5, "percentile": 95},
    "per unit": {"per_unit": True, "lower_percentile": 5},
    "by hand": {"threshold": 1.0},
    "by hand per unit": {"threshold": np.linspace(0.5, 1.5, 16), "per_unit": True},
    "no clip": {"percentile": None},
    "msp": {"score_function": "msp", "temperature": 2.0},
}
LEARNED = "activation_threshold_", "lower_activation_threshold_", "clipped_share_"
LEARNED = *LEARNED, "offset_", "n_samples_seen_"


def make(**params):
    return ReActDetector(HEAD, **{"check_score": False, **params})


def learned(detector):
    return {name: getattr(detector, name) for name in LEARNED}


def assert_same(one, other):
    for name, value in learned(one).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


@pytest.mark.parametrize("setting", SETTINGS)
def test_few_rows_are_learned_as_by_fit(setting):
    detector = make(**SETTINGS[setting])
    assert_same(
        detector.fit_stream(np.array_split(X, 7)), make(**SETTINGS[setting]).fit(X)
    )


@pytest.mark.parametrize("setting", SETTINGS)
def test_many_rows_are_learned_within_the_bounds(setting):
    fitted = make(**SETTINGS[setting]).fit(X)
    detector = make(sample_size=300, **SETTINGS[setting])
    for batch in np.array_split(X, 7):
        detector.partial_fit(batch)
    for name in LEARNED[:2]:
        np.testing.assert_allclose(
            getattr(detector, name), getattr(fitted, name), rtol=1 / 128, err_msg=name
        )
    # The clip moves by less than its bucket, in which few activations are.
    assert detector.clipped_share_ == pytest.approx(fitted.clipped_share_, abs=0.01)
    rejected = (fitted.score_samples(X) < detector.offset_).sum()
    assert stats.binomtest(rejected, N, 0.05).pvalue > 1e-4


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(list(SETTINGS)), st.integers(1, N))
def test_any_order_split_and_merge_learn_the_same(seed, setting, size):
    rng = np.random.default_rng(seed)
    params = SETTINGS[setting] | {"sample_size": size}
    if size < 20:
        params |= {"threshold": 1.0, "score_function": "energy"}
    expected = make(**params).fit_stream([X])
    order, parts = rng.permutation(N), []
    for rows in np.array_split(order, rng.integers(1, 5)):
        batches = np.array_split(X[rows], rng.integers(1, 5))
        parts.append(make(**params).fit_stream(batches))
    whole = parts[0]
    for part in parts[1:]:
        before = part._stream.arrays()
        whole.merge(part)
        assert_equal_trees(part._stream.arrays(), before)
    assert_equal_trees(whole._stream.arrays(), expected._stream.arrays())
    if size >= 20:
        assert_same(whole, expected)


def assert_equal_trees(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_equal_trees(value, other[name])
        else:
            np.testing.assert_array_equal(value, other[name])


def test_the_exact_percentile_in_a_second_pass():
    batches = np.array_split(X, 7)
    detector = make(sample_size=50, lower_percentile=5)
    detector.fit_stream(batches, exact=True)
    assert detector.activation_threshold_ == np.percentile(X, 90)
    assert detector.lower_activation_threshold_ == np.percentile(X, 5)
    detector.partial_fit(X[:30])  # it is not exact any more
    assert detector.activation_threshold_ == pytest.approx(
        np.percentile(np.concatenate([X, X[:30]]), 90), rel=1 / 128
    )
    with pytest.raises(TypeError, match="can be read only once; pass a list"):
        detector.fit_stream(iter(batches), exact=True)
    with pytest.raises(ValueError, match="one clip for all units"):
        make(per_unit=True).fit_stream(batches, exact=True)


def test_false_alarms_are_within_the_documented_interval():
    # The share of new rows that the 5 % quantile of k rows rejects has a beta
    # distribution; the documentation gives its central 95 %.
    for size, low, high in (10_000, 4.59, 5.44), (50_000, 4.81, 5.19):
        rank = 0.05 * (size - 1)
        share = stats.beta(rank + 1, size - rank)
        assert 100 * share.ppf(0.025) == pytest.approx(low, abs=0.01)
        assert 100 * share.ppf(0.975) == pytest.approx(high, abs=0.01)
    # And so it is for the sample: hashes have nothing to do with scores.
    rejected = []
    for seed in range(60):
        rows = np.random.default_rng(seed).gamma(2, size=(3000, 16)).astype(np.float32)
        scores = make().fit(rows).score_samples(rows)
        offset = make(sample_size=200).fit_stream([rows]).offset_
        rejected.append((scores < offset).mean())
    rank = 0.05 * 199
    assert stats.kstest(rejected, stats.beta(rank + 1, 200 - rank).cdf).pvalue > 1e-3


def test_bad_batches_leave_everything_as_it_was():
    detector = make(sample_size=100).fit_stream(np.array_split(X, 3))
    before, state = learned(detector), detector._stream.arrays()
    for bad, message in (
        (np.nan, "non-finite values, 16 NaN"),
        (np.inf, "16 inf"),
        (1e300, "beyond the range of float32"),
    ):
        batch = X[:5].astype(float)
        batch[3] = bad
        with pytest.raises(ValueError, match=message):
            detector.partial_fit(batch)
    for batch, message in (
        (X[:, :3], "3 features"),
        (X[0], "2D array"),
        (X[:0], "0 sample"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.partial_fit(batch)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        detector.partial_fit(X[:5], [-1, -1])
    assert learned(detector) == before
    assert_equal_trees(detector._stream.arrays(), state)
    with pytest.raises(ValueError, match="non-finite"):
        detector.fit_stream([X[:50], X[:50] * np.nan])
    assert learned(detector) == before


def test_an_interrupted_batch_is_not_taken_for_whole(monkeypatch):
    detector = make().partial_fit(X)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("reactood._scoring._row_sample.RowSample.add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            detector.partial_fit(X)
    for use in (
        lambda: detector.partial_fit(X),
        lambda: make().partial_fit(X).merge(detector),
        lambda: pickle.dumps(detector),
    ):
        with pytest.raises(RuntimeError, match="interrupted"):
            use()


def test_rows_that_do_not_count():
    y = np.where(np.arange(N) % 3, 1, -1)
    expected = make().fit(X[y == 1])
    detector = make().fit_stream(
        zip(np.array_split(X, 5), np.array_split(y, 5), strict=True)
    )
    assert_same(detector, expected)
    assert_same(detector.partial_fit(X[:9], np.full(9, -1)), expected)
    with_nan = X.copy()
    with_nan[y == -1, 2] = np.nan
    rejecting = make(on_nan="reject").fit_stream(np.array_split(with_nan, 5))
    assert_same(rejecting, expected)
    rejecting.partial_fit(np.full((4, 16), np.nan))
    assert_same(rejecting, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, torch.bfloat16, np.int64])
def test_other_kinds_of_numbers(dtype):
    if isinstance(dtype, torch.dtype):
        batch = torch.from_numpy(X).to(dtype)
        same = batch.float().numpy()
    else:
        batch = (3 * X).astype(dtype)
        same = batch.astype(np.float32)
    assert_same(make().partial_fit(batch), make().fit(same))


def test_loaders_and_lists_of_one():
    expected = make().fit(X)
    features = torch.from_numpy(X)
    labels = torch.arange(N) % 5
    for dataset in (TensorDataset(features), TensorDataset(features, labels)):
        loader = DataLoader(dataset, batch_size=100)
        assert_same(make().fit_stream(loader), expected)
    with pytest.raises(ValueError, match="holds 3 things"):
        make().fit_stream([(X, X, X)])
    with pytest.raises(ValueError, match="There was no batch"):
        make().fit_stream([])


def test_partial_fit_and_fit_begin_anew():
    detector = make().partial_fit(X)
    assert_same(detector.fit(X[:500]), make().fit(X[:500]))
    assert "_stream" not in vars(detector)
    with pytest.warns(UserWarning, match="the 500 rows that it learned from do not"):
        detector.partial_fit(X)
    assert detector.n_samples_seen_ == N
    assert detector.fit_stream([X[:50]]).n_samples_seen_ == 50
    assert "_stream" not in vars(clone(detector))


def test_the_state_is_pickled_and_goes_on():
    half = make(sample_size=100).partial_fit(X[:450])
    again = pickle.loads(pickle.dumps(half))
    assert_same(again, half)
    assert_same(again.partial_fit(X[450:]), make(sample_size=100).fit_stream([X]))
    state = half.__getstate__()["_stream"]
    assert {type(value) for value in state.values()} == {int, bool, dict}


def test_what_cannot_be_merged():
    detector = make().partial_fit(X)
    other_head = ReActDetector((HEAD[0] + 1, HEAD[1])).partial_fit(X[:9])
    for other, message in (
        (make().fit(X), "was not fitted by partial_fit"),
        (make(sample_size=9).partial_fit(X), "differ in sample_size, 10000 and 9"),
        (make(per_unit=True).partial_fit(X), "differ in per_unit"),
        (ReActDetector().partial_fit(X[:, :4]), "differ in n_features"),
        (ReActDetector().partial_fit(X), "different heads"),
        (other_head, "different heads"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.merge(other)
    with pytest.raises(ValueError, match="per_unit=True was False at the first"):
        detector.set_params(per_unit=True).partial_fit(X)


def test_heads():
    module = nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))
    fitted = ReActDetector(module, check_score=False).fit(X)
    batches = np.array_split(X, 3)
    detector = clone(fitted).fit_stream(batches)
    assert_same(detector, fitted)
    assert detector.merge(clone(fitted).partial_fit(X)).n_samples_seen_ == 2 * N
    classifier = LogisticRegression()
    with pytest.raises(ValueError, match="is not fitted"):
        ReActDetector(classifier).partial_fit(X, np.arange(N) % 3)
    classifier.fit(X, np.arange(N) % 3)
    detector = ReActDetector(classifier, check_score=False).partial_fit(X)
    assert detector.classes_.tolist() == [0, 1, 2]


def test_errors_come_when_something_is_asked_for():
    detector = make().partial_fit(X[:1] * 0)
    with pytest.raises(ValueError, match="the same"):
        detector.predict(X)
    detector.partial_fit(X)  # and more rows help
    assert detector.predict(X).shape == (N,)
    with pytest.raises(AttributeError, match="no attribute 'offsets_'"):
        _ = detector.offsets_


def test_copies_of_few_rows_are_warned_of():
    copies = np.concatenate([X, np.repeat(X[:1], 4 * N, axis=0)])
    detector = make(sample_size=100).fit_stream([copies])
    with pytest.warns(UserWarning, match="are copies of few, such as blank images"):
        detector.predict(X)
    # All of them twice is no problem, and neither is a sample that holds all.
    make(sample_size=100).fit_stream([X, X]).predict(X)
    make(sample_size=5000).fit_stream([copies]).predict(X)


def test_the_score_is_checked_on_the_sample():
    # This head was never trained on these rows.
    for fit in ("fit", "partial_fit"):
        detector = ReActDetector(HEAD, sample_size=800)
        with pytest.warns(UserWarning, match="detects left-out classes worse than"):
            getattr(detector, fit)(X).predict(X)


def test_memory_does_not_grow_with_the_rows():
    stream = Stream(8, per_unit=True, sample_size=50)
    sizes = set()
    for seed in range(30):
        rows = np.random.default_rng(seed).uniform(1, 4, size=(500, 8))
        stream.add(torch.from_numpy(rows))
        arrays = stream.arrays()
        sizes.add(
            sum(
                array.nbytes
                for part in ("histogram", "sample")
                for array in arrays[part].values()
            )
        )
    assert len(sizes) == 1
    assert stream.shape == (15_000, 8)
