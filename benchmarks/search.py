"""Seconds of a grid search over the percentile, from images, against one extraction.

    python benchmarks/search.py           # some minutes
    python benchmarks/search.py --smoke   # seconds; shows nothing about speed

The search tries 7 percentiles with 5 folds and fits once more on all images: without a
cache each image goes through the model 36 times. Each run starts with an empty cache.
With `n_jobs=1` it uses this process; with `n_jobs=2` it uses two new ones, and their
start counts. Hashing is timed alone and stated as a share of the extraction.
"""

import argparse
import functools
import tempfile

import numpy as np
from _timing import interleave, machine, print_table, verdict
from extraction import make_arrays, make_files
from joblib.externals.loky import get_reusable_executor
from sklearn.model_selection import GridSearchCV, KFold

from reactood import TorchFeatureExtractor, make_react_pipeline
from reactood._images._digest import image_digest
from reactood._utils._fingerprint._hashing import HASH

PERCENTILES = 80.0, 85.0, 90.0, 92.5, 95.0, 97.5, 99.0
MOST_PASSES = 1.2
MOST_HASHING = 0.02


def separation(pipeline, images, y=None):
    """Score a fold; the value does not matter."""
    return float(np.median(pipeline.decision_function(images)))


def extract(model, images):
    """Extract all features once, without a cache."""
    TorchFeatureExtractor(model, weights=None).fit_transform(images)


def search(model, images, n_jobs):
    """Search from images to the refitted pipeline, with a cache that is empty."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline = make_react_pipeline(model, weights=None, cache=folder)
        grid = {"detector__percentile": PERCENTILES}
        GridSearchCV(
            pipeline, grid, scoring=separation, cv=KFold(5), n_jobs=n_jobs
        ).fit(images)
        get_reusable_executor().shutdown(wait=True)  # the next run starts its own


def main():
    """Run all and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="one small run, seconds")
    options = parser.parse_args()
    model, n, size, repeats = options.model, options.images, 224, options.repeats
    if options.smoke:
        model, n, size, repeats = "resnet18", 20, 64, 1
    print(machine() + f", {HASH}\n")
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(folder, n)
        functions = {
            "one extraction": functools.partial(extract, model, files),
            "search, n_jobs=1": functools.partial(search, model, files, 1),
            "search, n_jobs=2": functools.partial(search, model, files, 2),
        }
        seconds, noise = interleave(functions, repeats)
    once = seconds["one extraction"]
    rows = []
    for name, s in seconds.items():
        bar = MOST_PASSES if name.startswith("search") and not options.smoke else None
        cells = f"{s:.1f}", f"{s / once:.2f}", verdict(s / once, bar), f"{noise:.2f}"
        rows.append((f"{model}, {n} JPEG files", name, *cells))
    print_table(("images", "what", "seconds", "ratio", "", "noise"), rows)

    arrays = make_arrays(min(n, 64), size)
    functions = {
        "extraction": functools.partial(extract, model, arrays),
        "hashing": lambda: [image_digest(image) for image in arrays],
    }
    seconds, noise = interleave(functions, repeats)
    share = seconds["hashing"] / seconds["extraction"]
    bar = None if options.smoke else MOST_HASHING
    row = f"{model}, {len(arrays)} arrays", f"{share:.3%}", verdict(share, bar)
    print_table(("images", "hashing / extraction", ""), [row])


if __name__ == "__main__":
    main()
