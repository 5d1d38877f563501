"""
False alarms with a guarantee
=============================

A threshold at the 5th percentile of the training scores *should* reject about 5 % of
new in-distribution (ID) images, but this is not certain. Conformal p-values guarantee
it, for any detector and any number of images used for calibration.
"""

# %%
# A detector and its calibration
# ------------------------------
# ``ConformalDetector`` wraps any outlier detector. It holds out half of the ID images
# that it is fitted on, and compares new scores with theirs. The p-value of an image is
# the share of held-out images, itself included, that do not look more in-distribution.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator

from reactood import make_react_pipeline
from reactood.conformal import ConformalDetector
from reactood.datasets import digits_classifier, load_digits_ood

digits = load_digits_ood()
X_fit, X_new = digits.X_test[::2], digits.X_test[1::2]
react = make_react_pipeline(digits_classifier, percentile=85)
detector = ConformalDetector(react, alpha=0.05, random_state=0).fit(X_fit)
p_id = detector.p_values(X_new)
p_ood = {name: detector.p_values(images) for name, images in digits.ood.items()}
print(f"false alarms on new digits: {np.mean(detector.predict(X_new) == -1):.3f}")

# %%
# What a p-value says
# -------------------
# For every x, a share of at most x of the ID images has a p-value of x or less. So
# their curve is the diagonal, up to chance. OOD images have small p-values; the easier
# they are to detect, the smaller.

fig, ax = plt.subplots(figsize=(7, 4.6), layout="constrained")
grid = np.linspace(0, 1, 201)
ax.plot([0, 1], [0, 1], color="0.7", lw=1, label="what is promised")
ax.plot(
    grid, [np.mean(p_id <= x) for x in grid], color="black", lw=2, label="new digits"
)
styles = {
    "held_out_digits": ("#CC79A7", "-"),
    "letters": ("#009E73", "--"),
    "symbols": ("#E69F00", "-."),
    "photo_china": ("#0072B2", ":"),
}
for name, (color, line) in styles.items():
    shares = [np.mean(p_ood[name] <= x) for x in grid]
    ax.plot(grid, shares, color=color, ls=line, lw=2, label=name)
ax.set(
    xlabel="p-value at which one rejects",
    ylabel="share of images rejected",
    xlim=(0, 0.5),
    ylim=(0, 1.02),
)
ax.legend(loc="center right")
ax.grid(color="0.93")
plt.show()

# %%
# Many at once
# ------------
# For a batch, you may want to limit the share of false alarms *among the alarms*, the
# false discovery rate. ``predict_fdr`` does this, by the procedure of Benjamini and
# Hochberg. It needs small p-values, and the smallest is one over the number of
# calibration images plus one. So none of them is used for fitting: this detector was
# fitted on the network's training images, and all others calibrate.

fitted = make_react_pipeline(digits_classifier, percentile=85).fit(digits.X_train)
detector = ConformalDetector(FrozenEstimator(fitted), alpha=0.1).fit(X_fit)
X_batch = np.concatenate([X_new, digits.ood["letters"][:100]])
is_ood = np.arange(len(X_batch)) >= len(X_new)
for name, labels in {
    "each at 10 %": detector.predict(X_batch),
    "false discovery rate 10 %": detector.predict_fdr(X_batch),
}.items():
    flagged = labels == -1
    print(
        f"{name:26} {flagged.sum():3d} alarms, {np.sum(flagged[~is_ood]):2d} of them "
        f"false; {np.mean(flagged[is_ood]):.0%} of the letters found"
    )

# %%
# **What to see:** the curve of new digits is close to the diagonal, so the guarantee
# holds at every level. The curves of other images are above it; the higher, the better
# the detector.
