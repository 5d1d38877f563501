"""The demonstration: it separates images of digits from other images."""

import numpy as np

from reactood.datasets import digits_classifier, load_digits_ood
from reactood.detector import ReActDetector
from reactood.extractor._extractor import TorchFeatureExtractor
from reactood.inspection import ScoreDistributionDisplay
from reactood.metrics import ood_report

NOTES = """
FPR95: % of OOD images accepted where 95 % of the digits are (lower is better).
AUROC: % (higher is better). The clip was learned from digits alone.
ReAct gains over Energy on images far from digits; on held-out digits it loses a
little. This network was picked because ReAct helps with it: load_digits_ood().DESCR
says how, and what other networks do."""


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
    reports = {
        name: ood_report(detector, X_id, X_ood, y_id=data.y_test, n_bootstrap=0)
        for name, detector in fitted.items()
    }
    react = reports["ReAct"]
    print(
        f"In-distribution: {len(X_train)} images of digits to fit, {len(X_id)} to test "
        f"(class accuracy {react.id_accuracy:.1%}).\n"
        f"ReAct clips at {fitted['ReAct'].activation_threshold_:.3f}, the 90th "
        f"percentile, and\naccepts {react.id_accepted:.1%} of the test digits (not "
        "95 %, as the network is surer of the images\nthat it was trained on; give fit "
        "images that are new to it where that matters).\n"
    )
    print(_table(reports))
    print(NOTES)
    print(_draw(fitted, X_id, X_ood, out))


def _table(reports):
    """Return the numbers of several detectors side by side."""
    rows = {name: report.rows for name, report in reports.items()}
    names = [row["ood"] for row in rows["ReAct"]]
    width = max(map(len, [*names, "OOD set"]))
    lines = [
        f"{'':{width}}  {'':>6}" + "".join(f"  {name:^13}" for name in rows),
        f"{'OOD set':{width}}  {'images':>6}" + "  FPR95   AUROC" * len(rows),
    ]
    for name, *of_detectors in zip(names, *rows.values(), strict=True):
        size = of_detectors[0]["n"]
        cells = [
            f"  {100 * row['fpr']:5.1f}   {100 * row['auroc']:5.1f}"
            for row in of_detectors
        ]
        shown = "" if size is None else size
        lines.append(f"{name:{width}}  {shown:>6}" + "".join(cells))
    return "\n".join(lines)


def _draw(fitted, X_id, X_ood, out):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "\nNo picture: it needs matplotlib, pip install 'reactood[plot]'."
    X = np.concatenate([X_id, *X_ood.values()])
    y = np.where(np.arange(len(X)) < len(X_id), 1, -1)
    figure = Figure(figsize=(13.5, 3.8), layout="constrained")
    for ax, (name, detector) in zip(figure.subplots(1, 3), fitted.items(), strict=True):
        ScoreDistributionDisplay.from_estimator(detector, X, y, ax=ax)
        ax.set_title(f"{name}: {ax.get_title()}", fontsize="medium")
        ax.legend(fontsize="small")
    figure.savefig(out, dpi=120)
    return f"\nScore distributions, with the decision threshold: {out}"
