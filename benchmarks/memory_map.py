"""CPU and memory of `fit` and `score_samples` on a memory map, against a bare loop.

python benchmarks/memory_map.py                   # 1,281 to 128,116 rows: 1 GB, minutes
python benchmarks/memory_map.py --rows 1281167    # ImageNet's training set: 10.5 GB
python benchmarks/memory_map.py --smoke           # seconds; shows nothing about speed

The bare loop reads the same file block by block, and multiplies each block by the
weights. Each measurement is a process of its own with one thread. What counts is its
CPU time, user and system, which other work on the machine disturbs less than the time
on the clock. Its anonymous memory, which does not include the pages of the file, is
read from outside again and again: Linux only.
"""

import argparse
import multiprocessing
import random
import resource
import statistics
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from _timing import limit_threads, machine, print_table, verdict
from scoring import make_head

from reactood import ReActDetector

ROWS, WIDTH, N_CLASSES = (1_281, 12_811, 128_116), 2_048, 1_000
SMOKE = (2_000,), 64, 10
BLOCK = 2_048  # rows, of the file and of the bare loop
FEW = 1_000  # rows that the detector which scores is fitted on
MOST_FOR_NUMPY = 2 << 30  # bytes of features, as numpy.percentile copies them
LONG = 100_000  # rows from which on the ratios have bars
BARS = {"fit": 1.3, "score_samples": 1.1}
MOST_MEMORY = 0.75  # GB
INTERVAL = 0.01  # seconds between two looks at the memory


def make_file(path, n_rows, width):
    """Write ReLU-like float32 features, a block at a time, if they are not there."""
    if path.exists() and path.stat().st_size == 4 * n_rows * width:
        return
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for start in range(0, n_rows, BLOCK):
            shape = min(BLOCK, n_rows - start), width
            block = rng.standard_normal(shape, dtype=np.float32)
            np.maximum(block, 0, out=block).tofile(file)


# Fresh processes run these functions. Each prepares something, and returns the function
# that is measured.


def bare(X, head):
    """Read the rows, and multiply them by the weights."""
    weight, bias = map(torch.from_numpy, head)
    logits = torch.empty(BLOCK, len(weight))

    def loop():
        for start in range(0, len(X), BLOCK):
            block = torch.from_numpy(X[start : start + BLOCK])
            torch.addmm(bias, block, weight.T, out=logits[: len(block)])

    return loop


def fit(X, head):
    """Fit a detector."""
    return lambda: ReActDetector(head).fit(X)


def fit_unchecked(X, head):
    """Fit a detector without the check of its score."""
    return lambda: ReActDetector(head, check_score=False).fit(X)


def score(X, head):
    """Score all rows by a detector that was fitted on few."""
    detector = ReActDetector(head, check_score=False).fit(np.array(X[:FEW]))
    return lambda: detector.score_samples(X)


KINDS = {
    "bare loop": bare,
    "fit": fit,
    "fit, check_score=False": fit_unchecked,
    "score_samples": score,
}


def compare_percentiles(X, head):
    """Compare the clip with NumPy's percentile, to the last bit."""
    clip = ReActDetector(head, check_score=False).fit(X).activation_threshold_
    return lambda: bool(clip == np.percentile(X, 90))


def measure(make, path, shape):
    """Return whether a function found True, its CPU seconds, and its peak memory in GB.

    The memory is all anonymous memory of the process, with that of the libraries.
    """
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_child, args=(there, make, path, shape))
    process.start()
    there.close()  # so that the end of the child ends what is read here
    try:
        here.recv()  # it is prepared
        peak = _anonymous(process.pid)
        here.send("go")
        while not here.poll(INTERVAL):
            peak = max(peak, _anonymous(process.pid))
        return *here.recv(), peak / 1e9
    finally:
        here.close()
        process.join()


def _child(connection, make, path, shape):
    limit_threads(1)
    warnings.simplefilter("ignore")  # of a made-up head, and of read-only memory
    n_rows, width, n_classes = shape
    X = np.memmap(path, np.float32, "r", shape=(n_rows, width))
    function = make(X, make_head(width, n_classes))
    connection.send("ready")
    connection.recv()
    before = _cpu_seconds()
    result = function()
    seconds = _cpu_seconds() - before
    connection.send((result is True, seconds))


def _cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _anonymous(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def report(path, shape, repeats, bars):
    """Print CPU, ratio and memory of everything on the first rows of the file."""
    order = random.Random(0)
    seconds = {name: [] for name in KINDS}
    peaks = dict.fromkeys(KINDS, 0.0)
    for _ in range(repeats):
        for name in order.sample(list(KINDS), len(KINDS)):
            _, cpu, peak = measure(KINDS[name], path, shape)
            seconds[name].append(cpu)
            peaks[name] = max(peaks[name], peak)
    n_rows, width, _ = shape
    median = {name: statistics.median(times) for name, times in seconds.items()}
    rows = []
    for name, times in seconds.items():
        ratio = median[name] / median["bare loop"]
        bar = bars.get(name) if n_rows >= LONG else None
        most = MOST_MEMORY if bars and name != "bare loop" else None
        rows.append(
            (
                f"{n_rows:,}",
                name,
                f"{median[name]:.2f}",
                f"{1e6 * median[name] / n_rows:.1f}",
                f"{ratio:.3f}",
                "" if bar is None else f"{bar:.2f}",
                verdict(ratio, bar),
                f"{max(times) / min(times):.2f}",
                f"{peaks[name]:.2f}",
                verdict(peaks[name], most),
            )
        )
    columns = "rows", "what", "CPU, s", "CPU per row, µs", "ratio", "bar", "", "noise"
    print_table((*columns, "anonymous memory, GB", ""), rows)
    if 4 * n_rows * width <= MOST_FOR_NUMPY:
        equal, _, _ = measure(compare_percentiles, path, shape)
        found = "is" if equal else "FAIL: is not"
        print(f"{n_rows:,} rows: the clip {found} numpy.percentile(X, 90)\n")


def main():
    """Make the file, run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="the sizes")
    parser.add_argument("--folder", help="keep the file here, and use it again")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="small sizes, seconds")
    options = parser.parse_args()
    if not Path("/proc/self/status").exists():
        print("Skipped: memory is measured on Linux only.")
        return
    sizes, *rest = SMOKE if options.smoke else (options.rows, WIDTH, N_CLASSES)
    repeats, bars = (1, {}) if options.smoke else (options.repeats, BARS)
    limit_threads(1)
    print(machine())
    print(f"{rest[0]:,} float32 features, {rest[1]:,} classes, GB of 10^9 bytes\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.folder or folder, "features.bin")
        make_file(path, max(sizes), rest[0])
        for n_rows in sizes:
            report(path, (n_rows, *rest), repeats, bars)


if __name__ == "__main__":
    main()
