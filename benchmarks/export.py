"""Latency of an exported detector in onnxruntime, against the bare classifier.

    python benchmarks/export.py           # some minutes
    python benchmarks/export.py --smoke   # seconds; shows nothing about speed

The rectified graph returns logits, score and decision; the bare classifier, which is
exported by torch itself, returns logits. Each round runs one image through every
session once, in a new random order. The control is a second session of the bare file:
what it differs from the first by, no measurement here can tell apart. Ratios are of
medians, with intervals of 95 % over resampled rounds. The bar counts where the interval
of the control is within the bar and that of the ratio is on one side of it.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torchvision
from _timing import limit_threads, machine, print_table

from reactood import make_react_pipeline
from reactood.export import export_onnx

MOST = 1.02
RESAMPLES = 2000
MODELS = "mobilenet_v2", "resnet18", "resnet50"


def make_files(name, size, folder):
    """Write the bare classifier and its detector; return both paths."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None)
    images = np.random.default_rng(0).normal(size=(32, 3, size, size))
    images = images.astype(np.float32)
    with torch.no_grad():  # statistics of a batch, or all images would look alike
        torch.nn.init.normal_(list(network.modules())[-1].weight, std=0.3)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        network.train()(torch.from_numpy(images[:16]))
    network.eval()
    pipeline = make_react_pipeline(network, check_score=False)
    pipeline.fit(images)
    bare = Path(folder, f"{name}.onnx")
    rows = torch.export.Dim("rows", min=1)
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, size, size),),
        bare,
        dynamo=True,
        dynamic_shapes=({0: rows},),
        external_data=False,
        verbose=False,
    )
    return bare, export_onnx(pipeline, Path(folder, f"{name}-rectified.onnx"))


def open_session(path, threads):
    """Return a session on a CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])


def time_rounds(sessions, image, rounds):
    """Return the seconds of each session in each round: (n_rounds, n_sessions)."""
    order, seconds = random.Random(0), np.empty((rounds, len(sessions)))
    inputs = [{session.get_inputs()[0].name: image} for session in sessions]
    for number in range(-3, rounds):  # the first ones warm up, and do not count
        for k in order.sample(range(len(sessions)), len(sessions)):
            start = time.perf_counter()
            sessions[k].run(None, inputs[k])
            seconds[max(number, 0), k] = time.perf_counter() - start
    return seconds


def ratio_of(ours, theirs):
    """Return the ratio of the medians, and its interval over resampled rounds."""
    rng = np.random.default_rng(0)
    index = rng.integers(0, len(ours), (RESAMPLES, len(ours)))
    ratios = np.median(ours[index], axis=1) / np.median(theirs[index], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return np.median(ours) / np.median(theirs), low, high


def verdict(ratio, control):
    """Return "pass", "FAIL" or that the machine cannot tell."""
    (_, low, high), (_, least, most) = ratio, control
    if least < 1 / MOST or most > MOST or low <= MOST < high:
        return "not resolved"
    return "pass" if high <= MOST else "FAIL"


def main():
    """Run all models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime")
    parser.add_argument("--smoke", action="store_true", help="one small run, seconds")
    options = parser.parse_args()
    size, rounds, models = 224, options.rounds, options.models
    if options.smoke:
        size, rounds, models = 64, 3, ["resnet18"]
    limit_threads(options.threads)
    print(f"{machine()}, onnxruntime {onnxruntime.__version__}")
    print(f"one image of {size} x {size}, {rounds} rounds\n")
    rows = []
    for name in models:
        with tempfile.TemporaryDirectory() as folder:
            bare, rectified = make_files(name, size, folder)
            paths = bare, bare, rectified
            sessions = [open_session(path, options.threads) for path in paths]
        image = np.random.default_rng(1).normal(size=(1, 3, size, size))
        times = time_rounds(sessions, image.astype(np.float32), rounds)
        first, again, ours = times.T
        control, ratio = ratio_of(again, first), ratio_of(ours, first)
        shown = "" if options.smoke else verdict(ratio, control)
        cells = (f"{x:.3f} ({a:.3f} to {b:.3f})" for x, a, b in (ratio, control))
        bar = "" if options.smoke else f"{MOST:.2f}"
        milliseconds = f"{1000 * np.median(first):.2f}"
        rows.append((name, milliseconds, *cells, bar, shown))
    columns = "model", "bare, ms", "ratio (interval)", "control (interval)", "bar", ""
    print_table(columns, rows)


if __name__ == "__main__":
    main()
