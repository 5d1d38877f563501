"""Metrics of out-of-distribution detection."""

from reactood.metrics._ranking import (
    aupr_in,
    aupr_out,
    auroc,
    detection_error,
    fpr_at_tpr,
    ood_scorers,
)
from reactood.metrics._report import ood_report
from reactood.metrics._table import OODReport

__all__ = [
    "OODReport",
    "aupr_in",
    "aupr_out",
    "auroc",
    "detection_error",
    "fpr_at_tpr",
    "ood_report",
    "ood_scorers",
]
