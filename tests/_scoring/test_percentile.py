"""The percentile equals numpy's to the last bit, in bounded memory."""

import tracemalloc
import warnings

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from joblib import Parallel, delayed

from reactood._scoring import _percentile
from reactood._scoring._clip import learn_clips
from reactood._scoring._percentile import (
    column_percentiles,
    pooled_percentiles,
    pooled_percentiles_of_sides,
)

MATRICES = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.float64]),
    shape=hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
    elements=st.one_of(
        st.sampled_from([0.0, -1.0, 2.5]),  # ties
        st.floats(-1e3, 1e3, width=32),
    ),
)
PERCENTS = st.floats(0, 100)


@pytest.fixture
def small_samples(monkeypatch):
    """Make brackets narrow and often wrong, so that every branch is taken."""
    monkeypatch.setattr(_percentile, "SMALL", 8)
    monkeypatch.setattr(_percentile, "SAMPLE", 40)


@pytest.mark.usefixtures("small_samples")
@settings(deadline=None, max_examples=300)
@given(X=MATRICES, q=PERCENTS)
def test_pooled_equals_numpy(X, q):
    summary = pooled_percentiles(X, [q, 50.0])
    assert summary.percentiles[0] == np.percentile(X, q)
    assert summary.percentiles[1] == np.percentile(X, 50.0)
    assert (summary.minimum, summary.maximum) == (X.min(), X.max())


@pytest.mark.parametrize("q", [-5, 100.5, float("nan"), float("inf")])
def test_what_is_no_percentile(q, rng):
    """The search for it would not end."""
    X = rng.normal(size=(20, 3))
    sides = [np.arange(20) % 2 == 0, np.arange(20) % 2 == 1]
    for find in (pooled_percentiles, column_percentiles):
        with pytest.raises(
            ValueError, match="expected a number from 0 to 100, in perc"
        ):
            find(X, [50, q])
    with pytest.raises(ValueError, match="expected a number from 0 to 100, in percent"):
        pooled_percentiles_of_sides(X, [50, q], sides)
    with pytest.raises(ValueError, match=f"lower_percentile={q}; expected a number"):
        learn_clips(X, [None], [90], lower_percentile=q)
    with pytest.raises(TypeError, match="percentile='90' is a str; expected a number"):
        learn_clips(X, [None], ["90"])


@pytest.mark.usefixtures("small_samples")
@settings(deadline=None, max_examples=200)
@given(X=MATRICES, q=PERCENTS, data=st.data())
def test_sides_equal_numpy(X, q, data):
    """Sides that overlap: folds, few patterns, and many."""
    fold = np.arange(len(X)) % 3
    masks = hnp.arrays(bool, len(X)).filter(np.any)
    sides = data.draw(st.lists(masks, min_size=1, max_size=4))
    if len(X) > 3 and data.draw(st.booleans()):
        sides = [fold != i for i in range(3)]
    for rows, summary in zip(
        sides, pooled_percentiles_of_sides(X, [q, 50.0], sides), strict=True
    ):
        assert summary.percentiles[0] == np.percentile(X[rows], q)
        assert summary.percentiles[1] == np.percentile(X[rows], 50.0)
        assert (summary.minimum, summary.maximum) == (X[rows].min(), X[rows].max())


def test_sides_of_folds_are_one_pass(monkeypatch):
    X = np.random.default_rng(0).normal(size=(3000, 400))
    folds = [np.arange(3000) % 5 != i for i in range(5)]
    n_elements = []
    add = _percentile._Bracket.add
    monkeypatch.setattr(
        _percentile._Bracket,
        "add",
        lambda self, block: (n_elements.append(block.size), add(self, block)),
    )
    summaries = pooled_percentiles_of_sides(X, [90.0], folds)
    assert sum(n_elements) == X.size
    assert summaries[2].percentiles == [np.percentile(X[folds[2]], 90.0)]


@settings(deadline=None, max_examples=100)
@given(X=MATRICES, q=PERCENTS)
def test_columns_equal_numpy(X, q):
    summary = column_percentiles(X, [q])
    np.testing.assert_array_equal(summary.percentiles[0], np.percentile(X, q, axis=0))
    np.testing.assert_array_equal(summary.minimum, X.min(axis=0))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("q", [0.0, 0.1, 50.0, 90.0, 99.99, 100.0])
def test_large_matrix_takes_the_sampled_way(q, seed):
    rng = np.random.default_rng(seed)
    X = np.maximum(rng.standard_normal((3000, 400), dtype=np.float32), 0)
    assert X.size > _percentile.SMALL
    assert pooled_percentiles(X, [q], seed=seed).percentiles == [np.percentile(X, q)]


def test_a_bracket_that_misses_is_widened(monkeypatch):
    X = np.arange(20_000, dtype=np.float64).reshape(200, 100)
    misses = [(3.0, 4.0), (19_998.0, 19_999.0)]
    real = _percentile._bracket
    monkeypatch.setattr(_percentile, "SMALL", 8)
    monkeypatch.setattr(_percentile, "SAMPLE", 500)
    monkeypatch.setattr(
        _percentile, "_bracket", lambda s, q: misses.pop() if misses else real(s, q)
    )
    assert pooled_percentiles(X, [90.0]).percentiles == [np.percentile(X, 90.0)]
    assert not misses


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("function", [pooled_percentiles, column_percentiles])
def test_rows_layouts_and_tensors(function, order, rng):
    X = np.asarray(rng.normal(size=(500, 70)), order=order)
    rows = rng.random(500) < 0.3
    axis = None if function is pooled_percentiles else 0
    expected = np.percentile(X[rows], 90.0, axis=axis)
    for features in (X, torch.from_numpy(X)):
        (result,) = function(features, [90.0], rows).percentiles
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensors(dtype):
    X = torch.randn(50, 20, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert pooled_percentiles(X, [90.0]).percentiles == [
        np.percentile(X.float().numpy(), 90.0)
    ]


@pytest.mark.parametrize("function", [pooled_percentiles, column_percentiles])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_raise(function, bad, rng):
    X = rng.normal(size=(30, 4))
    X[17, 2] = bad
    with pytest.raises(ValueError, match=r"in 1 of 30 rows, the first in row 17"):
        function(X, [90.0])


@pytest.mark.parametrize("n_cpus", [1, 2, 64])
@pytest.mark.parametrize("width", [60, 2048])
@pytest.mark.parametrize("function", [pooled_percentiles, column_percentiles])
def test_memory_stays_below_a_tenth_of_the_features(
    function, width, n_cpus, rng, monkeypatch
):
    monkeypatch.setattr(joblib, "effective_n_jobs", lambda n_jobs: n_cpus)
    X = rng.standard_normal((20_000_000 // width, width), dtype=np.float32)
    tracemalloc.start()
    function(X, [90.0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.1 * X.nbytes


def test_copies_towards_the_host_are_waited_for(monkeypatch):
    """An unfinished copy would be read as it is: only CUDA targets may be so."""
    calls = []
    real = torch.Tensor.to

    def to(self, *args, **kwargs):
        calls.append(kwargs)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)
    pooled_percentiles(torch.rand(30, 4), [90.0])
    assert calls and not any(kwargs.get("non_blocking") for kwargs in calls)


def test_read_only_memory_leaves_the_warning_filters_alone(rng):
    X = rng.normal(size=(40, 4))
    X.setflags(write=False)
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Parallel(n_jobs=4, backend="threading")(
            delayed(pooled_percentiles)(X, [90.0]) for _ in range(8)
        )
    assert not caught and warnings.filters == before
