"""Time of `TorchFeatureExtractor.transform` against a loop written by hand.

    python benchmarks/extraction.py            # minutes
    python benchmarks/extraction.py --smoke    # seconds; says nothing about speed

Random weights, float images, the same batches for both; on a CUDA device too, where
there is one.
"""

import argparse

import numpy as np
import torch
import torchvision
from _timing import interleave, limit_threads, machine, print_table, verdict

from reactood import TorchFeatureExtractor

BAR = 1.05
MODELS = "resnet18", "resnet50", "mobilenet_v2"
TOLERANCE = 1e-5


def main():
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--images", type=int, default=64, help="on the CPU")
    parser.add_argument("--cuda-images", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=32, help="on the CPU")
    parser.add_argument("--cuda-batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--smoke", action="store_true", help="one small run, seconds")
    options = parser.parse_args()
    limit_threads(options.threads)
    models, repeats, bar, size = options.models, options.repeats, BAR, 224
    runs = [("cpu", options.images, options.batch_size)]
    if torch.cuda.is_available():
        runs.append(("cuda", options.cuda_images, options.cuda_batch_size))
    if options.smoke:
        models, repeats, bar, size, runs = ("resnet18",), 1, None, 64, [("cpu", 5, 2)]
    print(machine() + _gpu(runs) + "\n")
    columns = "model", "device", "images", "batch", "ratio", "bar", "", "noise"
    rows = [
        compare(model, device, n_images, batch_size, size, repeats, bar)
        for device, n_images, batch_size in runs
        for model in models
    ]
    print_table(columns, rows)


def compare(model, device, n_images, batch_size, size, repeats, bar):
    """Return one row of the table."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n_images, 3, size, size), dtype=np.float32)
    network = torchvision.models.get_model(model, weights=None).eval().to(device)
    extractor = TorchFeatureExtractor(network, device=device, batch_size=batch_size)
    extractor.fit(images)
    take_head_off(network)
    ours, theirs = extractor.transform(images), loop(network, images, batch_size)
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if error > TOLERANCE:
        raise SystemExit(f"{model} on {device}: features differ by {error:.1e}.")
    seconds, noise = interleave(
        {
            "ours": lambda: extractor.transform(images),
            "loop": lambda: loop(network, images, batch_size),
        },
        repeats,
    )
    ratio = seconds["ours"] / seconds["loop"]
    shown = "" if bar is None else f"{bar:.2f}"
    numbers = f"{n_images:,}", str(batch_size), f"{ratio:.3f}"
    return model, device, *numbers, shown, verdict(ratio, bar), f"{noise:.2f}"


def take_head_off(network):
    """Replace the last linear layer, as one does by hand."""
    linear = [k for k, m in network.named_modules() if isinstance(m, torch.nn.Linear)]
    parent, _, name = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), name, torch.nn.Identity())


@torch.inference_mode()
def loop(network, images, batch_size):
    """Extract features in the shortest way."""
    device = next(network.parameters()).device
    batches = torch.from_numpy(images).split(batch_size)
    return torch.cat([network(batch.to(device)) for batch in batches]).cpu().numpy()


def _gpu(runs):
    return f", {torch.cuda.get_device_name()}" if runs[-1][0] == "cuda" else ""


if __name__ == "__main__":
    main()
