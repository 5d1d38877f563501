"""Networks in files: a name, or the weights of the user's own; and their probe."""

import math
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from reactood._networks._backbone import Arrangement, Plan, Stop
from reactood._networks._build import build_network
from reactood._networks._folding import CONVOLUTIONS, fold, same_features
from reactood._networks._frozen import FrozenModel
from reactood._utils._ambient import default_device, no_gradients, without_autocast
from reactood._utils._fields import Fields
from reactood._utils._modules import linear_arrays
from reactood.persistence._checks import Number, Size, Unfit

FOLDED = "folded_normalisations"  # attribute of networks that came from a file
KINDS_OF_FIELDS = "float32", "int64", "bool"
FORMATS = "contiguous_format", "channels_last"
MOST_ELEMENTS = 1 << 25  # of a probe, 128 MiB
PROBE_TOLERANCE = 1e-3  # other machines round in other ways


class NetworkWriter:
    """Describes the networks of extractors; the user's own is kept once.

    ``described`` is what there is of the user's own, or None.
    """

    def __init__(self, tensor):
        self.tensor = tensor
        self.described: dict[str, Any] | None = None

    def of_extractor(self, extractor, where):
        """Return what tells the network of an extractor, and how it is proved."""
        frozen = getattr(extractor, "_frozen", None)
        named = isinstance(extractor.model, str)
        node: dict[str, Any] = {"named": named, "network": None}
        if frozen is None:
            return node
        backbone = frozen.backbone
        plan = frozen.plan
        probe = repeatable_probe(backbone, frozen.input_shape, plan.fields)
        # What was folded before the network came from a file, its code does not know.
        earlier = getattr(backbone.network, FOLDED, ())
        node["network"] = {
            "stop": [plan.stop.name, plan.stop.at_input, plan.stop.channels_last],
            "folds": [list(pair) for pair in (*earlier, *plan.arrangement.folds)],
            "memory_format": plan.arrangement.memory_format,
            "n_features": plan.n_features,
            "input_shape": list(frozen.input_shape),
            **_described_fields(plan.fields),
            "probe": None if probe is None else self.tensor(probe),
            "checksum": frozen._checksum,
        }
        given = (extractor.model, extractor.weights) if named else None
        if frozen.recipe != given:
            raise NotFittedError(
                f"The model of {where} was changed after `fit`; fit it again first."
            )
        if not frozen.named:
            self._keep(extractor, backbone.network, node["network"], where)
        return node

    def _keep(self, extractor, network, plan, where):
        state = {}
        for key, value in network.state_dict().items():
            if not isinstance(value, torch.Tensor):
                raise TypeError(
                    f"{where}.model keeps {key!r} in its state_dict, which is "
                    f"{type(value).__name__}; a file holds tensors only."
                )
            state[key] = self.tensor(value)
        hint = hint_of(extractor.model)
        described = {"state": state, "plan": plan, "hint": hint}
        if self.described not in (None, described):
            raise TypeError(
                f"{where}.model is the second network of your own in this estimator; "
                "a file holds one. Save the parts in files of their own."
            )
        self.described = described


def hint_of(model):
    """Return where the code of a model comes from: module and name."""
    of = model if hasattr(model, "__qualname__") else type(model)
    return f"{of.__module__}:{of.__qualname__}"


def repeatable_probe(backbone, input_shape, fields=None):
    """Return the features of noise, always the same; None where they tell nothing.

    That is so where a network gives other features each time, or no finite ones.
    """
    first, second = (probe_of(backbone, input_shape, fields) for _ in range(2))
    if first is None or not first.isfinite().all() or not torch.equal(first, second):
        return None
    return first


@without_autocast()
def probe_of(backbone, input_shape, fields=None):
    """Return the features of one image of noise; None for one of enormous size."""
    if math.prod(input_shape) > MOST_ELEMENTS:
        return None
    # This generator of NumPy gives the same numbers for ever.
    if fields is None:
        drawn = np.random.RandomState(0).standard_normal((1, *input_shape))
        noise = torch.from_numpy(drawn).float()
    else:
        noise = fields.noise(input_shape)
    state = backbone.state_dict().values()
    device = next((tensor.device for tensor in state), torch.device("cpu"))
    with no_gradients(), default_device():
        return backbone(noise.to(device)).float().cpu()


class NetworkReader:
    """Rebuilds networks, and proves them by their probe.

    Parameters
    ----------
    tensors : dict of Tensor
        The tensors of the file.
    described : dict or None
        What there is of the user's own network.
    build : callable, Module or None
        Makes the user's own network.
    """

    def __init__(self, tensors, described, build):
        self.tensors = tensors
        self.described = described
        self.build = build
        self._network: nn.Module | None = None

    def own(self):
        """Return the user's network with the weights of the file."""
        if self._network is None:
            if self.described is None:
                raise Unfit("needs a network, and there is none in the file")
            network, _ = build_network(self.build, None)
            _, arrangement, _ = _plan_of(self.described["plan"])
            try:
                with no_gradients():
                    check_folds(network, arrangement.folds)
                    fold(network, arrangement.folds)
                    load_state(network, self.described["state"], self.tensors, "model")
            except Unfit as error:
                hint = repr(self.described["hint"])[:100]
                raise Unfit(f"{error}; it was saved with {hint}") from None
            setattr(network, FOLDED, arrangement.folds)
            self._network = network
        return self._network

    def head(self):
        """Return weight and bias of the head of the user's network."""
        network = self.own()
        stop, _, _ = _plan_of(self.described["plan"])
        return linear_arrays(network.get_submodule(stop.name))

    @without_autocast()
    def restore(self, model, weights, node):
        """Return the FrozenModel of a fitted extractor."""
        stop, arrangement, n_features = _plan_of(node)
        named = isinstance(model, str)
        if not named:  # the weights in the file are folded already
            arrangement = Arrangement((), arrangement.memory_format)
        shape, fields = _shape_of(node), _fields_of(node)
        with no_gradients(), default_device():
            frozen = FrozenModel(model, weights)
            if named and frozen._checksum != node["checksum"]:
                raise Unfit(
                    f"was made with other weights of {model!r} than this version of "
                    "its library has"
                )
            frozen.restore(Plan(stop, arrangement, n_features, fields), shape)
        self._prove(frozen, node["probe"])
        return frozen

    def _prove(self, frozen, name):
        if name is None:
            return
        expected = self.tensors[name]
        found = probe_of(frozen.backbone, frozen.input_shape, frozen.plan.fields)
        wide = expected.shape == (1, frozen.plan.n_features)
        if found is None or not wide or expected.dtype != torch.float32:
            raise Unfit("has a probe that does not fit the network")
        if not same_features(found, expected, PROBE_TOLERANCE):
            raise Unfit(
                "gives other features of the probe than the network that was saved: "
                "model= builds another network with the same weights, or this version "
                "of its library computes something else"
            )


def check_folds(network, folds):
    """Raise Unfit where a network lacks what was folded in that of the file."""
    modules = dict(network.named_modules())
    for first, second in folds:
        found = type(modules.get(first)), type(modules.get(second))
        if found not in CONVOLUTIONS.items():
            raise Unfit(
                f"does not fit what model= builds, {type(network).__name__}: this has "
                f"no convolution {first!r} with a normalisation {second!r}"
            )


def load_state(module, names, tensors, parameter):
    """Load tensors of a file into a module, all of them and nothing else."""
    expected = module.state_dict()
    missing, unknown = set(expected) - set(names), set(names) - set(expected)
    if missing or unknown:
        some = min(missing or unknown)
        raise Unfit(
            f"does not fit what {parameter}= builds, {type(module).__name__}: "
            f"{some!r} is {'not in the file' if missing else 'in the file only'}"
        )
    state = {key: tensors[name] for key, name in names.items()}
    for key, tensor in state.items():
        theirs = expected[key]
        if tensor.shape != theirs.shape or tensor.dtype != theirs.dtype:
            raise Unfit(
                f"does not fit what {parameter}= builds, {type(module).__name__}: "
                f"there {key!r} is {theirs.dtype} of shape {tuple(theirs.shape)}, and "
                f"in the file {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
    module.load_state_dict(state)


def _plan_of(node):
    name, at_input, channels_last = node["stop"]
    memory_format, n_features = node["memory_format"], node["n_features"]
    folds = tuple((first, second) for first, second in node["folds"])
    texts = [name, *(name for pair in folds for name in pair)]
    Size(name="features").check(n_features, {})
    if (
        not all(isinstance(text, str) for text in texts)
        or not isinstance(at_input, bool)
        or not isinstance(channels_last, bool | type(None))
        or memory_format not in FORMATS
    ):
        raise Unfit("has a network that stops nowhere")
    stop = Stop(name, at_input, channels_last)
    return stop, Arrangement(folds, memory_format), n_features


def _shape_of(node):
    shape = node["input_shape"]
    for size in shape:
        Number(1, 2**31, integer=True).check(size, {})
    return tuple(shape)


def _described_fields(fields):
    """Return JSON of what a batch of integers holds, empty for images and numbers."""
    if fields is None:
        return {}
    shapes = fields.shapes or [None] * len(fields.names)
    parts = zip(fields.names, fields.kinds, shapes, strict=True)
    return {"fields": [[n, k, None if s is None else list(s)] for n, k, s in parts]}


def _fields_of(node):
    if "fields" not in node:
        return None
    names, kinds, shapes = [], [], []
    for name, kind, shape in node["fields"]:
        if not isinstance(name, str) or kind not in KINDS_OF_FIELDS:
            raise Unfit("has a network with a field of an unknown kind")
        names.append(name)
        kinds.append(kind)
        if shape is not None:
            for size in shape:
                Number(0, 2**31, integer=True).check(size, {})
            shapes.append(tuple(shape))
    if len(set(names)) < len(names) or len(shapes) not in (0, len(names)):
        raise Unfit("has a network whose fields do not fit each other")
    return Fields(tuple(names), tuple(kinds), tuple(shapes))
