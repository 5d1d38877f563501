"""Copy and build the user's torch modules, read their weights, free memory."""

import copy
import gc
import inspect
import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from reactood._utils._ambient import default_device
from reactood._utils._tensors import as_float


def replace_module(network, name, module):
    """Replace the module called ``name`` in ``network``."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module.eval())


def linear_arrays(linear: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias of an ``nn.Linear``, copied to NumPy arrays."""
    if isinstance(linear, LazyModuleMixin) and linear.has_uninitialized_params():
        raise ValueError(
            "The final linear layer is lazy, so it has no weights before the first "
            "forward pass; pass head=(weight, bias), or materialise the model first."
        )

    check_values(linear, "head")

    def array(tensor: torch.Tensor) -> np.ndarray:
        return as_float(tensor.detach().cpu()).numpy().copy()

    weight = array(linear.weight)
    if linear.bias is None:
        return weight, np.zeros(len(weight), weight.dtype)
    return weight, array(linear.bias)


def private_copy(module: nn.Module, parameter: str) -> nn.Module:
    """Return a copy of the user's module in eval mode."""
    try:
        module = copy.deepcopy(module)
    except Exception as error:  # the module's attributes may raise any exception
        raise ValueError(
            f"{parameter}={type(module).__name__} cannot be copied ({error}), and the "
            f"original must not be changed; pass {parameter}= a function that builds "
            "a new module at each call."
        ) from error
    return module.eval()


def private_build(factory: Callable[[], nn.Module], parameter: str) -> nn.Module:
    """Return the module that ``factory`` builds, in eval mode, for private use."""
    _check_takes_nothing(factory, parameter)
    with default_device():
        module = factory()
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"{parameter}={factory!r} returned a {type(module).__name__}, expected a "
            "torch.nn.Module."
        )
    try:
        return private_copy(module, parameter)  # the factory may keep the module
    except ValueError:
        if factory() is module:
            raise
        return module.eval()


def _check_takes_nothing(factory, parameter):
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        kind = "class" if isinstance(factory, type) else "function"
        raise TypeError(
            f"{parameter}={getattr(factory, '__qualname__', factory)} is a {kind} that "
            f"cannot be called without arguments ({error}). Pass the module that it "
            "returns, or bind the arguments: functools.partial(...)."
        ) from error
    except ValueError:  # a builtin without a signature
        pass


def is_out_of_memory(error):
    """Return whether an error means that memory could not be allocated."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "out of memory" in text  # CUDA, MPS
        or "can't allocate memory" in text  # CPU
    )


def free_memory(device: torch.device) -> None:
    """Free the memory that a failed attempt on ``device`` still holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def check_values(module: nn.Module, parameter: str) -> None:
    """Raise unless all weights of a module have values."""
    tensors = itertools.chain(module.named_parameters(), module.named_buffers())
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        raise ValueError(
            f"{parameter}={type(module).__name__} has weights without values: "
            f"{len(empty)} of them are on the meta device, the first is {empty[0]!r}. "
            "Load the weights first, with module.to_empty(device='cpu') and "
            "module.load_state_dict(...), for instance."
        )
