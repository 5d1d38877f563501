"""Choose percentile and score, with or without out-of-distribution data."""

from reactood.model_selection._detector_cv import ReActDetectorCV
from reactood.model_selection._split import LeaveOneOODSourceOut, OODSplit
from reactood.model_selection._surrogates import (
    make_surrogate_features,
    make_surrogate_ood,
)
from reactood.model_selection._tune import tune_percentile
from reactood.model_selection._tune_detector import tune_detector

__all__ = [
    "LeaveOneOODSourceOut",
    "OODSplit",
    "ReActDetectorCV",
    "make_surrogate_features",
    "make_surrogate_ood",
    "tune_detector",
    "tune_percentile",
]
