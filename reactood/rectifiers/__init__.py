"""The rules that followed ReAct: other ways to shape activations before the head.

Each is a scikit-learn transformer from features to features, or to logits, to put
before a :class:`~reactood.ReActDetector` with ``percentile=None``.
"""

from reactood.rectifiers._clipping import BATS, VRAP, BFAct
from reactood.rectifiers._dice import DICE
from reactood.rectifiers._scaling import ASH, SCALE

__all__ = ["ASH", "BATS", "DICE", "SCALE", "VRAP", "BFAct"]
