"""Take features from any layer: find the axis of its output that holds the channels."""

import contextlib

import torch
from torch import nn
from torch.nn.modules import batchnorm, conv, pooling

from reactood._networks._backbone import Backbone, Stop
from reactood._networks._forward import first_pass
from reactood._utils._messages import did_you_mean, listed


def attach_layer(network, batch, layer):
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
        _, batch = first_pass(network, batch)
    finally:
        counter.remove()
    if len(calls) != 1:
        raise ValueError(
            f"layer={layer!r} runs {len(calls)} times in a forward pass, expected "
            "once: which of its outputs is meant? Choose a layer around or beside it."
        )
    channels_last = _channels_last(network, layer, batch)
    stop = Stop(layer, at_input=False, channels_last=channels_last)
    return Backbone(network, stop), batch


# Types of layers whose output has its channels in a known axis.
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

# For each number of axes of a batch, the axes along which it may be halved: images in
# height, sequences (n, channels, length) or (n, length, channels) in length.
CUT_AXES = {2: (1,), 3: (2, 1), 4: (2,)}


def _channels_last(network, layer, batch):
    """Return whether a layer's output has its channels last: True, False or None.

    None where there is nothing to average, or for maps that show nothing.
    """
    whole = _output_shape(network, layer, batch)
    if whole is None or len(whole) < 3:
        return None
    if whole[0] != len(batch):  # not one row per input: an error is raised later
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
    with contextlib.suppress(Exception):  # the model may not accept this input
        network(batch.clone())
    handle.remove()
    return shapes[0] if len(shapes) == 1 else None
