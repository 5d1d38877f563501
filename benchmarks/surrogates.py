"""Results on real OOD images with the percentile that each surrogate chooses.

    python benchmarks/surrogates.py --data DIR

The folder is that of `imagenet_sample.py`. Every second photo chooses a percentile by
surrogates made of it; this percentile is used to separate the others from the textures.
"""

import warnings

import numpy as np
from _real_images import arguments, find_folder, list_images, load_model
from _timing import limit_threads, machine, print_table

from reactood import ReActDetector, make_react_pipeline
from reactood.metrics import auroc, fpr_at_tpr
from reactood.model_selection import tune_percentile
from reactood.model_selection._surrogates import FEATURE_KINDS, IMAGE_KINDS

PERCENTILES = 65, 70, 75, 80, 85, 87.5, 90, 92.5, 95, 97.5, 99


def main():
    """Extract features once for each kind, then print the table."""
    options = arguments(__doc__).parse_args()
    limit_threads(options.threads)
    folder = find_folder(options)
    if folder is None:
        return
    print(machine() + "\n")
    model = load_model(folder)
    photos, textures = list_images(folder)
    pipeline = make_react_pipeline(model.load, preprocess=model.preprocess())
    extractor = pipeline[:-1].fit(photos[:4])
    H = extractor.transform(photos)
    calibration, evaluation = H[::2], H[1::2]
    X = np.concatenate([evaluation, extractor.transform(textures)])
    y = np.repeat([1, -1], [len(evaluation), len(textures)])
    head = extractor[-1].head_

    def judged(percentile):
        detector = ReActDetector(head, percentile=percentile).fit(calibration)
        scores = detector.score_samples(X)
        return 100 * fpr_at_tpr(y, scores), 100 * auroc(y, scores)

    results = {percentile: judged(percentile) for percentile in (*PERCENTILES, None)}
    print_table(
        ("percentile", "FPR95 / AUROC on textures, %"),
        [(str(p), "{:.1f} / {:.1f}".format(*r)) for p, r in results.items()],
    )
    rows = []
    for kind in (*IMAGE_KINDS, *(f"features: {kind}" for kind in FEATURE_KINDS)):
        of_features = kind.startswith("features: ")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # None is best
            tuned = tune_percentile(
                ReActDetector(head) if of_features else pipeline,
                calibration if of_features else photos[::2],
                surrogate=kind.removeprefix("features: "),
                percentiles=PERCENTILES,
            )
        near = tuned.near_best_percentiles_
        rows.append(
            (
                kind,
                f"{100 * abs(tuned.best_score_):.1f}",
                f"{100 * abs(tuned.unclipped_score_):.1f}",
                f"{near[0]} to {near[-1]}",
                str(tuned.best_percentile_),
                "{:.1f} / {:.1f}".format(*results[tuned.best_percentile_]),
            )
        )
    columns = "surrogate", "FPR95 on it, %", "unclipped", "within one standard error"
    print_table((*columns, "choice", "FPR95 / AUROC on textures, %"), rows)


if __name__ == "__main__":
    main()
