"""Turn arrays into torch tensors without a copy, and choose the device."""

from typing import TypeAlias

import numpy as np
import torch

Matrix: TypeAlias = np.ndarray | torch.Tensor


class _Writable:
    """Presents a read-only array's memory as writable: torch has no read-only tensors.

    This package does not write to it. Torch would issue a warning, which could only be
    suppressed by a setting that all threads share.
    """

    def __init__(self, array):
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = array.__array_interface__ | {
            "data": (address, False)
        }
        self.array = array  # keeps the memory alive


def as_tensor(array: Matrix) -> torch.Tensor:
    """Return a tensor that shares ``array``'s memory, also for a read-only array."""
    if isinstance(array, torch.Tensor):
        return array.resolve_neg()
    odd = any(stride < 0 or stride % array.itemsize for stride in array.strides)
    if odd or not array.dtype.isnative:
        array = np.array(array, dtype=array.dtype.newbyteorder("="))
    if not array.flags.writeable:
        array = np.asarray(_Writable(array))
    return torch.from_numpy(array)


def as_float(block: torch.Tensor) -> torch.Tensor:
    """Return float32 and float64 as they are, other floats as float32, else float64."""
    if block.dtype in (torch.float32, torch.float64):
        return block
    return block.to(torch.float32 if block.is_floating_point() else torch.float64)


def as_array(X) -> np.ndarray:
    """Return an array; of a tensor, half precision as float32, which NumPy knows."""
    if isinstance(X, torch.Tensor):
        return as_float(X.detach().cpu()).numpy()
    return np.asarray(X)


def to_device(block: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a tensor; a copy to CUDA runs at the same time as computations.

    A copy in the other direction is finished when this function returns.
    """
    if device.type == "cuda" and block.device.type == "cpu":
        # Copied from separate memory, because a DataLoader may fill the same
        # pinned batch again.
        block = block.clone() if block.is_pinned() else block
        return block.pin_memory().to(device, non_blocking=True)
    return block.to(device)


def choose_device(device: str | torch.device) -> torch.device:
    """Resolve "auto" to cuda, mps or cpu, in this order; check any other."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(device)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={str(device)!r} cannot be used here ({str(error).splitlines()[0]})"
            "; expected 'auto', 'cpu', or an accelerator that this torch sees."
        ) from error
    return device
