"""The estimators that a file can hold, and what each has learned."""

from dataclasses import dataclass, field
from typing import Any

from sklearn.covariance import OAS, EmpiricalCovariance, LedoitWolf, ShrunkCovariance
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold, StratifiedShuffleSplit
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from reactood import rectifiers
from reactood._scoring._scores import SCORES
from reactood._scoring._stream import Stream
from reactood._scoring._streaming import SETTLED
from reactood.baselines import (
    FDBDDetector,
    KNNDetector,
    MahalanobisDetector,
    NCIDetector,
    ODINFeatureExtractor,
    ViMDetector,
)
from reactood.conformal import ConformalDetector
from reactood.detector import ReActDetector
from reactood.extractor import TorchFeatureExtractor
from reactood.model_selection import (
    LeaveOneOODSourceOut,
    OODSplit,
    ReActDetectorCV,
)
from reactood.monitoring import ConformalMonitor
from reactood.monitoring._bets import CHANGES
from reactood.persistence._checks import (
    Array,
    Bound,
    Either,
    Instance,
    Labels,
    Number,
    OneOf,
    Optional,
    Size,
)
from reactood.pipeline import ReActPipeline

NAMES = {"feature_names_in_": Optional(Labels("features"))}
INPUT = {"n_features_in_": Size(name="features"), **NAMES}
THRESHOLD = {"offset_": Number(infinite=True)}
DETECTOR = {
    **INPUT,
    **THRESHOLD,
    "n_samples_seen_": Size(name="samples"),
    "classes_": Labels("classes"),
    "coef_": Optional(Array("classes", "features")),
    "intercept_": Optional(Array("classes")),
    "lower_activation_threshold_": Bound("features"),
    "activation_threshold_": Bound("features"),
    "clipped_share_": Number(0, 1),
}
WEIGHTS = {"weight_": Array("classes", "features"), "bias_": Array("classes")}
LOGITS = {**WEIGHTS, "_n_features_out": Size(name="classes")}
CLASSIFIER = {
    "coef_": Array("rows", "features"),
    "intercept_": Array("rows"),
    "classes_": Labels("classes"),
    "n_features_in_": Size(name="features"),
}
EXTRACTOR = {
    # Of float arrays it is the number of channels.
    "n_features_in_": Optional(Size(name="channels")),
    "feature_names_in_": Optional(Labels("channels")),
    "n_features_out_": Size(name="features"),
    "_sklearn_output_config": Optional(Instance(dict)),
}
OUTPUT = {"_sklearn_output_config": Optional(Instance(dict))}


@dataclass(frozen=True)
class Kind:
    """A class, and the checks of its learned attributes.

    ``before`` are the values of parameters that files of older versions do not have.
    ``ignored`` are attributes that are described in another way, belong to one process,
    or tell of the training of a classifier that serves as a head.
    """

    cls: type
    learned: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    before: dict[str, Any] = field(default_factory=dict)


_KINDS = [
    Kind(
        ReActDetector,
        {
            **DETECTOR,
            **{name: Optional(DETECTOR[name]) for name in SETTLED},
            "_stream": Optional(Instance(Stream)),
        },
        ("_module_head",),
    ),
    Kind(
        ReActDetectorCV,
        {
            **DETECTOR,
            "best_percentile_": Either((Number(0, 100), OneOf((None,)))),
            "best_score_function_": OneOf(tuple(SCORES), or_function=True),
            "best_score_": Number(),
            "best_index_": Number(0, integer=True),
            "n_splits_": Number(1, integer=True),
            "cv_results_": Instance(dict),
            "steps_": Optional(Instance(Pipeline)),
        },
        ("_module_head",),
    ),
    Kind(
        ConformalDetector,
        {
            "estimator_": Instance(object),
            "calibration_scores_": Array("calibration", infinite=True, ascending=True),
            "n_features_in_": Optional(Size(name="features")),
            **NAMES,
            **THRESHOLD,
        },
    ),
    Kind(
        ConformalMonitor,
        {
            "calibration_scores_": Array("calibration", infinite=True, ascending=True),
            "jump_rates_": Array("rates"),
            "threshold_": Number(0),
            "log_martingale_": Number(),
            "max_log_martingale_": Number(0),
            "alarm_": Instance(bool),
            "n_alarm_": Either((Number(1, 2**53, integer=True), OneOf((None,)))),
            "change_": OneOf((None, *CHANGES)),
            "n_seen_": Number(0, 2**53, integer=True),
            "n_nan_": Number(0, 2**53, integer=True),
            "_seed": Number(0, 2**31, integer=True),
            "_n_drawn": Number(0, 2**53, integer=True),
            "_scores": Array("scores", infinite=True, ascending=True),
            "_recent": Array("recent", infinite=True, ascending=True),
            "_states": Array("bettors", "owned"),
        },
    ),
    Kind(
        TorchFeatureExtractor,
        EXTRACTOR,
        ("_frozen", "_begun"),
        before={"decoder": "pillow"},
    ),
    Kind(
        ODINFeatureExtractor,
        {**EXTRACTOR, "activation_threshold_": Number(infinite=True)},
        ("_frozen", "_begun"),
    ),
    Kind(rectifiers.ASH, {**INPUT, **OUTPUT}),
    Kind(rectifiers.SCALE, {**INPUT, **OUTPUT}),
    Kind(rectifiers.LTS, {**INPUT, **LOGITS, **OUTPUT}),
    Kind(rectifiers.DICE, {**INPUT, **LOGITS, **OUTPUT}),
    Kind(
        rectifiers.BATS,
        {**INPUT, **OUTPUT, "low_": Array("features"), "high_": Array("features")},
    ),
    Kind(
        rectifiers.VRAP,
        {**INPUT, **OUTPUT, "low_": Bound("features"), "high_": Bound("features")},
    ),
    Kind(rectifiers.BFAct, {**INPUT, **OUTPUT, "c_": Number(infinite=True)}),
    Kind(
        FDBDDetector,
        {
            **INPUT,
            **WEIGHTS,
            **THRESHOLD,
            "mean_": Array("features"),
            "_inverse": Array("classes", "classes"),
        },
    ),
    Kind(NCIDetector, {**INPUT, **WEIGHTS, **THRESHOLD, "mean_": Array("features")}),
    Kind(
        ViMDetector,
        {
            **INPUT,
            **WEIGHTS,
            **THRESHOLD,
            "origin_": Array("features"),
            "residual_space_": Array("features", "residual"),
            "alpha_": Number(),
        },
    ),
    Kind(KNNDetector, {**INPUT, **THRESHOLD, "index_": Instance(NearestNeighbors)}),
    Kind(
        MahalanobisDetector,
        {
            **INPUT,
            **THRESHOLD,
            "classes_": Labels("classes"),
            "means_": Array("classes", "features"),
            "precision_": Array("features", "features"),
            "_root": Array("features", "directions"),
        },
    ),
    Kind(LogisticRegression, CLASSIFIER, ("n_iter_",)),
    Kind(LinearSVC, CLASSIFIER, ("n_iter_",)),
    Kind(NearestNeighbors, {"bank": Array("samples", "features")}),
    *map(Kind, (EmpiricalCovariance, LedoitWolf, OAS, ShrunkCovariance)),
    *map(Kind, (KFold, StratifiedKFold, StratifiedShuffleSplit)),
    *map(Kind, (OODSplit, LeaveOneOODSourceOut, FrozenEstimator)),
    Kind(Normalizer, {**INPUT, **OUTPUT}),
    Kind(
        StandardScaler,
        {
            **INPUT,
            **OUTPUT,
            "mean_": Either((Array("features"), OneOf((None,)))),
            "var_": Either((Array("features"), OneOf((None,)))),
            "scale_": Either((Array("features"), OneOf((None,)))),
            "n_samples_seen_": Number(1),
        },
    ),
]
KINDS = {kind.cls.__name__: kind for kind in _KINDS}
PIPELINES = {cls.__name__: cls for cls in (Pipeline, ReActPipeline)}


def kind_of(estimator):
    """Return the kind of an estimator, or None; a subclass may do anything else."""
    kind = KINDS.get(type(estimator).__name__)
    return kind if kind is not None and kind.cls is type(estimator) else None
