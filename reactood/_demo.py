"""The demonstration: images of digits told from other images."""

import numpy as np
from sklearn.metrics import roc_auc_score

from reactood.datasets import digits_classifier, load_digits_ood
from reactood.detector import ReActDetector
from reactood.extractor import TorchFeatureExtractor
from reactood.metrics import fpr_at_tpr


def detectors(head):
    """Return the baselines and ReAct for one head, by name."""
    return {
        "MSP": ReActDetector(head, percentile=None, score_function="msp"),
        "Energy": ReActDetector(head, percentile=None),
        "ReAct": ReActDetector(head, percentile=90),
    }


def run(out):
    """Print the table and write the picture to ``out``."""
    data = load_digits_ood()
    extractor = TorchFeatureExtractor(digits_classifier)
    X_train = extractor.fit_transform(data.X_train)
    X_id = extractor.transform(data.X_test)
    X_ood = {name: extractor.transform(images) for name, images in data.ood.items()}
    fitted = {k: d.fit(X_train) for k, d in detectors(extractor.head_).items()}

    react = fitted["ReAct"]
    accuracy = np.mean(react.predict_class(X_id) == data.y_test)
    kept = np.mean(react.predict(X_id) == 1)
    print(
        f"In-distribution: {len(X_train)} images of digits to fit, {len(X_id)} to test "
        f"(class accuracy {accuracy:.1%}).\n"
        f"ReAct clips at {react.activation_threshold_:.3f}, the 90th percentile, and "
        f"accepts {kept:.1%} of the test digits.\n"
    )
    print(_table(fitted, X_id, X_ood))
    print(
        "\nFPR95: % of OOD images accepted where 95 % of the digits are (lower is "
        "better).\nAUROC: % (higher is better). The clip was learned from digits alone."
    )
    print(_draw(fitted, X_id, X_ood, out))


def _table(fitted, X_id, X_ood):
    width = max(map(len, [*X_ood, "OOD set"]))
    lines = [
        f"{'':{width}}  {'':>6}" + "".join(f"  {name:^13}" for name in fitted),
        f"{'OOD set':{width}}  {'images':>6}" + "  FPR95   AUROC" * len(fitted),
    ]
    cells = []
    for name, X in X_ood.items():
        row = [_judge(detector, X_id, X) for detector in fitted.values()]
        cells.append(row)
        lines.append(f"{name:{width}}  {len(X):>6}" + _row(row))
    lines.append(f"{'mean':{width}}  {'':>6}" + _row(np.mean(cells, axis=0)))
    return "\n".join(lines)


def _row(cells):
    return "".join(f"  {100 * fpr:5.1f}   {100 * auroc:5.1f}" for fpr, auroc in cells)


def _judge(detector, X_id, X_ood):
    y_true = np.repeat([1, -1], [len(X_id), len(X_ood)])
    y_score = detector.score_samples(np.concatenate([X_id, X_ood]))
    return fpr_at_tpr(y_true, y_score), roc_auc_score(y_true, y_score)


def _draw(fitted, X_id, X_ood, out):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "\nNo picture: it needs matplotlib, pip install 'reactood[plot]'."
    figure = Figure(figsize=(4 * len(fitted), 4), layout="constrained")
    for ax, (name, detector) in zip(
        figure.subplots(1, len(fitted)), fitted.items(), strict=True
    ):
        scores = {"digits (ID)": detector.decision_function(X_id)}
        scores |= {k: detector.decision_function(X) for k, X in X_ood.items()}
        bins = np.histogram_bin_edges(np.concatenate(list(scores.values())), 40)
        for i, (label, values) in enumerate(scores.items()):
            style = {"color": "0.75"} if i == 0 else {"color": f"C{i - 1}"}
            kind = {"histtype": "stepfilled"} if i == 0 else {"histtype": "step"}
            weights = np.full(len(values), 100 / len(values))
            ax.hist(values, bins, weights=weights, label=label, lw=1.5, **style, **kind)
        ax.axvline(0, color="black", ls="--", lw=1, label="decision threshold")
        ax.set(title=name, xlabel="decision_function (≥ 0: in-distribution)")
    figure.axes[0].set_ylabel("share of images (%)")
    figure.axes[0].legend(fontsize="small")
    figure.savefig(out, dpi=120)
    return f"\nScore distributions: {out}"
