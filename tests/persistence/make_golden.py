"""Write the files that later versions must be able to load, and what they say.

Run it once when the format of files changes, and add the files to those that are there:

    python tests/persistence/make_golden.py
"""

from pathlib import Path

import numpy as np
import saved_kinds as kinds

from reactood.persistence import save
from reactood.persistence._metadata import VERSION

FOLDER = Path(__file__).parent / "golden"


def main():
    """Write a file for some kinds of estimators."""
    FOLDER.mkdir(exist_ok=True)
    some = "react", "per-unit", "gen", "frozen", "DICE", "VRAP", "knn", "mahalanobis"
    some = *some, "vim", "pipeline", "conformal", "cv"
    made = {f"features-{name}": kinds.on_features()[name][0] for name in some}
    for name in "factory", "layer", "odin":
        made[f"images-{name}"] = kinds.on_images()[name][0]
    for name, estimator in made.items():
        path = FOLDER / f"{name}-v{VERSION}.safetensors"
        save(estimator, path)
        X = kinds.IMAGES if name.startswith("images") else kinds.X
        np.savez_compressed(path.with_suffix(".npz"), **kinds.outputs(estimator, X))


if __name__ == "__main__":
    main()
