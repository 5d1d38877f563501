"""The monitor against a reference of a few lines, and its guarantee by simulation."""

import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binom, kstest, spearmanr
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from reactood import ReActDetector, make_react_pipeline
from reactood.conformal import ConformalDetector
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.monitoring import ConformalMonitor, _bets, _monitor
from reactood.monitoring._bets import BETS, first_states, play, total


class Reader(OutlierMixin, BaseEstimator):
    """Scores a sample by its first feature."""

    def fit(self, X, y=None):
        self.n_features_in_ = 1
        return self

    def score_samples(self, X):
        return np.asarray(X, dtype=float)[:, 0]


def column(values):
    return np.asarray(values, dtype=float)[:, None]


def calibrated(scores):
    detector = ConformalDetector(FrozenEstimator(Reader().fit(None)), alpha=0.5)
    return detector.fit(column(scores))


def monitor_of(scores, **parameters):
    return ConformalMonitor(
        calibrated(scores), **{"random_state": 0, **parameters}
    ).fit()


def reference_p_values(calibration, stream, uniforms):
    bag, p = list(calibration), []
    for score, u in zip(stream, uniforms, strict=True):
        bag.append(score)
        below = sum(other < score for other in bag)
        p.append((below + u * bag.count(score)) / len(bag))
    return p


def reference_capital(p, rates):
    """The definition in words of capital: shares, jumps, bets, and a reserve."""
    families = [
        [lambda p: 1 + (p - 0.5), lambda p: 1 - (p - 0.5)],
        [
            lambda p: 1 + (abs(2 * p - 1) - 0.5),
            lambda p: 1 - (abs(2 * p - 1) - 0.5),
        ],
        [
            lambda p: 0.98 + 0.02 * (100 if p <= 0.01 else 0),
            lambda p: 0.9 + 0.1 * (100 if p <= 0.01 else 0),
        ],
    ]
    bettors = [(sides, rate) for sides in families for rate in rates]
    accounts = [[0.5 / len(bettors) / 3] * 3 for _ in bettors]
    reserve, path = 0.5, []
    for t, value in enumerate(p, start=1):
        fresh, reserve = reserve - 0.5 / (1 + t) ** 0.5, 0.5 / (1 + t) ** 0.5
        for account, (sides, rate) in zip(accounts, bettors, strict=True):
            capital = sum(account)
            for k in range(3):
                account[k] = (1 - rate) * account[k] + rate / 3 * capital
                account[k] += fresh / len(bettors) / 3
            account[1] *= sides[0](value)
            account[2] *= sides[1](value)
        path.append(reserve + sum(map(sum, accounts)))
    return path


def uniforms(monitor, n):
    return np.random.Generator(np.random.PCG64(monitor._seed)).random(n)


@given(
    calibration=st.lists(st.integers(0, 9), min_size=1, max_size=30),  # many ties
    stream=st.lists(st.integers(-1, 10), max_size=80),
    rates=st.lists(st.floats(1e-6, 1), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_against_the_definition(calibration, stream, rates, seed):
    monitor = monitor_of(calibration, jump_rates=rates, random_state=seed, alpha=0.2)
    path = monitor.update(column(stream)) if stream else monitor.update_scores([])
    p = reference_p_values(calibration, stream, uniforms(monitor, len(stream)))
    expected = reference_capital(p, rates)
    np.testing.assert_allclose(path, np.log(expected), rtol=1e-9, atol=1e-12)
    reached = [i for i, capital in enumerate(expected) if capital >= 5]
    assert monitor.alarm_ == bool(reached)
    assert monitor.n_alarm_ == (reached[0] + 1 if reached else None)
    assert (monitor.change_ is not None) == monitor.alarm_
    assert monitor.n_seen_ == len(stream)
    np.testing.assert_allclose(monitor.log_martingale_, np.log([1, *expected][-1]))
    np.testing.assert_allclose(
        monitor.max_log_martingale_, np.log(max([1, *expected])), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("n", [33, 1000, 5000])
def test_p_values_of_large_batches(rng, n):
    """Ranks are counted in pieces, and the scores kept in two parts."""
    calibration, stream = rng.integers(0, 50, 200), rng.integers(0, 60, n) / 1.0
    monitor = monitor_of(calibration)
    found = monitor._p_values(stream)
    bag = np.concatenate([calibration, stream])
    u = uniforms(monitor, n)
    for i in range(0, n, max(1, n // 300)):
        before, score = bag[: 200 + i + 1], stream[i]
        below, equal = np.sum(before < score), np.sum(before == score)
        assert found[i] == (below + u[i] * equal) / (200 + i + 1)


@given(
    scores=st.lists(
        st.one_of(st.integers(0, 5), st.sampled_from([np.nan, np.inf, -np.inf])),
        min_size=1,
        max_size=120,
    ),
    cuts=st.lists(st.integers(0, 120), max_size=8),
)
@example(scores=[*range(100), np.nan] * 40, cuts=[1, 7, 2000, 3000])  # joined parts
def test_batches_do_not_matter(scores, cuts):
    whole = monitor_of(range(0, 10, 2), alpha=0.5)
    path = whole.update(column(scores))
    parts = clone(whole).set_params(detector=whole.detector).fit()
    pieces = np.split(np.asarray(scores, float), sorted(cuts))
    split = np.concatenate([parts.update_scores(piece) for piece in pieces])
    np.testing.assert_allclose(split, path, rtol=1e-9, atol=1e-12)
    names = "alarm_", "n_alarm_", "change_", "n_seen_", "n_nan_", "_n_drawn"
    assert [getattr(parts, n) for n in names] == [getattr(whole, n) for n in names]
    bags = [np.sort([*m._scores, *m._recent]) for m in (parts, whole)]
    np.testing.assert_array_equal(*bags)


def test_large_batches_are_worked_on_in_pieces(rng, monkeypatch):
    scores = rng.normal(size=1000)
    scores[::7] = np.nan
    whole, pieces = monitor_of(range(9)), monitor_of(range(9))
    expected = whole.update_scores(scores)
    monkeypatch.setattr(_monitor, "CHUNK", 64)
    np.testing.assert_allclose(pieces.update_scores(scores), expected, rtol=1e-9)
    assert pieces.n_nan_ == whole.n_nan_ and pieces.n_seen_ == whole.n_seen_ == 1000
    assert pieces.max_log_martingale_ == pytest.approx(whole.max_log_martingale_)


def test_one_by_one_is_the_same_to_the_last_bit(rng):
    scores = rng.normal(size=3000)
    whole, single = monitor_of(range(9)), monitor_of(range(9))
    p = whole._p_values(scores)
    one_by_one = np.concatenate(
        [single._p_values(scores[i : i + 1]) for i in range(3000)]
    )
    np.testing.assert_array_equal(one_by_one, p)


@pytest.mark.parametrize("kind", ["continuous", "ties", "constant"])
def test_online_p_values_are_independent_and_uniform(rng, kind):
    p = []
    for seed in range(200):
        scores = rng.normal(size=60)
        scores = {"continuous": scores, "ties": scores.round(), "constant": 0 * scores}
        scores = scores[kind]
        p.append(monitor_of(scores[:10], random_state=seed)._p_values(scores[10:]))
    p = np.array(p)
    assert kstest(p.ravel(), "uniform").pvalue > 1e-3
    for t in (0, 25, 49):
        assert kstest(p[:, t], "uniform").pvalue > 1e-3
    assert spearmanr(p[:, :-1].ravel(), p[:, 1:].ravel()).pvalue > 1e-3
    # Means of streams vary as those of independent values do.
    assert kstest((p.mean(axis=1) - 0.5) * np.sqrt(12 * 50), "norm").pvalue > 1e-3


def test_each_bet_wins_nothing_on_average():
    p = (np.arange(100_000) + 0.5) / 100_000
    for bet in BETS.values():
        for side in bet(p):
            assert side.min() > 0
            np.testing.assert_allclose(side.mean(), 1, rtol=1e-9)


def alarms(n_streams, length, n_calibration, alpha):
    """Return how many streams raise an alarm, by p-values online and by fixed ones."""
    rng = np.random.default_rng(1)
    rates = np.array([1e-4, 1e-3, 1e-2])
    n_online = n_fixed = 0
    for seed in range(n_streams):
        scores = rng.normal(size=n_calibration + length)
        calibration, stream = np.split(scores, [n_calibration])
        monitor = monitor_of(calibration, alpha=alpha, random_state=seed)
        monitor.update_scores(stream)
        n_online += monitor.alarm_
        below = np.searchsorted(np.sort(calibration), stream)
        p = (below + rng.random(length)) / (n_calibration + 1)
        logs = total(play(p, 0, first_states(rates), rates)[1], 0)
        n_fixed += bool((logs >= -np.log(alpha)).any())
    return n_online, n_fixed


@pytest.mark.parametrize(
    ("n_streams", "length", "n_calibration"),
    [
        (400, 300, 20),
        pytest.param(2000, 500, 20, marks=pytest.mark.slow),
        pytest.param(2000, 500, 100, marks=pytest.mark.slow),
        pytest.param(300, 10_000, 50, marks=pytest.mark.slow),
    ],
)
def test_false_alarms_are_as_rare_as_promised(n_streams, length, n_calibration):
    alpha = 0.05
    n_online, n_fixed = alarms(n_streams, length, n_calibration, alpha)
    assert n_online <= binom.ppf(1 - 1e-4, n_streams, alpha)
    # This is why new scores join the calibration scores.
    assert n_fixed > 2 * binom.ppf(1 - 1e-4, n_streams, alpha)


@pytest.mark.parametrize(
    ("stream", "change", "at_most"),
    [
        (lambda rng, n: rng.normal(-1, 1, n), {"lower", "outliers"}, 80),
        (lambda rng, n: rng.normal(1, 1, n), {"higher"}, 80),
        (lambda rng, n: rng.normal(-0.5, 1, n), {"lower", "outliers"}, 250),
        (lambda rng, n: rng.normal(0, 2, n), {"wider", "outliers"}, 80),
        (lambda rng, n: rng.normal(0, 0.3, n), {"narrower"}, 80),
        (
            lambda rng, n: rng.normal(np.where(rng.random(n) < 0.1, -5, 0), 1),
            {"outliers"},
            150,
        ),
    ],
)
def test_changes_are_found(rng, stream, change, at_most):
    for quiet in (0, 1000):
        found = named = 0
        for seed in range(20):
            monitor = monitor_of(rng.normal(size=1000), random_state=seed)
            monitor.update_scores(rng.normal(size=quiet))
            if monitor.alarm_:
                continue
            monitor.update_scores(stream(rng, 2 * at_most))
            assert monitor.alarm_
            named += monitor.change_ in change
            found += monitor.n_alarm_ <= quiet + at_most * (1 + (quiet > 0) / 2)
        assert found >= 17 and named >= 15


def test_a_change_after_a_very_long_time_is_found(rng, monkeypatch):
    """The reserve gives the bets of late days something to bet with."""
    n, rates = 300_000, np.array([1e-2])
    quiet, changed = rng.random(n), rng.random(200) / 2

    def capital():
        states, logs = play(quiet, 0, first_states(rates), rates)
        late = play(changed, n, states, rates)[1]
        return total(logs, 0)[-1], total(late, n)[-1]

    before, after = capital()
    assert before > -8 and after > np.log(100)
    monkeypatch.setattr(_bets, "reserve", lambda t: np.full(np.shape(t), 1e-300))
    before, after = capital()
    assert before < -600 and after < -600


def test_capital_never_overflows_or_vanishes(rng):
    rates = np.array([1e-4, 1.0, 1e-300])
    states = first_states(rates)
    heights = []
    for n, p in enumerate((np.zeros(3000), np.ones(9000), np.full(20_000, 0.4))):
        states, logs = play(p, 20_000 * n, states, rates)
        heights.append(total(logs, 20_000 * n)[-1])
        assert np.isfinite(states).all() and np.isfinite(logs).all()
    assert heights[0] > 7000 and np.isfinite(heights).all()
    # The same to the last digits as in logarithms, one step at a time.
    by_parts = first_states(rates)
    for part in np.split(np.zeros(3000), 10):
        by_parts, logs = play(part, 0, by_parts, rates)
    assert abs(total(logs, 0)[-1] - heights[0]) < 1


def test_samples_without_a_score_are_left_out(rng):
    scores = rng.normal(size=200)
    with_gaps = np.insert(scores, [0, 50, 50, 200], np.nan)
    plain, monitor = monitor_of(range(9)), monitor_of(range(9))
    expected, path = plain.update_scores(scores), monitor.update(column(with_gaps))
    assert path[0] == 0 and path[51] == path[52] == path[50]
    np.testing.assert_array_equal(path[~np.isnan(with_gaps)], expected)
    assert (monitor.n_seen_, monitor.n_nan_) == (204, 4)
    monitor.update_scores([np.nan] * 3)
    assert (monitor.n_seen_, monitor.n_nan_) == (207, 7)
    assert monitor.log_martingale_ == expected[-1]


def test_the_alarm_names_the_sample(rng):
    scores = np.insert(rng.normal(-3, 1, size=100), 2, np.nan)
    monitor = monitor_of(rng.normal(size=500))
    path = monitor.update(column(scores))
    first = np.flatnonzero(path >= np.log(100))[0]
    assert monitor.n_alarm_ == first + 1 < 40
    monitor.update_scores(rng.normal(size=500))
    assert monitor.alarm_ and monitor.n_alarm_ == first + 1


def test_reset_starts_again(rng):
    monitor = monitor_of(rng.normal(size=100))
    monitor.update_scores(np.full(50, -9.0))
    assert monitor.alarm_
    assert monitor.reset() is monitor
    assert not monitor.alarm_ and monitor.change_ is monitor.n_alarm_ is None
    assert monitor.log_martingale_ == monitor.max_log_martingale_ == 0
    assert monitor.n_seen_ == monitor.n_nan_ == 0
    np.testing.assert_array_equal(monitor._scores, monitor.calibration_scores_)
    ties = np.repeat(monitor.calibration_scores_[0], 20)
    first = monitor.update_scores(ties)
    # Other random numbers, so that runs are independent of each other.
    assert np.any(monitor.reset().update_scores(ties) != first)


def test_seeds(rng):
    scores = rng.integers(0, 3, 100)
    paths = [
        monitor_of(range(3), random_state=seed).update_scores(scores)
        for seed in (0, 0, 1, np.random.RandomState(0))
    ]
    np.testing.assert_array_equal(paths[0], paths[1])
    np.testing.assert_array_equal(paths[0], paths[3])
    assert np.any(paths[0] != paths[2])


def test_pickles_and_copies_go_on(rng):
    monitor = monitor_of(rng.normal(size=50))
    monitor.update_scores(rng.normal(size=2000))
    copy = pickle.loads(pickle.dumps(monitor))
    more = rng.normal(size=99)
    np.testing.assert_array_equal(copy.update_scores(more), monitor.update_scores(more))


def test_pipelines_and_frozen_detectors(rng):
    last = calibrated(rng.normal(size=50))
    scores = rng.normal(size=200)
    expected = ConformalMonitor(last, random_state=0).fit().update_scores(-scores)
    flip = FunctionTransformer(np.negative).fit(column(scores))
    for detector in (
        make_pipeline(flip, last),
        FrozenEstimator(make_pipeline(flip, last)),
        make_pipeline(flip, FrozenEstimator(last)),
    ):
        monitor = ConformalMonitor(detector, random_state=0).fit()
        np.testing.assert_array_equal(monitor.update(column(scores)), expected)
    frozen = clone(ConformalMonitor(FrozenEstimator(last)))
    assert frozen.fit().calibration_scores_ is last.calibration_scores_


def test_images():
    digits = load_digits_ood()
    pipeline = make_react_pipeline(digits_classifier, check_score=False)
    detector = ConformalDetector(pipeline, random_state=0).fit(digits.X_test[:200])
    monitor = ConformalMonitor(detector, random_state=0).fit()
    monitor.update(digits.X_test[200:])
    assert not monitor.alarm_
    monitor.update(digits.ood["letters"][:60])
    assert monitor.alarm_ and monitor.change_ in {"lower", "outliers"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"alpha": 1}, ValueError, "'alpha' parameter.*fraction.*0.01"),
        ({"alpha": 0.0}, ValueError, "'alpha' parameter"),
        ({"jump_rates": ()}, ValueError, r"jump_rates=\(\).*one or more fractions"),
        ({"jump_rates": (0.1, 0)}, ValueError, r"jump_rates=\(0.1, 0\)"),
        ({"jump_rates": [float("nan")]}, ValueError, "jump_rates"),
        ({"jump_rates": 0.1}, ValueError, "'jump_rates' parameter"),
        ({"random_state": "x"}, ValueError, "'random_state' parameter"),
        ({"detector": Reader()}, TypeError, r"is a Reader; expected.*FrozenEstimator"),
        (
            {"detector": make_pipeline(FunctionTransformer(), Reader())},
            TypeError,
            "is a Reader",
        ),
        ({"detector": 3}, ValueError, "'detector' parameter"),
        ({"detector": ConformalDetector(Reader())}, NotFittedError, "not fitted"),
    ],
)
def test_errors(change, error, message):
    monitor = ConformalMonitor(calibrated(range(9))).set_params(**change)
    with pytest.raises(error, match=message):
        monitor.fit()
    assert not hasattr(monitor, "alarm_")


def test_parameters_count_from_fit_on(rng):
    """A limit that is changed while the stream is watched would not hold."""
    monitor, other = monitor_of(range(9)), monitor_of(range(9))
    monitor.set_params(alpha=0.9, jump_rates=(0.5,), random_state=8)
    stream = rng.normal(4, 2, size=100)
    path = monitor.update_scores(stream)
    np.testing.assert_array_equal(path, other.update_scores(stream))
    assert monitor.threshold_ == other.threshold_ == -np.log(0.01)
    assert monitor.n_alarm_ == other.n_alarm_
    assert len(monitor.fit()._states) == len(BETS)


def test_errors_of_updates(rng):
    detector = calibrated(range(9))
    for name in ("update", "update_scores"):
        with pytest.raises(NotFittedError):
            getattr(ConformalMonitor(detector), name)(column(range(3)))
    with pytest.raises(NotFittedError):
        ConformalMonitor(detector).reset()
    monitor = ConformalMonitor(detector).fit()
    before = dict(vars(monitor))
    with pytest.raises(ValueError, match="1d"):
        monitor.update_scores(np.zeros((3, 2)))
    with pytest.raises((ValueError, IndexError)):
        monitor.update(np.zeros(3))
    detector.fit(column(range(20)))
    with pytest.raises(ValueError, match=r"other calibration scores.*`fit`"):
        monitor.update(column([1]))
    assert vars(monitor) == before
    assert monitor.fit().update(column([1])).shape == (1,)


def test_parameters_are_only_stored():
    rates, detector = [0.1], ReActDetector()
    monitor = ConformalMonitor(detector, jump_rates=rates, alpha="x")
    assert monitor.jump_rates is rates and monitor.detector is detector
    assert monitor.get_params(deep=False)["alpha"] == "x"
