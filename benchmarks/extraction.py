"""Images per second of every engine against the plain loop and other libraries.

    python benchmarks/extraction.py                    # many minutes
    python benchmarks/extraction.py --models resnet50  # one model
    python benchmarks/extraction.py --photos DIR       # JPEG files of your own
    python benchmarks/extraction.py --smoke            # seconds; not about speed

Random weights, 224 px, the same float arrays or the same JPEG files for all. Ratios are
to a loop written by hand: eager torch, float32, `inference_mode`, without the
classifier's head; from files with torchvision's own transform in a DataLoader. The loop
runs with batches of 32, as most loops do, and of 8. "of peak" is the share of the
operations per second that the fastest convolution reaches by itself, in the same
precision: the limit of what any engine could do. Files are read with each decoder.

On a machine that does other work too, `--clock cpu --threads 1` counts the seconds that
each function takes of one core, without those in which it waits.
"""

import argparse
import functools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from _timing import (
    interleave,
    limit_threads,
    machine,
    peak_extra_bytes,
    print_table,
    verdict,
)
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from reactood import TorchFeatureExtractor
from reactood._networks._build import build_network

MODELS = "resnet50", "mobilenet_v2", "vit_b_16"
BARS = {  # of arrays, at the batch size where the loop is as users write it
    ("resnet50", "eager"): 1.5,
    ("mobilenet_v2", "eager"): 2.4,
    ("resnet50", "openvino"): 2.3,
    ("mobilenet_v2", "openvino"): 4.4,
    ("vit_b_16", "openvino"): 1.3,
    ("resnet50", "openvino, bfloat16"): 4.5,
    ("mobilenet_v2", "openvino, bfloat16"): 11,
    ("vit_b_16", "openvino, bfloat16"): 2.8,
}
OURS = {
    "eager": {},
    "compile": {"engine": "compile"},
    "compile, bfloat16": {"engine": "compile", "precision": "bfloat16"},
    "openvino": {"engine": "openvino"},
    "openvino, bfloat16": {"engine": "openvino", "precision": "bfloat16"},
}
PRECISIONS = "float32", "bfloat16"
DECODERS = "pillow", "torchcodec"
OF_FILES = {f"{k}, {decoder}": (k, decoder) for k in OURS for decoder in DECODERS}
FILES_BARS = {  # of the speed from arrays
    **{("resnet50", label): 0.9 for label in OF_FILES},
    ("mobilenet_v2", "eager, torchcodec"): 0.9,
    ("mobilenet_v2", "openvino, torchcodec"): 0.85,
    ("mobilenet_v2", "openvino, bfloat16, torchcodec"): 0.75,
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LOOP = "loop, batches of 32"


def make_arrays(n, size):
    """Return preprocessed images."""
    return np.random.default_rng(0).standard_normal((n, 3, size, size), np.float32)


def make_files(folder, n, width=500, height=375):
    """Write JPEG files of the size of ImageNet's, as smooth as photos."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((width, height), Image.BICUBIC)
        noise = rng.normal(0, 6, (height, width, 1))
        image = Image.fromarray(np.uint8(np.clip(np.asarray(image) + noise, 0, 255)))
        paths.append(str(Path(folder, f"{i:04d}.jpg")))
        image.save(paths[-1], quality=90)
    return paths


def photos_in(folder, n):
    """Return the paths of JPEG files below a folder, evenly spread over all."""
    paths = sorted(map(str, Path(folder).rglob("*.jpg")))
    return paths[:: max(1, len(paths) // n)][:n]


class Files(Dataset):
    """The dataset that users write: open, convert, transform."""

    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = Image.open(self.paths[index]).convert("RGB")
        return self.transform(image), 0


def headless(name):
    """Return a model without its head, the transform, and the head."""
    network, transform = build_network(name, None)
    attribute = {"resnet50": "fc", "resnet18": "fc", "vit_b_16": "heads"}
    attribute = attribute.get(name, "classifier")
    head = getattr(network, attribute)
    setattr(network, attribute, nn.Identity())
    linear = [m for m in head.modules() if isinstance(m, nn.Linear)][-1]
    return network, transform, linear


@torch.inference_mode()
def loop(network, batches):
    """Extract features as most users do."""
    return torch.cat([network(images) for images, _ in batches])


def batches_of(images, transform, batch_size, num_workers=0):
    """Return a DataLoader of arrays or files."""
    if isinstance(images, np.ndarray):
        data = TensorDataset(torch.from_numpy(images), torch.zeros(len(images)).long())
    else:
        data = Files(images, transform)
    return DataLoader(data, batch_size=batch_size, num_workers=num_workers)


def ours(name, images, **parameters):
    """Return a function that extracts with reactood, warmed up."""
    extractor = TorchFeatureExtractor(name, weights=None, **parameters)
    extractor.fit(images[:4]).transform(images)
    return lambda: extractor.transform(images)


def others(name, images):
    """Return the functions of the installed other libraries, by name."""
    network, transform, linear = headless(name)
    loader = functools.partial(batches_of, images, transform, 32)
    functions = {}
    try:
        from pytorch_ood.detector import ReAct
    except ImportError:
        print("pytorch-ood is not installed: left out.", file=sys.stderr)
    else:
        pooled = ReAct(backbone=network, head=linear)
        functions["pytorch-ood, pooled"] = lambda: pooled.to("cpu").fit(loader())
        if name.startswith("resnet"):
            maps = nn.Sequential(*list(network.children())[:-2])
            rest = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
            documented = ReAct(backbone=maps, head=rest)
            functions["pytorch-ood, documented"] = lambda: documented.to("cpu").fit(
                loader()
            )
    from torchvision.models.feature_extraction import create_feature_extractor

    whole, _ = build_network(name, None)
    nodes = {"resnet50": "flatten", "resnet18": "flatten", "vit_b_16": "getitem_5"}
    cut = create_feature_extractor(whole, {nodes.get(name, "flatten"): "out"}).eval()
    functions["torchvision, create_feature_extractor"] = lambda: loop(
        lambda x: cut(x)["out"], loader()
    )
    try:
        import timm
    except ImportError:
        print("timm is not installed: left out.", file=sys.stderr)
    else:
        known = {
            "resnet50": "resnet50",
            "resnet18": "resnet18",
            "mobilenet_v2": "mobilenetv2_100",
            "vit_b_16": "vit_base_patch16_224",
        }
        model = timm.create_model(known[name], pretrained=False, num_classes=0).eval()
        functions["timm, num_classes=0"] = lambda: loop(model, loader())
    return functions


def contestants(name, images, engines, decoders):
    """Return every function to time, by name."""
    network, transform, _ = headless(name)
    functions = {
        f"loop, batches of {size}": functools.partial(
            lambda size: loop(network, batches_of(images, transform, size)), size
        )
        for size in (32, 8)
    }
    functions |= others(name, images)
    if isinstance(images, np.ndarray):
        return functions | {k: ours(name, images, **OURS[k]) for k in engines}
    return functions | {
        label: ours(name, images, decoder=decoder, **OURS[k])
        for label, (k, decoder) in OF_FILES.items()
        if k in engines and decoder in decoders
    }


# Fresh processes run these functions to measure the memory of each.


def build_loop(name, n, size):
    """Return images and the loop."""
    network, transform, _ = headless(name)
    images = make_arrays(n, size)
    return lambda: loop(network, batches_of(images, transform, 32)), images


def build_ours(name, n, size, parameters):
    """Return images and an extractor, which has not compiled anything yet."""
    images = make_arrays(n, size)
    extractor = TorchFeatureExtractor(name, weights=None, **parameters).fit(images[:4])
    return lambda: extractor.transform(images), images


def call(function, images):
    """Run what was built."""
    return function()


def main():
    """Run everything and print a table for each kind of input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--engines", nargs="+", default=list(OURS), choices=OURS)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--inputs", nargs="+", default=["arrays", "files"])
    parser.add_argument("--decoders", nargs="+", default=DECODERS, choices=DECODERS)
    parser.add_argument("--photos", metavar="DIR", help="JPEG files to read")
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--smoke", action="store_true", help="one small run, seconds")
    options = parser.parse_args()
    limit_threads(options.threads)
    models, repeats, size, n = options.models, options.repeats, 224, options.images
    engines = options.engines
    if options.smoke:
        models, repeats, size, n, engines = ("resnet18",), 1, 64, 5, ("eager",)
    peaks = {kind: peak_flops(getattr(torch, kind)) for kind in PRECISIONS}
    print(machine() + f", torchvision {torchvision.__version__}")
    for kind, peak in peaks.items():
        print(f"peak, one convolution in {kind}: {peak / 1e9:.0f} GFLOP/s")
    print()
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(folder, n)
        if options.photos:
            files = photos_in(options.photos, n)
        inputs = {"arrays": make_arrays(len(files), size), "files": files}
        for name in models:
            chosen = {k: inputs[k] for k in options.inputs}
            clock = CLOCKS[options.clock]
            compare(name, chosen, engines, options.decoders, repeats, peaks, clock)
            if not options.smoke and "arrays" in options.inputs:
                report_memory(name, n, size, engines)


def compare(name, inputs, engines, decoders, repeats, peaks, clock):
    """Print images per second of one model, and ratios to the loop."""
    functions = {
        (kind, label): function
        for kind, images in inputs.items()
        for label, function in contestants(name, images, engines, decoders).items()
    }
    seconds, noise = interleave(functions, repeats, clock)
    flops = count_flops(name, next(iter(inputs.values())))
    rows = []
    for (kind, label), s in seconds.items():
        n, ratio = len(inputs[kind]), seconds[kind, LOOP] / s
        engine, _ = OF_FILES.get(label, (label, None))
        bar = BARS.get((name, label)) if kind == "arrays" and repeats > 1 else None
        of_arrays = files_bar = None
        if kind == "files" and "arrays" in inputs:
            of_arrays = seconds["arrays", engine] / s
            files_bar = FILES_BARS.get((name, label)) if repeats > 1 else None
        peak = peaks[OURS.get(engine, {}).get("precision", "float32")]
        cells = (
            f"{n / s:.1f}",
            f"{ratio:.2f}",
            f"{seconds[kind, 'loop, batches of 8'] / s:.2f}",
            "" if bar is None else f"{bar:.1f}",
            verdict(ratio, least=bar),
            "" if of_arrays is None else f"{of_arrays:.2f}",
            verdict(of_arrays, least=files_bar),
            f"{flops * n / s / peak:.2f}",
            f"{noise:.2f}",
        )
        rows.append((name, kind, label, *cells))
    columns = "model", "from", "what", "images/s", "ratio", "to batches of 8", "bar", ""
    more = "files / arrays", "", "of peak", "noise"
    print_table((*columns, *more), rows)


def count_flops(name, images):
    """Return the operations for one image, of which nearly all are products."""
    network, transform, _ = headless(name)
    image, _ = batches_of(images, transform, 1).dataset[0]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(image[None])
    return counter.get_total_flops()


def peak_flops(dtype):
    """Return operations per second of the convolution that torch runs best.

    It is one of a ResNet-50's: 1 x 1, from 1,024 to 256 channels of 14 x 14 pixels.
    """
    image, weight = (
        torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last)
        for shape in ((8, 1024, 14, 14), (256, 1024, 1, 1))
    )
    with torch.inference_mode():
        run = functools.partial(torch.conv2d, image, weight)
        seconds, _ = interleave({"convolution": run}, 100)
    return 2 * 8 * 14 * 14 * 1024 * 256 / seconds["convolution"]


def report_memory(name, n, size, engines):
    """Print peak memory beyond images and model."""
    cases = {LOOP: (build_loop, name, n, size)}
    cases |= {k: (build_ours, name, n, size, OURS[k]) for k in engines}
    rows = []
    for label, (build, *args) in cases.items():
        extra = peak_extra_bytes(build, call, *args)
        if extra is None:
            print("Peak memory is measured on Linux only.")
            return
        rows.append((name, label, f"{extra / 2**20:.0f} MiB"))
    print_table(("model", "what", "peak memory beyond images and model"), rows)


if __name__ == "__main__":
    main()
