"""A network that stops at a layer and returns its values as features."""

import contextlib
import copy
import functools
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torchvision.models.feature_extraction import create_feature_extractor

from reactood._networks._folding import (
    find_folds,
    fold,
    is_convolutional,
    same_features,
)
from reactood._utils._fields import Fields
from reactood._utils._messages import kind_of
from reactood._utils._modules import (
    linear_arrays,
    replace_module,
)


@dataclass(frozen=True)
class Stop:
    """Where a network stops.

    Attributes
    ----------
    name : str
        Dotted name of the submodule.
    at_input : bool
        Whether the features are the submodule's input (the final linear layer), or
        its output, averaged over positions.
    channels_last : bool or None
        Whether the output has its channels in the last axis. None stands for the
        second, or for an output of two axes.
    """

    name: str
    at_input: bool
    channels_last: bool | None = None


@dataclass(frozen=True)
class Arrangement:
    """How a network is rearranged to run faster, without other results.

    A memory format goes by its name, as it will be pickled: pickle looks through all
    imported modules for torch's own object, and may find it in any of them.
    """

    folds: tuple[tuple[str, str], ...] = ()  # convolutions and their normalisations
    memory_format: str = "contiguous_format"


class Backbone(nn.Module):
    """Runs a classifier up to the features, and no further.

    Parameters
    ----------
    network : nn.Module
        The whole classifier, private to this object.
    stop : Stop
        Where its forward pass ends.
    """

    def __init__(self, network, stop):
        super().__init__()
        self.network = network
        self.stop = stop
        self.arrangement = Arrangement()
        self.eval()
        module = network.get_submodule(stop.name)
        # Stopping by an exception needs no change in the user's code.
        if stop.at_input:
            module.register_forward_pre_hook(_stop_at_input, with_kwargs=True)
        else:
            module.register_forward_hook(_stop_at_output)

    def forward(self, batch):
        """Return features of shape (n_samples, n_features)."""
        try:
            self.network(batch)
        except _Reached as reached:
            features = reached.value
        else:
            raise ValueError(f"{self.stop.name!r} takes no part in the forward pass.")
        if self.stop.at_input:
            return features
        return average_positions(features, self.stop.channels_last)

    @property
    def is_convolutional(self):
        """Whether 2-D convolutions are most of what there is to compute."""
        return is_convolutional(self.network)

    def arrange(self, arrangement):
        """Rearrange the network to run faster; return a function that undoes it."""
        before = self.arrangement
        unfold = fold(self.network, arrangement.folds)
        self.network.to(memory_format=getattr(torch, arrangement.memory_format))
        self.arrangement = arrangement

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
            with contextlib.suppress(
                Exception
            ):  # the model may need the layers that were removed
                undo = self.arrange(Arrangement(tuple(attempt), memory_format))
                if same_features(self(batch.clone()), features):
                    return
            if undo is not None:
                undo()

    def without_hooks(self):
        """Return a copy of the network and what makes features of its output.

        Compilers cannot follow the exception that stops this one.
        """
        network = copy.deepcopy(self.network)
        stop = network.get_submodule(self.stop.name)
        for hooks in stop._forward_pre_hooks, stop._forward_hooks:
            ours = {
                k for k, v in hooks.items() if v in (_stop_at_input, _stop_at_output)
            }
            for key in ours:
                del hooks[key]
        if not self.stop.at_input:
            cut = create_feature_extractor(network, {self.stop.name: "features"})
            axis = self.stop.channels_last
            return cut, functools.partial(_average_of_cut, channels_last=axis)
        if self.stop.name:
            replace_module(network, self.stop.name, nn.Identity())
        else:
            network = nn.Identity()
        return network.eval(), _as_tensor_alone

    def head(self):
        """Return weight and bias of the linear layer that takes the features."""
        return linear_arrays(self.network.get_submodule(self.stop.name))


@dataclass(frozen=True)
class Plan:
    """What makes a proven backbone of the same network without another proof."""

    stop: Stop
    arrangement: Arrangement
    n_features: int
    fields: Fields | None = None  # what a batch of integers holds

    def apply(self, network):
        """Return the backbone of ``network``, private to it."""
        if self.fields is not None:
            self.fields.attach(network)
        backbone = Backbone(network, self.stop)
        backbone.arrange(self.arrangement)
        return freeze(backbone)


class _Reached(BaseException):  # not caught by a model's own "except Exception"
    def __init__(self, value):
        super().__init__()
        self.value = value


def _stop_at_input(module, args, kwargs):
    raise _Reached(args[0] if args else next(iter(kwargs.values())))


def _stop_at_output(module, args, output):
    raise _Reached(output)


def _average_of_cut(output, channels_last):
    return average_positions(output["features"], channels_last)


def _as_tensor_alone(output):
    return getattr(output, "logits", output)


def average_positions(features, channels_last=None):
    """Average a feature map or a sequence over its positions: (n, channels)."""
    if not isinstance(features, torch.Tensor) or features.ndim < 2:
        raise ValueError(
            f"The layer returns {kind_of(features)}, expected one tensor of shape (n, "
            "features), with axes of positions beside the features or without; choose "
            "another layer."
        )
    if features.ndim == 2:
        return features
    if channels_last:
        return features.flatten(1, -2).mean(dim=1)
    return features.flatten(2).mean(dim=2)


def freeze(backbone):
    for parameter in backbone.parameters():
        if not is_lazy(parameter):  # a layer after the stop, which never runs
            parameter.requires_grad_(False)
    return backbone
