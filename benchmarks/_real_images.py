"""The folder of a real classifier and real images, for the benchmarks that need one."""

import argparse
import functools
import importlib.util
import os
from pathlib import Path

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"
IMAGENET_RESNETS = "ktb_resnet50_large_blocks", "pqf_resnet50_large", "pqf_resnet18"
NEEDED = "mobilenet_v2.py", "imagenet-sample", "textures"


def arguments(doc):
    """Return a parser of the arguments that all of these benchmarks take."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder; default: $REACTOOD_DATA")
    parser.add_argument("--threads", type=int, help="of NumPy and torch")
    return parser


def find_folder(options):
    """Return the folder, or print what is missing and return None."""
    folder = options.data or Path(os.environ.get("REACTOOD_DATA") or DEFAULT)
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if not missing:
        return folder
    print(
        f"Skipped: the data folder has no {', '.join(missing)}. Give one that has by "
        "--data DIR or in the environment variable REACTOOD_DATA."
    )
    return None


def load_file(path):
    """Return a Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_model(folder):
    """Return the module that has `load()` and `preprocess()`."""
    return load_file(folder / "mobilenet_v2.py")


def networks(folder):
    """Return, by name, what loads each network for ImageNet, and its transform."""
    mobilenet = load_model(folder)
    found = {"mobilenet_v2": (mobilenet.load, mobilenet.preprocess())}
    file = folder / "imagenet-resnets" / "imagenet_resnets.py"
    if file.exists():
        resnets = load_file(file)
        for name in IMAGENET_RESNETS:
            found[name] = functools.partial(resnets.load, name), resnets.preprocess
    return found


def images(folder):
    """Return the paths of all images under a folder, sorted."""
    return sorted(map(str, folder.rglob("*.*")))


def list_images(folder):
    """Return the paths of the photos and of the textures, sorted."""
    return [images(folder / name) for name in NEEDED[1:]]
