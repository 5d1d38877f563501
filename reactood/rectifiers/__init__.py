"""Rules published after ReAct: other ways to change activations before the head.

Each is a scikit-learn transformer from features to features, or to logits. Use it in
a pipeline before a :class:`~reactood.ReActDetector` with ``percentile=None``.
"""

from reactood.rectifiers._clipping import BATS, VRAP, BFAct
from reactood.rectifiers._dice import DICE
from reactood.rectifiers._scaling import ASH, LTS, SCALE

__all__ = ["ASH", "BATS", "DICE", "LTS", "SCALE", "VRAP", "BFAct"]
