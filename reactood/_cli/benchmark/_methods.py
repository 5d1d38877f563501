"""The methods that ``--methods`` may name, and how each is built."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.pipeline import make_pipeline

from reactood.baselines import (
    FDBDDetector,
    KNNDetector,
    MahalanobisDetector,
    NCIDetector,
    ViMDetector,
)
from reactood.detector import ReActDetector
from reactood.rectifiers._clipping import BATS, VRAP, BFAct
from reactood.rectifiers._dice import DICE
from reactood.rectifiers._scaling import ASH, LTS, SCALE

SCORES = {"msp": "msp", "max-logit": "max_logit", "energy": "energy"}
LATER_SCORES = {
    "centered-energy": "centered_energy",
    "centered-max-logit": "centered_max_logit",
    "gen": "gen",
}
GEOMETRY = {  # detectors on features, of a head
    "fdbd": FDBDDetector,
    "nci": NCIDetector,
    "vim": ViMDetector,
}
SHAPING = {
    "bats": BATS,
    "vra-p": VRAP,
    "bfact": BFAct,
    "ash-p": lambda: ASH(kind="p"),
    "ash-b": lambda: ASH(kind="b"),
    "ash-s": lambda: ASH(kind="s"),
    "scale": SCALE,
}
CLIPPABLE = [
    *SCORES,
    *LATER_SCORES,
    "odin",
    "mahalanobis",
    "dice",
    "lts",
    *GEOMETRY,
    "knn",
]
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
    "rivals": _each([*LATER_SCORES, "lts", *GEOMETRY, "knn"], CLIPS),
    "shaping": ["energy", "energy+react", *SHAPING, "dice", "dice+react"],
}
GROUPS["features"] = [
    *_each([*SCORES, *LATER_SCORES], CLIPS),
    *("tuned", "react-per-unit", "react-two-sided"),
    *_each(["mahalanobis", "dice", "lts", *GEOMETRY, "knn"], CLIPS),
    *SHAPING,
]
GROUPS["all"] = [*GROUPS["features"], *_each(["odin"], CLIPS)]
FEW = 5  # with fewer samples per feature, the covariance is shrunk
DICE_WITH_CLIP = 10  # percent of the weights, which the authors use after a clip


@dataclass(frozen=True)
class MethodInputs:
    """The values from which methods are built: head, clip, classes, noise of ODIN."""

    head: Any
    percentile: float | None = 90.0
    threshold: float | None = None
    classes: Any = None
    shape: tuple = (0, 0)  # of the calibration features
    noise: tuple = (0.005, 0.0)


@dataclass(frozen=True)
class Method:
    """The parts of a name such as ``energy+react@80``."""

    text: str
    name: str
    clipped: bool
    percentile: float | None = None  # the number after @

    @property
    def on_images(self):
        """Whether the method needs images, not features."""
        return self.name == "odin" or self.layer is not None

    @property
    def layer(self):
        """The layer after which the method clips, or None for the penultimate one."""
        name, _, layer = self.name.partition(":")
        return layer if name == "react-layer" else None

    def clip(self, inputs):
        """Return the detector's parameters for the clip, or for no clip."""
        if not self.clipped:
            return {"percentile": None, "threshold": None}
        if self.percentile is not None:
            return {"percentile": self.percentile, "threshold": None}
        return {"percentile": inputs.percentile, "threshold": inputs.threshold}

    def make(self, inputs):
        """Return an unfitted detector on features."""
        clip = self.clip(inputs)
        if self.layer:  # the extractor clips
            return ReActDetector(inputs.head, percentile=None)
        if score := (SCORES | LATER_SCORES).get(self.name):
            return ReActDetector(inputs.head, score_function=score, **clip)
        if self.name == "react-per-unit":
            return ReActDetector(
                inputs.head, percentile=clip["percentile"], per_unit=True
            )
        if self.name == "react-two-sided":
            upper = clip["percentile"]
            return ReActDetector(
                inputs.head, percentile=upper, lower_percentile=100 - upper
            )
        steps = []
        if self.clipped:
            percentile, high = clip["percentile"], clip["threshold"]
            steps = [
                VRAP(low=0.0, high_percentile=percentile, high=high, per_unit=False)
            ]
        if self.name == "mahalanobis":
            return make_pipeline(*steps, _mahalanobis(inputs))
        if self.name == "dice":
            dice = DICE(inputs.head, DICE_WITH_CLIP) if steps else DICE(inputs.head)
            return make_pipeline(*steps, dice, ReActDetector(percentile=None))
        if self.name == "lts":
            rule = LTS(inputs.head)
            return make_pipeline(*steps, rule, ReActDetector(percentile=None))
        if self.name in GEOMETRY:
            return make_pipeline(*steps, GEOMETRY[self.name](inputs.head))
        if self.name == "knn":
            n_neighbors = max(1, min(50, inputs.shape[0] // 20))
            return make_pipeline(*steps, KNNDetector(n_neighbors))
        rule = SHAPING[self.name]()
        return make_pipeline(rule, ReActDetector(inputs.head, percentile=None))


def _mahalanobis(inputs):
    n_samples, n_features = inputs.shape
    if n_samples < FEW * n_features:
        return MahalanobisDetector(LedoitWolf(assume_centered=True))
    return MahalanobisDetector()


def classes_for_mahalanobis(classes):
    """Return the labels, or None if no class has two members."""
    if classes is None or np.bincount(classes).max() < 2:
        return None
    return classes


def parse_methods(text):
    """Return the methods that a comma-separated text names, each once.

    Raises
    ------
    ValueError
        If a name is not known, or there is no name.
    """
    names = []
    for name in filter(None, map(str.strip, text.split(","))):
        names += GROUPS.get(name, [name])
    if not names:
        raise ValueError("--methods names no method.")
    return [_parse(name) for name in dict.fromkeys(names)]


def _parse(text):
    name, _, percentile = text.partition("@")
    base = name.removesuffix("+react")
    clipped = name != base or name.startswith("react-")
    known = [*CLIPPABLE, *SHAPING, "tuned", "react-per-unit", "react-two-sided"]
    layer = base.startswith("react-layer:") and base != "react-layer:"
    if not (layer or base in known) or (name != base and base not in CLIPPABLE):
        raise ValueError(
            f"--methods: there is no method {text!r}; expected one of "
            f"{', '.join(known)} or react-layer:LAYER; +react after "
            f"{', '.join(CLIPPABLE)}, and @PERCENTILE after that; or a group: "
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
            f"--methods {text}: expected a percentile in (0, 100] in percent, after a "
            "method that clips, as in energy+react@90."
        )
    return Method(text, base, clipped, value)
