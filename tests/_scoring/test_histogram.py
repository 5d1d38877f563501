"""Percentiles from counts of bits, against numpy.percentile."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reactood._scoring._histogram import BUCKETS, Histogram, Zoom, bucket_of, ends_of

RNG = np.random.default_rng(0)
N, M = 400, 16
KINDS = {
    "half-normal": np.maximum(RNG.normal(size=(N, M)), 0),
    "ReLU6": np.clip(RNG.normal(size=(N, M)) * 5, 0, 6),
    "signed": RNG.normal(size=(N, M)),
    "heavy tails": RNG.standard_cauchy((N, M)) * 1e4,
    "denormal": RNG.normal(size=(N, M)) * 1e-40,
    "ties": RNG.integers(-3, 4, (N, M)),
    "both zeros": RNG.choice([0.0, -0.0, 1.5], (N, M)),
    "one number": np.full((N, M), -2.75),
    "largest": RNG.choice([1, -1, 0.5], (N, M)) * np.finfo(np.float32).max,
}
QS = 0, 0.1, 5, 50, 90, 99.9, 100


def histogram_of(X, n_columns=None, n_parts=5):
    histogram = Histogram(n_columns)
    for part in np.array_split(X, n_parts):
        histogram.add(torch.from_numpy(part))
    return histogram


def check_bounds(X, axis):
    histogram = histogram_of(X, None if axis is None else X.shape[1])
    for q in QS:
        exact = np.percentile(X, q, axis=axis).astype(float)
        low, high = histogram.percentile_bounds(q)
        value = histogram.percentile(q)
        assert np.all((low <= exact) & (exact <= high)), q
        assert np.all((low <= value) & (value <= high)), q
        # What the documentation promises, less the rounding of float32.
        error = np.abs(value - exact)
        assert np.all(error <= np.abs(exact) / 128 * (1 + 1e-6) + 2.0**-126), q
        if q in (0, 100):
            np.testing.assert_array_equal(value, exact)


@pytest.mark.parametrize("axis", [None, 0], ids=["pooled", "columns"])
@pytest.mark.parametrize("kind", KINDS)
def test_percentiles_are_within_the_bound(kind, axis):
    check_bounds(KINDS[kind].astype(np.float32), axis)


FLOATS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(5, 20), st.integers(1, 4)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


@settings(max_examples=50, deadline=None)
@given(FLOATS)
def test_percentiles_of_any_numbers(X):
    # Between two numbers far from each other, a percentile may be anything.
    histogram = histogram_of(X)
    for q in QS:
        low, high = histogram.percentile_bounds(q)
        exact = float(np.percentile(X, q))
        slack = 1e-6 * max(abs(low), abs(high))
        assert low - slack <= exact <= high + slack


@settings(max_examples=50, deadline=None)
@given(FLOATS, st.randoms())
def test_any_order_and_split_give_the_same_state(X, random):
    rows = list(range(len(X)))
    random.shuffle(rows)
    for n_columns in (None, X.shape[1]):
        expected = histogram_of(X, n_columns).arrays()
        whole = Histogram(n_columns)
        cut = random.randrange(len(rows))
        for part in (rows[:cut], rows[cut:]):
            if part:
                whole.merge(histogram_of(X[part], n_columns, 1))
        for name, array in whole.arrays().items():
            np.testing.assert_array_equal(array, expected[name])


def test_buckets_are_in_the_order_of_the_numbers():
    buckets = np.arange(128, BUCKETS - 128)  # without infinities and NaN
    low, high = ends_of(buckets)
    assert np.all(low <= high) and np.all(high[:-1] <= low[1:])
    for end in (low, high):
        np.testing.assert_array_equal(bucket_of(torch.from_numpy(end)), buckets)
    normal = np.abs(low) >= 2.0**-126
    assert np.all((high - low)[normal] <= np.abs(low)[normal] / 128)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_pass_is_exact(kind):
    X = KINDS[kind].astype(np.float32)
    zoom = Zoom(histogram_of(X), QS)
    for part in np.array_split(X, 3):
        zoom.add(torch.from_numpy(part))
    for q, value in zoom.percentiles().items():
        assert value == np.percentile(X, q), q


def test_a_second_pass_over_other_numbers_is_an_error():
    X = KINDS["signed"].astype(np.float32)
    zoom = Zoom(histogram_of(X), [90])
    zoom.add(torch.from_numpy(X[:-30]))
    with pytest.raises(ValueError, match="gave other features than the first"):
        zoom.percentiles()


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "denormal"])
def test_the_share_outside_is_exact_but_for_one_bucket(kind):
    X = KINDS[kind].astype(np.float32)
    for n_columns in (None, M):
        histogram = histogram_of(X, n_columns)
        for upper in (np.percentile(X, 90), 0.0, -1.0, np.inf, X.max()):
            share = histogram.share_outside(-np.inf, upper)
            bucket = bucket_of(torch.tensor(np.float32([upper]))).numpy()
            with np.errstate(invalid="ignore"):
                same = bucket_of(torch.from_numpy(X)).numpy() == bucket
            assert abs(share - (X > upper).mean()) <= same.mean() + 1e-12
    histogram = histogram_of(X)
    assert histogram.share_outside(-np.inf, np.inf) == 0
    assert histogram.share_at_most(0) == (X <= 0).mean()


def test_a_clip_at_the_largest_number_changes_nothing():
    X = KINDS["ReLU6"].astype(np.float32)
    assert histogram_of(X).share_outside(-np.inf, 6.0) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_counts_the_same():
    X = KINDS["signed"].astype(np.float32)
    for n_columns in (None, M):
        histogram = Histogram(n_columns)
        histogram.add(torch.from_numpy(X).cuda())
        for name, array in histogram_of(X, n_columns).arrays().items():
            np.testing.assert_array_equal(histogram.arrays()[name], array)
