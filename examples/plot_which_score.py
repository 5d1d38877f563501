"""
No OOD data: which score, which percentile?
===========================================

Two networks with the same predictions can need different scores. We make such a pair,
choose score and percentile for each by leaving classes out, without any
out-of-distribution (OOD) data, and compare the ranking of all candidates with their
ranking on real OOD images.
"""

# %%
# Two heads, one classifier
# -------------------------
# The softmax does not change if the same number is added to all logits. Adding one
# vector to each row of the head's weights does just that: classes and probabilities
# stay what they are, and so does the loss that the network was trained on.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr

from reactood import ReActDetector, TorchFeatureExtractor
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.metrics import auroc
from reactood.model_selection import tune_detector

digits = load_digits_ood()
extractor = TorchFeatureExtractor(digits_classifier)
H = extractor.fit_transform(digits.X_test)
weight, bias = extractor.head_
heads = {"as trained": (weight, bias), "shifted": (weight + 0.6, bias)}
for name, (W, b) in heads.items():
    accuracy = np.mean((H @ W.T + b).argmax(axis=1) == digits.y_test)
    print(f"{name:10} accuracy {accuracy:.3f}")

# %%
# The choice
# ----------
# Half of the digits choose. With the shifted head, ``fit`` of the default would warn;
# here the check is turned off.

calibration, evaluation = H[::2], H[1::2]
tuned = {
    name: tune_detector(ReActDetector(head, check_score=False), calibration)
    for name, head in heads.items()
}
for name, result in tuned.items():
    print(f"{name}\n{result.summary_}\n")

# %%
# Against real OOD images
# -----------------------
# Each point is a candidate: a score with a percentile. To the right are those that
# detect left-out classes well, at the top those that detect real OOD images well: the
# best are in the upper right corner. The points of a good surrogate lie on a rising
# line.

H_ood = {name: extractor.transform(images) for name, images in digits.ood.items()}


def real_auroc(head, params):
    """Return the mean AUROC over the OOD sets."""
    detector = ReActDetector(head, **params, check_score=False).fit(calibration)
    of_id = detector.score_samples(evaluation)
    values = []
    for X in H_ood.values():
        y = np.repeat([1, -1], [len(of_id), len(X)])
        values.append(auroc(y, np.concatenate([of_id, detector.score_samples(X)])))
    return np.mean(values)


fig, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained", sharey=True)
scores = "energy", "centered_energy", "centered_max_logit", "max_logit", "msp"
colors = "#D55E00", "#0072B2", "#56B4E9", "#E69F00", "#009E73"
for ax, (name, result) in zip(axes, tuned.items(), strict=True):
    table = result.cv_results_
    error = np.maximum(1 - table["mean_test_score"], 1e-5)
    real = np.array([real_auroc(heads[name], params) for params in table["params"]])
    of_score = table["param_score_function"]
    for score, color in zip(scores, colors, strict=True):
        rows = of_score == score
        ax.scatter(error[rows], real[rows], color=color, s=22, label=score)
    for index, marker, label in (
        (0, "s", "default"),
        (result.best_index_, "o", "choice"),
    ):
        ax.scatter(
            error[index],
            real[index],
            s=150,
            marker=marker,
            facecolors="none",
            edgecolors="black",
            label=label,
        )
    rank = spearmanr(-error, real).statistic
    ax.set(
        xscale="log",
        xlabel="1 - AUROC on left-out classes (lower is better)",
        title=f"head {name}: rank correlation {rank:.2f}",
    )
    ax.invert_xaxis()
axes[0].set_ylabel("mean AUROC on real OOD images")
axes[0].legend(fontsize="small", loc="lower left")
plt.show()

# %%
# **What to see:** the shift changes no prediction, and it ruins Energy and the largest
# logit. Scores that depend on the softmax alone stay exactly where they were: centered
# energy, centered largest logit and MSP. Left-out classes show this without any OOD
# image.
