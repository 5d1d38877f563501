"""Shared by the benchmarks: fair timing, peak memory, tables, the machine's name."""

import importlib.metadata
import multiprocessing
import os
import platform
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

PACKAGES = "torch", "numpy", "scikit-learn"


def interleave(functions, repeats, clock=time.perf_counter):
    """Return the median seconds of each function, by name, and how noisy they are.

    Every repeat runs all functions once, in a new random order, so that a machine that
    slows down for a while slows all of them. A first round is not counted. The noise is
    the largest ratio of the slowest to the fastest run of one function. If it is well
    above 1.5, other work disturbed the run, and its ratios mean little. The clock may
    be that of the process, which counts the seconds of all its threads.
    """
    order = random.Random(0)
    seconds = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name in order.sample(list(functions), len(functions)):
            start = clock()
            functions[name]()
            if repeat:
                seconds[name].append(clock() - start)
    noise = max(max(times) / min(times) for times in seconds.values())
    return {name: statistics.median(times) for name, times in seconds.items()}, noise


def limit_threads(threads):
    """Use this many threads in NumPy and torch; None leaves both as they are."""
    if threads is not None:
        torch.set_num_threads(threads)
        threadpool_limits(threads)


def peak_extra_bytes(build, call, *args):
    """Return how much ``call(*build(*args))`` raises peak memory, in bytes.

    A fresh process builds the inputs, notes its resident memory, resets the kernel's
    high-water mark of it (VmHWM, so that nothing is missed between samples) and makes
    the call. The number is the mark minus the noted memory. It counts the result of the
    call, and every page of a library that the call is the first to use; pages of a
    memory map that `build` reads count as inputs. Linux only: None elsewhere. Both
    functions must be importable, because the process is spawned.
    """
    if not Path("/proc/self/status").exists():
        return None
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_peak_extra_bytes, build, call, args).result()


def print_table(columns, rows):
    """Print rows of text under their column names, in Markdown."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in columns, ["-" * width for width in widths], *rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("| " + " | ".join(cells) + " |")
    print(flush=True)


def verdict(value, most=None, least=None):
    """Return "pass" or "FAIL", or nothing where there is no bar."""
    if most is None and least is None:
        return ""
    passed = value <= most if least is None else value >= least
    return "pass" if passed else "FAIL"


def machine():
    """Return one line: CPU model, cores, threads, Python and library versions."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    python = f"Python {platform.python_version()}"
    cores = f"{_n_cores()} cores, {torch.get_num_threads()} threads"
    return ", ".join([_cpu_model(), cores, python, *versions])


def _peak_extra_bytes(build, call, args):
    inputs = build(*args)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    result = call(*inputs)
    del result
    return max(0, _status("VmHWM") - before)


def _status(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise LookupError(field)


def _cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _n_cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
