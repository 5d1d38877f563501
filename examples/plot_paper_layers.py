"""
Clipping after earlier layers
=============================

Why clip before the head, and not after the first convolution? The paper tries each
block of a network and finds the last one best. ``clip_layer`` makes an extractor that
clips after any layer of a model, at a percentile of that layer's own activations.
"""

# %%
# One clip at a time
# ------------------

import matplotlib.pyplot as plt
import numpy as np

from reactood import ReActDetector, TorchFeatureExtractor
from reactood.baselines import clip_layer
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.metrics import ood_report

digits = load_digits_ood()
extractor = TorchFeatureExtractor(digits_classifier).fit(digits.X_train)
layers = [
    name
    for name, module in digits_classifier().named_modules()
    if type(module).__name__ == "ReLU"
]
print("ReLUs of the network:", *layers)


def judged(extractor, **clip):
    """Return FPR95 on each OOD set, and the mean."""
    H_fit = extractor.fit_transform(digits.X_train)
    detector = ReActDetector(extractor.head_, **clip).fit(H_fit)
    sets = {name: extractor.transform(X) for name, X in digits.ood.items()}
    report = ood_report(
        detector, extractor.transform(digits.X_test), sets, n_bootstrap=0
    )
    return [row["fpr"] for row in report.rows]


rows = {"no clip": judged(extractor, percentile=None)}
for layer in layers:
    clipped = clip_layer(extractor, layer, digits.X_train, percentile=90)
    rows[f"after {layer}"] = judged(clipped, percentile=None)
rows["before the head"] = judged(extractor, percentile=90)

# %%
# Which place is best?
# --------------------

sets = [*digits.ood, "mean"]
table = np.array([*rows.values()])
print(np.round(table, 3))
fig, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
image = ax.imshow(100 * table, cmap="Blues", vmin=0, vmax=100, aspect="auto")
ax.set_xticks(range(len(sets)), [name.replace("_", "\n") for name in sets])
ax.set_yticks(range(len(rows)), rows)
for (i, j), value in np.ndenumerate(100 * table):
    color = "white" if value > 60 else "black"
    ax.text(j, i, f"{value:.1f}", ha="center", va="center", color=color)
ax.set_title("FPR at 95 % TPR, %, with one clip at the 90th percentile")
plt.show()

# %%
# **What to see:** read the last column from the top. A clip after the first or the
# second ReLU does harm, one after the last ReLU helps a little, and one before the head
# helps most, as in the paper. The last two differ: after the last ReLU each pixel is
# clipped, before the head the average over pixels.
