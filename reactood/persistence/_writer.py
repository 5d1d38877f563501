"""Turn estimators into a tree of JSON and a set of tensors."""

import contextlib
import functools
import hashlib
import inspect
import math
import os
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline
from torch import nn
from torchvision.models import WeightsEnum

from reactood import scores
from reactood._networks._head import ModelHead
from reactood._scoring._stream import Stream
from reactood._utils._modules import linear_arrays
from reactood.cache import FeatureCache
from reactood.detector import ReActDetector
from reactood.extractor._base import BaseFeatureExtractor
from reactood.persistence._file import bytes_of
from reactood.persistence._kinds import KINDS, PIPELINES, kind_of
from reactood.persistence._networks import NetworkWriter, hint_of
from reactood.persistence._transforms import describe_transform

OF_PLACES = "cache", "memory"  # parameters that name places on one machine
REQUESTS = "_metadata_request"  # what `set_fit_request` sets; scores need none


class Writer:
    """Describes values by JSON; arrays go to ``tensors``, each content once."""

    def __init__(self):
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[str, str] = {}
        self._network = NetworkWriter(self.tensor)

    def network(self):
        """Return what describes the user's own network, or None."""
        return self._network.described

    def value(self, value, where):
        """Return JSON for any value; ``where`` names it in errors."""
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, WeightsEnum):
            return value.name
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, int) and abs(value) >= 2**63:
            raise _refused(value, where)
        if isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, np.ndarray):
            return self._array(value, where)
        if isinstance(value, torch.Tensor):
            return {"tensor": self.tensor(value)}
        if isinstance(value, torch.device):
            return str(value)
        if isinstance(value, list | tuple | dict):
            return self._collection(value, where)
        if isinstance(value, Stream):
            return {"stream": self.value(value.arrays(), where)}
        if isinstance(value, Pipeline) and type(value) in PIPELINES.values():
            return self._pipeline(value, where)
        if kind_of(value) is not None:
            return self._estimator(value, where)
        described = self._function(value)
        if described is None:
            raise _refused(value, where)
        return described

    def tensor(self, tensor):
        """Keep a tensor, unless one of the same content is there; return its name."""
        tensor = tensor.detach().cpu().contiguous()
        hashed = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        hashed.update(bytes_of(tensor))
        digest = hashed.hexdigest()
        if digest not in self._names:
            self._names[digest] = f"t{len(self._names)}"
            # A copy: the file's library refuses tensors that share memory.
            self.tensors[self._names[digest]] = tensor.clone()
        return self._names[digest]

    def _array(self, array, where):
        if array.dtype.kind in "OUST":
            return {
                "objects": [
                    self.value(item, f"{where}[{i}]")
                    for i, item in enumerate(array.ravel().tolist())
                ],
                "shape": list(array.shape),
                "text": array.dtype.kind in "UT",
            }
        if np.ma.isMaskedArray(array) or array.dtype.kind not in "biuf":
            raise _refused(array, where)
        # The last bits of products depend on the order in memory.
        by_columns = array.flags.f_contiguous and not array.flags.c_contiguous
        rows = array.T if by_columns else array
        native = np.array(rows, dtype=array.dtype.newbyteorder("="), order="C")
        try:
            name = self.tensor(torch.from_numpy(native))
        except TypeError as error:  # longdouble
            raise _refused(array, where) from error
        return {"array": name} | ({"by_columns": True} if by_columns else {})

    def _collection(self, value, where):
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise _refused(value, where)
            named = {k: self.value(v, f"{where}[{k!r}]") for k, v in value.items()}
            return {"dict": named}
        if hasattr(value, "_fields"):  # a named tuple is more than a tuple
            raise _refused(value, where)
        items = [self.value(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items

    def _pipeline(self, pipeline, where):
        steps = [
            [name, self.value(step, f"{where}.{name}")] for name, step in pipeline.steps
        ]
        return {
            "pipeline": type(pipeline).__name__,
            "steps": steps,
            "verbose": bool(pipeline.verbose),
        }

    def _estimator(self, estimator, where):
        kind = kind_of(estimator)
        node: dict[str, Any] = {"estimator": type(estimator).__name__}
        names = parameter_names(estimator)
        params = {name: getattr(estimator, name) for name in names}
        if isinstance(estimator, ReActDetector):
            with contextlib.suppress(ValueError, AttributeError):  # no rows, no fit
                _ = estimator.offset_  # after batches, computed when first asked for
        learned = {
            k: v
            for k, v in vars(estimator).items()
            if k not in params and k != REQUESTS
        }
        if isinstance(estimator, BaseFeatureExtractor):
            node |= self._network.of_extractor(estimator, where)
            params["model"] = params["model"] if node["named"] else None
            params["preprocess"] = None
            node["preprocess"] = describe_transform(estimator.preprocess)
        if isinstance(estimator, SPLITTERS):
            learned = {}
        if isinstance(estimator, NearestNeighbors):
            learned = {"bank": estimator._fit_X} if learned else {}
        node["params"] = {
            name: self._parameter(estimator, name, value, f"{where}.{name}")
            for name, value in params.items()
        }
        if "_module_head" in learned:
            node["module"] = self._module(learned["_module_head"].module)
        unknown = set(learned) - set(kind.learned) - set(kind.ignored)
        if unknown:
            name = min(unknown)
            raise _refused(learned[name], f"{where}.{name}")
        node["learned"] = {
            name: self.value(value, f"{where}.{name}")
            for name, value in learned.items()
            if name not in kind.ignored
        }
        return node

    def _parameter(self, estimator, name, value, where):
        if name in OF_PLACES and isinstance(value, str | os.PathLike | FeatureCache):
            return None  # a place on this machine
        if name != "head":
            return self.value(value, where)
        if isinstance(value, ModelHead):
            if isinstance(value.model, str):
                return {"head_of": self.value([value.model, value.weights], where)}
            if not hasattr(estimator, "coef_"):
                return {"head_of_network": True}
        if type(value) is nn.Linear:
            return self.value(linear_arrays(value), where)
        if hasattr(estimator, "_module_head"):
            return {"module": True}
        is_function = callable(value) and not isinstance(value, BaseEstimator)
        if is_function and hasattr(estimator, "coef_"):
            return self.value((estimator.coef_, estimator.intercept_), where)
        if is_function and hasattr(estimator, "weight_"):
            return self.value((estimator.weight_, estimator.bias_), where)
        return self.value(value, where)

    def _module(self, module):
        state = {key: self.tensor(value) for key, value in module.state_dict().items()}
        return {"state": state, "hint": hint_of(module)}

    def _function(self, value):
        """Return JSON for a score of this package, with parameters of its own."""
        inner, keywords = value, {}
        if isinstance(value, functools.partial) and not value.args:
            inner, keywords = value.func, value.keywords
        name = getattr(inner, "__name__", "")
        if name not in scores.__all__ or getattr(scores, name) is not inner:
            return None
        return {"score": name, "keywords": self.value(keywords, "keywords")["dict"]}


SPLITTERS = tuple(
    kind.cls for kind in KINDS.values() if not issubclass(kind.cls, BaseEstimator)
)


def parameter_names(estimator):
    """Return the names of the parameters of an estimator or a splitter."""
    if isinstance(estimator, BaseEstimator):
        return list(estimator.get_params(deep=False))
    return list(inspect.signature(type(estimator)).parameters)


def _refused(value, where):
    """Return the error for a value that a file cannot hold, with the way out."""
    what = f"{where} is {type(value).__name__}, which a file of arrays and text "
    if where.endswith("score_function"):
        advice = (
            "Use the name of a score, or functools.partial of a function of "
            "reactood.scores; a function of your own can be kept in a pickle only."
        )
        what = f"{where} is the function {value!r}, which a file of arrays and text "
    elif hasattr(value, "best_estimator_"):
        advice = "Save its best_estimator_."
    elif isinstance(value, BaseEstimator):
        advice = f"It holds estimators of these classes: {', '.join(KINDS)}."
    else:
        advice = "Set it to a number, text or None first, with set_params."
    return TypeError(f"{what}cannot hold. {advice}")
