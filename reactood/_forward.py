"""Batches through a backbone: device copies, precision, memory, order."""

import contextlib
import gc

import torch
from torch import nn

from reactood._blocks import to_device

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
BATCH_SIZES = {"cpu": 32, "mps": 64, "cuda": 256}
FLUSH_ELEMENTS = 1 << 22  # features kept on an accelerator between two copies to host


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
                with explained(self.backbone, chunk):
                    features = self._run(chunk)
            except (RuntimeError, MemoryError) as error:
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
        moved = to_device(chunk, self.device)
        if moved is chunk:
            moved = chunk.clone()  # models may work in place
        with self._autocast():
            features = self.backbone(moved)
        if features.ndim != 2 or len(features) != len(chunk):
            raise ValueError(
                f"{len(chunk)} inputs of shape {tuple(chunk.shape[1:])} gave features "
                f"of shape {tuple(features.shape)}, wanted one row per input: does the "
                "model take the first axis for samples?"
            )
        return features.float()

    def _autocast(self):
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])


@contextlib.contextmanager
def explained(network, batch):
    """Turn what a module raises at a wrong input into a sentence about the input."""
    try:
        yield
    except (RuntimeError, AssertionError, IndexError, TypeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise
        convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
        first = next(convolutions, None)
        wanted = "Wanted what the model's forward takes, one row per input."
        if first is not None:
            wanted = (
                f"Its first convolution takes {first.in_channels} channels, so it "
                f"wants (n_samples, {first.in_channels}, height, width)."
            )
        raise ValueError(
            f"The model could not take a batch of shape {tuple(batch.shape)}: "
            f"{error}. {wanted}"
        ) from error


def is_out_of_memory(error):
    """Tell an allocation that failed from every other error."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or "out of memory" in text  # CUDA, MPS
        or "can't allocate memory" in text  # CPU
    )
