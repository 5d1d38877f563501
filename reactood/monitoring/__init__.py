"""Monitor a detector in production: an alarm when scores no longer look as before."""

from reactood.monitoring._monitor import ConformalMonitor

__all__ = ["ConformalMonitor"]
