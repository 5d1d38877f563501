"""
Where the spikes come from: batch normalisation
===============================================

The paper explains the high activations on OOD images in this way: batch normalisation
uses the mean and variance of the training images, and these are wrong for other images.
If this is true, the spikes must vanish when the OOD images are normalised by their own
statistics. No detector could do that, because it would have to know which images are
OOD, but we can do it as an experiment.
"""

# %%
# The same images, normalised in two ways
# ---------------------------------------

import matplotlib.pyplot as plt
import numpy as np

from reactood import ReActDetector, TorchFeatureExtractor
from reactood.baselines import with_statistics_of
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.metrics import auroc

digits = load_digits_ood()
photos = digits.ood["photo_flower"]

extractor = TorchFeatureExtractor(digits_classifier)
H_fit = extractor.fit_transform(digits.X_train)
H_id = extractor.transform(digits.X_test)
H_ood = extractor.transform(photos)
H_own = with_statistics_of(extractor, photos).fit_transform(photos)

# %%
# Activations of each unit
# ------------------------

order = np.argsort(H_id.mean(axis=0))
fig, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
titles = "training statistics, as always", "the photographs' own statistics"
for ax, H, title in zip(axes, (H_ood, H_own), titles, strict=True):
    for values, color, label in (
        (H, "0.6", "photographs"),
        (H_id, "#0072B2", "digits (ID)"),
    ):
        mean, std = values.mean(axis=0)[order], values.std(axis=0)[order]
        ax.plot(mean, color=color, label=label)
        ax.fill_between(
            range(len(mean)), mean - std, mean + std, color=color, alpha=0.2
        )
    ax.set(title=title, xlabel="unit, sorted by its mean on digits")
axes[0].set_ylabel("activation: mean and ± 1 standard deviation")
axes[0].legend()
plt.show()

energy = ReActDetector(extractor.head_, percentile=None).fit(H_fit)
for title, H in zip(titles, (H_ood, H_own), strict=True):
    y = np.repeat([1, -1], [len(H_id), len(H)])
    area = auroc(y, energy.score_samples(np.concatenate([H_id, H])))
    print(
        f"{title}: means of the units vary by {H.mean(axis=0).std():.3f}\n"
        f"  (digits {H_id.mean(axis=0).std():.3f}), highest "
        f"{H.mean(axis=0).max():.2f}; AUROC of Energy without a clip {area:.3f}"
    )

# %%
# **What to see:** with their own statistics the photographs look like digits to every
# unit, without spikes, and Energy without any clip detects them far better. So the
# explanation holds for this network. It is not the only cause: networks without batch
# normalisation have spikes too, as the next examples show.
