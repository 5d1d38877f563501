"""
Heads from scikit-learn
=======================

ReAct needs features and a linear head that turns them into logits. The head need not be
the network's own: any scikit-learn classifier with ``coef_`` can be used, on features
of a network or on a plain table. The table also shows a limit of ReAct.
"""

# %%
# A head trained on features
# --------------------------
# A common case: the backbone is frozen and a logistic regression is the classifier.
# Images go through the network once.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from reactood import ReActDetector, TorchFeatureExtractor
from reactood.datasets import digits_classifier, load_digits_ood

digits = load_digits_ood()
extractor = TorchFeatureExtractor(digits_classifier).fit(digits.X_train)
F_train = extractor.transform(digits.X_train)
F_test = extractor.transform(digits.X_test)
F_ood = {name: extractor.transform(images) for name, images in digits.ood.items()}

# %%
# A classifier that is fitted already is wrapped in ``FrozenEstimator``. Without it,
# ``clone`` and ``GridSearchCV`` would return an unfitted copy.

classifier = LogisticRegression(max_iter=1000).fit(F_train, digits.y_train)
frozen = ReActDetector(FrozenEstimator(classifier), percentile=90).fit(F_train)

# %%
# A classifier that is not fitted is trained inside ``fit``, on the class labels in
# ``y``. Rows labelled -1 are out-of-distribution and are not used at all.

trained = ReActDetector(LogisticRegression(max_iter=1000), percentile=90)
trained.fit(F_train, digits.y_train)
print("the same weights:", np.allclose(trained.coef_, frozen.coef_))
print(f"class accuracy: {np.mean(trained.predict_class(F_test) == digits.y_test):.3f}")

# %%
# We compute AUROC, a fraction, without and with the clip, also for the network's own
# head.

heads = {"network's head": extractor.head_, "logistic regression": frozen.head}


def auroc(detector, X_id, X_ood):
    """Return the AUROC of ID rows against OOD rows."""
    scores = detector.score_samples(np.concatenate([X_id, X_ood]))
    return roc_auc_score(np.repeat([1, -1], [len(X_id), len(X_ood)]), scores)


result = {}
for head_name, head in heads.items():
    for percentile in (None, 90):
        detector = ReActDetector(head, percentile=percentile).fit(F_train)
        for name, features in F_ood.items():
            result[head_name, percentile, name] = auroc(detector, F_test, features)

fig, axes = plt.subplots(1, 2, figsize=(10, 3.3), sharey=True, layout="constrained")
for ax, head_name in zip(axes, heads, strict=True):
    for row, name in enumerate(F_ood):
        ends = [result[head_name, p, name] for p in (None, 90)]
        ax.plot(ends, [row, row], color="0.8", zorder=0)
        for value, color, marker in zip(
            ends, ("#D55E00", "#0072B2"), "^o", strict=True
        ):
            ax.plot(value, row, marker, ms=8, color=color)
    ax.set(title=head_name, xlabel="AUROC, fraction (higher is better)")
    ax.grid(axis="x", color="0.93")
axes[0].set_yticks(range(len(F_ood)), F_ood)
axes[0].invert_yaxis()
fig.legend(axes[0].lines[1:3], ["Energy", "ReAct"], loc="outside upper center", ncols=2)
plt.show()

# %%
# The retrained head behaves like the network's own: the clip helps on photographs,
# letters and symbols, and not on the held-out digits.
#
# A plain table
# -------------
# The table holds chemical measurements of wines from three growers. The wrong rows are
# test rows in which one measurement, picked at random, is ten times too large, as with
# a wrong unit. A linear model takes this error for strong evidence.
#
# The columns are standardised, hence signed, so we clip from both sides and each column
# at its own values. All percentiles are in percent. An isolation forest, which needs no
# head, is included for comparison.

X, y = load_wine(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.5, stratify=y, random_state=0
)
rng = np.random.default_rng(0)
X_wrong = np.tile(X_test, (5, 1))
column = rng.integers(X.shape[1], size=len(X_wrong))
X_wrong[np.arange(len(X_wrong)), column] *= 10

scale = StandardScaler().fit(X_train).transform
Z_train, Z_test, Z_wrong = scale(X_train), scale(X_test), scale(X_wrong)

forest = IsolationForest(random_state=0).fit(Z_train)
print(f"IsolationForest: AUROC {auroc(forest, Z_test, Z_wrong):.2f}")

table_detectors = {
    "Energy (no clip)": ReActDetector(LogisticRegression(), percentile=None),
    "ReAct, two-sided, per column": ReActDetector(
        LogisticRegression(), percentile=99, lower_percentile=1, per_unit=True
    ),
}

fig, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
for ax, (name, detector) in zip(axes, table_detectors.items(), strict=True):
    detector.fit(Z_train, y_train)
    scores = [detector.decision_function(Z) for Z in (Z_test, Z_wrong)]
    bins = np.linspace(min(map(np.min, scores)), max(map(np.max, scores)), 40)
    for values, color, label in zip(
        scores, ("#0072B2", "#D55E00"), ("right rows (ID)", "wrong rows"), strict=True
    ):
        weights = np.full(len(values), 100 / len(values))
        ax.hist(values, bins, weights=weights, color=color, alpha=0.25)
        ax.hist(
            values,
            bins,
            weights=weights,
            color=color,
            histtype="step",
            lw=1.4,
            label=label,
        )
    ax.axvline(0, color="black", ls="--", lw=1)
    ax.set(
        title=f"{name}: AUROC {auroc(detector, Z_test, Z_wrong):.2f}",
        xlabel="decision_function (0 or more: in-distribution)",
    )
axes[0].set_ylabel("share of rows (%)")
handles, labels = axes[0].get_legend_handles_labels()
fig.legend(handles, labels, loc="outside lower center", ncols=2)
plt.show()

# %%
# **What to see:** without a clip the wrong rows look more in-distribution than right
# ones (AUROC far below 0.5). Clipping removes this false confidence, but an AUROC near
# 0.5 is chance. The isolation forest, which models the table itself, is better.
