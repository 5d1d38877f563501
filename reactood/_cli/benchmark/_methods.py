"""The methods that ``--methods`` can name, and their detectors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.pipeline import make_pipeline

from reactood.baselines import MahalanobisDetector
from reactood.detector import ReActDetector
from reactood.rectifiers._clipping import BATS, VRAP, BFAct
from reactood.rectifiers._dice import DICE
from reactood.rectifiers._scaling import ASH, SCALE

SCORES = {"msp": "msp", "max-logit": "max_logit", "energy": "energy"}
SHAPING = {
    "bats": BATS,
    "vra-p": VRAP,
    "bfact": BFAct,
    "ash-p": lambda: ASH(kind="p"),
    "ash-b": lambda: ASH(kind="b"),
    "ash-s": lambda: ASH(kind="s"),
    "scale": SCALE,
}
CLIPPABLE = [*SCORES, "odin", "mahalanobis", "dice"]
CLIPS = "", "+react"
PERCENTILES = 99, 95, 90, 85, 80, 65, 10


def _each(names, clips):
    return [f"{name}{clip}" for name in names for clip in clips]


GROUPS = {
    "paper": "msp odin mahalanobis energy energy+react".split(),
    "scores": _each(SCORES, CLIPS),
    "compatibility": _each([*SCORES, "odin", "mahalanobis"], CLIPS),
    "percentiles": _each(SCORES, ["", *(f"+react@{p}" for p in PERCENTILES)]),
    "variants": ["energy", "energy+react", "react-per-unit", "react-two-sided"],
    "shaping": ["energy", "energy+react", *SHAPING, "dice", "dice+react"],
}
FEW = 5  # samples per feature; with fewer, a shrunk covariance is used
DICE_WITH_CLIP = 10  # percentile of DICE's weights after a clip; the authors' value


@dataclass(frozen=True)
class MethodOptions:
    """The head, the clip and the data properties that detectors are built from."""

    head: Any
    percentile: float | None = 90.0
    threshold: float | None = None
    classes: Any = None
    shape: tuple = (0, 0)  # (n_samples, n_features) of the calibration features
    noise: tuple = (0.005, 0.0)  # ODIN's noise without and with the clip


@dataclass(frozen=True)
class Method:
    """The parts of a method's name, such as ``energy+react@80``."""

    text: str
    name: str
    clipped: bool
    percentile: float | None = None  # None for that of the options

    @property
    def on_images(self):
        """Whether the method needs images instead of features."""
        return self.name == "odin" or self.layer is not None

    @property
    def layer(self):
        """The layer after which the method clips; None for the penultimate layer."""
        name, _, layer = self.name.partition(":")
        return layer if name == "react-layer" else None

    def clip(self, options):
        """Return the detector's parameters that define its clip."""
        if not self.clipped:
            return {"percentile": None, "threshold": None}
        if self.percentile is not None:
            return {"percentile": self.percentile, "threshold": None}
        return {"percentile": options.percentile, "threshold": options.threshold}

    def make(self, options):
        """Return an unfitted detector that takes features."""
        clip = self.clip(options)
        if self.layer:  # the features of this method are clipped already
            return ReActDetector(options.head, percentile=None)
        if self.name in SCORES:
            score = SCORES[self.name]
            return ReActDetector(options.head, score_function=score, **clip)
        if self.name == "react-per-unit":
            return ReActDetector(
                options.head, percentile=clip["percentile"], per_unit=True
            )
        if self.name == "react-two-sided":
            upper = clip["percentile"]
            return ReActDetector(
                options.head, percentile=upper, lower_percentile=100 - upper
            )
        steps = []
        if self.clipped:
            percentile, high = clip["percentile"], clip["threshold"]
            steps = [
                VRAP(low=0.0, high_percentile=percentile, high=high, per_unit=False)
            ]
        if self.name == "mahalanobis":
            return make_pipeline(*steps, _mahalanobis(options))
        if self.name == "dice":
            dice = DICE(options.head, DICE_WITH_CLIP) if steps else DICE(options.head)
            return make_pipeline(*steps, dice, ReActDetector(percentile=None))
        rule = SHAPING[self.name]()
        return make_pipeline(rule, ReActDetector(options.head, percentile=None))


def _mahalanobis(options):
    n_samples, n_features = options.shape
    if n_samples < FEW * n_features:
        return MahalanobisDetector(LedoitWolf(assume_centered=True))
    return MahalanobisDetector()


def classes_for_mahalanobis(classes):
    """Return the labels if at least one class has two members, else None."""
    if classes is None or np.bincount(classes).max() < 2:
        return None
    return classes


def parse_methods(text):
    """Return the methods in a comma-separated text, without duplicates.

    Raises
    ------
    ValueError
        If a name is not known.
    """
    names = []
    for name in filter(None, map(str.strip, text.split(","))):
        names += GROUPS.get(name, [name])
    if not names:
        raise ValueError("--methods is empty; expected at least one method.")
    return [_parse(name) for name in dict.fromkeys(names)]


def _parse(text):
    name, _, percentile = text.partition("@")
    base = name.removesuffix("+react")
    clipped = name != base or name.startswith("react-")
    known = [*CLIPPABLE, *SHAPING, "react-per-unit", "react-two-sided"]
    layer = base.startswith("react-layer:") and base != "react-layer:"
    if not (layer or base in known) or (name != base and base not in CLIPPABLE):
        raise ValueError(
            f"--methods: there is no method {text!r}; expected one of "
            f"{', '.join(known)} or react-layer:LAYER. +react can follow "
            f"{', '.join(CLIPPABLE)}, and @PERCENTILE can follow +react. Groups: "
            f"{', '.join(GROUPS)}."
        )
    if not percentile:
        return Method(text, base, clipped)
    try:
        value = float(percentile)
    except ValueError:
        value = 0.0
    if not (clipped and 0 < value <= 100):
        raise ValueError(
            f"--methods {text}: expected a percentile in (0, 100] after a method that "
            "clips, as in energy+react@90."
        )
    return Method(text, base, clipped, value)
