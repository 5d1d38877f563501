"""Features of any torch classifier, as a scikit-learn transformer."""

from reactood.extractor._extractor import TorchFeatureExtractor

__all__ = [
    "TorchFeatureExtractor",
]
