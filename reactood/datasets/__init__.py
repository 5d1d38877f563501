"""Example data with a trained network, and access to your own images."""

from reactood.datasets._digits import digits_classifier, load_digits_ood
from reactood.datasets._images import ImageDataset, list_images

__all__ = ["ImageDataset", "digits_classifier", "list_images", "load_digits_ood"]
