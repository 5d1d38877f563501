"""Other detectors, and variants of ReAct, to compare ReAct with."""

from reactood.baselines._batch_norm import with_statistics_of
from reactood.baselines._clip_layer import clip_layer
from reactood.baselines._geometry import FDBDDetector, NCIDetector, ViMDetector
from reactood.baselines._mahalanobis import MahalanobisDetector
from reactood.baselines._neighbors import KNNDetector
from reactood.baselines._odin import ODINFeatureExtractor, make_odin_pipeline

__all__ = [
    "FDBDDetector",
    "KNNDetector",
    "MahalanobisDetector",
    "NCIDetector",
    "ODINFeatureExtractor",
    "ViMDetector",
    "clip_layer",
    "make_odin_pipeline",
    "with_statistics_of",
]
