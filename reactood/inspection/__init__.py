"""Plots of what a detector does, and the numbers behind them.

The displays work like those of scikit-learn: ``from_estimator`` computes the numbers
and draws them, the object keeps the numbers, and ``plot`` draws them again.  The
displays need matplotlib.
"""

from reactood.inspection._classifier import as_classifier
from reactood.inspection._contact_sheet import ContactSheetDisplay
from reactood.inspection._curve import MetricCurveDisplay
from reactood.inspection._decision import explain_decision
from reactood.inspection._decision_bars import DecisionDisplay
from reactood.inspection._drop import EnergyDropDisplay
from reactood.inspection._explain import explain_clipping
from reactood.inspection._histogram import ActivationHistogramDisplay
from reactood.inspection._profile import ActivationProfileDisplay
from reactood.inspection._reduction import ReductionDisplay
from reactood.inspection._scores import ScoreDistributionDisplay

__all__ = [
    "ActivationHistogramDisplay",
    "ActivationProfileDisplay",
    "ContactSheetDisplay",
    "DecisionDisplay",
    "EnergyDropDisplay",
    "MetricCurveDisplay",
    "ReductionDisplay",
    "ScoreDistributionDisplay",
    "as_classifier",
    "explain_clipping",
    "explain_decision",
]
