"""Seconds to choose the percentile: ReActDetectorCV against GridSearchCV.

    python benchmarks/selection.py           # some minutes
    python benchmarks/selection.py --smoke   # seconds; shows nothing about speed

Seven percentiles, five folds and the final fit, on features in memory, with heads of
10 and of 1,000 classes. The choice and all scores are compared, too.
"""

import argparse
import functools

import numpy as np
from _timing import interleave, limit_threads, machine, print_table, verdict
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from reactood import ReActDetector, ReActDetectorCV
from reactood.metrics import ood_scorers

PERCENTILES = 65.0, 80.0, 85.0, 90.0, 92.5, 95.0, 99.0
LEAST_SPEEDUP = 4
CV = StratifiedKFold(5, shuffle=True, random_state=0)


def make_data(n_rows, width, n_classes):
    """Return features, labels and a head."""
    rng = np.random.default_rng(0)
    X = np.maximum(rng.normal(0.2, 0.5, (n_rows, width)), 0).astype(np.float32)
    y = np.where(np.arange(n_rows) % 10, 1, -1)
    X[y == -1] *= 0.7
    X[y == -1, : width // 8] *= 2
    head = rng.normal(0, 0.05, (n_classes, width)), np.zeros(n_classes)
    return X, y, tuple(a.astype(np.float32) for a in head)


def ours(X, y, head):
    """Choose in one estimator."""
    return ReActDetectorCV(head, percentiles=PERCENTILES, cv=CV).fit(X, y)


def theirs(X, y, head):
    """Choose by a grid search."""
    scoring = ood_scorers()["neg_fpr_at_tpr"]
    grid = {"percentile": PERCENTILES}
    return GridSearchCV(ReActDetector(head), grid, scoring=scoring, cv=CV).fit(X, y)


def main():
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--smoke", action="store_true", help="one small run, seconds")
    options = parser.parse_args()
    limit_threads(options.threads)
    n_rows, width, repeats = options.rows, 2048, options.repeats
    if options.smoke:
        n_rows, width, repeats = 200, 64, 1
    print(machine() + f"; {n_rows} x {width} float32 features\n")
    rows = []
    for n_classes in (10, 1000):
        data = make_data(n_rows, width, n_classes)
        one, other = ours(*data), theirs(*data)
        assert one.best_percentile_ == other.best_params_["percentile"]
        np.testing.assert_allclose(
            one.cv_results_["mean_test_score"], other.cv_results_["mean_test_score"]
        )
        functions = {
            "GridSearchCV": functools.partial(theirs, *data),
            "ReActDetectorCV": functools.partial(ours, *data),
        }
        seconds, noise = interleave(functions, repeats)
        for name, s in seconds.items():
            ratio = seconds["GridSearchCV"] / s
            bar = LEAST_SPEEDUP if name == "ReActDetectorCV" else None
            passed = "" if options.smoke else verdict(ratio, least=bar)
            cells = f"{s:.2f}", f"{ratio:.2f}", passed, f"{noise:.2f}"
            rows.append((f"{n_classes}", name, *cells))
    print_table(("classes", "what", "seconds", "ratio", "", "noise"), rows)


if __name__ == "__main__":
    main()
