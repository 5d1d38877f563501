"""A name, a factory or a module becomes a frozen backbone with a proven head.

What comes in is never touched: all work happens on a private copy.
"""

import difflib
import functools
import sys
import warnings
import zlib

import torch
import torchvision
from torch import nn

from reactood._modules import linear_arrays, private_copy

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
    """

    def __init__(self, network, name, *, at_input):
        super().__init__()
        self.network = network
        self.name = name
        self.at_input = at_input
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
        return features if self.at_input else average_positions(features)

    def head(self):
        """Return weight and bias of the linear layer that takes the features."""
        return linear_arrays(self.network.get_submodule(self.name))


class _Stop(Exception):
    def __init__(self, value):
        super().__init__()
        self.value = value


def _stop_at_input(module, args, kwargs):
    raise _Stop(args[0] if args else next(iter(kwargs.values())))


def _stop_at_output(module, args, output):
    raise _Stop(output)


def average_positions(features):
    """Average a feature map over its positions: (n, m) from (n, m, ...) or (n, ..., m).

    Maps are (n, channels, height, width), or channels-last where only the two middle
    sizes agree; sequences are (n, tokens, channels).
    """
    if not isinstance(features, torch.Tensor) or features.ndim < 2:
        got = _what(features)
        raise ValueError(
            f"The layer returns {got}, wanted one tensor of shape (n, features), "
            "(n, tokens, channels) or (n, channels, height, width); choose another "
            "layer."
        )
    shape = features.shape
    if features.ndim == 3 or (features.ndim == 4 and shape[1] == shape[2] != shape[3]):
        return features.flatten(1, -2).mean(dim=1)
    return features.flatten(2).mean(dim=2) if features.ndim > 2 else features


def build_network(model, weights):
    """Return a private network in eval mode, and the transform that it wants or None.

    Random numbers are seeded, so that the same parameters give the same weights, and
    the caller's generator is left as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if isinstance(model, str):
            network, transform = _from_name(model, weights)
        elif isinstance(model, nn.Module):
            network, transform = private_copy(model, "model"), None
        else:
            network, transform = _from_factory(model), None
    network = network.eval()
    return network, transform or _timm_transform(network)


def attach(network, batch, layer=None):
    """Return the backbone of ``network`` that ends in the penultimate features.

    ``batch`` holds a few preprocessed images, on which the head is proved.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)  # lazy layers get their weights in the first pass
        if layer is not None:
            return _attach_layer(network, batch, layer)
        name = find_head(network)
        _prove_head(network, name, batch)
        return Backbone(network, name, at_input=True)


def find_head(network):
    """Return the dotted name of the classifier's final linear layer."""
    linear = _linears(network)
    if not linear:
        raise ValueError(
            f"{type(network).__name__} has no linear head (no nn.Linear): name the "
            "layer whose output is wanted, layer='...'; its feature maps are averaged "
            f"over positions. Layers: {_listed(dict(network.named_modules()))}."
        )
    classifier = getattr(network, "get_classifier", lambda: None)()  # timm knows
    return next((k for k, v in linear.items() if v is classifier), list(linear)[-1])


def classifier_head(model, weights="DEFAULT"):
    """Build a model for its head alone: the recipe that pipelines store."""
    if isinstance(model, str):
        return _named_head(model, weights)
    return _head_arrays(build_network(model, weights)[0])


@functools.lru_cache(maxsize=4)
def _named_head(model, weights):
    return _head_arrays(build_network(model, weights)[0])


def _head_arrays(network):
    linear = network.get_submodule(find_head(network))
    if isinstance(linear, nn.modules.lazy.LazyModuleMixin):
        raise ValueError(
            "The final linear layer is lazy, so its weights are not known before "
            "images pass; pass head=(weight, bias), or materialise the model first."
        )
    return linear_arrays(linear)


def fingerprint(network):
    """Return a checksum of all weights."""
    checksum = 0
    for name, tensor in network.state_dict().items():
        checksum = zlib.crc32(name.encode(), checksum)
        array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(array.numpy().data, checksum)
    return checksum


def _from_name(name, weights):
    if name.startswith("timm/"):
        return _from_timm(name.removeprefix("timm/"), weights), None
    known = torchvision.models.list_models(module=torchvision.models)
    if name.lower() not in known:
        raise ValueError(
            f"model={name!r} is no torchvision classifier"
            f"{_did_you_mean(name, known)}; timm's are 'timm/NAME', and your "
            "own model is passed as a module or as a function that builds it."
        )
    available = torchvision.models.get_model_weights(name)
    if isinstance(weights, str) and weights not in available.__members__:
        names = list(available.__members__)
        raise ValueError(
            f"weights={weights!r} are not known for {name}"
            f"{_did_you_mean(weights, names)}; known are {', '.join(names)}, and None "
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
            f"{_did_you_mean(name.split('.')[0], timm.list_models())}."
        )
    return timm.create_model(name, pretrained=weights is not None)


def _from_factory(factory):
    network = factory()
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"model={factory!r} returned {type(network).__name__}, wanted a "
            "torch.nn.Module."
        )
    try:
        return private_copy(network, "model")  # the factory may keep what it returns
    except ValueError:
        return network


def _timm_transform(network):
    """Return the transform that a timm model's weights were trained with."""
    if "timm" not in sys.modules or not getattr(network, "pretrained_cfg", None):
        return None
    from timm.data import create_transform, resolve_model_data_config

    return create_transform(**resolve_model_data_config(network), is_training=False)


def _prove_head(network, name, batch):
    """Raise unless the linear layer's output is the model's output on ``batch``."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    handles = [
        module.register_forward_hook(functools.partial(_record, seen, key))
        for key, module in _linears(network).items()
    ]
    try:
        logits = _logits(network(batch))
    finally:
        for handle in handles:
            handle.remove()
    features = seen[name][0] if name in seen else None
    if features is not None and features.ndim == 2:
        head = network.get_submodule(name)
        if _agree(nn.functional.linear(features, head.weight, head.bias), logits):
            return
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


def _record(seen, key, module, args, output):
    if args:
        seen[key] = args[0], output


def _agree(ours, logits):
    if not isinstance(ours, torch.Tensor) or ours.shape != logits.shape:
        return False
    return bool((ours - logits).abs().max() <= PROOF_TOLERANCE * logits.abs().max())


def _logits(output):
    """Return the logits in what a model returned; some wrap them in an object."""
    logits = getattr(output, "logits", output)
    if isinstance(logits, torch.Tensor) and logits.ndim == 2:
        return logits
    got = _what(logits)
    raise ValueError(
        f"The model returns {got}, wanted a tensor of logits of shape (n_samples, "
        "n_classes). Name the layer whose output is the feature, layer='...', or wrap "
        "the model so that it returns logits."
    )


def _attach_layer(network, batch, layer):
    names = dict(network.named_modules())
    if layer not in names or not layer:
        raise ValueError(
            f"layer={layer!r} does not exist in {type(network).__name__}"
            f"{_did_you_mean(layer, names)}. List the names with "
            f"dict(model.named_modules()): {_listed(names)}."
        )
    backbone = Backbone(network, layer, at_input=False)
    backbone(batch)
    return backbone


def _linears(network):
    return {k: m for k, m in network.named_modules() if isinstance(m, nn.Linear)}


def _did_you_mean(name, known):
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _listed(names, most=12):
    names = [name for name in names if name]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _what(value):
    """Say what a module returned."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
