"""
A percentile without OOD data
=============================

If you have no out-of-distribution (OOD) data, you can make some: noise, as in the
paper, or changed in-distribution (ID) images. We choose a percentile by three such
surrogates, and then measure the choices on real OOD images. To choose the score too,
see :ref:`sphx_glr_auto_examples_plot_which_score.py`.
"""

# %%
# Surrogates
# ----------
# Gaussian noise keeps the mean and the spread of the pixels. Scrambled phases keep the
# strength of each spatial scale, and lose the shapes. A blurred mixture shows two
# digits at once.

import matplotlib.pyplot as plt
import numpy as np

from reactood import ReActDetector, make_react_pipeline
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.inspection import MetricCurveDisplay
from reactood.metrics import fpr_at_tpr
from reactood.model_selection import make_surrogate_ood, tune_percentile

digits = load_digits_ood()
kinds = ["gaussian_noise", "phase_scrambled", "blurred_mix"]
rows = {"ID": digits.X_test[:8]} | {
    kind: make_surrogate_ood(digits.X_test[:8], kind) for kind in kinds
}
fig, axes = plt.subplots(4, 8, figsize=(7.5, 4.2), layout="constrained")
for (name, images), line in zip(rows.items(), axes, strict=True):
    for ax, image in zip(line, images, strict=True):
        ax.imshow(image[0], cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    line[0].set_ylabel(name.replace("_", "\n"), rotation=0, ha="right", va="center")
plt.show()

# %%
# The choice
# ----------
# One call for each. ``fit`` and the choice use the first half of the test digits; each
# image goes through the network once. ``near_best_percentiles_`` are the candidates
# within one standard error of the best: the choice among them is a matter of chance.
# If no clipping is among them, the detector's own percentile, 90, is kept.

pipeline = make_react_pipeline(digits_classifier)
percentiles = [50, 60, 70, 75, 80, 85, 90, 92.5, 95, 97.5, 99]
tuned = {}
for kind in kinds:
    tuned[kind] = tune_percentile(
        pipeline, digits.X_test[::2], surrogate=kind, percentiles=percentiles
    )
    near = tuned[kind].near_best_percentiles_
    print(
        f"{kind:16} chose {tuned[kind].best_percentile_}; as good: {near[0]} to "
        f"{near[-1]}; FPR95 {-tuned[kind].best_score_:.3f}, without clipping "
        f"{-tuned[kind].unclipped_score_:.3f}"
    )

# %%
# On real OOD images
# ------------------
# We evaluate the same percentiles on OOD images that were not used so far, against the
# other half of the digits. To draw these curves we look at all of them. This helps to
# understand the method, but a percentile must not be chosen in this way.

extractor = pipeline[:-1].fit(digits.X_test)
F_fit = extractor.transform(digits.X_test[::2])
F_report = extractor.transform(digits.X_test[1::2])
head = extractor[-1].head_

fig, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4.2), layout="constrained", sharey=True
)
for kind, color in zip(kinds, ["#0072B2", "#D55E00", "#009E73"], strict=True):
    MetricCurveDisplay.from_search(
        tuned[kind], negate=True, color=color, label=kind, ax=left
    )
left.set(title="on the surrogates that choose", ylabel="FPR at 95 % TPR, fraction")

lines = {
    "held_out_digits": ("#CC79A7", "o"),
    "photo_china": ("#0072B2", "s"),
    "letters": ("#009E73", "^"),
    "symbols": ("black", "v"),
}
for name, (color, marker) in lines.items():
    F_ood = extractor.transform(digits.ood[name])
    y_true = np.repeat([1, -1], [len(F_report), len(F_ood)])
    X = np.concatenate([F_report, F_ood])
    detectors = [ReActDetector(head, percentile=p).fit(F_fit) for p in percentiles]
    values = [fpr_at_tpr(y_true, fitted.score_samples(X)) for fitted in detectors]
    right.plot(percentiles, values, color=color, marker=marker, ms=4, label=name)
right.set(title="on real OOD images", xlabel="percentile (percent)")
right.legend(fontsize="small")
plt.show()

# %%
# **What to see:** the further a surrogate is from digits, the lower the percentile that
# it chooses. Noise chooses 60, which is bad for letters and held-out digits. Scrambled
# phases choose 70, near the best for photographs and not far from it for the others.
# With mixtures of digits, no clipping is as good as any percentile. A warning says so,
# and 90 is kept. No surrogate is the same as real OOD data.
