"""
Digits, and images that are none
================================

A small network that knows the digits 0 to 7 is shown other images: the digits 8 and 9,
letters, symbols and patches of photographs. We build a detector that accepts or rejects
each image, look at what ReAct does to the activations, and compare it with its two
usual baselines. It is not the best on all images.
"""

# %%
# Images to decisions
# -------------------
# The data and the trained network are included in the package. In-distribution (ID) are
# the digits 0 to 7; everything in ``digits.ood`` is out-of-distribution (OOD).

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score

from reactood import ReActDetector, make_react_pipeline
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.metrics import fpr_at_tpr

digits = load_digits_ood()
print(f"{'ID, to fit':16}{len(digits.X_train):4d} images")
print(f"{'ID, to test':16}{len(digits.X_test):4d} images")
for name, images in digits.ood.items():
    print(f"{name:16}{len(images):4d} images")

# %%
# The detector is a scikit-learn pipeline: an extractor that turns images into the
# network's last features, and a detector that clips and scores them. ``fit`` takes only
# ID images. It trains nothing; it learns the clip and the threshold.

detector = make_react_pipeline(digits_classifier, percentile=90)  # percent
detector.fit(digits.X_train)

# %%
# ``predict`` returns +1 for in-distribution and -1 for out-of-distribution.
# ``decision_function`` returns the score minus the threshold: the higher, the more
# in-distribution, and 0 or more is accepted.

X_mixed = np.concatenate([digits.X_test[:4], digits.ood["photo_china"][:4]])
labels = detector.predict(X_mixed)
scores = detector.decision_function(X_mixed)

fig, axes = plt.subplots(1, 8, figsize=(9, 1.9), layout="constrained")
for ax, image, label, score in zip(axes, X_mixed, labels, scores, strict=True):
    ax.imshow(image[0], cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"{label:+d}\n({score:+.1f})", fontsize="medium")
    ax.set(xticks=[], yticks=[])
fig.supxlabel("label, and decision_function in brackets", fontsize="medium")
plt.show()

# %%
# The threshold is set so that 5 % of the images given to ``fit`` are below it. These
# were the network's own training images, on which it is more confident than on new
# ones, so more than 5 % of new digits are rejected. If the detector is fitted on ID
# images that the network was not trained on, about 5 % are rejected. Here we use half
# of the test digits.

unseen = digits.X_test[1::2]
print(f"fitted on training images: {np.mean(detector.predict(unseen) == -1):.1%}")
detector.fit(digits.X_test[::2])
print(f"fitted on held-out images: {np.mean(detector.predict(unseen) == -1):.1%}")

# %%
# What the clip does
# ------------------
# From here on we work with features, extracted once. For each of the 96 units, we
# compare the mean activation on digits with that on photographs. We add white noise as
# an extreme case.

extractor = detector["extractor"]
F_train = extractor.transform(digits.X_train)
F_test = extractor.transform(digits.X_test)
F_ood = {name: extractor.transform(images) for name, images in digits.ood.items()}

noise = np.random.default_rng(0).normal(size=(400, 1, 8, 8)).astype(np.float32)
F_noise = extractor.transform(noise)

react = ReActDetector(extractor.head_, percentile=90).fit(F_train)
energy = ReActDetector(extractor.head_, percentile=None).fit(F_train)
clip = react.activation_threshold_

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.6"
shown = {
    "digits (ID)": (F_test, BLUE, "o"),
    "photo_flower": (F_ood["photo_flower"], ORANGE, "^"),
    "white noise": (F_noise, GREEN, "x"),
}

fig, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained")
order = np.argsort(F_train.mean(axis=0))
for name, (features, color, marker) in shown.items():
    mean = features.mean(axis=0)[order]
    axes[0].plot(mean, marker, ms=4, color=color, label=name)
axes[0].axhline(clip, color="black", ls="--", lw=1, label=f"clip, c = {clip:.2f}")
axes[0].set(
    title="Activations",
    xlabel="unit, sorted by its mean on ID training images",
    ylabel="mean activation",
)

for ax, fitted, title in [
    (axes[1], energy, "Energy (no clip)"),
    (axes[2], react, "ReAct (clip at the 90th percentile)"),
]:
    values = {name: fitted.score_samples(f) for name, (f, *_) in shown.items()}
    bins = np.linspace(0, np.percentile(np.concatenate([*values.values()]), 99.5), 45)
    for name, score in values.items():
        color = shown[name][1]
        weights = np.full(len(score), 100 / len(score))
        ax.hist(score, bins, weights=weights, color=color, alpha=0.25)
        ax.hist(score, bins, weights=weights, color=color, histtype="step", lw=1.4)
    ax.set(
        title=title,
        xlabel="score (higher: more in-distribution)",
        ylabel="share of images (%)",
    )
fig.legend(
    *axes[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=4,
    markerscale=1.6,
)
plt.show()

# %%
# On digits, all units have nearly the same mean, well below the clip. Noise drives some
# units far above it, and the logits become large: without the clip, noise scores
# *higher* than digits do. With the clip, it no longer does.
#
# MSP, Energy, ReAct
# ------------------
# One class computes all three scores, with different parameters. MSP is the largest
# softmax probability, Energy the log-sum-exp of the logits, ReAct the Energy after
# clipping.

methods = {
    "MSP": ReActDetector(extractor.head_, percentile=None, score_function="msp"),
    "Energy": ReActDetector(extractor.head_, percentile=None),
    "ReAct": ReActDetector(extractor.head_, percentile=90),
}
auroc, fpr95 = {}, {}
for method, fitted in methods.items():
    s_test = fitted.fit(F_train).score_samples(F_test)
    for name, features in F_ood.items():
        y_true = np.repeat([1, -1], [len(F_test), len(features)])
        y_score = np.concatenate([s_test, fitted.score_samples(features)])
        auroc[method, name] = roc_auc_score(y_true, y_score)
        fpr95[method, name] = fpr_at_tpr(y_true, y_score, tpr=0.95)

# %%
# Both numbers are fractions: AUROC is the probability that a random digit scores above
# a random OOD image; FPR95 is the share of OOD images accepted at the threshold that
# accepts 95 % of the digits.

print(f"{'AUROC / FPR95':16}" + "".join(f"{method:>16}" for method in methods))
for name in F_ood:
    cells = (f"{auroc[m, name]:.3f} / {fpr95[m, name]:.3f}" for m in methods)
    print(f"{name:16}" + "".join(f"{cell:>16}" for cell in cells))

# %%

style = {"MSP": (GREY, "s"), "Energy": (ORANGE, "^"), "ReAct": (BLUE, "o")}
names = list(F_ood)
fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True, layout="constrained")
for ax, values, label in [
    (axes[0], auroc, "AUROC, fraction (higher is better)"),
    (axes[1], fpr95, "FPR at 95 % TPR, fraction (lower is better)"),
]:
    for row, name in enumerate(names):
        ends = [values[method, name] for method in methods]
        ax.plot([min(ends), max(ends)], [row, row], color="0.85", zorder=0)
    for method, (color, marker) in style.items():
        x = [values[method, name] for name in names]
        ax.plot(x, range(len(names)), marker, ms=8, color=color, label=method)
    ax.set_xlabel(label)
    ax.grid(axis="x", color="0.93")
axes[0].set_yticks(range(len(names)), names)
axes[0].invert_yaxis()
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
plt.show()

# %%
# **What to see:** ReAct (circles) is clearly better than both baselines on photographs
# and symbols. On the held-out digits, which look like the known ones, it has the worst
# FPR95 of the three, and on letters MSP accepts fewer images than ReAct.
