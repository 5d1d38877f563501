"""The suite imagenet-sample against the numbers of an independent implementation.

    python benchmarks/imagenet_sample.py --data DIR

The folder holds `mobilenet_v2.py` (`load()`, `preprocess()`), `imagenet-sample/` (1,000
photos, one per class) and `textures/` (1,200 images, out-of-distribution). Every second
photo calibrates, the others are evaluated against the textures. The reference numbers
come from an implementation in NumPy that shares no code with this package.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from _real_images import arguments, find_folder
from _timing import limit_threads, machine, print_table, verdict

from reactood.__main__ import main as reactood

PERCENTILES = None, 99, 95, 90, 85, 80, 65
REFERENCE = {  # AUROC and FPR95 in percent, one pair per percentile
    "energy": [
        (88.57, 50.08),
        (92.57, 35.17),
        (95.31, 19.25),
        (96.17, 12.83),
        (96.60, 12.17),
        (96.94, 11.00),
        (86.66, 47.17),
    ],
    "msp": [
        (83.18, 55.67),
        (85.85, 50.92),
        (89.16, 41.42),
        (90.57, 37.83),
        (90.73, 36.58),
        (89.91, 42.00),
        (78.51, 74.92),
    ],
    "max_logit": [
        (88.08, 50.58),
        (91.74, 39.83),
        (94.22, 25.50),
        (94.45, 23.08),
        (93.72, 26.58),
        (92.42, 28.83),
        (81.19, 65.42),
    ],
}
AUROC_BAR, FPR95_BAR = 0.3, 1.5  # points


def main():
    """Run the suite, then print its numbers beside the reference."""
    parser = arguments(__doc__)
    parser.add_argument("--engine", default="eager", help="of the extractor")
    parser.add_argument("--precision", default="float32", help="of the extractor")
    parser.add_argument("--decoder", default="pillow", help="of the extractor")
    parser.add_argument("--preprocess", help="FILE.py:FUNCTION, instead of the model's")
    options = parser.parse_args()
    limit_threads(options.threads)
    folder = find_folder(options)
    if folder is None:
        return
    print(machine() + "\n")
    model = folder / "mobilenet_v2.py"
    preprocess = options.preprocess or f"{model}:preprocess"
    with tempfile.TemporaryDirectory() as out:
        command = [
            *("benchmark", "imagenet-sample", "--data", str(folder), "--quiet"),
            *("--model", f"{model}:load", "--preprocess", preprocess),
            *("--methods", "percentiles", "--out", out),
            *("--engine", options.engine, "--precision", options.precision),
            *("--decoder", options.decoder),
        ]
        reactood(command)
        result = json.loads((Path(out) / "report.json").read_text())
    compare({row["method"]: row for row in result["methods"]})
    print(f"ID accuracy, evaluated half: {100 * result['id_accuracy']:.1f} %")


def compare(methods):
    """Print AUROC and FPR95 beside the reference, and the largest deviations."""
    rows, deviations = [], []
    for score, references in REFERENCE.items():
        for percentile, reference in zip(PERCENTILES, references, strict=True):
            name = score.replace("_", "-")
            name += "" if percentile is None else f"+react@{percentile}"
            (cell,) = methods[name]["ood"]
            ours = 100 * cell["auroc"], 100 * cell["fpr95"]
            deviations.append(np.abs(np.subtract(ours, reference)))
            shown = ("{:.2f} / {:.2f}".format(*pair) for pair in (ours, reference))
            rows.append((name, *shown))
    print_table(("method", "AUROC / FPR95, %", "reference"), rows)
    auroc, fpr95 = np.max(deviations, axis=0)
    bars = ("AUROC", auroc, AUROC_BAR), ("FPR95", fpr95, FPR95_BAR)
    print_table(
        ("largest deviation", "points", "bar", ""),
        [(k, f"{v:.2f}", f"{bar:.2f}", verdict(v, bar)) for k, v, bar in bars],
    )


if __name__ == "__main__":
    main()
