"""One torch module from images, or features, to logits, score, decision and p-value."""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from reactood._networks._engines import Headless
from reactood._networks._folding import same_features
from reactood._scoring._heads import LinearHead, ModuleHead, of_both_classes
from reactood._scoring._scores import check_result
from reactood._utils._ambient import default_device, no_gradients
from reactood._utils._fields import described
from reactood.export._parts import round_up
from reactood.export._pixels import Pixels
from reactood.export._rules import Rules
from reactood.export._scores import score_in_graph

EXAMPLE_ROWS = 2  # with one row, torch.export would take the number for a constant


class RectifiedClassifier(nn.Module):
    """The module that ``to_torch`` returns: a private copy of all parts.

    Parameters
    ----------
    parts : Parts
        Of a fitted estimator.
    recipe : Recipe or None
        How pixels are prepared; None takes images that are.
    """

    threshold: torch.Tensor
    calibration: torch.Tensor | None

    def __init__(self, parts, recipe=None):
        super().__init__()
        self.pixels = None if recipe is None else Pixels(recipe)
        self.backbone = _backbone_of(parts.extractor)
        self.example_shape = _shape_of(parts, recipe)
        self.rules = Rules(parts.rules)
        self.rectified_head = _RectifiedHead(parts.detector)
        self.score = score_in_graph(
            parts.detector._scorer(None).score_function, parts.detector.temperature
        )
        self.eval().requires_grad_(False)
        dtype = self._dtype_of_scores()
        self.register_buffer("threshold", _as_buffer(parts.offset, dtype))
        calibration = parts.calibration
        self.register_buffer(
            "calibration",
            None if calibration is None else _as_buffer(calibration, dtype),
        )

    def forward(self, inputs, threshold=None):
        """Return a dict of ``logits``, ``score``, ``is_id`` and perhaps ``p_value``."""
        if self.pixels is None:
            features = inputs.float()
        else:
            features = self.pixels(inputs)
        if self.backbone is not None:
            features = self.backbone(features).float()
        valid = features.isfinite().all(dim=1)
        features, valid = self.rules(features, valid)
        logits, clipped = self.rectified_head(features)
        # A copy, as a user's function may change its input.
        score = self.score(clipped.clone() if clipped is logits else clipped)
        score = torch.where(valid, score, torch.nan)
        is_id = score >= (self.threshold if threshold is None else threshold)
        outputs = {"logits": logits, "score": score, "is_id": is_id}
        if self.calibration is not None:
            # Not searchsorted, which ONNX has no conversion of.
            below = torch.bucketize(score, self.calibration, right=True)
            below = torch.where(valid, below, 0)
            outputs["p_value"] = (1 + below).double() / (1 + len(self.calibration))
        return outputs

    def example(self):
        """Return inputs of zeros, in memory of their own: files keep all of it."""
        dtype = torch.float32 if self.pixels is None else torch.uint8
        shape = EXAMPLE_ROWS, *self.example_shape
        return torch.zeros(shape, dtype=dtype, device="cpu")

    def _dtype_of_scores(self):
        """Return the dtype of the scores; raise if they are not one per row."""
        n_features = self.rectified_head.n_features
        with no_gradients(), default_device():
            features = torch.zeros(EXAMPLE_ROWS, n_features, dtype=torch.float32)
            scores = self.score(self.rectified_head(features)[1].clone())
        check_result(scores, EXAMPLE_ROWS)
        if not (isinstance(scores, torch.Tensor) and scores.is_floating_point()):
            got = getattr(scores, "dtype", type(scores).__name__)
            raise TypeError(
                f"score_function returned {got}, expected a tensor of floats: a graph "
                "holds functions of torch alone."
            )
        return scores.dtype


class _RectifiedHead(nn.Module):
    """Logits of features, and of the clipped features."""

    def __init__(self, detector):
        super().__init__()
        self.n_features = detector.n_features_in_
        self.clip = _Clip(detector._learned_clip())
        self.head = _head_of(detector._fitted_head())

    def forward(self, features):
        if not self.clip.clips:
            logits = self.head(features)
            return logits, logits
        clipped = self.clip(features)
        if not isinstance(self.head, _LinearHead):
            return self.head(features), self.head(clipped)
        # One product of both reads the weights once. Of two axes: onnxruntime fused one
        # of three axes with the number of rows of the example.
        both = self.head(torch.cat([features, clipped]))
        n_rows = features.shape[0]
        return both[:n_rows], both[n_rows:]


class _Clip(nn.Module):
    """``Clip.apply`` with the bounds as numbers or buffers, in float32."""

    lower: torch.Tensor | None
    upper: torch.Tensor | None

    def __init__(self, clip):
        super().__init__()
        largest = torch.finfo(torch.float32).max
        self.bounds: list[float | None] = [None, None]
        for place, name in enumerate(("lower", "upper")):
            end, buffer = getattr(clip, name), None
            if np.ndim(end):
                if np.abs(end).min() <= largest:  # not all are infinite
                    buffer = torch.from_numpy(np.array(end, np.float32))
            elif abs(end) <= largest:
                self.bounds[place] = float(end)
            self.register_buffer(name, buffer)
        buffers = self.lower is not None or self.upper is not None
        self.clips = buffers or self.bounds != [None, None]

    def forward(self, features):
        if self.bounds != [None, None]:
            features = features.clamp(*self.bounds)
        if self.upper is not None:
            features = features.minimum(self.upper)
        if self.lower is not None:
            features = features.maximum(self.lower)
        return features


class _LinearHead(nn.Module):
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, head):
        super().__init__()
        for name in "weight", "bias":
            array = np.array(getattr(head, name), np.float32)
            self.register_buffer(name, torch.from_numpy(array))

    def forward(self, features):
        return functional.linear(features, self.weight, self.bias)


class _OwnHead(nn.Module):
    """Any module of the user, in its own dtype."""

    def __init__(self, head):
        super().__init__()
        self.module, self.dtype = copy.deepcopy(head.module), head._dtype()
        self.one_logit = head.one_logit

    def forward(self, features):
        logits = self.module(features.to(self.dtype, copy=True)).to(features.dtype)
        return of_both_classes(logits) if self.one_logit else logits


class _NoHead(nn.Module):
    """Features that already are logits."""

    def __init__(self, head):
        super().__init__()
        self.one_logit = head.one_logit

    def forward(self, features):
        return of_both_classes(features) if self.one_logit else features


def _head_of(head):
    kinds = {LinearHead: _LinearHead, ModuleHead: _OwnHead}
    return kinds.get(type(head), _NoHead)(head)


def _backbone_of(extractor):
    """Return a copy of the network that ends in its features; None without one."""
    if extractor is None:
        return None
    frozen = extractor._frozen
    if frozen.plan.fields is not None:
        raise ValueError(
            f"{frozen.title} takes {described(frozen.plan.fields)}, and only networks "
            "of float arrays or images can be exported. Export the detector alone, "
            "the last step of the pipeline, and run the network beside it."
        )
    try:
        with no_gradients(), default_device():
            module = Headless(*frozen.backbone.without_hooks()).cpu()
            module = module.to(memory_format=torch.contiguous_format).eval()
            # Random, so that a part that is missing shows.
            shape = EXAMPLE_ROWS, *extractor._frozen.input_shape
            random = torch.Generator("cpu").manual_seed(0)
            example = torch.rand(shape, generator=random, device="cpu")
            device = next(frozen.backbone.parameters(), example).device
            expected = frozen.backbone(example.to(device)).cpu()
            if not same_features(module(example), expected):
                raise ValueError("the model without its head gives other features")
    except Exception as error:  # a shortened model may fail in any way
        raise ValueError(
            f"{frozen.title} cannot be exported, as it cannot be cut at its features "
            f"({type(error).__name__}: {error}). Name an earlier layer by layer=, or "
            "pass a model that ends in its linear head."
        ) from error
    return module


def _shape_of(parts, recipe):
    """Return the shape of one input, without the axis of rows."""
    if parts.extractor is None:
        return (parts.n_features,)
    if recipe is None:
        return parts.extractor._frozen.input_shape
    return recipe.example_shape(parts.extractor._frozen.input_shape)


def _as_buffer(values, dtype):
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "float64"):
        name = "float32"  # it holds all numbers of half precision
    return torch.from_numpy(np.array(round_up(values, name)))
