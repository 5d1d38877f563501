"""A network that does not change, and the plan by which features are taken from it."""

import contextlib
import zlib
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from reactood._networks._build import build_network
from reactood._utils._fingerprint._walk import identity
from reactood._utils._recent import Recent

_PLANS = Recent(64)
recall_plan = _PLANS.get  # what was proved in this process, or None
remember_plan = _PLANS.put


class Network:
    """What a model parameter means: its identity, its transform, its module.

    The module is built at once, except for a name that was built in this process
    before: then its identity is known, and perhaps nobody asks for the module.
    """

    def __init__(self, model, weights):
        self.named = isinstance(model, str)
        self.recipe: Any = (model, weights) if self.named else None
        self.problem = None
        self._module: Any = None
        known = _known(self.recipe) if self.named else None
        if known is not None:
            self.title, self.identity, self.checksum, self.transform = known
            return
        self._module, self.transform = build_network(model, weights)
        self.title = model if self.named else type(self._module).__name__
        self.identity = self._identify()
        self.checksum = checksum_weights(self._module) if self.named else None
        with contextlib.suppress(TypeError):  # weights that cannot be a key
            if self.named:
                known = self.title, self.identity, self.checksum, self.transform
                _KNOWN.put(self.recipe, known)

    def peek(self):
        """Return the module that `build` will hand out, if it is there already."""
        return self._module

    def build(self):
        """Return a module that nobody else has."""
        if self._module is not None:
            module, self._module = self._module, None
            return module
        module, _ = build_network(*self.recipe)
        if checksum_weights(module) != self.checksum:
            raise ValueError(
                f"The model built of {self.recipe} has other weights here than where "
                "this extractor was fitted: another version of torchvision, perhaps. "
                "Fit it again."
            )
        return module

    def released(self):
        """Return itself, without a module that nobody asked for."""
        self._module = None
        return self

    def _identify(self):
        if any(map(is_lazy, self._module.parameters())):
            self.problem = "its lazy layers have no weights yet"
            return None
        try:
            return identity(self._module)
        except (TypeError, RuntimeError, NotImplementedError) as error:
            self.problem = str(error)
            return None


_KNOWN = Recent(64)  # what was found out of models given by name


def _known(recipe):
    try:
        return _KNOWN.get(recipe)
    except TypeError:  # weights that cannot be a key
        return None


def checksum_weights(network):
    """Return a checksum of all weights."""
    checksum = 0
    for name, tensor in network.state_dict().items():
        checksum = zlib.crc32(name.encode(), checksum)
        array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(array.numpy().data, checksum)
    return checksum
