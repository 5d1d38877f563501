"""Models, weights and transforms that the options name."""

import functools
import importlib
import importlib.util
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision

from reactood._networks._head import find_head

NESTED = "state_dict", "model", "net"  # where training scripts put the weights


def model_of(options):
    """Return the extractor's ``model`` and ``weights`` for the options.

    Raises
    ------
    ValueError
        If there is no such file, function or model.
    """
    weights = None if options.weights.lower() == "none" else options.weights
    if options.checkpoint is not None:
        return builder_of(options), None
    if is_function(options.model):
        return load_function(options.model), None
    return options.model, weights


def builder_of(options):
    """Return a function that builds the user's own model, or None without ``--model``.

    Raises
    ------
    ValueError
        If there is no such file, function or model.
    """
    if options.model is None:
        if options.checkpoint is not None:
            raise ValueError(
                "--checkpoint needs --model, the model that it belongs to."
            )
        return None
    if options.checkpoint is not None:
        if not Path(options.checkpoint).is_file():
            raise ValueError(f"There is no file {options.checkpoint!r}.")
        if is_function(options.model):
            load_function(options.model)  # raises at once if there is none
        build = functools.partial(
            build_with_checkpoint, options.model, options.checkpoint
        )
        return _called(build, options.model)
    if is_function(options.model):
        return load_function(options.model)
    # The weights are in the detector's file.
    return _called(functools.partial(named, options.model), options.model)


def _called(build: Any, model):
    """Give a function the name of its model, which a detector's file shows."""
    place, _, name = model.rpartition(":")
    build.__module__, build.__qualname__ = place or "torchvision.models", name
    return build


def preprocess_of(options):
    """Return the ``preprocess`` that the options name: "auto" without any."""
    text = options.preprocess
    if text is None or text == "auto":
        return "auto"
    if text.lower() == "none":
        return None
    if not is_function(text):
        raise ValueError(
            f"--preprocess {text}: expected FILE.py:FUNCTION or MODULE:FUNCTION, a "
            "function without arguments that returns the transform."
        )
    return load_transform(text)


def load_transform(text):
    """Return the transform that a function of the user returns."""
    transform = load_function(text)()
    if not callable(transform):
        raise ValueError(
            f"--preprocess {text}: the function returned a "
            f"{type(transform).__name__}, expected a transform, which takes a PIL "
            "image and returns a float tensor."
        )
    return transform


def is_function(text):
    """Return whether a text names a function, and no model of a library."""
    return ":" in text


def load_function(text):
    """Return the function that ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION`` names.

    ``FILE.py:FUNCTION(TEXT)`` is the function with this text as its first argument, for
    files that hold several models.

    Raises
    ------
    ValueError
        If there is no such file, module or function.
    """
    if with_text := re.fullmatch(r"(.+:\w+)\(([^()]*)\)", text):
        build = functools.partial(load_function(with_text[1]), with_text[2])
        return _called(build, text)
    place, _, name = text.rpartition(":")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise ValueError(f"There is no file {place!r} with a function {name!r}.")
        folder = str(Path(place).resolve().parent)
        if folder not in sys.path:  # what is beside it is found, after installed ones
            sys.path.append(folder)
        spec: Any = importlib.util.spec_from_file_location(Path(place).stem, place)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = _imported(place)
    try:
        return getattr(module, name)
    except AttributeError:
        raise ValueError(f"{place!r} has no function {name!r}.") from None


def _imported(name):
    """Import a module; also from the current folder, but after installed ones."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks another one
        raise ValueError(
            f"There is no module {name!r}; expected FILE.py:FUNCTION, or "
            "MODULE:FUNCTION with a module that is installed or in this folder."
        ) from None


def build_with_checkpoint(model, file):
    """Build a model and load the weights of a file into it.

    Parameters
    ----------
    model : str
        ``FILE.py:FUNCTION``, ``MODULE:FUNCTION``, ``timm/NAME``, or a name of
        torchvision's. A named model gets as many classes as the weights have.
    file : str
        A .safetensors file, or one of `torch.save` that holds only tensors.

    Raises
    ------
    ValueError
        If the weights are not those of the model.
    """
    state = read_checkpoint(file)
    if is_function(model):
        net = load_function(model)()
    else:
        net = named(model)
        head = find_head(net)
        weight = state.get(f"{head}.weight")
        if weight is not None and len(weight) != net.get_submodule(head).out_features:
            net = named(model, num_classes=len(weight))
    known = net.state_dict()
    wrong = sorted(
        name
        for name in known.keys() | state.keys()
        if name not in known
        or name not in state
        or known[name].shape != state[name].shape
    )
    if wrong:
        raise ValueError(
            f"The weights in {file!r} are not those of {model}: {len(wrong)} names are "
            f"only in one of the two or have other shapes, the first is {wrong[0]!r}. "
            "For any other model, give a function that builds it: --model "
            "FILE.py:FUNCTION."
        )
    net.load_state_dict(state)
    return net.eval()


def named(model, **settings):
    """Return a model of torchvision or timm without trained weights."""
    if model.startswith("timm/"):
        import timm

        return timm.create_model(model.removeprefix("timm/"), **settings)
    return torchvision.models.get_model(model, weights=None, **settings)


def read_checkpoint(file):
    """Return the weights in a file, by name. No code of the file is run.

    Raises
    ------
    ValueError
        If the file holds something else.
    """
    state: Any
    if str(file).endswith(".safetensors"):
        from safetensors.torch import load_file

        state = load_file(file)
    else:
        try:
            # Only weights: other pickles can run any code.
            state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{os.fspath(file)!r} holds more than tensors, and reading it could "
                "run any code. Save the weights alone: "
                "torch.save(model.state_dict(), file)."
            ) from error
    for key in NESTED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise ValueError(
            f"{os.fspath(file)!r} holds a {type(state).__name__}, expected weights by "
            "name, as from model.state_dict()."
        )
    return {key.removeprefix("module."): value for key, value in state.items()}
