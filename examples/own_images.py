"""
Your own model and your own images
==================================

A script to copy: a torch checkpoint, a folder of in-distribution images and a folder of
new ones; out comes +1 (in-distribution) or -1 (out-of-distribution) for each new image.

.. code-block:: console

   $ python own_images.py checkpoint.pt known_images new_images --n-classes 10

It is shown here and not run.
"""

# %%
# The model is passed as a *function that builds it*, with its arguments bound by
# ``functools.partial``. Unlike a module, it is cheap to clone and prints on one line.
# Keep the function at the top level of a module that can be imported: a pickle of the
# pipeline refers to it by name.

import argparse
import csv
import sys
from functools import partial
from pathlib import Path

import joblib
import torch
from torch import nn
from torchvision import models, transforms

from reactood import make_react_pipeline


def load_classifier(checkpoint, n_classes):
    """Build the network and load its weights; any architecture will do."""
    network = models.resnet18(weights=None)
    network.fc = nn.Linear(network.fc.in_features, n_classes)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    return network


# %%
# The transform must be the one that the model was *evaluated* with in training. Only
# models given by name bring their own.

preprocess = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


# %%
# A list of paths keeps it plain which decision belongs to which image.


def image_files(folder):
    """Return the images below a folder, sorted."""
    suffixes = {".jpg", ".jpeg", ".png", ".webp"}
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in suffixes)


def main():
    """Fit on the known images, decide on the new ones, and keep the detector."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("checkpoint", help="state dict, as saved by torch.save")
    parser.add_argument("known", help="folder of in-distribution images")
    parser.add_argument("new", help="folder of images to decide on")
    parser.add_argument("--n-classes", type=int, required=True)
    parser.add_argument("--percentile", type=float, default=90, help="in percent")
    parser.add_argument("--save", help="where to keep the fitted detector (.joblib)")
    options = parser.parse_args()

    detector = make_react_pipeline(
        partial(load_classifier, options.checkpoint, options.n_classes),
        preprocess=preprocess,
        percentile=options.percentile,
        contamination=0.05,  # fraction of the known images that may be rejected
        num_workers=2,
        verbose=sys.stderr.isatty(),
    )
    # Known images that the network was not trained on are best: see the user guide.
    detector.fit(image_files(options.known))

    new = image_files(options.new)
    margins = detector.decision_function(new)  # 0 or more: in-distribution
    table = csv.writer(sys.stdout)
    table.writerow(["image", "label", "decision_function"])
    for path, margin in zip(new, margins, strict=True):
        table.writerow([path, "+1" if margin >= 0 else "-1", f"{margin:.3f}"])

    if options.save:
        joblib.dump(detector, options.save)


if __name__ == "__main__":
    main()
