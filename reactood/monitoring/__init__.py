"""Monitor a detector in production: an alarm when scores no longer look as before."""

from reactood._scoring._drift import Change, Drift
from reactood.monitoring._monitor import ConformalMonitor

__all__ = ["Change", "ConformalMonitor", "Drift"]
