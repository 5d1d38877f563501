"""A name, a factory or a module becomes a private network in eval mode."""

import contextlib
import difflib
import random
import sys
import threading
import warnings
import zlib
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn.parameter import is_lazy
from torchvision.models import WeightsEnum

from reactood._ambient import default_device, float32_by_default
from reactood._identity import identity
from reactood._modules import check_values, private_build, private_copy
from reactood._recent import Recent


def build_network(model, weights):
    """Return a private network in eval mode, and the transform that it wants or None.

    Random numbers are seeded, so that the same parameters give the same weights, and
    the caller's generators are left as they are.
    """
    transform = None
    with torch.inference_mode(False), torch.enable_grad(), default_device():
        if isinstance(model, nn.Module):
            network = private_copy(model, "model")
        else:
            with seeded():
                if isinstance(model, str):
                    network, transform = _from_name(model, weights)
                else:
                    network = private_build(model, "model")
    if isinstance(network, nn.DataParallel):
        network = network.module  # one device at a time here
    check_values(network, "model")
    # Batches are float32; lower precision is autocast's business.
    network = network.float().eval()
    return network, transform or _timm_transform(network)


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


_SEEDING = threading.RLock()  # the generators that are seeded belong to all threads


@contextlib.contextmanager
def seeded():
    """Seed the generators of torch, numpy and Python; put them back afterwards.

    A model draws from the generators of the process, as it cannot be told to use
    another. A thread that draws from them at the same time gets seeded numbers too.
    """
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with _SEEDING, torch.random.fork_rng(cuda):
        of_numpy, of_python = np.random.get_state(legacy=False), random.getstate()
        torch.random.default_generator.manual_seed(0)  # leaves other devices alone
        if cuda:
            torch.cuda.manual_seed_all(0)
        with contextlib.suppress(TypeError):  # numpy's after set_bit_generator
            np.random.seed(0)
        random.seed(0)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


def checksum_weights(network):
    """Return a checksum of all weights."""
    checksum = 0
    for name, tensor in network.state_dict().items():
        checksum = zlib.crc32(name.encode(), checksum)
        array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(array.numpy().data, checksum)
    return checksum


@float32_by_default()  # else random weights would be others
def _from_name(name, weights):
    if name.startswith("timm/"):
        return _from_timm(name.removeprefix("timm/"), weights), None
    known = torchvision.models.list_models(module=torchvision.models)
    if name.lower() not in known:
        raise ValueError(
            f"model={name!r} is no torchvision classifier"
            f"{did_you_mean(name, known)}; timm's are 'timm/NAME', and your "
            "own model is passed as a module or as a function that builds it."
        )
    available = torchvision.models.get_model_weights(name)
    if weights is not None and not isinstance(weights, str | WeightsEnum):
        raise TypeError(
            f"weights={weights!r}, expected the name of weights, such as 'DEFAULT', a "
            "member of torchvision's WeightsEnum, or None for random weights."
        )
    if isinstance(weights, str) and weights not in available.__members__:
        names = list(available.__members__)
        raise ValueError(
            f"weights={weights!r} are not known for {name}"
            f"{did_you_mean(weights, names)}; known are {', '.join(names)}, and None "
            "for random weights."
        )
    with warnings.catch_warnings():
        # Two old models announce other random weights for a later release.
        warnings.filterwarnings("ignore", message="The default weight initialization")
        network = torchvision.models.get_model(name, weights=weights)
    if weights is None or isinstance(weights, str):
        weights = available[weights or "DEFAULT"]
    return network, weights.transforms()


def _from_timm(name, weights):
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"model='timm/{name}' needs timm: pip install 'reactood[timm]'."
        ) from error
    if not timm.is_model(name):
        raise ValueError(
            f"model='timm/{name}' is not known to timm"
            f"{did_you_mean(name.split('.')[0], timm.list_models())}."
        )
    if weights not in (None, "DEFAULT"):
        raise ValueError(
            f"weights={weights!r} for a timm model; wanted 'DEFAULT' or None, and "
            "other weights as part of the name: 'timm/NAME.TAG'."
        )
    return timm.create_model(name, pretrained=weights is not None)


def _timm_transform(network):
    """Return the transform that a timm model's weights were trained with."""
    if "timm" not in sys.modules or not getattr(network, "pretrained_cfg", None):
        return None
    from timm.data import create_transform, resolve_model_data_config

    return create_transform(**resolve_model_data_config(network), is_training=False)


def did_you_mean(name, known):
    folded = {k.lower(): k for k in known}
    matches = difflib.get_close_matches(name.lower(), list(folded), n=3)
    close = [folded[match] for match in matches]
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def listed(names, most=12):
    names = [name for name in names if name]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
