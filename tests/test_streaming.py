"""Detectors that learn from batches, against `fit` on all rows at once."""

import pickle
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from reactood import ReActDetector, make_react_pipeline
from reactood._scoring._stream import Stream
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.persistence import load, save
from reactood.pipeline import ReActPipeline

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
    rejecting.partial_fit(X[:4], np.full(4, -1))
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
    for matrix in (X, features):
        with pytest.raises(ValueError, match=r"one matrix of shape \(900, 16\)"):
            make().fit_stream(matrix)


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


@pytest.mark.parametrize("size", [1, 100, 800, 5000])
def test_a_detector_merged_with_itself_has_seen_everything_twice(size):
    params = {"sample_size": size, "threshold": 1.0}
    detector = make(**params).fit_stream(np.array_split(X, 7))
    expected = make(**params).fit_stream([X, X])._stream.arrays()
    assert_equal_trees(detector.merge(detector)._stream.arrays(), expected)


def test_an_exact_percentile_stays_exact_in_a_pickle_and_a_file(tmp_path):
    detector = make(sample_size=50).fit_stream(np.array_split(X, 7), exact=True)
    pickled = pickle.dumps(detector)  # before anything was asked for
    path = tmp_path / "detector.safetensors"
    save(detector, path)
    for again in (pickle.loads(pickled), load(path)):
        assert again.activation_threshold_ == np.percentile(X, 90)
        again.set_params(contamination=0.1)
        assert again.activation_threshold_ == np.percentile(X, 90)


@pytest.mark.parametrize("asked", [False, True])
def test_parameters_take_effect_at_once_whether_or_not_anything_was_asked(asked):
    detector = make(sample_size=300).partial_fit(X)
    if asked:
        detector.predict(X)
    detector.set_params(percentile=80, score_function="msp")
    expected = make(sample_size=300, percentile=80, score_function="msp")
    assert_same(detector, expected.partial_fit(X))
    detector.set_params(per_unit=True)
    with pytest.raises(ValueError, match="per_unit=True was False at the first"):
        detector.predict(X)


def test_threads_that_ask_at_the_same_time():
    # Two of each row, so that counts would be added twice.
    twice = np.concatenate([X, X])
    expected = make(sample_size=1000).fit_stream([twice])._stream.sample.arrays()
    sample = make(sample_size=1000).fit_stream([twice])._stream.sample
    found = []
    unique = np.unique

    def slow_unique(*args, **kwargs):
        time.sleep(0.05)  # other threads run meanwhile
        return unique(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "unique", slow_unique)
        threads = [
            threading.Thread(target=lambda: found.append(sample.arrays()))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 3
    for arrays in found:
        assert_equal_trees(arrays, expected)


def test_columns_of_another_order_are_not_merged():
    pd = pytest.importorskip("pandas")
    names = [f"unit{i}" for i in range(16)]
    one = make().partial_fit(pd.DataFrame(X, columns=names))
    two = make().partial_fit(pd.DataFrame(X, columns=names[::-1]))
    with pytest.raises(ValueError, match="names of features"):
        one.merge(two)
    assert one.merge(make().partial_fit(X)).n_samples_seen_ == 2 * N


def test_a_notebook_shows_why_nothing_follows_from_a_stream():
    detector = make().partial_fit(X[:1] * 0)
    assert "every input would look the same" in detector._repr_html_()
    assert (
        "no row was learned"
        in make().partial_fit(X[:2], [-1, -1])._repr_html_().lower()
    )


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


def test_drift_of_the_same_distribution_is_within_the_intervals():
    covered = {}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows = rng.gamma(2, 1, (2, 250, 16)) * rng.gamma(9, 1 / 9, (2, 250, 1))
        # So that rows, not activations, are what is independent.
        one, two = (
            make(sample_size=size, lower_percentile=5).fit_stream([part])
            for part, size in zip(rows.astype(np.float32), (120, 120), strict=True)
        )
        drift = one.drift(two, q=[10, 50], confidence=0.9)
        changes = vars(drift) | drift.score_percentiles
        for name, change in changes.items():
            if hasattr(change, "moved"):
                covered.setdefault(name, []).append(not change.moved)
    names = {"clip", "lower_clip", "clipped_share", "rejected_share", 10, 50}
    assert covered.keys() == names
    for name, found in covered.items():  # at least 90 %, but for chance
        assert stats.binomtest(sum(found), 60, 0.9, "less").pvalue > 1e-3, name


def test_intervals_of_each_unit_cover_what_they_say():
    moved = []
    for seed in range(20):
        rows = np.random.default_rng(seed).gamma(2, size=(2, 2000, 16))
        one, two = (make(per_unit=True).fit_stream([part]) for part in rows)
        moved.append(one.drift(two, q=[50], confidence=0.9).clip.moved)
    # At least 90 % of 320, but for chance; intervals of 90 % are not much wider.
    n_moved = np.count_nonzero(moved)
    assert stats.binomtest(n_moved, 320, 0.1, "greater").pvalue > 1e-3


@pytest.mark.parametrize("per_unit", [False, True])
def test_drift_finds_what_moved(per_unit):
    detector = make(per_unit=per_unit, sample_size=400).fit_stream([X])
    same = detector.drift(detector)
    assert not np.any(same.clip.moved) and not same.rejected_share.moved
    larger = 1.5 * X if not per_unit else X * np.where(np.arange(16) < 4, 1.5, 1)
    after = make(per_unit=per_unit, sample_size=400).fit_stream([larger])
    drift = detector.drift(after)
    if per_unit:
        assert drift.clip.moved.tolist() == [True] * 4 + [False] * 12
        assert "4 of 16 units have moved" in str(drift)
    else:
        assert drift.clip.moved and drift.clipped_share.moved
        assert drift.clip.after == pytest.approx(1.5 * drift.clip.before, rel=0.02)
        assert drift.clipped_share.low < drift.clipped_share.after - 0.1
        assert drift.clipped_share.before == pytest.approx(0.1, abs=0.001)
    assert drift.lower_clip is None and "lower clip" not in str(drift)
    assert str(drift).count("\n") == 8
    by_hand = make(threshold=1.0).fit_stream([X])
    assert by_hand.drift(by_hand).clip is None


def test_what_has_no_drift():
    detector = make().partial_fit(X)
    for other, params, message in (
        (make(percentile=80).partial_fit(X), {}, "differ in percentile, 90.0 and 80"),
        (make().fit(X), {}, "was not fitted by partial_fit"),
        (detector, {"confidence": 95}, "confidence=95; expected a fraction"),
        (detector, {"q": [101]}, "q=101"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.drift(other, **params)


@pytest.fixture(scope="module")
def digits():
    return load_digits_ood()


@pytest.fixture(scope="module")
def fitted(digits):
    return make_react_pipeline(digits_classifier, check_score=False).fit(
        digits.X_train[:300]
    )


def assert_same_pipeline(pipeline, fitted, images):
    # Batches of other sizes give other last bits of features.
    np.testing.assert_allclose(
        pipeline.score_samples(images), fitted.score_samples(images), rtol=1e-5
    )
    assert pipeline[-1].n_samples_seen_ == fitted[-1].n_samples_seen_
    assert pipeline[-1].offset_ == pytest.approx(fitted[-1].offset_, rel=1e-4)


def test_pipelines_learn_from_batches_of_images(digits, fitted):
    images = digits.X_train[:300]
    labels = torch.zeros(300)
    for X in (
        images,
        np.split(images, 3),
        iter(np.split(images, 3)),
        (part for part in np.split(images, 5)),
        DataLoader(TensorDataset(torch.as_tensor(images), labels), batch_size=70),
        DataLoader(Once(images), batch_size=70),
    ):
        pipeline = clone(fitted).fit_stream(X)
        assert_same_pipeline(pipeline, fitted, digits.X_test[:50])
    exact = clone(fitted).set_params(detector__sample_size=50)
    exact.fit_stream(np.split(images, 3), exact=True)
    features = exact[0].transform(images)
    assert exact[-1].activation_threshold_ == pytest.approx(
        np.percentile(features, 90), rel=1e-6
    )
    with pytest.raises(TypeError, match="exact=True goes through the images twice"):
        clone(fitted).fit_stream(iter([images]), exact=True)
    for nothing in ([], iter([])):
        with pytest.raises(ValueError, match=r"no batch|0 images|empty"):
            clone(fitted).fit_stream(nothing)


def test_kinds_of_batches_of_images(digits, fitted, tmp_path):
    images = digits.X_train[:60]
    labels = np.zeros(60)
    pairs = list(zip(np.split(images, 3), np.split(labels, 3), strict=True))
    for X in (pairs, iter(pairs), [list(images[:20]), list(images[20:])]):
        assert clone(fitted).fit_stream(X)[-1].n_samples_seen_ == 60
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
    # Of two sizes, which make no array.
    pil = [Image.fromarray(one[: 7 + i % 2]) for i, one in enumerate(pixels)]
    paths = [tmp_path / f"{i}.png" for i in range(9)]
    for one, path in zip(pil, paths, strict=True):
        one.save(path)
    body = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    pipeline = make_react_pipeline(nn.Sequential(*body), preprocess=to_square)
    for X in (pil, paths, [pil[:5], pil[5:]], [paths[:5], paths[5:]], [tuple(pil)]):
        assert clone(pipeline).fit_stream(X)[-1].n_samples_seen_ == 9


def to_square(image):
    return torch.tensor(np.array(image.resize((8, 8)))).permute(2, 0, 1) / 255


def test_features_with_names_are_handed_over(digits, fitted):
    pytest.importorskip("pandas")
    images = digits.X_train[:60]
    pipeline = clone(fitted).set_output(transform="pandas")
    pipeline.fit_stream(np.split(images, 3)).predict(images)  # without a warning
    assert pipeline[-1].feature_names_in_.shape == (pipeline[-1].n_features_in_,)
    received = []

    def receive(rows, features):
        received.append(type(features))

    assert pipeline[0].transform(images, out=receive) is None
    assert pipeline[0].fit_transform(images, out=receive) is None
    assert set(received) == {np.ndarray}
    assert hasattr(pipeline[0].transform(images), "columns")


@pytest.mark.parametrize("error", [ConnectionError, EOFError, MemoryError])
def test_errors_of_the_function_that_takes_features(digits, fitted, error):
    calls = []

    def receive(rows, features):
        calls.append(rows)
        raise error("the server is away")

    with pytest.raises(error, match="the server is away"):
        fitted[0].transform(digits.X_train[:60], out=receive)
    assert len(calls) == 1  # nothing is handed over twice


class Once(IterableDataset):
    """Images that can be read only once."""

    def __init__(self, images):
        self.images = iter(images)

    def __iter__(self):
        return self.images


def test_steps_in_between(digits, fitted):
    images = digits.X_train[:300]
    features = fitted[0].transform(images)
    scaler = StandardScaler(with_mean=False).fit(features)
    parts = [("extractor", fitted[0]), ("scaler", scaler), ("detector", fitted[1])]
    with pytest.raises(TypeError, match="'scaler' would have to be fitted to all"):
        clone(ReActPipeline(parts)).fit_stream(images)
    parts[1] = "scaler", FrozenEstimator(scaler)
    pipeline = clone(ReActPipeline(parts)).fit_stream(np.split(images, 4))
    expected = clone(fitted[1]).fit(scaler.transform(features))
    assert pipeline[-1].offset_ == pytest.approx(expected.offset_, rel=1e-4)
    assert not hasattr(ReActPipeline(parts[1:]), "fit_stream")


def test_unreadable_images_in_a_stream(digits):
    images = digits.X_train[:300].copy()
    images[7] = np.nan
    pipeline = make_react_pipeline(digits_classifier, on_error="nan", check_score=False)
    with pytest.warns(UserWarning, match="1 images could not be read"):
        pipeline.fit_stream(images)
    assert pipeline[-1].n_samples_seen_ == 299
    raising = make_react_pipeline(digits_classifier)
    with pytest.raises(ValueError, match="NaN"):
        raising.fit_stream(images)


def test_features_are_handed_over_once_each(digits, fitted, tmp_path):
    images = np.concatenate([digits.X_train[:40], digits.X_train[:25]])
    cached = clone(fitted[0]).set_params(cache=str(tmp_path / "cache"))
    for extractor in (fitted[0], cached.fit(images), cached):
        rows, parts = [], []

        def receive(some, features, rows=rows, parts=parts):
            rows.extend(some)
            parts.append(features)

        assert extractor.transform(images, out=receive) is None
        assert sorted(rows) == list(range(65))
        features = np.concatenate(parts)[np.argsort(rows)]
        np.testing.assert_allclose(
            features, fitted[0].transform(images), rtol=1e-5, atol=1e-6
        )


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
