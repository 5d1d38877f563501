"""ReAct on real photos and a real ImageNet classifier, against an independent result.

    python benchmarks/imagenet_sample.py --data DIR

The folder holds `mobilenet_v2.py` (`load()`, `preprocess()`), `imagenet-sample/` (1,000
photos, one per class) and `textures/` (1,200 images, out-of-distribution). Every second
photo calibrates, the others are evaluated against the textures. The reference numbers
come from an implementation in NumPy that shares no code with this package.
"""

import time

import numpy as np
from _real_images import arguments, find_folder, load_model
from _timing import limit_threads, machine, print_table, verdict
from sklearn.metrics import roc_auc_score

from reactood import ReActDetector, TorchFeatureExtractor
from reactood.metrics import fpr_at_tpr

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
    """Extract features once, then print every table."""
    parser = arguments(__doc__)
    parser.add_argument("--engine", default="eager", help="of the extractor")
    parser.add_argument("--precision", default="float32", help="of the extractor")
    options = parser.parse_args()
    limit_threads(options.threads)
    folder = find_folder(options)
    if folder is None:
        return
    print(machine() + "\n")
    photos, textures, head = extract(folder, options)
    calibration, evaluation = photos[::2], photos[1::2]
    report_scores(calibration, evaluation, textures, head)
    report_decisions(calibration, evaluation, photos, textures, head)
    report_degenerate(calibration, head)


def extract(folder, options):
    """Return the features of photos and textures, and the classifier's head."""
    model = load_model(folder)
    extractor = TorchFeatureExtractor(
        model.load,
        preprocess=model.preprocess(),
        engine=options.engine,
        precision=options.precision,
    )
    start = time.perf_counter()
    photos = extractor.fit_transform(folder / "imagenet-sample")
    textures = extractor.transform(folder / "textures")
    seconds = time.perf_counter() - start
    n_images = len(photos) + len(textures)
    print(f"{n_images:,} image files in {seconds:.0f} s on {extractor.device=!s}\n")
    return photos, textures, extractor.head_


def report_scores(calibration, evaluation, textures, head):
    """Print AUROC and FPR95 beside the reference, and the largest deviations."""
    y_true = np.repeat([1, -1], [len(evaluation), len(textures)])
    X = np.concatenate([evaluation, textures])
    rows, deviations = [], []
    for score, references in REFERENCE.items():
        for percentile, reference in zip(PERCENTILES, references, strict=True):
            detector = ReActDetector(
                head, percentile=percentile, score_function=score
            ).fit(calibration)
            scores = detector.score_samples(X)
            ours = (
                100 * roc_auc_score(y_true, scores),
                100 * fpr_at_tpr(y_true, scores),
            )
            deviations.append(np.abs(np.subtract(ours, reference)))
            rows.append(
                (
                    score,
                    "no clip" if percentile is None else str(percentile),
                    f"{detector.activation_threshold_:.3f}",
                    "{:.2f} / {:.2f}".format(*ours),
                    "{:.2f} / {:.2f}".format(*reference),
                )
            )
    columns = "score", "percentile", "clip", "AUROC / FPR95, %", "reference"
    print_table(columns, rows)
    auroc, fpr95 = np.max(deviations, axis=0)
    bars = ("AUROC", auroc, AUROC_BAR), ("FPR95", fpr95, FPR95_BAR)
    print_table(
        ("largest deviation", "points", "bar", ""),
        [(k, f"{v:.2f}", f"{bar:.2f}", verdict(v, bar)) for k, v, bar in bars],
    )


def report_decisions(calibration, evaluation, photos, textures, head):
    """Print ID accuracy and the shares that `predict` flags."""
    detector = ReActDetector(head).fit(calibration)
    classes = np.arange(len(photos))
    right = detector.predict_class(photos) == classes
    rows = [
        ("ID accuracy, all photos", right.mean()),
        ("ID accuracy, evaluated half", right[1::2].mean()),
        ("flagged, calibration photos", (detector.predict(calibration) == -1).mean()),
        ("flagged, evaluated photos", (detector.predict(evaluation) == -1).mean()),
        ("flagged, textures", (detector.predict(textures) == -1).mean()),
    ]
    print_table(
        ("energy, percentile 90", "%"), [(k, f"{100 * v:.1f}") for k, v in rows]
    )


def report_degenerate(calibration, head):
    """Print what `fit` says where the percentile falls among the zeros."""
    try:
        ReActDetector(head, percentile=10).fit(calibration)
    except ValueError as error:
        print(f"percentile=10 raises, as it should. ValueError: {error}")
    else:
        print("FAIL: percentile=10 gives a result, and must raise an error.")


if __name__ == "__main__":
    main()
