"""Results that do not depend on what the program has set around the call."""

import contextlib
import operator

import torch

_KINDS = "cpu", "cuda", "mps", "xpu"


@contextlib.contextmanager
def without_autocast():
    """Compute in the precision that is asked for here, as a decorator too.

    Features and scores come from float32, or from the precision that a parameter names.
    ``torch.autocast`` around the call is for the program's own models: with it, rounded
    features would go into a cache, for programs without it as well.
    """
    with contextlib.ExitStack() as stack:
        for kind in _KINDS:
            if torch.amp.is_autocast_available(kind) and (
                torch.is_autocast_enabled(kind)
            ):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def float32_rounding():
    """Return how much torch may round inside float32 products, by what asks for it."""
    found = {}
    with contextlib.suppress(RuntimeError):  # of one who uses the newer names below
        found["matmul"] = torch.get_float32_matmul_precision()
    for name in "cudnn.conv", "cuda.matmul", "mkldnn.conv", "mkldnn.matmul":
        with contextlib.suppress(AttributeError, RuntimeError):
            asked = operator.attrgetter(f"{name}.fp32_precision")
            found[name] = str(asked(torch.backends))
    if "cudnn.conv" not in found:
        found["cudnn.conv"] = str(torch.backends.cudnn.allow_tf32)
    return found


@contextlib.contextmanager
def float32_by_default():
    """Let torch make float32 tensors where nothing else is said, as a decorator too.

    The default belongs to all threads, so this is for short work under a lock.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
