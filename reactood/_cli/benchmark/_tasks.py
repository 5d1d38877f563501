"""The task that a suite gives to the benchmark: sets of images and a network."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reactood._cli.benchmark import _files as files
from reactood._cli.benchmark._files import Absent
from reactood._images._preparation import list_folder


@dataclass
class Task:
    """The result of a suite: one model, two sets of ID images, and OOD sets.

    Detectors learn from ``calibration``, and are tested on ``test`` and ``ood``. Images
    are of any kind that the extractor takes and slices. ``threshold`` is a value for
    the clip; ``published`` names this model in the paper's table; ``noise`` is the
    noise of ODIN without and with the clip.
    """

    suite: str
    model: Any
    model_name: str
    calibration: Any
    test: Any
    ood: dict
    calibration_classes: Any = None
    test_classes: Any = None
    weights: str = "DEFAULT"
    preprocess: Any = "auto"
    threshold: float | None = None
    published: str | None = None
    noise: tuple = (0.005, 0.0)
    notes: list = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """The user's options that suites need."""

    data: Any = None
    model: str | None = None
    preprocess: str | None = None
    id_folder: Any = None
    ood_folders: dict = field(default_factory=dict)
    protocol: str = "clean"
    out: Any = "."
    seed: int = 0
    limit: int | None = None
    verbose: bool = False
    progress: bool = False  # progress bars


def take(images, rows):
    """Return some images of an array or a list."""
    if isinstance(images, np.ndarray):
        return images[rows]
    return [images[row] for row in rows]


def limited(task, limit, seed):
    """Keep at most ``limit`` random images of each set."""
    if limit is None:
        return task
    rng = np.random.default_rng(seed)

    def some(images, classes=None):
        rows = np.sort(rng.permutation(len(images))[:limit])
        kept = take(images, rows)
        return kept, None if classes is None else np.asarray(classes)[rows]

    task.calibration, task.calibration_classes = some(
        task.calibration, task.calibration_classes
    )
    task.test, task.test_classes = some(task.test, task.test_classes)
    task.ood = {name: some(images)[0] for name, images in task.ood.items()}
    task.notes.append(f"At most {limit} random images of each set (seed {seed}).")
    return task


def found_sets(sets, notes):
    """Return the OOD sets that exist, and add a note for each absent one."""
    found, absent = {}, []
    for name, read in sets.items():
        try:
            found[name] = read()
        except Absent as error:
            absent.append(f"{name}: {error}")
    if not found:
        raise Absent("No OOD set was found.\n" + "\n".join(absent))
    notes += [f"Left out, {text}" for text in absent]
    return found


def image_folder(data, names, get):
    return lambda: list_folder(files.find(data, names, get=get))


def data_folder(request):
    folder = request.data or os.environ.get("REACTOOD_DATA")
    if folder is None:
        raise Absent("No data folder: name it with --data DIR.")
    if not Path(folder).is_dir():
        raise Absent(f"There is no folder {os.fspath(folder)!r}: --data DIR.")
    return Path(folder)
