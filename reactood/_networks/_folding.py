"""Rearrange a frozen network to run faster, with the same results.

Batch normalisation with fixed statistics is a scale and a shift per channel, which the
convolution before it can do itself; and convolutions run faster on a processor when
the channels of a pixel lie side by side.
"""

import functools

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from reactood._utils._modules import replace_module

CONVOLUTIONS = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d}
FOLD_TOLERANCE = 1e-4  # per feature, relative to its largest value


def find_folds(network, run):
    """Return the names of each convolution and the normalisation that it can absorb.

    ``run`` passes a batch through the network. A pair is one where the normalisation
    takes the very tensor that the convolution returned, once each.
    """
    calls: dict[str, int] = {}
    outputs: dict[int, tuple[str, torch.Tensor]] = {}
    pairs: dict[str, str] = {}
    handles = []
    for name, module in network.named_modules():
        if type(module) in CONVOLUTIONS and _is_plain(module):
            hook = functools.partial(_note_output, calls, outputs, name)
            handles.append(module.register_forward_hook(hook))
        elif type(module) in CONVOLUTIONS.values() and _is_plain(module):
            hook = functools.partial(_note_input, calls, outputs, pairs, name)
            handles.append(module.register_forward_hook(hook))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(network.named_modules())
    return [
        (first, second)
        for second, first in pairs.items()
        if calls[first] == calls[second] == 1
        and CONVOLUTIONS[type(modules[first])] is type(modules[second])
        and modules[second].running_mean is not None
        and not (modules[first].training or modules[second].training)
    ]


def fold(network, pairs):
    """Let each convolution do the normalisation after it; return what undoes it."""
    before = {name: network.get_submodule(name) for pair in pairs for name in pair}
    after: dict[str, nn.Module] = {}
    for first, second in pairs:
        with (
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # so that weights are ordinary tensors
            after[first] = fuse_conv_bn_eval(before[first], before[second])
        after[second] = nn.Identity()
    for name, module in after.items():  # all modules exist now
        replace_module(network, name, module)

    def undo():
        for name, module in before.items():
            replace_module(network, name, module)

    return undo


def same_features(ours, theirs, tolerance=FOLD_TOLERANCE):
    """Return whether all features agree, relative to their largest value."""
    if ours.shape != theirs.shape:
        return False
    largest = theirs.abs().amax(dim=0)
    # A very small feature has the rounding error of the terms that were added.
    floor = largest.max() / 10
    return bool(((ours - theirs).abs() <= tolerance * largest.clamp_min(floor)).all())


def is_convolutional(network):
    """Return whether a network has 2-D convolutions besides one that cuts patches."""
    return sum(isinstance(m, nn.Conv2d) for m in network.modules()) > 1


def _is_plain(module):
    """Return whether a module has no hooks of the user, which folding would drop."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or hasattr(module, "parametrizations")
    )


def _note_output(calls, outputs, name, module, args, output):
    calls[name] = calls.get(name, 0) + 1
    outputs[id(output)] = (
        name,
        output,
    )  # kept alive, so that no other object gets its id


def _note_input(calls, outputs, pairs, name, module, args, output):
    calls[name] = calls.get(name, 0) + 1
    if args and id(args[0]) in outputs:
        pairs[name] = outputs[id(args[0])][0]
