"""Draw the pictures of the front page: scores without and with the clip.

    python docs/pictures/front_page.py              # the digits of the package
    python docs/pictures/front_page.py --data DIR   # real photos and textures

DIR is the folder that the benchmarks take: `mobilenet_v2.py` (`load()`,
`preprocess()`), `imagenet-sample/` and `textures/`. Every second photo is for learning,
the others are compared with the textures. The pictures hold statistics alone. Each is
written twice, for a light and for a dark page, into docs/_static.
"""

import argparse
import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from reactood import ReActDetector, TorchFeatureExtractor
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.metrics import fpr_at_tpr

STATIC = Path(__file__).resolve().parents[1] / "_static"
THEMES = {
    "light": {"ink": "#222832", "id": "#2c6fbb", "ood": "#e07b39"},
    "dark": {"ink": "#ced6dd", "id": "#6aa9e9", "ood": "#f2a267"},
}


def digits():
    """Return the head, features of digits to learn from, of others, and of photos."""
    data = load_digits_ood()
    extractor = TorchFeatureExtractor(digits_classifier).fit(data.X_test)
    ood = np.concatenate([data.ood["photo_china"], data.ood["photo_flower"]])
    sets = data.X_test[::2], data.X_test[1::2], ood
    return extractor.head_, *map(extractor.transform, sets)


def photos(folder):
    """Return the same of a MobileNetV2: photos of ImageNet, and textures."""
    spec = importlib.util.spec_from_file_location("net", folder / "mobilenet_v2.py")
    net = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(net)
    known = sorted(map(str, (folder / "imagenet-sample").rglob("*.*")))
    textures = sorted(map(str, (folder / "textures").rglob("*.*")))
    extractor = TorchFeatureExtractor(net.load(), preprocess=net.preprocess())
    extractor.fit(known[::2])
    sets = known[::2], known[1::2], textures
    return extractor.head_, *map(extractor.transform, sets)


def measure(head, known, new, ood):
    """Return, for Energy and for ReAct, the scores of both sets and the FPR."""
    measured = {}
    for title, percentile in {"Without the clip": None, "With the clip": 90}.items():
        detector = ReActDetector(head, percentile=percentile, check_score=False)
        detector.fit(known)
        scores = detector.score_samples(new), detector.score_samples(ood)
        y = np.repeat([1, -1], [len(new), len(ood)])
        fpr = fpr_at_tpr(y, np.concatenate(scores), tpr=0.95)
        measured[title] = *scores, fpr
    return measured


def draw(measured, names, path, colours):
    """Draw one histogram for each detector, with the threshold that keeps 95 %."""
    ink = colours["ink"]
    style = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color"), ink)
    style |= {"axes.edgecolor": ink, "font.size": 15, "svg.hashsalt": "reactood"}
    with plt.rc_context(style):
        fig, axes = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained")
        for ax, (title, (new, ood, fpr)) in zip(axes, measured.items(), strict=True):
            both = np.concatenate([new, ood])
            low, high = np.percentile(both, [0.2, 99.8])
            bins = np.linspace(low, high, 45)
            for scores, kind in ((ood, "ood"), (new, "id")):
                ax.hist(
                    np.clip(scores, low, high),
                    bins,
                    weights=np.full(len(scores), 100 / len(scores)),
                    color=colours[kind],
                    alpha=0.65,
                    label=names[kind],
                )
            ax.axvline(np.percentile(new, 5), color=ink, linestyle="--", linewidth=1.2)
            ax.set_title(f"{title}: {100 * fpr:.1f} % accepted", fontweight="bold")
            ax.set(xlabel="energy score", yticks=[])
            ax.spines[["top", "right", "left"]].set_visible(False)
        handles, labels = axes[1].get_legend_handles_labels()
        fig.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2)
        fig.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(fig)


def main():
    """Measure, then write two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of a model and images")
    options = parser.parse_args()
    if options.data:
        name, measured = "photos", measure(*photos(options.data))
        names = {"id": "photos of known classes", "ood": "textures"}
    else:
        name, measured = "digits", measure(*digits())
        names = {"id": "digits", "ood": "patches of photographs"}
    for theme, colours in THEMES.items():
        draw(measured, names, STATIC / f"scores-{name}-{theme}.svg", colours)
    for title, (_, _, fpr) in measured.items():
        print(f"{title}: {100 * fpr:.1f} % of {names['ood']} accepted")


if __name__ == "__main__":
    main()
