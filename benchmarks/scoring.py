"""Time and memory of percentiles, `fit` and `score_samples` against bare NumPy.

python benchmarks/scoring.py            # 50,000 x 2,048 features, minutes
python benchmarks/scoring.py --smoke    # seconds; shows nothing about speed
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from _timing import (
    interleave,
    limit_threads,
    machine,
    peak_extra_bytes,
    print_table,
    verdict,
)
from scipy.special import logsumexp

from reactood import ReActDetector
from reactood._scoring._percentile import column_percentiles, pooled_percentiles
from reactood._scoring._scores import SCORES

FULL = 50_000, 2_048, 1_000
SMOKE = 2_000, 512, 10
DEARER = "gen", "joint_energy"  # these have no bar
BARS = {"percentile": 0.25, "score": 1.2, "memory": 10}  # memory: % of the features


def make_features(n_rows, n_features):
    """Return ReLU-like float32 features, made in place."""
    rng = np.random.default_rng(0)
    X = np.empty((n_rows, n_features), np.float32)
    for block in np.array_split(X, max(1, X.size >> 22)):
        rng.standard_normal(dtype=np.float32, out=block)
        np.maximum(block, 0, out=block)
    return X


def make_head(n_features, n_classes):
    """Return weight and bias of a linear head."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((n_classes, n_features), dtype=np.float32)
    return weight / np.sqrt(np.float32(n_features)), np.zeros(n_classes, np.float32)


def numpy_fit(X, weight, bias):
    """Compute what `fit` computes, in NumPy and SciPy on whole arrays."""
    clip = np.percentile(X, 90)
    scores = logsumexp(np.minimum(X, clip) @ weight.T + bias, axis=1)
    return clip, np.percentile(scores, 5)


# Fresh processes run these functions to measure the memory of each.


def build_array(shape):
    """Return features, once the libraries are warm."""
    n_rows, n_features, n_classes = shape
    head = make_head(n_features, n_classes)
    ReActDetector(head).fit(make_features(10, n_features))
    return make_features(n_rows, n_features), head


def build_fitted(shape):
    """Return features and a detector fitted on some of them."""
    X, head = build_array(shape)
    return X, ReActDetector(head).fit(X[:1_000])


def build_memmap(shape, path):
    """Return features on disk, read once so that their pages are in memory."""
    _, head = build_array((1, *shape[1:]))
    X = np.memmap(path, np.float32, "r", shape=shape[:2])
    X.max()
    return X, head


def call_pooled(X, head):
    """Compute one percentile over all features."""
    return pooled_percentiles(X, [90])


def call_columns(X, head):
    """Compute one percentile per feature."""
    return column_percentiles(X, [90])


def call_numpy_pooled(X, head):
    """Compute one percentile over all features in NumPy."""
    return np.percentile(X, 90)


def call_numpy_columns(X, head):
    """Compute one percentile per feature in NumPy."""
    return np.percentile(X, 90, axis=0)


def call_fit(X, head):
    """Fit a detector."""
    return ReActDetector(head).fit(X)


def call_numpy_fit(X, head):
    """Fit by hand."""
    return numpy_fit(X, *head)


def call_score(X, detector):
    """Score all features."""
    return detector.score_samples(X)


def call_product(X, detector):
    """Multiply all features by the weights."""
    return X @ detector.coef_.T


def main():
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of NumPy and torch")
    parser.add_argument("--smoke", action="store_true", help="small sizes, seconds")
    options = parser.parse_args()
    limit_threads(options.threads)
    shape = SMOKE if options.smoke else FULL
    repeats = 1 if options.smoke else options.repeats
    bars = dict.fromkeys(BARS) if options.smoke else BARS
    X = make_features(*shape[:2])
    print(machine())
    print(f"{shape[0]:,} x {shape[1]:,} float32 features, {shape[2]:,} classes\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "features.bin")
        X.tofile(path)
        mapped = np.memmap(path, np.float32, "r", shape=X.shape)
        report_time(X, mapped, make_head(*shape[1:]), repeats, bars)
        report_memory(X.nbytes, shape, path, bars)
        del mapped  # some systems do not remove a file that is open


def report_time(X, mapped, head, repeats, bars):
    """Print the time of everything as a share of the time of its reference."""
    few = max(1, repeats // 2)  # NumPy takes many seconds for these
    bar = bars["percentile"]
    rows = [
        *_percentile_rows("one percentile", pooled_percentiles, X, mapped, few, bar),
        *_percentile_rows("one per unit", column_percentiles, X, mapped, few),
        *_score_rows(X, *head, repeats, bars["score"]),
        *_fit_rows(X, *head, few),
    ]
    print_table(("what", "reference", "ratio", "bar", "", "noise"), rows)


def _percentile_rows(name, percentiles, X, mapped, repeats, bar=None):
    axis = 0 if percentiles is column_percentiles else None
    reference = "numpy.percentile" + ("" if axis is None else ", axis=0")
    for place, matrix in ("in memory", X), ("memory map", mapped):
        times = interleave(
            {
                "ours": lambda matrix=matrix: percentiles(matrix, [90]),
                "numpy": lambda matrix=matrix: np.percentile(matrix, 90, axis=axis),
            },
            repeats,
        )
        yield _row(f"{name}, {place}", reference, times, "ours", "numpy", bar)


def _score_rows(X, weight, bias, repeats, bar):
    detectors = {
        name: ReActDetector((weight, bias), score_function=name, check_score=False).fit(
            X
        )
        for name in SCORES
    }
    products = {
        "X @ W.T, numpy": lambda: X @ weight.T,
        "X @ W.T, torch": lambda: torch.mm(
            torch.from_numpy(X), torch.from_numpy(weight).T
        ),
    }
    ours = {
        name: lambda detector=detector: detector.score_samples(X)
        for name, detector in detectors.items()
    }
    times = interleave({**products, **ours}, repeats)
    for product in products:
        for name in ours:
            label = f"score_samples, {name}"
            most = None if name in DEARER else bar
            yield _row(label, product, times, name, product, most)


def _fit_rows(X, weight, bias, repeats):
    times = interleave(
        {
            "ours": lambda: ReActDetector((weight, bias), check_score=False).fit(X),
            "checked": lambda: ReActDetector((weight, bias)).fit(X),
            "numpy": lambda: numpy_fit(X, weight, bias),
            "product": lambda: X @ weight.T,
        },
        repeats,
    )
    yield _row("fit", "whole-array numpy", times, "ours", "numpy")
    yield _row("fit", "X @ W.T, numpy", times, "ours", "product")
    yield _row("fit with its check", "X @ W.T, numpy", times, "checked", "product")


def _row(label, reference, times, ours, theirs, bar=None):
    seconds, noise = times
    ratio = seconds[ours] / seconds[theirs]
    shown = "" if bar is None else f"{bar:.2f}"
    return (
        label,
        reference,
        f"{ratio:.3f}",
        shown,
        verdict(ratio, bar),
        f"{noise:.2f}",
    )


def report_memory(n_bytes, shape, path, bars):
    """Print peak memory beyond the inputs, in percent of the features."""
    array, mapped = (build_array, shape), (build_memmap, shape, path)
    fitted = build_fitted, shape
    bar = bars["memory"]
    cases = [
        ("one percentile, in memory", bar, call_pooled, *array),
        ("one percentile, memory map", bar, call_pooled, *mapped),
        ("one per unit, in memory", bar, call_columns, *array),
        ("one per unit, memory map", bar, call_columns, *mapped),
        ("score_samples", None, call_score, *fitted),
        ("fit", None, call_fit, *array),
        ("numpy.percentile", None, call_numpy_pooled, *array),
        ("numpy.percentile, axis=0", None, call_numpy_columns, *array),
        ("X @ W.T, numpy", None, call_product, *fitted),
        ("fit in whole-array numpy", None, call_numpy_fit, *array),
    ]
    if bar is None:
        cases = cases[:1]  # every case is a process that imports torch
    rows = []
    for label, bar, call, build, *args in cases:
        extra = peak_extra_bytes(build, call, *args)
        if extra is None:
            print("Peak memory is measured on Linux only.")
            return
        share = 100 * extra / n_bytes
        shown = "" if bar is None else f"{bar} %"
        rows.append((label, f"{share:.1f} %", shown, verdict(share, bar)))
    print_table(("what", "peak memory beyond the inputs", "bar", ""), rows)


if __name__ == "__main__":
    main()
