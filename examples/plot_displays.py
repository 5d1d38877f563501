"""
Every figure of a detector
==========================

``reactood.inspection`` has a display for each common question about a detector. This
script draws all of them for the digits. Each display keeps the numbers that it draws.
"""

# %%
# A detector, and images to look at
# ---------------------------------

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import numpy as np

from reactood import make_react_pipeline
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.inspection import (
    ActivationHistogramDisplay,
    ActivationProfileDisplay,
    ContactSheetDisplay,
    DecisionDisplay,
    EnergyDropDisplay,
    MetricCurveDisplay,
    ReductionDisplay,
    ScoreDistributionDisplay,
)
from reactood.model_selection import tune_percentile

digits = load_digits_ood()
X_fit, X_new = digits.X_test[::2], digits.X_test[1::2]
photos = digits.ood["photo_china"]
detector = make_react_pipeline(digits_classifier, percentile=80).fit(X_fit)
X = np.concatenate([X_new, photos])
y = np.repeat([1, -1], [len(X_new), len(photos)])

# %%
# Are the scores apart?
# ---------------------
# The dashed line is the threshold: images to its right are accepted.

ScoreDistributionDisplay.from_estimator(detector, X, y)
plt.show()

# %%
# Which units are activated beyond the clip?
# ------------------------------------------
# The mean activation of each unit, for digits and for photographs.

ActivationProfileDisplay.from_estimator(detector, X, y)
plt.show()

# %%
# Where is the clip among all activations?
# ----------------------------------------

ActivationHistogramDisplay.from_estimator(detector, X_fit)
plt.show()

# %%
# Which percentile?
# -----------------
# A search tries each percentile. ``negate`` turns the score, for which higher is
# better, into the FPR.

search = tune_percentile(
    detector, X_fit, surrogate="phase_scrambled", percentiles=[60, 70, 80, 90, 95, 99]
)
MetricCurveDisplay.from_search(
    search, negate=True, score_name="FPR at 95 % TPR, fraction"
)
plt.show()

# %%
# What did the clip take from this image?
# ---------------------------------------
# The contributions of single units to the drop of the energy of one photograph.

rejected = photos[detector.predict(photos) == -1]
EnergyDropDisplay.from_estimator(detector, rejected[:1])
plt.show()

# %%
# Which images have the lowest and the highest scores?
# ----------------------------------------------------

ContactSheetDisplay.from_estimator(detector, X, n=8)
plt.show()

# %%
# Does the paper's model of a unit hold here?
# -------------------------------------------
# Each point is a unit. On the diagonal, the mean is reduced as the model predicts.

ReductionDisplay.from_estimator(detector, X, y)
plt.show()

# %%
# Why was this image rejected?
# ----------------------------
# The distance of its score from that of typical digits, divided among the units, and
# once more among the classes.

DecisionDisplay.from_estimator(detector, rejected[:1], X_fit)
plt.show()

# %%
# The first two figures answer most questions: if the scores overlap, the profile shows
# whether there is anything to clip.
