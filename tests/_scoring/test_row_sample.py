"""A random sample of distinct rows, the same for any order."""

import numpy as np
import pytest
import torch

from reactood._scoring._row_sample import RowSample, hashes_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(500, 5)).astype(np.float32)


def sample_of(X, size, n_parts=7):
    sample = RowSample(size, X.shape[1])
    for part in np.array_split(X, n_parts):
        sample.add(torch.from_numpy(part))
    return sample


def same(one, other):
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name])


def reference(X, size):
    """Return the rows of the smallest hashes, and how often each is in X."""
    hashes = hashes_of(torch.from_numpy(X)).tolist()
    kept = sorted(set(hashes))[:size]
    return [X[hashes.index(h)] for h in kept], [hashes.count(h) for h in kept]


@pytest.mark.parametrize("size", [1, 2, 30, 499, 500, 10_000])
def test_it_keeps_the_smallest_hashes_and_exact_counts(size):
    twice = np.concatenate([X, X[:100], X[:10]])
    arrays = sample_of(twice, size).arrays()
    rows, counts = reference(twice, size)
    np.testing.assert_array_equal(arrays["rows"], rows)
    np.testing.assert_array_equal(arrays["counts"], counts)


@pytest.mark.parametrize("size", [3, 40, 1000])
def test_any_order_and_split_give_the_same_sample(size):
    expected = sample_of(X, size)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(X))
        same(sample_of(X[order], size, n_parts=seed + 1), expected)
        whole = RowSample(size, X.shape[1])
        for part in np.array_split(order, seed + 2):
            whole.merge(sample_of(X[part], size))
        same(whole, expected)
        same(RowSample.of_arrays(size, whole.arrays()), expected)


@pytest.mark.parametrize("size", [3, 40, 1000])
def test_parts_without_rows_that_cannot_matter_give_the_same_sample(size):
    seen, whole, n_sent = RowSample(size, 5), RowSample(size, 5), 0
    for part in np.array_split(X, 10):
        sample = sample_of(part, size)
        seen.merge(sample)
        sent = sample.those_among(seen)
        n_sent += len(sent.arrays()["keys"])
        whole.merge(sent)
    same(whole, sample_of(X, size))
    assert (n_sent < len(X)) == (size < len(X))


@pytest.mark.parametrize("n_features", [1, 2, 7, 64])
def test_hashes_differ_and_are_spread_evenly(n_features):
    rows = RNG.normal(size=(20_000, n_features)).astype(np.float32)
    rows = np.unique(rows, axis=0)
    hashes = hashes_of(torch.from_numpy(rows))
    assert len(np.unique(hashes)) == len(rows)
    parts = np.bincount((hashes >> np.uint64(58)).astype(int), minlength=64)
    assert np.abs(parts - len(rows) / 64).max() < 6 * np.sqrt(len(rows) / 64)


def test_hashes_of_rows_that_are_nearly_alike():
    rows = np.zeros((2000, 8), np.float32)  # numbers of 8 bits, in two columns only
    rows[:, 3], rows[:, 5] = RNG.integers(256, size=(2, 2000)) / 256
    rows = np.unique(rows, axis=0)
    assert len(np.unique(hashes_of(torch.from_numpy(rows)))) == len(rows)


def test_hashes_stay_as_they_are():
    # Saved samples must go on with the same hashes.
    rows = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    assert hashes_of(rows).tolist() == HASHES


HASHES = [4646269099702733746, 13976425326952335408]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_hashes_the_same():
    rows = torch.from_numpy(X)
    np.testing.assert_array_equal(hashes_of(rows.cuda()), hashes_of(rows))
