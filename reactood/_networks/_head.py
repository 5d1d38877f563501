"""Find the classifier's head, its final linear layer; compare heads of two builds."""

import contextlib
import functools
import weakref
import zlib
from typing import Any

import joblib
import numpy as np
from torch import nn

from reactood._networks._build import build_network
from reactood._networks._hugging_face import version_of
from reactood._utils._messages import listed
from reactood._utils._modules import (
    linear_arrays,
)
from reactood._utils._recent import Recent


def find_head(network):
    """Return the dotted name of the classifier's final linear layer."""
    linear = linears(network)
    if not linear:
        raise ValueError(
            f"{type(network).__name__} has no linear head (no nn.Linear): name the "
            "layer whose output is the feature, layer='...'; its feature maps are "
            f"averaged over positions. Layers: {listed(dict(network.named_modules()))}."
        )
    classifier = getattr(network, "get_classifier", lambda: None)()  # timm names it
    return next((k for k, v in linear.items() if v is classifier), list(linear)[-1])


class ModelHead:
    """Builds a model for its head alone: the recipe that pipelines store.

    A function that builds models is called once for the features and once here. Unless
    both have the same head, scores would be those of no model at all. So an extractor
    notes the head that goes with its features, and here it is compared. Copies of a
    function and of this object, in other processes too, know the same notes.
    """

    def __init__(self, model, weights="DEFAULT"):
        self.model = model
        self.weights = weights

    def __call__(self):
        """Return weight and bias."""
        if isinstance(self.model, str):
            return _named_head(self.model, self.weights, version_of(self.model))
        noted = _noted(factory_keys(self.model))
        head = _head_arrays(build_network(self.model, self.weights)[0])
        if noted not in (None, _checksum(head)):
            raise ValueError(
                f"model={self.model!r} built a network with another head than that of "
                "the extractor, which it built before: features of one network and "
                "the head of another would give meaningless scores. Pass a function "
                "that builds the same network each time, such as one that loads its "
                "weights from a file, or build the model once and pass the module."
            )
        return head

    def __repr__(self):
        return f"{type(self).__name__}({self.model!r}, {self.weights!r})"

    def __getstate__(self):
        named = isinstance(self.model, str)
        noted = None if named else _noted(factory_keys(self.model))
        return self.__dict__ | ({} if noted is None else {"noted": noted})

    def __setstate__(self, state):
        noted = state.pop("noted", None)
        self.__dict__ |= state
        if noted is not None and _noted(keys := factory_keys(self.model)) is None:
            note_head(keys, noted)


_HEADS = Recent(64)  # checksums of the heads that go with features, by factory


def factory_keys(factory):
    """Return what a function that builds models, or a copy of it, is known by.

    To be asked before it is called, as calls may change what it holds.
    """
    keys: list[Any] = []
    with contextlib.suppress(TypeError):  # it cannot be hashed or weakly referenced
        reference = weakref.ref(factory)
        hash(reference)
        keys.append(reference)
    with contextlib.suppress(Exception):  # cannot be pickled, so it has no copies
        keys.append(joblib.hash(factory))
    return keys


def note_head(keys, checksum):
    """Note the head of the network that a function built last."""
    for key in keys:
        _HEADS.put(key, checksum)


def _noted(keys):
    return next((c for c in map(_HEADS.get, reversed(keys)) if c is not None), None)


def head_checksum(network):
    """Return a checksum of a network's head, or None if it has no such."""
    try:
        return _checksum(_head_arrays(network))
    except ValueError:
        return None


def _checksum(head):
    weight, bias = (np.ascontiguousarray(array) for array in head)
    return zlib.crc32(bias.data, zlib.crc32(weight.data))


@functools.lru_cache(maxsize=4)
def _named_head(model, weights, version):
    return _head_arrays(build_network(model, weights)[0])


def _head_arrays(network):
    return linear_arrays(network.get_submodule(find_head(network)))


def linears(network):
    return {k: m for k, m in network.named_modules() if isinstance(m, nn.Linear)}
