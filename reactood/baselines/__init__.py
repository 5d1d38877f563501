"""Detectors that ReAct is compared with, by the same contract."""

from reactood.baselines._mahalanobis import MahalanobisDetector
from reactood.baselines._odin import ODINFeatureExtractor, make_odin_pipeline

__all__ = ["MahalanobisDetector", "ODINFeatureExtractor", "make_odin_pipeline"]
