"""
The theory, and whether your network follows it
===============================================

The paper models a unit before its ReLU: normal on ID data, and skewed to the right on
OOD data. In this model, a clip lowers the OOD mean more than the ID mean. We draw the
model, and then measure how well a network agrees with it.
"""

# %%
# The model
# ---------
# The skew ``epsilon`` of the distribution is 0 for the normal distribution, and close
# to -1 for a long right tail.

import matplotlib.pyplot as plt
import numpy as np

from reactood import ReActDetector, TorchFeatureExtractor
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.inspection import ReductionDisplay
from reactood.theory import epsilon_skew_normal, mean_reduction

x = np.linspace(-3, 6, 400)
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for epsilon, color in ((0, "#0072B2"), (-0.4, "#D55E00"), (-0.8, "0.5")):
    law = epsilon_skew_normal(epsilon, loc=0.5, scale=1)
    left.plot(x, law.pdf(x), color=color, label=f"epsilon = {epsilon}")
left.axvline(1, color="black", ls="--", lw=1, label="clip")
left.set(title="A unit before its ReLU", xlabel="activation", ylabel="density")
left.legend()
epsilons = np.linspace(-0.95, 0.5, 100)
for sigma, style in ((0.5, ":"), (1.0, "-"), (1.5, "--")):
    taken = mean_reduction(mu=0.5, sigma=sigma, epsilon=epsilons, c=1.0)
    right.plot(epsilons, taken, style, color="#0072B2", label=f"sigma = {sigma}")
right.set(
    title="What the clip takes from the mean",
    xlabel="epsilon: skewed to the right on the left",
    ylabel="mean reduction of the rectified unit",
)
right.legend()
plt.show()

# %%
# The measurement
# ---------------
# For each unit the three parameters are fitted to its activations, on ID and on OOD
# images. A point on the diagonal is a unit whose reduction the model predicts
# correctly.

digits = load_digits_ood()
extractor = TorchFeatureExtractor(digits_classifier)
detector = ReActDetector(extractor.fit(digits.X_train).head_, percentile=85)
detector.fit(extractor.transform(digits.X_train))
H_id, H_ood = map(extractor.transform, (digits.X_test, digits.ood["photo_flower"]))
H = np.concatenate([H_id, H_ood])
y = np.repeat([1, -1], [len(H_id), len(H_ood)])
ReductionDisplay.from_estimator(detector, H, y)
plt.show()

for name, values in (("digits", H_id), ("photographs", H_ood)):
    taken = (values - detector.rectify(values)).mean()
    print(f"The clip takes {taken:.3f} from the mean activation on {name}.")

# %%
# **What to see:** on photographs the model predicts the reduction of each unit; on
# digits it predicts too little. Averaged over units, this clip reduces digits more than
# photographs: the paper's remark that OOD activations are reduced more does not hold
# for this network as a whole. The clip still helps, because it reduces the few highest
# units of the photographs most.
