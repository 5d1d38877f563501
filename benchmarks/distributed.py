"""Images per second of `reactood.distributed.score` with 1 and 2 actors on one machine.

    python benchmarks/distributed.py           # some minutes
    python benchmarks/distributed.py --smoke   # a minute; shows nothing about speed

JPEG files of about 110 kB, MobileNetV2, one thread for each actor. An actor notes the
time when it begins a block; its rate counts from its first block to its last, so that
the start, which is shown apart, is no part of it. Efficiency is the rate of two actors
by twice that of one. The control does the same without Ray: one process and two of
them. Rates by the CPU time of the actors hardly depend on other work on the machine;
the others do, which the load shows.
"""

import argparse
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch
import torchvision
from _timing import machine, print_table
from PIL import Image

from reactood import make_react_pipeline
from reactood.distributed import score
from reactood.distributed._row_scorer import RowScorer
from reactood.persistence import load, save

BATCH = 16
BLOCK = 2 * BATCH  # rows that an actor is given at once
LEAST = 0.9
SIZE = 500, 375


def build():
    """Return a network with statistics of a batch, so that images do not look alike."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2(weights=None)
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(16, 3, 96, 96)))
    with torch.no_grad():
        torch.nn.init.normal_(network.classifier[1].weight, std=0.3)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        network.train()(images.float())
    return network.eval()


def write_photos(folder, n):
    """Write JPEG files with coarse shapes and fine noise; return their paths."""
    rng, paths = np.random.default_rng(0), []
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), np.int16)
        pixels = pixels + rng.normal(0, 17, (*pixels.shape[:2], 1)).astype(np.int16)
        paths.append(str(Path(folder, f"{i:05}.jpg")))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            paths[-1], quality=90
        )
    return paths


def note(table):
    """Add the process, the time and its CPU time when it begins a block."""
    now = os.getpid(), time.time(), time.process_time()
    for name, value in zip(("process", "time", "cpu"), now, strict=True):
        table = table.append_column(name, pa.array([value] * len(table)))
    return table


def on_ray(file, paths, n):
    """Return the notes of the actors, and the seconds until all had begun."""
    blocks = [
        pa.table({"path": paths[i : i + BLOCK]}) for i in range(0, len(paths), BLOCK)
    ]
    images = ray.data.from_arrow(blocks).map_batches(
        note, batch_size=None, batch_format="pyarrow"
    )
    start = time.time()
    scores = score(file, images, column="path", model=build, workers=(n, n))
    table = pa.concat_tables(
        list(scores.iter_batches(batch_size=None, batch_format="pyarrow"))
    )
    assert table["error"].null_count == len(table) == len(paths)
    return rates(table.select(["process", "time", "cpu"]).to_pylist(), start, n)


def without_ray(file, paths, n):
    """Return the same for processes that share the files."""
    start = time.time()
    with multiprocessing.get_context("spawn").Pool(n) as pool:
        found = pool.starmap(alone, [(file, paths[i::n]) for i in range(n)], 1)
    return rates([row for rows in found for row in rows], start, n)


def alone(file, paths):
    """Score files in this process; return a note for each."""
    torch.set_num_threads(1)
    scorer = RowScorer(load(file, model=build))
    rows = []
    for i in range(0, len(paths), BLOCK):
        some = paths[i : i + BLOCK]
        now = {"process": os.getpid(), "time": time.time(), "cpu": time.process_time()}
        rows += [now] * len(some)
        scorer.of_images(some)
    return rows


def rates(rows, start, n):
    """Return images per second, per second of CPU time, and seconds of the start."""
    wall, cpu, begun = [], [], []
    for process in {row["process"] for row in rows}:
        own = sorted(
            (row["time"], row["cpu"]) for row in rows if row["process"] == process
        )
        done = sum(moment < own[-1][0] for moment, _ in own)  # before the last block
        wall.append(done / max(own[-1][0] - own[0][0], 1e-9))
        cpu.append(done / max(own[-1][1] - own[0][1], 1e-9))
        begun.append(own[0][0])
    assert len(wall) == n, f"{len(wall)} of {n} processes had images; give more"
    return sum(wall), statistics.mean(cpu), max(begun) - start


def main():
    """Run both ways with 1 and 2 processes, in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="one small run")
    options = parser.parse_args()
    if options.smoke:
        options.images, options.repeats = 8 * BLOCK, 1
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    print(f"{machine()}, ray {ray.__version__}")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(folder, options.images)
        size = statistics.mean(Path(path).stat().st_size for path in paths) / 1000
        print(f"{len(paths)} JPEG files of {size:.0f} kB, {SIZE[0]} x {SIZE[1]}\n")
        pipeline = make_react_pipeline(build, batch_size=BATCH, preprocess=transform())
        file = str(Path(folder, "detector.safetensors"))
        save(pipeline.fit(paths[:64]), file)
        loads = [os.getloadavg()[0]]
        for _ in range(options.repeats):
            for run in (on_ray, without_ray):
                for n in (1, 2):
                    found.setdefault((run, n), []).append(run(file, paths, n))
            loads.append(os.getloadavg()[0])
    rows = []
    for run, name in ((on_ray, "Ray"), (without_ray, "processes alone")):
        one, two = (np.median(found[run, n], axis=0) for n in (1, 2))
        ratio, by_cpu = two[0] / one[0] / 2, two[1] / one[1]
        bar = f"{LEAST}" if run is on_ray else ""
        shown = (one[0], two[0], ratio, one[1], two[1], by_cpu, one[2], two[2])
        rows.append((name, *(f"{value:.2f}" for value in shown), bar))
    print_table(
        (
            *("", "1: images/s", "2: images/s", "efficiency"),
            *("1: by CPU time", "2: by CPU time", "ratio "),
            *("start of 1, s", "start of 2, s", "required"),
        ),
        rows,
    )
    print("load at the start and after each repeat:", *(f"{one:.1f}" for one in loads))


def transform():
    """Return the usual preprocessing."""
    from torchvision.transforms._presets import ImageClassification

    return ImageClassification(crop_size=224)


if __name__ == "__main__":
    main()
