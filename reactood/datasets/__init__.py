"""Example data with a trained network, and access to your own images."""

from reactood.datasets._digits import digits_classifier, load_digits_ood
from reactood.datasets._images import ImageDataset, list_images
from reactood.datasets._input_dict import InputDict

__all__ = [
    "ImageDataset",
    "InputDict",
    "digits_classifier",
    "list_images",
    "load_digits_ood",
]
