"""
Figure 1 of the paper, for any model
====================================

The first figure of the ReAct paper shows why clipping works. The scores of
in-distribution (ID) and out-of-distribution (OOD) images overlap, and OOD images
activate a few units far too much. If these activations are clipped, the scores overlap
less. This script draws the figure for any detector: only the first lines are about
digits.
"""

# %%
# Two detectors, with and without the clip
# ----------------------------------------

import matplotlib.pyplot as plt
import numpy as np

from reactood import make_react_pipeline
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.inspection import ActivationProfileDisplay, ScoreDistributionDisplay
from reactood.metrics import fpr_at_tpr

digits = load_digits_ood()
model, X_fit, X_id, X_ood = (
    digits_classifier,
    digits.X_train,
    digits.X_test,
    digits.ood["photo_china"],
)

energy = make_react_pipeline(model, percentile=None).fit(X_fit)
react = make_react_pipeline(model, percentile=85).fit(X_fit)

X = np.concatenate([X_id, X_ood])
y = np.repeat([1, -1], [len(X_id), len(X_ood)])

# %%
# The three panels
# ----------------

fig, axes = plt.subplot_mosaic(
    [["before", "after"], ["units", "units"]], figsize=(10, 7), layout="constrained"
)
before, units, after = axes["before"], axes["units"], axes["after"]
ScoreDistributionDisplay.from_estimator(energy, X, y, ax=before)
ActivationProfileDisplay.from_estimator(react, X, y, ax=units)
ScoreDistributionDisplay.from_estimator(react, X, y, ax=after)
for ax, detector, title in ((before, energy, "Energy"), (after, react, "ReAct")):
    fpr = fpr_at_tpr(y, detector.score_samples(X))
    ax.set_title(f"{title}: FPR95 {fpr:.1%}")
units.set_title("Mean activation of each unit")
for ax in axes.values():
    if ax is not units:
        ax.set_ylim(top=1.55 * ax.get_ylim()[1])  # room for the legend
plt.show()

# %%
# **What to see:** in the lower panel, the mean of the ID images is nearly the same for
# all units, and that of the photographs has spikes. Clipping lowers all scores and
# narrows both distributions, and fewer photographs score as high as the digits.
