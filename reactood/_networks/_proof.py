"""Prove on a few images that the head gives the logits, and so where to stop."""

import functools
import itertools

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from reactood._networks._backbone import Backbone, Plan, Stop, freeze
from reactood._networks._build import seeded
from reactood._networks._forward import check_rows, first_pass
from reactood._networks._head import find_head, linears
from reactood._networks._layer import attach_layer
from reactood._utils._ambient import no_gradients
from reactood._utils._messages import kind_of, listed
from reactood._utils._warnings import warn

PROOF_TOLERANCE = 1e-4
PROOF_IMAGES = 4


def attach(network, batch, layer=None, *, folding=True, fields=None):
    """Find where to stop in ``network``, and prove it on a few preprocessed images.

    ``fields`` says what a batch of integers holds. With ``folding``, convolutions do
    the normalisation after them where they can.
    Returns the backbone, its plan, and whether the plan holds for other images too: not
    of a model that says something else each time.
    """
    # Lazy layers get their weights in the first pass, hence the seed. Each pass gets
    # a copy of the images, as models may change their input.
    with seeded(), no_gradients():
        n_images = len(batch)
        if fields is not None:
            fields.attach(network)
        if layer is not None:
            backbone, batch = attach_layer(network, batch, layer)
            features = backbone(batch.clone())
            _check_finite(features, network, batch)
        else:
            name = find_head(network)
            logits, batch = _prove_head(network, name, batch)
            backbone = Backbone(network, Stop(name, at_input=True))
            features = backbone(batch.clone())
            if not _agree(_apply(network.get_submodule(name), features), logits):
                raise ValueError(
                    f"The linear layer {name!r} takes part more than once in a forward "
                    "pass, so its input is not one feature vector per image. Name the "
                    "layer whose output is the feature, layer='...'."
                )
        consistent = _check_rows(backbone, batch, features) and len(batch) == n_images
        backbone.optimize(batch, features, folding=folding)
    plan = Plan(backbone.stop, backbone.arrangement, features.shape[1], fields)
    return freeze(backbone), plan, consistent


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


def _check_rows(backbone, batch, features):
    """Return whether each image has features of its own; raise or warn if not."""
    check_rows(features, batch)
    alone = backbone(batch[:1].clone())
    varies = bool((alone - features[:1]).abs().max() > 1e-2 * features.abs().max())
    if varies:
        warn(
            "The features of an image change with the images beside it, or from call "
            "to call: does the model use batch statistics or random numbers in eval "
            "mode? Scores will depend on how images are batched.",
        )
    return not varies


def _prove_head(network, name, batch):
    """Return logits, which the linear layer must have made, and their images."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    handles = [
        module.register_forward_hook(
            functools.partial(_record, seen, key), with_kwargs=True
        )
        for key, module in linears(network).items()
    ]
    try:
        output, batch = first_pass(network, batch)
    finally:
        for handle in handles:
            handle.remove()
    logits = _logits(output, len(batch))
    _check_finite(logits, network, batch)
    features = seen[name][0] if name in seen else None
    if features is not None and features.ndim == 2:
        if _agree(_apply(network.get_submodule(name), features), logits):
            return logits, batch
    _check_no_softmax(network, name, logits)
    proven = [key for key, (_, output) in seen.items() if _agree(output, logits)]
    hint = f" ({proven[-1]!r} does, but is not the last)" if proven else ""
    candidates = ", ".join(
        f"{key or '(the model itself)'}: {module.in_features} -> {module.out_features}"
        for key, module in linears(network).items()
    )
    raise ValueError(
        f"The last nn.Linear of {type(network).__name__}, {name!r}, does not produce "
        f"the model's output{hint}, so its input is not the penultimate feature. "
        f"Linear layers: {candidates}. Name the layer whose output is the feature, "
        "layer='...', and give the detector its head by hand, or pass a model that "
        "ends in its linear head."
    )


def _check_no_softmax(network, name, output):
    """Raise ValueError where a model returns probabilities, or their logarithms."""
    if output.shape[1] == 1:
        return
    for step, shares in ("softmax", output), ("log_softmax", output.exp()):
        sums = shares.sum(1)
        if (shares >= 0).all() and torch.allclose(sums, sums.new_ones(()), atol=1e-3):
            raise ValueError(
                f"{type(network).__name__} returns probabilities, or their "
                f"logarithms: it ends in a {step}; expected the logits, which "
                f"{name!r}, its last nn.Linear, seems to return. Remove the "
                f"{step}: it changes no decision of the classifier."
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
    got = kind_of(logits)
    raise ValueError(
        f"The model returns {got} for {n_rows} inputs, expected a tensor of logits of "
        "shape (n_samples, n_classes), or an object that has it as .logits, as the "
        "classes for classification of Hugging Face do. Name the layer whose output is "
        "the feature, layer='...', or wrap the model so that it returns logits."
    )
