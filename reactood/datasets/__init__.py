"""A small real example: digits, images that are no digits, and a trained network."""

from reactood.datasets._digits import digits_classifier, load_digits_ood

__all__ = ["digits_classifier", "load_digits_ood"]
