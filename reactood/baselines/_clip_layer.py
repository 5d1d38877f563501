"""Apply the clip after an earlier layer of the network."""

import copy
from numbers import Integral, Real

import torch
from sklearn.base import clone
from torch import nn

from reactood._networks._build import build_network
from reactood._scoring._percentile import check_percent, pooled_percentiles
from reactood._utils._estimators import checked
from reactood._utils._modules import replace_module
from reactood._utils._sklearn import Interval


class _Clip(nn.Module):
    """Clips activations at ``c``."""

    def __init__(self, c):
        super().__init__()
        self.c = c

    def forward(self, x):
        """Return ``x``, clipped."""
        return x.clamp(max=self.c)


class _Sample(nn.Module):
    """Selects some activations of each image, at the same random places in all."""

    def __init__(self, n_values):
        super().__init__()
        self.n_values = n_values

    def forward(self, x):
        """Return activations of shape (n, at most `n_values`)."""
        return _sample(x, self.n_values)


@torch.fx.wrap  # sizes are known only when images pass
def _sample(x, n_values):
    x = x.flatten(1)
    generator = torch.Generator().manual_seed(0)
    places = torch.randperm(x.shape[1], generator=generator, device="cpu")[:n_values]
    return x[:, places.to(x.device)]


class _AsRGB:
    """The transform of a model's weights, after a conversion to RGB."""

    def __init__(self, transform):
        self.transform = transform

    def __call__(self, image):
        return self.transform(image.convert("RGB"))


class _Tapped(nn.Module):
    """A layer with a second branch, whose output only the extractor uses."""

    def __init__(self, layer, branch):
        super().__init__()
        self.layer = layer
        self.branch = branch

    def forward(self, x):
        """Return what the layer returns."""
        x = self.layer(x)
        self.branch(x)
        return x


@checked(
    percentile=[Interval(Real, 0, 100, closed="right")],
    n_values=[Interval(Integral, 1, None, closed="left")],
)
def clip_layer(extractor, layer, X, *, percentile=90.0, n_values=4096):
    """Clip the activations after an earlier layer than ReAct does.

    The paper clips the pooled features, the input of the head, and compares this with
    clips after earlier layers [1]_. The activations of earlier layers are maps: each
    value is clipped, before any average over positions.

    Parameters
    ----------
    extractor : TorchFeatureExtractor
        An extractor for the model without the clip, fitted or not. It is not changed.

    layer : str
        Dotted name of a module of the model, as in `dict(model.named_modules())`,
        whose output is one tensor.

    X : images
        In-distribution images, of any kind that the extractor takes.

    percentile : float, default=90.0
        The percentile of the activations after `layer` that is the clip, in percent:
        above 1 and at most 100.

    n_values : int, default=4096
        Number of activations of each image to learn the clip from, at random places
        that are the same for all images. If the layer has fewer, all are used.

    Returns
    -------
    clipped : TorchFeatureExtractor
        An unfitted extractor whose model is a copy with the clip; score its features
        with `percentile=None`.

    Raises
    ------
    ValueError
        If there is no such layer, if a parameter is out of range, or if the clip would
        not be above 0, so that no activation would remain: the share of zeros is then
        above `percentile`.

    See Also
    --------
    reactood.ReActDetector : Clips the input of the head.

    References
    ----------
    .. [1] Y. Sun, C. Guo, Y. Li, "ReAct: Out-of-distribution Detection With Rectified
       Activations", NeurIPS 2021, :arxiv:`2111.12797`.

    Examples
    --------
    >>> from reactood import TorchFeatureExtractor
    >>> from reactood.baselines import clip_layer
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> digits = load_digits_ood()
    >>> extractor = TorchFeatureExtractor(digits_classifier)
    >>> clipped = clip_layer(extractor, "features.2", digits.X_train[:50])
    >>> clipped.fit_transform(digits.X_test[:10]).shape
    (10, 96)
    """
    check_percent("percentile", percentile)
    network, transform = build_network(extractor.model, extractor.weights)

    def changed(join, module, **changes):
        model = _replaced(copy.deepcopy(network), layer, join, module)
        return with_model(extractor, model, transform).set_params(**changes)

    branch = {"layer": f"{layer}.branch", "cache": None}
    values = changed(_Tapped, _Sample(n_values), **branch).fit_transform(X)
    (c,) = pooled_percentiles(values, [percentile]).percentiles
    if c <= 0:
        raise ValueError(
            f"percentile={percentile} of the activations after {layer!r} is {c:.3g}; "
            "expected a clip above 0. Choose a higher percentile."
        )
    return changed(nn.Sequential, _Clip(float(c)), layer=None)


def with_model(extractor, model, transform):
    """Return an unfitted extractor for another model with the same preprocessing."""
    changed = clone(extractor).set_params(model=model)
    if extractor.preprocess == "auto" and transform is not None:
        changed.set_params(preprocess=_AsRGB(transform))
    return changed


def _replaced(network, layer, join, module):
    """Replace a layer of ``network``, in place, by ``join(layer, module)``."""
    try:
        before = network.get_submodule(layer)
    except AttributeError:
        names = [name for name, _ in network.named_modules() if name]
        raise ValueError(
            f"layer={layer!r} is not in {type(network).__name__}; expected one of its "
            f"layers, such as {', '.join(names[:8])}."
        ) from None
    replace_module(network, layer, join(before, module))
    return network
