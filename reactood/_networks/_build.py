"""Build a network from a name, a factory or a module."""

import contextlib
import os
import random
import sys
import threading
import warnings
from urllib.error import URLError

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum

from reactood._networks._hugging_face import PREFIX, from_hugging_face
from reactood._utils._ambient import default_device, float32_by_default
from reactood._utils._messages import did_you_mean
from reactood._utils._modules import check_values, private_build, private_copy


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
        network = network.module  # only one device is used
    check_values(network, "model")
    # Batches are float32; autocast takes care of lower precision.
    network = network.float().eval()
    return network, transform or _timm_transform(network)


_SEEDING = threading.RLock()  # all threads share the generators that are seeded


@contextlib.contextmanager
def seeded():
    """Seed the generators of torch, numpy and Python; put them back afterwards.

    A model draws from the generators of the process, as it cannot be told to use
    another. A thread that draws from them at the same time gets seeded numbers too.
    """
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with _SEEDING, torch.random.fork_rng(cuda):
        of_numpy, of_python = np.random.get_state(legacy=False), random.getstate()
        torch.random.default_generator.manual_seed(0)  # does not seed other devices
        if cuda:
            torch.cuda.manual_seed_all(0)
        with contextlib.suppress(TypeError):  # numpy raises it after set_bit_generator
            np.random.seed(0)
        random.seed(0)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


@float32_by_default()  # otherwise random weights would differ
def _from_name(name, weights):
    if name.startswith("timm/"):
        return _from_timm(name.removeprefix("timm/"), weights), None
    if name.startswith(PREFIX):
        return from_hugging_face(name.removeprefix(PREFIX), weights)
    known = torchvision.models.list_models(module=torchvision.models)
    if name.lower() not in known:
        raise ValueError(
            f"model={name!r} is no torchvision classifier"
            f"{did_you_mean(name, known)}; timm's are 'timm/NAME', "
            "Hugging Face's 'hf/OWNER/NAME', and your own model is passed as a module "
            "or as a function that builds it."
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
        # Two old models warn that their random weights will change.
        warnings.filterwarnings("ignore", message="The default weight initialization")
        try:
            network = torchvision.models.get_model(name, weights=weights)
        except URLError as error:
            url = available[getattr(weights, "name", weights)].url
            raise OSError(
                f"The weights of {name!r} could not be downloaded ({error.reason}). "
                f"Put the file of {url} into "
                f"{os.path.join(torch.hub.get_dir(), 'checkpoints')}, or pass "
                "weights=None for random ones."
            ) from error
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
            f"weights={weights!r} for a timm model; expected 'DEFAULT' or None, and "
            "other weights as part of the name: 'timm/NAME.TAG'."
        )
    return timm.create_model(name, pretrained=weights is not None)


def _timm_transform(network):
    """Return the transform that a timm model's weights were trained with."""
    if "timm" not in sys.modules or not getattr(network, "pretrained_cfg", None):
        return None
    from timm.data import create_transform, resolve_model_data_config

    return create_transform(**resolve_model_data_config(network), is_training=False)
