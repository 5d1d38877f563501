"""
Your own model and your own images
==================================

A script to copy. It takes a torch checkpoint, a folder of in-distribution images and a
folder of new ones. It prints +1 (in-distribution) or -1 (out-of-distribution) for each.

.. code-block:: console

   $ python own_images.py checkpoint.pt known_images new_images --n-classes 10

The script is shown here and not run.
"""

# %%
# The model is passed as a *function that builds it*, with its arguments bound by
# ``functools.partial``. Unlike a module, it is cheap to clone and prints on one line.
# Keep the function at the top level of a file that can be imported: a saved detector
# holds its name, not its code.

import argparse
import csv
import os
import sys
from functools import partial

import joblib
import torch
from torch import nn
from torchvision import models, transforms
from torchvision.transforms import v2

from reactood import make_react_pipeline
from reactood.datasets import list_images


def load_classifier(checkpoint, n_classes):
    """Build the network and load its weights; any architecture will do."""
    network = models.resnet18(weights=None)
    network.fc = nn.Linear(network.fc.in_features, n_classes)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    return network


# %%
# The transform must be the one with which the model was *evaluated* during training.
# Only models given by name have a transform of their own. A transform of one's own gets
# each image as it is, also grey, with alpha or with a palette, so it begins with
# ``RGB()``; leave that out if the network takes grey images.

preprocess = transforms.Compose(
    [
        v2.RGB(),
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


# %%
# A list of paths shows which decision belongs to which image.


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

    # A script that is run is called __main__, like the next script that is run. So the
    # saved detector must refer to the function by the name for importing it.
    from own_images import load_classifier

    detector = make_react_pipeline(
        partial(
            load_classifier, os.path.abspath(options.checkpoint), options.n_classes
        ),
        preprocess=preprocess,
        percentile=options.percentile,
        contamination=0.05,  # fraction of the known images that may be rejected
        on_error="nan",  # a file that cannot be read: score NaN, label -1, a warning
        num_workers=2,
        verbose=sys.stderr.isatty(),
    )
    # Known images that the network was not trained on are best: see the user guide.
    detector.fit(list_images(options.known))

    new = list_images(options.new)
    margins = detector.decision_function(new)  # 0 or more: in-distribution
    table = csv.writer(sys.stdout)
    table.writerow(["image", "label", "decision_function"])
    for path, margin in zip(new, margins, strict=True):
        table.writerow([path, "+1" if margin >= 0 else "-1", f"{margin:.3f}"])

    if options.save:
        joblib.dump(detector, options.save)


if __name__ == "__main__":
    main()

# %%
# Another program that can import this file, for example from the same folder, can use
# the saved detector. The checkpoint must still be at the same path.
#
# .. code-block:: python
#
#    import joblib
#
#    detector = joblib.load("detector.joblib")
#    detector.predict(["new_images/1.jpg"])
#
# Load only files that you trust: reading a joblib file can run any code.
