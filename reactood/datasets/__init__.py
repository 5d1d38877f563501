"""Data: a small real example with a trained network, and a view of your own images."""

from reactood.datasets._digits import digits_classifier, load_digits_ood
from reactood.datasets._images import ImageDataset

__all__ = ["ImageDataset", "digits_classifier", "load_digits_ood"]
