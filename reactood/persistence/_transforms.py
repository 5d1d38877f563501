"""Describe torchvision's transforms by JSON, and make them again."""

from typing import Any

import torch
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms._presets import ImageClassification

from reactood._utils._fingerprint._walk import identity
from reactood.persistence._checks import Unfit

# The parameters of each transform, which are also its attributes.
RESIZE = "size", "interpolation", "max_size", "antialias"
KNOWN: dict[type, tuple[str, ...]] = {
    transforms.Resize: RESIZE,
    transforms.CenterCrop: ("size",),
    transforms.ToTensor: (),
    transforms.PILToTensor: (),
    transforms.Grayscale: ("num_output_channels",),
    transforms.ConvertImageDtype: ("dtype",),
    transforms.Normalize: ("mean", "std", "inplace"),
    v2.Resize: RESIZE,
    v2.CenterCrop: ("size",),
    v2.PILToTensor: (),
    v2.ToImage: (),
    v2.RGB: (),
    v2.Grayscale: ("num_output_channels",),
    v2.ToDtype: ("dtype", "scale"),
    v2.Normalize: ("mean", "std", "inplace"),
}
PRESET = "crop_size", "resize_size", "mean", "std", "interpolation", "antialias"
LISTS = {transforms.Compose: "Compose", v2.Compose: "v2.Compose"}
NAMES = {
    cls: ("v2." if cls.__module__.startswith("torchvision.transforms.v2") else "")
    + cls.__name__
    for cls in KNOWN
}
BY_NAME: dict[str, Any] = {NAMES[cls]: (cls, KNOWN[cls]) for cls in KNOWN}
BY_NAME["ImageClassification"] = ImageClassification, PRESET
MODES = {mode.value: mode for mode in InterpolationMode}
DTYPES = {"float32": torch.float32, "uint8": torch.uint8}


def describe_transform(preprocess):
    """Return JSON for the parameter ``preprocess``.

    A transform that cannot be described exactly has to be given again: then its
    fingerprint is kept, if it has one.
    """
    if preprocess is None or isinstance(preprocess, str):
        return preprocess
    try:
        described = {"transform": _described(preprocess)}
        if identity(make_transform(described)) == identity(preprocess):
            return described
    except (TypeError, ValueError, KeyError, AttributeError):
        pass
    return {"given": fingerprint(preprocess), "hint": _hint(preprocess)}


def make_transform(node):
    """Return the transform that JSON describes."""
    return _made(node["transform"])


def fingerprint(preprocess):
    """Return what tells a transform from others, or None where nothing does."""
    try:
        return identity(preprocess)
    except TypeError:
        return None


def _described(transform):
    cls = type(transform)
    if cls in LISTS:
        return [LISTS[cls], [_described(step) for step in transform.transforms]]
    if cls is ImageClassification:
        values = [getattr(transform, name) for name in PRESET]
        sizes = [value[0] if isinstance(value, list) else value for value in values[:2]]
        return ["ImageClassification", [_plain(v) for v in (*sizes, *values[2:])]]
    return [NAMES[cls], [_plain(getattr(transform, name)) for name in KNOWN[cls]]]


def _plain(value):
    if isinstance(value, InterpolationMode):
        return {"mode": value.value}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, tuple):
        return {"tuple": [_plain(item) for item in value]}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{value!r} is not described")


def _made(node):
    name, values = node
    for compose, known in LISTS.items():
        if name == known:
            return compose([_made(step) for step in values])
    cls, parameters = BY_NAME.get(name, (None, ()))
    if cls is None:
        raise Unfit(f"is the transform {name!r:.40}, which is not known")
    return cls(**dict(zip(parameters, map(_value, values), strict=True)))


def _value(value):
    if isinstance(value, list):
        return [_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tuple":
        return tuple(_value(item) for item in inner)
    return MODES[inner] if kind == "mode" else DTYPES[inner]


def _hint(preprocess):
    of = preprocess if hasattr(preprocess, "__qualname__") else type(preprocess)
    return f"{of.__module__}:{of.__qualname__}"
