"""A network gets a stopping place: the proven input of its head, or any layer."""

import contextlib
import copy
import functools
import itertools
import weakref
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import torch
from torch import nn
from torch.nn.modules import batchnorm, conv, pooling
from torch.nn.parameter import is_lazy
from torchvision.models.feature_extraction import create_feature_extractor

from reactood._ambient import no_gradients
from reactood._folding import (
    find_folds,
    fold,
    is_convolutional,
    replace_module,
    same_features,
)
from reactood._modules import free_memory, is_out_of_memory, linear_arrays
from reactood._networks import build_network, did_you_mean, listed, seeded
from reactood._recent import Recent
from reactood._warnings import warn

PROOF_TOLERANCE = 1e-4
PROOF_IMAGES = 4


class Backbone(nn.Module):
    """Runs a classifier up to the features, and no further.

    Parameters
    ----------
    network : nn.Module
        The whole classifier, private to this object.
    name : str
        Dotted name of the submodule where to stop.
    at_input : bool
        Whether the features are the submodule's input (the final linear layer), or
        its output, averaged over positions.
    channels_last : bool or None
        Whether the output has its channels in the last axis. None stands for the
        second, or for an output of two axes.
    """

    def __init__(self, network, name, *, at_input, channels_last=None):
        super().__init__()
        self.network = network
        self.stop = {
            "name": name,
            "at_input": at_input,
            "channels_last": channels_last,
        }
        self.name = name
        self.at_input = at_input
        self.arrangement = {"folds": [], "memory_format": "contiguous_format"}
        self.eval()
        module = network.get_submodule(name)
        # Stopping by an exception needs no surgery on code that we did not write.
        if at_input:
            module.register_forward_pre_hook(_stop_at_input, with_kwargs=True)
        else:
            module.register_forward_hook(_stop_at_output)

    def forward(self, batch):
        """Return features of shape (n_samples, n_features)."""
        try:
            self.network(batch)
        except _Stop as stop:
            features = stop.value
        else:
            raise ValueError(f"{self.name!r} takes no part in the forward pass.")
        if self.at_input:
            return features
        return average_positions(features, self.stop["channels_last"])

    @property
    def is_convolutional(self):
        """Whether 2-D convolutions are most of what there is to compute."""
        return is_convolutional(self.network)

    def arrange(self, folds, memory_format):
        """Rearrange the network to run faster; return a function that undoes it.

        A memory format goes by its name, as it will be pickled: pickle looks through
        all imported modules for torch's own object, and may find it in any of them.
        """
        before = self.arrangement
        unfold = fold(self.network, folds)
        self.network.to(memory_format=getattr(torch, memory_format))
        self.arrangement = {"folds": folds, "memory_format": memory_format}

        def undo():
            unfold()
            self.network.to(memory_format=torch.contiguous_format)
            self.arrangement = before

        return undo

    def optimize(self, batch, features, *, folding):
        """Rearrange the network where ``batch`` keeps its ``features``."""
        folds = find_folds(self.network, lambda: self(batch.clone())) if folding else []
        memory_format = "contiguous_format"
        if batch.ndim == 4 and self.is_convolutional:
            memory_format = "channels_last"
        for attempt in (folds, []) if folds else ([],):
            undo = None
            with contextlib.suppress(Exception):  # of a model that misses its layers
                undo = self.arrange(attempt, memory_format)
                if same_features(self(batch.clone()), features):
                    return
            if undo is not None:
                undo()

    def without_hooks(self):
        """Return a copy of the network and what makes features of its output.

        Compilers cannot follow the exception that stops this one.
        """
        network = copy.deepcopy(self.network)
        stop = network.get_submodule(self.name)
        for hooks in stop._forward_pre_hooks, stop._forward_hooks:
            ours = {
                k for k, v in hooks.items() if v in (_stop_at_input, _stop_at_output)
            }
            for key in ours:
                del hooks[key]
        if not self.at_input:
            cut = create_feature_extractor(network, {self.name: "features"})
            axis = self.stop["channels_last"]
            return cut, lambda output: average_positions(output["features"], axis)
        if self.name:
            replace_module(network, self.name, nn.Identity())
        else:
            network = nn.Identity()
        return network.eval(), lambda output: getattr(output, "logits", output)

    def head(self):
        """Return weight and bias of the linear layer that takes the features."""
        return linear_arrays(self.network.get_submodule(self.name))


@dataclass(frozen=True)
class Plan:
    """What makes a proven backbone of the same network without another proof."""

    stop: dict
    arrangement: dict
    n_features: int

    def apply(self, network):
        """Return the backbone of ``network``, private to it."""
        backbone = Backbone(network, **self.stop)
        backbone.arrange(**self.arrangement)
        return _frozen(backbone)


_PLANS = Recent(64)
recall_plan = _PLANS.get  # what was proved in this process, or None
remember_plan = _PLANS.put


class _Stop(BaseException):  # a model's own "except Exception" must let it pass
    def __init__(self, value):
        super().__init__()
        self.value = value


def _stop_at_input(module, args, kwargs):
    raise _Stop(args[0] if args else next(iter(kwargs.values())))


def _stop_at_output(module, args, output):
    raise _Stop(output)


def average_positions(features, channels_last=None):
    """Average a feature map or a sequence over its positions: (n, channels)."""
    if not isinstance(features, torch.Tensor) or features.ndim < 2:
        raise ValueError(
            f"The layer returns {_what(features)}, expected one tensor of shape (n, "
            "features), with axes of positions beside the features or without; choose "
            "another layer."
        )
    if features.ndim == 2:
        return features
    if channels_last:
        return features.flatten(1, -2).mean(dim=1)
    return features.flatten(2).mean(dim=2)


def attach(network, batch, layer=None, *, folding=True):
    """Find where to stop in ``network``, and prove it on a few preprocessed images.

    With ``folding``, convolutions do the normalisation after them where they can.
    Returns the backbone, its plan, and whether the plan holds for other images too: not
    of a model that says something else each time.
    """
    # Lazy layers get their weights in the first pass, hence the seed. Each pass gets
    # images of its own, as models may work in place.
    with seeded(), no_gradients():
        n_images = len(batch)
        if layer is not None:
            backbone, batch = _attach_layer(network, batch, layer)
            features = backbone(batch.clone())
            _check_finite(features, network, batch)
        else:
            name = find_head(network)
            logits, batch = _prove_head(network, name, batch)
            backbone = Backbone(network, name, at_input=True)
            features = backbone(batch.clone())
            if not _agree(_apply(network.get_submodule(name), features), logits):
                raise ValueError(
                    f"The linear layer {name!r} takes part more than once in a forward "
                    "pass, so its input is not one feature vector per image. Name the "
                    "layer whose output is the feature, layer='...'."
                )
        consistent = _check_rows(backbone, batch, features) and len(batch) == n_images
        backbone.optimize(batch, features, folding=folding)
    plan = Plan(backbone.stop, backbone.arrangement, features.shape[1])
    return _frozen(backbone), plan, consistent


def _first_pass(network, batch):
    """Return what a network makes of as many images as fit into memory, and these."""
    while True:
        try:
            return network(batch.clone()), batch
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise RuntimeError(
                    f"Out of memory on {batch.device} with one input of shape "
                    f"{tuple(batch.shape[1:])} ({error}). Use smaller images, a "
                    "smaller model or another device."
                ) from error
        batch = batch[: len(batch) // 2]
        free_memory(batch.device)


def _check_finite(output, network, batch):
    """Raise if a network's output is NaN or infinite: where that begins."""
    if not isinstance(output, torch.Tensor) or output.isfinite().all():
        return
    name = type(network).__name__
    tensors = itertools.chain(network.named_parameters(), network.named_buffers())
    bad = [k for k, t in tensors if not is_lazy(t) and not t.isfinite().all()]
    if bad:
        raise ValueError(
            f"{name} has NaN or inf in its weights, in {listed(bad, 4)}, and so in its "
            "output: did its training diverge, or is the file damaged?"
        )
    raise ValueError(
        f"{name} returns NaN or inf for the first {len(batch)} inputs, though its "
        "weights are finite. Are the inputs scaled as in its training, and are the "
        "variances of its normalisation layers positive?"
    )


def _frozen(backbone):
    for parameter in backbone.parameters():
        if not is_lazy(parameter):  # a layer behind the stopping place
            parameter.requires_grad_(False)
    return backbone


def _check_rows(backbone, batch, features):
    """Raise or warn unless each image has features of its own; tell whether so."""
    if features.ndim != 2 or len(features) != len(batch):
        raise ValueError(
            f"{len(batch)} inputs of shape {tuple(batch.shape[1:])} gave features of "
            f"shape {tuple(features.shape)}, wanted one row per input: does the model "
            "take the first axis for samples?"
        )
    alone = backbone(batch[:1].clone())
    varies = bool((alone - features[:1]).abs().max() > 1e-2 * features.abs().max())
    if varies:
        warn(
            "The features of an image change with the images beside it, or from call "
            "to call: does the model use batch statistics or random numbers in eval "
            "mode? Scores will depend on how images are batched.",
        )
    return not varies


def find_head(network):
    """Return the dotted name of the classifier's final linear layer."""
    linear = _linears(network)
    if not linear:
        raise ValueError(
            f"{type(network).__name__} has no linear head (no nn.Linear): name the "
            "layer whose output is wanted, layer='...'; its feature maps are averaged "
            f"over positions. Layers: {listed(dict(network.named_modules()))}."
        )
    classifier = getattr(network, "get_classifier", lambda: None)()  # timm knows
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
            return _named_head(self.model, self.weights)
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
    with contextlib.suppress(TypeError):  # has no hash, or takes no references
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
def _named_head(model, weights):
    return _head_arrays(build_network(model, weights)[0])


def _head_arrays(network):
    return linear_arrays(network.get_submodule(find_head(network)))


def _prove_head(network, name, batch):
    """Return logits, which the linear layer must have made, and their images."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    handles = [
        module.register_forward_hook(
            functools.partial(_record, seen, key), with_kwargs=True
        )
        for key, module in _linears(network).items()
    ]
    try:
        output, batch = _first_pass(network, batch)
    finally:
        for handle in handles:
            handle.remove()
    logits = _logits(output, len(batch))
    _check_finite(logits, network, batch)
    features = seen[name][0] if name in seen else None
    if features is not None and features.ndim == 2:
        if _agree(_apply(network.get_submodule(name), features), logits):
            return logits, batch
    proven = [key for key, (_, output) in seen.items() if _agree(output, logits)]
    hint = f" ({proven[-1]!r} does, but is not the last)" if proven else ""
    candidates = ", ".join(
        f"{key or '(the model itself)'}: {module.in_features} -> {module.out_features}"
        for key, module in _linears(network).items()
    )
    raise ValueError(
        f"The last nn.Linear of {type(network).__name__}, {name!r}, does not produce "
        f"the model's output{hint}, so its input is not the penultimate feature. "
        f"Linear layers: {candidates}. Name the layer whose output is the feature, "
        "layer='...', and give the detector its head by hand, or pass a model that "
        "ends in its linear head."
    )


def _record(seen, key, module, args, kwargs, output):
    seen[key] = args[0] if args else next(iter(kwargs.values())), output


def _apply(linear, features):
    """Apply nothing but weight and bias, as the detector will."""
    return nn.functional.linear(features, linear.weight, linear.bias)


def _agree(ours, logits):
    if not isinstance(ours, torch.Tensor) or ours.shape != logits.shape:
        return False
    return bool((ours - logits).abs().max() <= PROOF_TOLERANCE * logits.abs().max())


def _logits(output, n_rows):
    """Return the logits in what a model returned; some wrap them in an object."""
    logits = getattr(output, "logits", output)
    if isinstance(logits, torch.Tensor) and logits.ndim == 2 and len(logits) == n_rows:
        return logits
    got = _what(logits)
    raise ValueError(
        f"The model returns {got} for {n_rows} inputs, expected a tensor of logits of "
        "shape (n_samples, n_classes), or an object that has it as .logits, as the "
        "classes for classification of Hugging Face do. Name the layer whose output is "
        "the feature, layer='...', or wrap the model so that it returns logits."
    )


def _attach_layer(network, batch, layer):
    names = dict(network.named_modules())
    if layer not in names or not layer:
        raise ValueError(
            f"layer={layer!r} does not exist in {type(network).__name__}"
            f"{did_you_mean(layer, names)}. List the names with "
            f"dict(model.named_modules()): {listed(names)}."
        )
    calls: list[None] = []
    counter = names[layer].register_forward_hook(lambda *args: calls.append(None))
    try:
        _, batch = _first_pass(network, batch)
    finally:
        counter.remove()
    if len(calls) != 1:
        raise ValueError(
            f"layer={layer!r} runs {len(calls)} times in a forward pass, wanted once: "
            "which of its outputs is meant? Choose a layer around or beside it."
        )
    channels_last = _channels_last(network, layer, batch)
    backbone = Backbone(network, layer, at_input=False, channels_last=channels_last)
    return backbone, batch


# Layers that say by their kind which axis of their output holds the channels.
CHANNELS_SECOND = (
    conv._ConvNd,
    batchnorm._NormBase,
    nn.GroupNorm,
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    pooling._LPPoolNd,
    pooling._AdaptiveAvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
)
CHANNELS_LAST = (
    nn.Linear,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.Embedding,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)
# Axes of a batch, by their number, along which it may be cut: images to half the
# height, sequences (n, channels, length) or (n, length, channels) to half the length.
CUT_AXES = {2: (1,), 3: (2, 1), 4: (2,)}


def _channels_last(network, layer, batch):
    """Return whether a layer's output has its channels last: True, False or None.

    None where there is nothing to average, or for maps that show nothing.
    """
    whole = _output_shape(network, layer, batch)
    if whole is None or len(whole) < 3:
        return None
    if whole[0] != len(batch):  # no row per input, as will be said
        return None
    found = _channels_by_cutting(network, layer, batch)
    if found is None:
        found = _channels_by_kind(network, layer, batch)
    if found is None and len(whole) == 3:
        raise ValueError(
            f"layer={layer!r} returns a tensor of shape {whole}, and nothing shows "
            "whether its channels are in the second or in the last axis: the model "
            "takes inputs of this size only, or of any, and no convolution, pooling, "
            "normalisation or linear layer made a tensor of this shape. Choose a layer "
            "of one of these kinds, or change the model so that the layer returns "
            "(n_samples, n_features)."
        )
    return found


def _channels_by_cutting(network, layer, batch):
    """Find the channels by smaller inputs: they are in the axis that stays as it is.

    Sizes alone would mislead: 56 positions may stand beside 56 channels.  None where
    this model takes inputs of one size only, or its output always has the same size.
    """
    votes = set()
    whole = _output_shape(network, layer, batch[:1])
    for axis in CUT_AXES.get(batch.ndim, ()):
        half = batch[:1].narrow(axis, 0, (batch.shape[axis] + 1) // 2)
        cut = _output_shape(network, layer, half)
        if whole is None or cut is None or len(cut) != len(whole):
            continue
        if cut[1] != whole[1]:
            votes.add(True)
        elif cut[2:] != whole[2:]:
            votes.add(False)
    return votes.pop() if len(votes) == 1 else None


def _channels_by_kind(network, layer, batch):
    """Find the channels by the last layer of a known kind that made such a tensor."""
    known: dict[tuple[int, ...], bool] = {}
    found = []

    def note(module, args, output):
        if isinstance(output, torch.Tensor):
            known[tuple(output.shape)] = isinstance(module, CHANNELS_LAST)

    handles = [
        module.register_forward_hook(note)
        for module in network.modules()
        if isinstance(module, CHANNELS_SECOND + CHANNELS_LAST)
    ]
    handles.append(
        network.get_submodule(layer).register_forward_hook(
            lambda module, args, output: found.append(known.get(tuple(output.shape)))
        )
    )
    try:
        network(batch.clone())
    finally:
        for handle in handles:
            handle.remove()
    return found[0]


def _output_shape(network, layer, batch):
    """Return the shape of the one tensor that a layer returns, or None."""
    shapes: list[tuple[int, ...]] = []
    handle = network.get_submodule(layer).register_forward_hook(
        lambda module, args, output: shapes.append(tuple(getattr(output, "shape", ())))
    )
    with contextlib.suppress(Exception):  # of a model that takes no such input
        network(batch.clone())
    handle.remove()
    return shapes[0] if len(shapes) == 1 else None


def _linears(network):
    return {k: m for k, m in network.named_modules() if isinstance(m, nn.Linear)}


def _what(value):
    """Say what a module returned."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {listed(map(str, value))}"
    return f"a {type(value).__name__}"
