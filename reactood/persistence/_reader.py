"""Make estimators of a tree of JSON and a set of tensors, and check everything."""

import functools
import os

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from reactood import scores
from reactood._networks._head import ModelHead
from reactood._scoring._base import BaseReActDetector
from reactood._scoring._heads import ModuleHead
from reactood._scoring._streaming import SETTLED
from reactood._utils._modules import private_build, private_copy
from reactood._utils._response import scoring_of
from reactood._utils._warnings import warn
from reactood.conformal import ConformalDetector
from reactood.extractor._base import BaseFeatureExtractor
from reactood.monitoring import ConformalMonitor
from reactood.monitoring._bets import BETS, HUGE
from reactood.persistence._checks import Optional, Unfit
from reactood.persistence._kinds import KINDS, PIPELINES
from reactood.persistence._networks import NetworkReader, load_state
from reactood.persistence._streams import check_stream, stream_of
from reactood.persistence._transforms import fingerprint, make_transform
from reactood.persistence._writer import OF_PLACES

OF_PROCESSES = "num_workers", "n_jobs"
MOST = 2**63 - 1  # of a number without a point
DEPRECATED = "deprecated"  # the default of parameters that scikit-learn gives up
FLOATS = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}


class Reader:
    """Makes values of JSON and tensors.

    Parameters
    ----------
    tensors : dict of Tensor
        The tensors of the file.
    network : dict or None
        What there is of the user's own network.
    model : callable, Module or dict
        Makes the user's own network, or the module that is the head.
    preprocess : callable or None
        The user's own preprocessing.
    """

    def __init__(self, tensors, network, model, preprocess):
        self.tensors = tensors
        self.preprocess = preprocess
        builds = model if isinstance(model, dict) else {"network": model, "head": model}
        self.networks = NetworkReader(tensors, network, builds.get("network"))
        self.build_head = builds.get("head")

    def value(self, node, *, fitted=False):
        """Return the value that JSON describes; ``fitted`` asks for fitted ones."""
        if isinstance(node, int) and abs(node) > MOST:
            raise Unfit(
                f"holds a number of {len(str(abs(node)))} digits, which is too large"
            )
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if isinstance(node, list):
            return [self.value(item) for item in node]
        for key, make in (
            ("estimator", functools.partial(self._estimator, fitted=fitted)),
            ("pipeline", functools.partial(self._pipeline, fitted=fitted)),
            ("array", self._array),
            ("tensor", lambda node: self.tensors[node["tensor"]]),
            ("objects", self._objects),
            ("tuple", lambda node: tuple(map(self.value, node["tuple"]))),
            ("dict", lambda node: self._dict(node["dict"])),
            ("float", lambda node: FLOATS[node["float"]]),
            ("score", self._score),
            ("head_of", lambda node: ModelHead(*map(_text, node["head_of"]))),
            ("stream", lambda node: stream_of(self.value(node["stream"]))),
            ("head_of_network", lambda node: self.networks.head()),
        ):
            if key in node:
                return make(node)
        raise Unfit(f"holds {list(node)!r:.60}, which is not known")

    def _dict(self, nodes):
        return {key: self.value(item) for key, item in nodes.items()}

    def _array(self, node):
        array = self.tensors[node["array"]].numpy()
        return array.T if node.get("by_columns") else array

    def _objects(self, node):
        values = [self.value(item) for item in node["objects"]]
        array = np.empty(len(values), dtype=object)
        array[:] = values
        if node["text"]:
            if not all(isinstance(value, str) for value in values):
                raise Unfit("holds something else than text")
            array = np.array(values, dtype=str)
        return array.reshape([int(size) for size in node["shape"]])

    def _score(self, node):
        if node["score"] not in scores.__all__:
            raise Unfit(f"is the score {node['score']!r:.40}, which is not known")
        function = getattr(scores, node["score"])
        keywords = self._dict(node["keywords"])
        made = functools.partial(function, **keywords) if keywords else function
        made(torch.zeros(2, 3))  # so that keywords of other kinds are refused here
        return made

    def _pipeline(self, node, *, fitted):
        steps = [
            (_text(name), self.value(step, fitted=fitted))
            for name, step in node["steps"]
        ]
        pipeline = PIPELINES[node["pipeline"]](steps, verbose=bool(node["verbose"]))
        pipeline._validate_names([name for name, _ in steps])
        if not steps or not all(hasattr(step, "transform") for _, step in steps[:-1]):
            raise Unfit("has a pipeline with a step that is no transformer")
        return pipeline

    def _estimator(self, node, *, fitted):
        kind = KINDS[node["estimator"]]
        networked = issubclass(kind.cls, BaseFeatureExtractor)
        params = kind.before | {
            name: self._parameter(kind.cls, name, value, node)
            for name, value in node["params"].items()
            if value != DEPRECATED
        }
        if networked:
            params["preprocess"] = self._preprocess(node["preprocess"])
            if not node["named"]:
                params["model"] = self.networks.own()
        for name in OF_PROCESSES:  # a file must not start thousands of them
            if isinstance(params.get(name), int):
                params[name] = min(params[name], os.cpu_count() or 1)
        estimator = kind.cls(**params)
        if hasattr(estimator, "_validate_params"):
            estimator._validate_params()
        learned = node["learned"]
        if kind.cls is NearestNeighbors:
            if fitted:
                estimator.fit(self.value(learned["bank"]))
            return estimator
        if not (learned or fitted):
            return estimator
        self._learn(estimator, kind, learned)
        if networked:
            _same("n_features_out_", estimator, node["network"]["n_features"])
            estimator._frozen = self.networks.restore(
                estimator.model, params["weights"], node["network"]
            )
            estimator._begun = None
        if "module" in node:
            width = estimator.n_features_in_
            estimator._module_head = ModuleHead(
                private_copy(params["head"], "head"), width
            )
            _same("classes_", estimator, len(estimator._module_head.classes))
        check_whole(estimator)
        return estimator

    def _parameter(self, cls, name, node, parent):
        if name == "head" and isinstance(node, dict) and "module" in node:
            if self.build_head is None:
                raise Unfit(f"needs model=, which builds {parent['module']['hint']}")
            build = self.build_head
            module = (
                private_copy(build, "model")
                if isinstance(build, torch.nn.Module)
                else private_build(build, "model")
            )
            load_state(module, parent["module"]["state"], self.tensors, "model")
            return module
        if name in OF_PLACES and node is not None:
            # It would be a folder that the file has made, or features that it brings.
            raise Unfit(f"has a {cls.__name__} with a {name}, which no file names")
        return self.value(node, fitted=cls in (FrozenEstimator, ConformalMonitor))

    def _learn(self, estimator, kind, nodes):
        """Set the learned attributes, checked by themselves and against each other."""
        has = f"has a {kind.cls.__name__} with"
        unknown = set(nodes) - set(kind.learned)
        if unknown:
            raise Unfit(f"{has} {min(unknown)!r:.40}, which is not known")
        sizes: dict[str, int] = {}
        for name, check in kind.learned.items():
            if name not in nodes:
                if isinstance(check, Optional):
                    continue
                raise Unfit(f"{has}out {name}")
            value = self.value(nodes[name], fitted=True)
            try:
                check.check(value, sizes)
            except Unfit as problem:
                raise Unfit(f"{has} {name} that {problem}") from None
            setattr(estimator, name, value)

    def _preprocess(self, node):
        if node is None or isinstance(node, str):
            return node
        if "transform" in node:
            return make_transform(node)
        if fingerprint(self.preprocess) != node["given"]:
            warn(
                "preprocess= is not the function that was saved, "
                f"{_text(node['hint'])}, or it was changed since: features, and so "
                "scores, may differ."
            )
        return self.preprocess


def check_whole(detector):
    """Check what attributes of a fitted estimator say about each other."""
    if isinstance(detector, ConformalDetector):
        scoring_of(detector.estimator_)
    if isinstance(detector, StandardScaler) and (
        (detector.with_mean and detector.mean_ is None)
        or (detector.with_std and detector.scale_ is None)
    ):
        raise Unfit("has a StandardScaler without what it scales by")
    if isinstance(detector, ConformalMonitor):
        _check_monitor(detector)
    if not isinstance(detector, BaseReActDetector):
        return
    linear = hasattr(detector, "coef_")
    if linear != hasattr(detector, "intercept_"):
        raise Unfit("has half a linear head")
    of_logits = max(detector.n_features_in_, 2)  # one logit stands for two classes
    if not (linear or hasattr(detector, "_module_head")):
        if len(detector.classes_) != of_logits:
            raise Unfit("has no head")
    if "_stream" in vars(detector):
        check_stream(detector)
    missing = [name for name in SETTLED if name not in vars(detector)]
    if missing and "_stream" in vars(detector):
        return  # they are computed when they are first asked for
    if missing:
        raise Unfit(f"has a {type(detector).__name__} without {missing[0]}")
    if np.any(detector.lower_activation_threshold_ > detector.activation_threshold_):
        raise Unfit("has a lower clip above the upper one")


def _check_monitor(monitor):
    """Check that all samples are counted, and that bettors are as they can be."""
    n_kept = len(monitor._scores) + len(monitor._recent)
    n_known = monitor.n_seen_ - monitor.n_nan_
    if n_known < 0 or n_kept != len(monitor.calibration_scores_) + n_known:
        raise Unfit("has a ConformalMonitor with more or fewer scores than samples")
    rates, states = monitor.jump_rates_, monitor._states
    n_bettors = len(BETS) * len(rates)
    if not n_bettors or states.shape != (n_bettors, 4):
        raise Unfit(f"has a ConformalMonitor with bettors of shape {states.shape}")
    owned, n_huge = states[:, :3], states[:, 3]
    if (
        np.any((rates <= 0) | (rates > 1))
        or np.any((owned < 0) | (owned > HUGE))
        or np.any(owned.sum(axis=1) <= 0)
        or np.any((n_huge < 0) | (n_huge != np.floor(n_huge)))
    ):
        raise Unfit("has a ConformalMonitor with what no bettor can own")
    if monitor.alarm_ != (monitor.n_alarm_ is not None):
        raise Unfit("has a ConformalMonitor with half an alarm")


def _same(name, estimator, size):
    value = getattr(estimator, name)
    if (value if isinstance(value, int) else len(value)) != size:
        raise Unfit(f"has a {name} that is not that of its network")


def _text(value):
    if not isinstance(value, str | type(None)):
        raise Unfit(f"is {value!r:.40}, expected text")
    return value
