"""The detectors and variants that ReAct is compared with."""

from reactood.baselines._layer import clip_layer
from reactood.baselines._mahalanobis import MahalanobisDetector
from reactood.baselines._odin import ODINFeatureExtractor, make_odin_pipeline
from reactood.baselines._statistics import with_statistics_of

__all__ = [
    "MahalanobisDetector",
    "ODINFeatureExtractor",
    "clip_layer",
    "make_odin_pipeline",
    "with_statistics_of",
]
