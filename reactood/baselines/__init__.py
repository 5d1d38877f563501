"""Detectors that ReAct is compared with, by the same contract."""

from reactood.baselines._mahalanobis import MahalanobisDetector

__all__ = ["MahalanobisDetector"]
