"""Learn from batches that are seen once, against `fit` and `numpy.percentile`.

python benchmarks/streams.py            # 50,000 x 2,048 features, minutes
python benchmarks/streams.py --smoke    # seconds; shows nothing about speed
"""

import argparse

import numpy as np
import torch
from _timing import interleave, limit_threads, machine, print_table, verdict
from scoring import make_features, make_head

from reactood import ReActDetector
from reactood._scoring._histogram import Histogram
from reactood._scoring._stream import Stream

FULL = 50_000, 2_048, 1_000
SMOKE = 2_000, 256, 10
MOST = 0.33  # of numpy.percentile's time, for the histogram alone


def main():
    """Print times and errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    limit_threads(options.threads)
    print(machine())
    n_rows, n_features, n_classes = SMOKE if options.smoke else FULL
    repeats = 1 if options.smoke else options.repeats
    X = make_features(n_rows, n_features)
    head = make_head(n_features, n_classes)
    print_times(X, repeats)
    print_errors(X, head)


def print_times(X, repeats):
    """Print the time of counting, without the head, against numpy.percentile."""

    def count(per_unit, batch):
        stream = Stream(X.shape[1], per_unit=per_unit, sample_size=10_000)
        for start in range(0, len(X), batch):
            stream.add(torch.from_numpy(X[start : start + batch]))
        return stream

    def count_alone():
        histogram = Histogram()
        for start in range(0, len(X), 256):
            histogram.add(torch.from_numpy(X[start : start + 256]))
        return histogram.percentile(90)

    functions = {
        "numpy.percentile": lambda: np.percentile(X, 90),
        "histogram alone": count_alone,
        "one clip, batches of 64": lambda: count(False, 64),
        "one clip, batches of 1,024": lambda: count(False, 1024),
        "numpy.percentile(axis=0)": lambda: np.percentile(X, 90, axis=0),
        "per unit, batches of 1,024": lambda: count(True, 1024),
    }
    seconds, noise = interleave(functions, repeats)
    rows = []
    for name in functions:
        against = "numpy.percentile"
        if "per unit" in name or "axis" in name:
            against += "(axis=0)"
        ratio = seconds[name] / seconds[against]
        bar = verdict(ratio, most=MOST) if name == "histogram alone" else ""
        rows.append([name, f"{seconds[name]:.2f} s", f"{ratio:.2f}", bar])
    print_table(["what", "time", "ratio", ""], rows)
    print(f"noise {noise:.2f}\n")


def print_errors(X, head):
    """Print how far the results of batches are from those of `fit`, and the memory."""
    rows = []
    for per_unit in False, True:
        fitted = ReActDetector(head, per_unit=per_unit, check_score=False).fit(X)
        scores = fitted.score_samples(X)
        for size in 1_000, 10_000, 50_000:
            if size >= len(X):
                continue
            detector = ReActDetector(
                head, per_unit=per_unit, sample_size=size, check_score=False
            )
            for batch in np.array_split(X, 50):
                detector.partial_fit(batch)
            clips = detector.activation_threshold_, fitted.activation_threshold_
            arrays = detector._stream.arrays()
            n_bytes = sum(
                array.nbytes
                for part in ("histogram", "sample")
                for array in arrays[part].values()
            )
            rows.append(
                [
                    "per unit" if per_unit else "one clip",
                    f"{size:,}",
                    f"{100 * np.max(np.abs(clips[0] / clips[1] - 1)):.4f} %",
                    f"{100 * np.mean(scores < detector.offset_):.2f} %",
                    f"{n_bytes / 2**20:.0f} MiB",
                ]
            )
    print_table(["clip", "rows kept", "largest error", "rejected (5 %)", "state"], rows)


if __name__ == "__main__":
    main()
