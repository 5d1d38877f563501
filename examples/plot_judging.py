"""
How good is it, and on what?
============================

The performance of a detector depends on the set of out-of-distribution (OOD) images, so
one number is not enough. We evaluate a detector on five sets, with confidence
intervals, and compare it with plain Energy, which is ReAct without its clip.
"""

# %%
# One call, one table
# -------------------
# ``ood_report`` takes a fitted detector, ID images and named sets of OOD images. The
# images must be new to the detector: it was fitted on the other half of the digits.

import matplotlib.pyplot as plt
import numpy as np

from reactood import make_react_pipeline
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.inspection import ScoreDistributionDisplay
from reactood.metrics import ood_report

digits = load_digits_ood()
X_fit, X_id = digits.X_test[::2], digits.X_test[1::2]
reports = {}
for name, percentile in {"ReAct": 85, "Energy": None}.items():
    detector = make_react_pipeline(digits_classifier, percentile=percentile).fit(X_fit)
    reports[name] = ood_report(
        detector, X_id, digits.ood, y_id=digits.y_test[1::2], random_state=0
    )
    print(name, reports[name], sep="\n", end="\n\n")

# %%
# The intervals come from resampling ID and OOD images. They show how much the number
# would change with other images of the same kinds. They do not show how much it would
# change with another kind, which may be much more; therefore we use several sets.
#
# The accuracy on ID images is that of the unchanged network. The second number is the
# accuracy if the class is taken from clipped activations too.

rows = {name: report.rows for name, report in reports.items()}
names = [row["ood"] for row in rows["ReAct"]]
fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
for label, color, shift in (("ReAct", "#0072B2", -0.12), ("Energy", "0.45", 0.12)):
    fpr, low, high = (
        np.array([row[key] for row in rows[label]])
        for key in ("fpr", "fpr_low", "fpr_high")
    )
    ax.errorbar(
        fpr,
        np.arange(len(names)) + shift,
        xerr=[fpr - low, high - fpr],
        fmt="o",
        color=color,
        capsize=3,
        label=label,
    )
ax.set(
    yticks=np.arange(len(names)),
    yticklabels=names,
    xlabel="FPR at 95 % TPR, fraction, with 95 % intervals; the lower, the better",
    xlim=(0, 1),
)
ax.invert_yaxis()
ax.grid(axis="x", color="0.93")
ax.legend()
plt.show()

# %%
# The scores on one set
# ---------------------
# Each number comes from two distributions of scores.

detector = make_react_pipeline(digits_classifier, percentile=85).fit(X_fit)
images = np.concatenate([X_id, digits.ood["letters"]])
y = np.repeat([1, -1], [len(X_id), len(digits.ood["letters"])])
ScoreDistributionDisplay.from_estimator(detector, images, y)
plt.show()

# %%
# **What to see:** with the clip, photographs, letters and symbols are detected better,
# and the held-out digits worse. On each set, the interval shows whether the difference
# is more than chance.
