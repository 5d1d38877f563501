"""Batches through a backbone: device copies, precision, memory, order."""

import contextlib
import gc

import torch

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
BATCH_SIZES = {"cpu": 32, "mps": 64, "cuda": 256}
FLUSH_ELEMENTS = 1 << 24  # features kept on an accelerator between two copies to host


def choose_device(device):
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
            "; wanted 'auto', 'cpu', or an accelerator that this torch sees."
        ) from error
    return device


class Forward:
    """Runs batches of host tensors through a backbone.

    With ``batch_size="auto"``, a batch that does not fit into memory is run again in
    halves, and so are all that follow: nothing is lost.
    """

    def __init__(self, backbone, device, precision, batch_size):
        self.backbone = backbone.to(device)
        self.device = device
        self.precision = precision
        self.auto = batch_size == "auto"
        self.batch_size = (
            BATCH_SIZES.get(device.type, 64) if self.auto else int(batch_size)
        )

    def __call__(self, batches):
        """Yield float32 host tensors of features, in the order of ``batches``.

        On an accelerator features stay there until enough have come together, so that
        no batch waits for the one before it.
        """
        waiting, n_waiting = [], 0
        for batch in batches:
            for features in self._in_chunks(batch):
                waiting.append(features)
                n_waiting += features.numel()
                if self.device.type == "cpu" or n_waiting >= FLUSH_ELEMENTS:
                    yield torch.cat(waiting).cpu()
                    waiting, n_waiting = [], 0
        if waiting:
            yield torch.cat(waiting).cpu()

    def _in_chunks(self, batch):
        start = 0
        while start < len(batch):
            chunk = batch[start : start + self.batch_size]
            try:
                features = self._run(chunk)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if not self.auto or len(chunk) == 1:
                    raise RuntimeError(
                        f"Out of memory on {self.device} with a batch of {len(chunk)} "
                        f"inputs of shape {tuple(chunk.shape[1:])} ({error}). "
                        + (
                            "One input alone does not fit."
                            if len(chunk) == 1
                            else "Use batch_size='auto' or a smaller one."
                        )
                    ) from error
                features = None
            if features is None:  # outside of except, where the error holds memory
                self.batch_size = len(chunk) // 2
                gc.collect()
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            yield features
            start += len(chunk)

    @torch.inference_mode()
    def _run(self, chunk):
        if self.device.type == "cuda":
            chunk = chunk.pin_memory().to(self.device, non_blocking=True)
        else:
            chunk = chunk.to(self.device)
        with self._autocast():
            features = self.backbone(chunk)
        return features.float()

    def _autocast(self):
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])


def is_out_of_memory(error):
    """Tell an allocation that failed from every other error."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or "out of memory" in text  # CUDA, MPS
        or "can't allocate memory" in text  # CPU
    )
