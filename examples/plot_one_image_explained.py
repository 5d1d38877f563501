"""
Why was this image rejected?
============================

An image is rejected because its score is far below that of typical in-distribution (ID)
images. For one image, we divide this distance among the units, the classes and the
clip. Then we look at what the clip took, which is another question.
"""

# %%
# The image
# ---------
# We choose a photograph that a detector without the clip accepts, and a detector with
# the clip and the same rule for its threshold rejects. Of all such photographs, we take
# the one with the lowest score with the clip.

import matplotlib.pyplot as plt
import numpy as np

from reactood import make_react_pipeline
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.inspection import (
    ActivationProfileDisplay,
    ContactSheetDisplay,
    DecisionDisplay,
    EnergyDropDisplay,
    explain_clipping,
)

digits = load_digits_ood()
photos = digits.ood["photo_china"]
plain = make_react_pipeline(digits_classifier, percentile=None).fit(digits.X_test)
detector = make_react_pipeline(digits_classifier, percentile=85).fit(digits.X_test)
caught = (plain.predict(photos) == 1) & (detector.predict(photos) == -1)
print(f"{caught.sum()} of {len(photos)} photographs are caught by the clip alone")

explained = explain_clipping(detector, photos)
row = int(np.argmin(np.where(caught, detector.decision_function(photos), np.inf)))
image = photos[[row]]
print(f"photograph {row}: the clip lowers its energy by {explained.drop[row]:.2f}")
print(f"decision_function without the clip {plain.decision_function(image)[0]:+.2f}")
print(f"decision_function with the clip {detector.decision_function(image)[0]:+.2f}")

# %%
# Why it is rejected
# ------------------
# The bars go from the score of typical digits to that of the photograph, first unit by
# unit and then class by class. Below are the photograph and the digits whose features
# are most similar to its own.

DecisionDisplay.from_estimator(detector, image, digits.X_test)
plt.show()

# %%
# What the clip took
# ------------------
# The energy of digits drops too, so the drop alone does not say why the photograph is
# rejected: the title says how much they lose. The contributions add up to the drop. A
# clipped unit with a negative weight for the likely classes raises the energy, so its
# bar has the opposite direction.

fig, (left, right) = plt.subplots(
    1, 2, figsize=(9, 4.4), layout="constrained", width_ratios=[1, 2.2]
)
left.imshow(image[0, 0], cmap="gray")
left.set(xticks=[], yticks=[], title=f"photograph {row}")
EnergyDropDisplay.from_estimator(detector, image, digits.X_test, ax=right)
plt.show()

# %%
# Not only this image
# -------------------
# Photographs activate some units far more than digits do. The clip limits these units.

images = np.concatenate([digits.X_test, photos])
y = np.repeat([1, -1], [len(digits.X_test), len(photos)])
ActivationProfileDisplay.from_estimator(detector, images, y)
plt.show()

# %%
# Last, the images with the lowest and the highest scores, of all that were used here.

ContactSheetDisplay.from_estimator(detector, images)
plt.show()

# %%
# **What to see:** the score of the photograph is far below that of typical digits, and
# the bars say by way of which units and classes.
