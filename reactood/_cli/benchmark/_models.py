"""The models that ``--model`` may name, and the networks of the CIFAR experiments."""

import functools
import re
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.transforms import v2 as transforms

from reactood._cli._models import (
    build_with_checkpoint,
    load_function,
    load_transform,
    read_checkpoint,
)

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGENET_TRANSFORM = torchvision.transforms._presets.ImageClassification(crop_size=224)
CIFAR_TRANSFORM = transforms.Compose(
    [
        transforms.RGB(),
        transforms.Resize((32, 32), antialias=True),
        transforms.ToImage(),
        transforms.ToDtype(torch.float32, scale=True),
        transforms.Normalize(CIFAR_MEAN, CIFAR_STD),
    ]
)
FUNCTION = re.compile(  # FILE.py:NAME or MODULE:NAME, then (TEXT), then =CHECKPOINT
    r"(?P<name>(.+?\.py|[\w.]+):[^:=]+?)(=(?P<checkpoint>.+))?"
)

DENSENET_NAMES = (  # from names in the usual CIFAR DenseNet to torchvision's
    (r"^conv1\.", "features.conv0."),
    (r"^bn1\.", "features.norm5."),
    (r"^fc\.", "classifier."),
    (r"^trans(\d)\.bn1\.", r"features.transition\1.norm."),
    (r"^trans(\d)\.conv1\.", r"features.transition\1.conv."),
    (
        r"^block(\d)\.layer\.(\d+)\.bn(\d)\.",
        r"features.denseblock\1.denselayer<\2>.norm\3.",
    ),
    (
        r"^block(\d)\.layer\.(\d+)\.conv(\d)\.",
        r"features.denseblock\1.denselayer<\2>.conv\3.",
    ),
)
RESNET_NAMES = ((r"^linear\.", "fc."), (r"\.shortcut\.", ".downsample."))


def cifar_resnet18(n_classes):
    """Make a ResNet-18 for images of 32 x 32: a small first layer, and no pooling."""
    net = torchvision.models.resnet18(num_classes=n_classes)
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net.eval()


def cifar_densenet100(n_classes):
    """Make a DenseNet-BC of 100 layers and growth 12 for images of 32 x 32."""
    net = torchvision.models.DenseNet(12, (16, 16, 16), 24, num_classes=n_classes)
    net.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(net.features, name, nn.Identity())
    return net.eval()


CIFAR = {
    "resnet18": (cifar_resnet18, RESNET_NAMES),
    "densenet100": (cifar_densenet100, DENSENET_NAMES),
}


def parse_model(text, *, n_classes, cifar=False):
    """Return the extractor's ``model`` for the text of the option.

    Parameters
    ----------
    text : str
        ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION`` means a function that builds the
        model, ``FILE.py:FUNCTION(TEXT)`` that it is called with this text;
        ``NAME=CHECKPOINT`` means an architecture, or such a function, with the weights
        of a file; any other text is the name of a model.
    n_classes : int or None
        Number of classes of the data set; None for that of the checkpoint.
    cifar : bool
        Whether architectures are those for images of 32 x 32.

    Raises
    ------
    ValueError
        If there is no such file, function or architecture.
    """
    if function := FUNCTION.fullmatch(text):
        name, checkpoint = function["name"], function["checkpoint"]
        build = load_function(name)
        if checkpoint is None:
            return build
        _check_file(text, checkpoint)
        return functools.partial(build_with_checkpoint, name, checkpoint)
    name, separator, checkpoint = text.partition("=")
    if separator:
        _check_file(text, checkpoint)
        if cifar and name not in CIFAR:
            raise ValueError(
                f"--model {text}: {name!r} is not a known architecture for images of "
                f"32 x 32; expected one of {', '.join(CIFAR)}, or FILE.py:FUNCTION."
            )
        if n_classes is None:
            return functools.partial(build_with_checkpoint, name, checkpoint)
        return functools.partial(
            with_checkpoint, name, checkpoint, n_classes, cifar=cifar
        )
    if cifar:
        raise ValueError(
            f"--model {text}: no trained weights come with this suite; give a "
            "checkpoint, --model resnet18=FILE or --model densenet100=FILE, or a "
            "function that builds the model, --model FILE.py:FUNCTION."
        )
    return text


def _check_file(text, checkpoint):
    if not Path(checkpoint).is_file():
        raise ValueError(f"--model {text}: there is no file {checkpoint!r}.")


def imagenet_transform(model, request):
    """Return the user's transform, "auto" for a named model, else the usual one."""
    if request.preprocess:
        return parse_transform(request.preprocess)
    return "auto" if isinstance(model, str) else IMAGENET_TRANSFORM


def cifar_transform(request):
    """Return the user's transform, or the usual one for CIFAR."""
    return (
        parse_transform(request.preprocess) if request.preprocess else CIFAR_TRANSFORM
    )


def parse_transform(text):
    """Return the transform that a user's ``FILE.py:FUNCTION`` returns.

    Raises
    ------
    ValueError
        If there is no such file or function, or if it does not return a transform.
    """
    if not FUNCTION.fullmatch(text):
        raise ValueError(
            f"--preprocess {text}: expected FILE.py:FUNCTION or MODULE:FUNCTION, a "
            "function without arguments that returns the transform."
        )
    return load_transform(text)


def with_checkpoint(name, checkpoint, n_classes, *, cifar=False):
    """Build an architecture and load the weights of a file into it."""
    if cifar:
        build, renames = CIFAR[name]
        net = build(n_classes)
    else:
        net, renames = torchvision.models.get_model(name, weights=None), ()
    state = read_checkpoint(checkpoint)
    state = {_renamed(key, renames): value for key, value in state.items()}
    wrong = sorted(set(state) ^ set(net.state_dict()))
    if wrong:
        raise ValueError(
            f"The weights in {checkpoint!r} are not those of {name}: {len(wrong)} "
            f"names are only in one of the two, the first is {wrong[0]!r}. For any "
            "other model, pass a function that builds it: --model FILE.py:FUNCTION."
        )
    net.load_state_dict(state)
    return net.eval()


def _renamed(key, renames):
    key = key.removeprefix("module.")
    for pattern, replacement in renames:
        if re.search(pattern, key):
            key = re.sub(pattern, replacement, key)
            break
    return re.sub(r"<(\d+)>", lambda match: str(int(match[1]) + 1), key)
