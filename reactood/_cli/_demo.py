"""The command ``demo``: detect images that do not show digits."""

import numpy as np
from sklearn.metrics import roc_auc_score

from reactood.datasets import digits_classifier, load_digits_ood
from reactood.detector import ReActDetector
from reactood.extractor._extractor import TorchFeatureExtractor
from reactood.metrics import fpr_at_tpr

NOTES = """
FPR95: % of OOD images that are accepted at the threshold that accepts 95 % of the
digits (lower is better). AUROC: % (higher is better). The clip was learned from digits
only. ReAct is better than Energy on images that are very different from digits. On the
held-out digits it is slightly worse. This network was chosen because ReAct helps with
it. load_digits_ood().DESCR describes the choice and the results of other networks."""


def detectors(head):
    """Return the baselines and ReAct for one head, by name."""
    return {
        "MSP": ReActDetector(head, percentile=None, score_function="msp"),
        "Energy": ReActDetector(head, percentile=None),
        "ReAct": ReActDetector(head, percentile=90),
    }


def run(out):
    """Print the table and write the figure to ``out``."""
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
        f"ReAct clips at {react.activation_threshold_:.3f}, the 90th percentile.\n"
        f"It accepts {kept:.1%} of the test digits. This is not 95 %, because the "
        "network is more\nconfident on the images that it was trained on. If that "
        "matters, pass other ID images\nto fit.\n"
    )
    print(_table(fitted, X_id, X_ood))
    print(NOTES)
    print(_draw(fitted, X_id, X_ood, out))


def _table(fitted, X_id, X_ood):
    width = max(map(len, [*X_ood, "OOD set"]))
    lines = [
        f"{'':{width}}  {'':>6}" + "".join(f"  {name:^13}" for name in fitted),
        f"{'OOD set':{width}}  {'images':>6}" + "  FPR95   AUROC" * len(fitted),
    ]
    cells = []
    for name, X in X_ood.items():
        row = [_evaluate(detector, X_id, X) for detector in fitted.values()]
        cells.append(row)
        lines.append(f"{name:{width}}  {len(X):>6}" + _row(row))
    lines.append(f"{'mean':{width}}  {'':>6}" + _row(np.mean(cells, axis=0)))
    return "\n".join(lines)


def _row(cells):
    return "".join(f"  {100 * fpr:5.1f}   {100 * auroc:5.1f}" for fpr, auroc in cells)


def _evaluate(detector, X_id, X_ood):
    y_true = np.repeat([1, -1], [len(X_id), len(X_ood)])
    y_score = detector.score_samples(np.concatenate([X_id, X_ood]))
    return fpr_at_tpr(y_true, y_score), roc_auc_score(y_true, y_score)


def _draw(fitted, X_id, X_ood, out):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return (
            "\nNo figure was drawn. It needs matplotlib: pip install 'reactood[plot]'."
        )
    sets = {"digits (ID)": X_id, **X_ood}
    figure = Figure(figsize=(10, 1.3 * len(sets)), layout="constrained")
    grid = figure.subplots(len(sets), len(fitted), sharex="col", squeeze=False)
    for column, (method, detector) in zip(grid.T, fitted.items(), strict=True):
        scores = [detector.decision_function(X) for X in sets.values()]
        bins = np.histogram_bin_edges(np.concatenate(scores), 40)
        for ax, values in zip(column, scores, strict=True):
            color = "0.6" if ax is column[0] else "#0072B2"
            ax.hist(values, bins, color=color)
            ax.axvline(0, color="black", ls="--", lw=1)
            ax.set_yticks([])
            accepted = f"{np.mean(values >= 0):.0%} accepted"
            ax.set_title(accepted, loc="right", fontsize="small", pad=2)
        column[0].set_title(method, loc="left", fontsize="large")
        column[-1].set_xlabel("decision_function (≥ 0: in-distribution)")
    for ax, name in zip(grid[:, 0], sets, strict=True):
        ax.set_ylabel(name.replace("_", " "), rotation=0, ha="right", va="center")
    figure.savefig(out, dpi=120)
    return f"\nScore distributions (dashed line: the decision threshold): {out}"
