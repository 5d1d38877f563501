"""Every rule that shapes activations, and every baseline, on real photos and textures.

    python benchmarks/rules.py --data DIR

The folder is that of `imagenet_sample.py`. Every second photo calibrates, the others
are told from the textures. Nothing is tuned: parameters are the defaults, or those
named.
"""

import numpy as np
from _real_images import arguments, find_folder, list_images, load_model
from _timing import limit_threads, machine, print_table
from imagenet_sample import extract
from sklearn.covariance import LedoitWolf
from sklearn.pipeline import make_pipeline

from reactood import ReActDetector
from reactood.baselines import MahalanobisDetector, make_odin_pipeline
from reactood.metrics import auroc, fpr_at_tpr
from reactood.rectifiers import ASH, BATS, DICE, SCALE, VRAP, BFAct

NOISE = 0.0, 0.005, 0.03
SCORES = "msp", "max_logit", "energy"


def main():
    """Extract features once, then print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--engine", default="eager", help="of the extractor")
    parser.add_argument("--precision", default="float32", help="of the extractor")
    parser.add_argument("--odin", action="store_true", help="ODIN too: minutes")
    options = parser.parse_args()
    limit_threads(options.threads)
    folder = find_folder(options)
    if folder is None:
        return
    print(machine() + "\n")
    photos, textures, head = extract(folder, options)
    X = np.concatenate([photos[1::2], textures])
    y = np.repeat([1, -1], [len(photos[1::2]), len(textures)])
    rows = [
        (name, judged(detector.fit(photos[::2]).score_samples(X), y))
        for name, detector in detectors(head).items()
    ]
    if options.odin:
        rows += odin(folder, y)
    print_table(("method", "FPR95 / AUROC, %"), rows)


def judged(scores, y):
    """Return both metrics, printed."""
    return f"{100 * fpr_at_tpr(y, scores):.1f} / {100 * auroc(y, scores):.1f}"


def detectors(head):
    """Return a detector on features for each row of the table."""
    found = {}
    for percentile in (None, 90):
        clip = "" if percentile is None else f", clip at {percentile}"
        for score in SCORES:
            found[score + clip] = ReActDetector(
                head, percentile=percentile, score_function=score
            )
    found["energy, a clip per unit at 90"] = ReActDetector(
        head, percentile=90, per_unit=True
    )
    found["energy, clips at 10 per unit and 90"] = ReActDetector(
        head, percentile=90, lower_percentile=10, per_unit=True
    )
    for name, rule in {
        "BATS 1.05": BATS(),
        "VRA-P 60 and 95": VRAP(),
        "BFAct 95": BFAct(),
        "ASH-P 65": ASH(kind="p"),
        "ASH-B 65": ASH(kind="b"),
        "ASH-S 65": ASH(kind="s"),
        "SCALE 85": SCALE(),
    }.items():
        found[name] = make_pipeline(rule, ReActDetector(head, percentile=None))
    logits = ReActDetector(percentile=None)
    found["DICE 70"] = make_pipeline(DICE(head), logits)
    clip = VRAP(low=0.0, high_percentile=90, per_unit=False)
    found["DICE 10, clip at 90"] = make_pipeline(clip, DICE(head, 10), logits)
    found["Mahalanobis, one Gaussian"] = MahalanobisDetector(
        LedoitWolf(assume_centered=True)  # one photo per class, so no class means
    )
    return found


def odin(folder, y):
    """Return rows for ODIN, each of which passes all images through the network."""
    model = load_model(folder)
    photos, textures = list_images(folder)
    rows = []
    for percentile in (None, 90):
        for noise in NOISE:
            pipeline = make_odin_pipeline(
                model.load,
                preprocess=model.preprocess(),
                noise=noise,
                percentile=percentile,
            )
            extractor, detector = pipeline
            extractor.fit(photos[::2])
            X = extractor.transform([*photos[1::2], *textures])
            scores = detector.fit(X).score_samples(X)  # its threshold is not used
            clip = "" if percentile is None else f", clip at {percentile}"
            rows.append((f"ODIN, noise {noise:g}{clip}", judged(scores, y)))
    return rows


if __name__ == "__main__":
    main()
