"""Out-of-distribution detection with ReAct, as scikit-learn estimators."""

from reactood._version import __version__ as __version__
from reactood.detector import ReActDetector
from reactood.detector_cv import ReActDetectorCV
from reactood.extractor import TorchFeatureExtractor
from reactood.pipeline import make_react_pipeline

__all__ = [
    "ReActDetector",
    "ReActDetectorCV",
    "TorchFeatureExtractor",
    "make_react_pipeline",
]
