"""Features of any torch classifier: TorchFeatureExtractor and its pass over images."""

from reactood.extractor._extractor import TorchFeatureExtractor

__all__ = [
    "TorchFeatureExtractor",
]
