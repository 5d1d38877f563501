"""How soon ConformalMonitor finds a change, how often it is wrong, and its speed.

    python benchmarks/monitoring.py           # some minutes
    python benchmarks/monitoring.py --smoke   # seconds; shows nothing

Scores are normal with standard deviation 1, and the calibration samples are 1,000. A
change begins with the first sample of the stream, or after 10,000 unchanged ones.
Everything is seeded but the times.
"""

import argparse
import time
from unittest import mock

import numpy as np
from _timing import limit_threads, machine, print_table
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.frozen import FrozenEstimator

from reactood.conformal import ConformalDetector
from reactood.monitoring import ConformalMonitor
from reactood.monitoring._bets import BETS, first_states, level, play, total

ALPHA, N_CALIBRATION = 0.01, 1_000
CHANGES = {
    "lower by 1 sd": lambda rng, n: rng.normal(-1, 1, n),
    "lower by 0.5 sd": lambda rng, n: rng.normal(-0.5, 1, n),
    "lower by 0.25 sd": lambda rng, n: rng.normal(-0.25, 1, n),
    "higher by 0.5 sd": lambda rng, n: rng.normal(0.5, 1, n),
    "1.5 times the sd": lambda rng, n: rng.normal(0, 1.5, n),
    "10 % lower by 4 sd": lambda rng, n: with_outliers(rng, n, 0.1),
    "5 % lower by 4 sd": lambda rng, n: with_outliers(rng, n, 0.05),
    "2 % lower by 4 sd": lambda rng, n: with_outliers(rng, n, 0.02),
}


class Given(OutlierMixin, BaseEstimator):
    """Takes its only feature as the score."""

    def fit(self, X, y=None):
        """Learn nothing."""
        self.n_features_in_ = 1
        return self

    def score_samples(self, X):
        """Return the feature."""
        return X[:, 0]


def with_outliers(rng, n, share):
    """Return scores of which about this share is lower."""
    return rng.normal(np.where(rng.random(n) < share, -4, 0), 1)


def monitor_of(calibration, seed, alpha=ALPHA):
    """Return a monitor with these calibration scores."""
    X = calibration[:, None]
    detector = ConformalDetector(FrozenEstimator(Given().fit(X)), alpha=0.5).fit(X)
    return ConformalMonitor(detector, alpha=alpha, random_state=seed).fit()


def delay(change, n_before, seed, longest):
    """Return how many changed samples it took, inf if too many; None if it was wrong.

    It was wrong if there was an alarm before the change.
    """
    rng = np.random.default_rng(seed)
    monitor = monitor_of(rng.normal(size=N_CALIBRATION), seed)
    monitor.update_scores(rng.normal(size=n_before))
    if monitor.alarm_:
        return None
    while not monitor.alarm_ and monitor.n_seen_ < n_before + longest:
        monitor.update_scores(change(rng, 100))
    return monitor.n_alarm_ - n_before if monitor.alarm_ else np.inf


def report_delays(n_runs, starts, longest, title="all bets"):
    """Print how many samples it takes to find a change."""
    rows = []
    for name, change in CHANGES.items():
        for n_before in starts:
            found = [delay(change, n_before, s, longest) for s in range(n_runs)]
            known = np.array([value for value in found if value is not None])
            low, middle, high = np.quantile(known, [0.1, 0.5, 0.9], method="lower")
            missed = np.isinf(known).mean()
            wrong = n_runs - len(known)
            values = *(f"{value:.0f}" for value in (middle, low, high)), f"{missed:.1%}"
            rows.append((name, f"{n_before:,}", *values, str(wrong)))
    print(f"{title}, alpha={ALPHA}, {n_runs} runs")
    missed = f"not in {longest:,}"
    print_table(("change", "after", "median", "10 %", "90 %", missed, "wrong"), rows)


def report_false_alarms(n_streams, length):
    """Print the share of streams without a change that raise an alarm."""
    rows = []
    for n_calibration in (100, 1_000):
        online = fixed = 0
        for seed in range(n_streams):
            rng = np.random.default_rng(seed)
            calibration, scores = (
                rng.normal(size=n_calibration),
                rng.normal(size=length),
            )
            monitor = monitor_of(calibration, seed)
            monitor.update_scores(scores)
            online += monitor.alarm_
            below = np.searchsorted(np.sort(calibration), scores)
            p = (below + rng.random(length)) / (n_calibration + 1)
            states = first_states(monitor.jump_rates_)
            logs = total(play(p, 0, states, monitor.jump_rates_)[1], 0)
            fixed += bool((logs >= monitor.threshold_).any())
        shares = f"{online / n_streams:.1%}", f"{fixed / n_streams:.1%}"
        rows.append((f"{n_calibration:,}", *shares))
    print(f"{n_streams} streams of {length:,} unchanged samples, alpha={ALPHA}")
    columns = "calibration", "false alarms", "with p-values against calibration alone"
    print_table(columns, rows)


def report_speed(n_kept):
    """Print samples per second of processor time, by the size of batches."""
    rng = np.random.default_rng(0)
    rows = []
    for size in (1, 10, 100, 1_000, 100_000):
        monitor = monitor_of(rng.normal(size=n_kept), 0)
        batches = rng.normal(size=(max(1, min(2_000, 100_000 // size)), size))
        start = time.process_time()
        for batch in batches:
            monitor.update_scores(batch)
        rows.append(
            (f"{size:,}", f"{batches.size / (time.process_time() - start):,.0f}")
        )
    print(f"{n_kept:,} scores kept")
    print_table(("batch", "samples per second"), rows)


def main():
    """Run all and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--smoke", action="store_true", help="small runs, seconds")
    options = parser.parse_args()
    limit_threads(1)
    print(machine() + "\n")
    if options.smoke:
        report_delays(2, (0,), 300)
        report_false_alarms(2, 100)
        report_speed(10_000)
        return
    report_delays(options.runs, (0, 10_000), 5_000)
    with mock.patch.dict(BETS, {"level": level}, clear=True):
        report_delays(options.runs, (0,), 5_000, "the bet on high and low p-values")
    report_false_alarms(500, 10_000)
    report_speed(1_000_000)


if __name__ == "__main__":
    main()
