"""ReAct by this package and by others, with the same weights and images, in one run.

    python benchmarks/peers.py --data DIR --peers FOLDER [--install]

The images are those of `imagenet_sample.py`: every second photo calibrates, the others
are separated from the textures. Images are decoded and preprocessed once, so that only
the libraries differ. Each runs in its own process, several times, in turn; medians are
printed. `--install` gives each peer an environment of its own below FOLDER, which uses
torch, NumPy and all other packages that it can from this one. If a peer cannot be
imported or fails, its error is printed.
"""

import argparse
import json
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

PERCENTILE = 90
TIMEOUT = 600  # seconds, for a library in a process
PEERS = {  # what pip installs for each, besides its dependencies
    "reactood": [],
    "OpenOOD's rule": [],
    "pytorch-ood, pooled": ["pytorch-ood==0.4.0"],
    "pytorch-ood, maps": ["pytorch-ood==0.4.0"],
    "oodeel": ["tqdm", "plotly", "seaborn", "datasets", "faiss-cpu"],
    "detectors": ["detectors==0.1.11", "timm==0.9.16"],
}
WITHOUT_DEPENDENCIES = {"oodeel": ["oodeel==0.4.0"]}  # it asks for an old NumPy
SENTENCES = {
    "OpenOOD's rule": "the same rule: numpy.percentile of all validation features",
    "pytorch-ood, pooled": "the same rule; torch.quantile, exact for few images",
    "pytorch-ood, maps": "clips the maps before pooling, its documented way: not ReAct",
    "oodeel": "the same rule",
    "detectors": "the same rule, on the first 2,560,000 activations",
}


def main():
    """Prepare the images, run every library in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder; default: $REACTOOD_DATA")
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="folder")
    parser.add_argument("--install", action="store_true", help="the peers, by pip")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--only", help="one peer and this package")
    parser.add_argument(
        "--network", default="mobilenet_v2", help="default: %(default)s"
    )
    parser.add_argument("--batch", type=int, default=32, help="of the others' loaders")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker, options.network, options.batch)
        return
    from _real_images import find_folder

    folder = find_folder(options)
    if folder is None:
        return
    chosen = [name for name in PEERS if options.only in (None, name)]
    chosen = list(dict.fromkeys(["reactood", *chosen]))
    if options.install:
        install(chosen, options.peers)
    with tempfile.TemporaryDirectory() as place:
        prepare(folder, options.network, Path(place))
        runs = {name: [] for name in chosen}
        for repeat in range(options.repeats):
            for name in chosen:
                print(f"round {repeat + 1}: {name}", flush=True)
                runs[name].append(run_worker(name, place, options))
        report(runs)


def install(chosen, peers):
    """Give each peer an environment of its own, which sees the packages of this one."""
    for name in chosen:
        if not PEERS[name] or python(name, peers).exists():
            continue
        subprocess.run([sys.executable, "-m", "venv", peers / slug(name)], check=True)
        theirs = site_packages(peers / slug(name))
        line = f"import site; site.addsitedir({str(site_packages(sys.prefix))!r})\n"
        (theirs / "packages_of_the_benchmark.pth").write_text(line)
        pip = [python(name, peers), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *PEERS[name]], check=True)
        if alone := WITHOUT_DEPENDENCIES.get(name):
            subprocess.run([*pip, "--no-deps", *alone], check=True)


def site_packages(prefix):
    """Return where the environment below `prefix` keeps its packages."""
    places = {"base": str(prefix), "platbase": str(prefix)}
    return Path(sysconfig.get_path("purelib", vars=places)).resolve()


def python(name, peers):
    """Return the interpreter of a peer."""
    if not PEERS[name]:
        return Path(sys.executable)
    places = {"base": str(peers / slug(name)), "platbase": str(peers / slug(name))}
    return Path(sysconfig.get_path("scripts", vars=places)).absolute() / "python"


def slug(name):
    """Return the name of a peer's folder; two routes of one library share it."""
    return name.split(",")[0].replace(" ", "-")


def prepare(folder, network, place):
    """Write preprocessed images, and say where the model is."""
    from _real_images import list_images, networks
    from PIL import Image

    _, transform = networks(folder)[network]

    def ready(path):
        return transform(Image.open(path).convert("RGB")).numpy()

    photos, textures = list_images(folder)
    sets = {"fit": photos[::2], "id": photos[1::2], "ood": textures}
    for name, paths in sets.items():
        out = np.lib.format.open_memmap(
            place / f"{name}.npy", "w+", np.float32, (len(paths), 3, 224, 224)
        )
        for row, path in enumerate(paths):
            out[row] = ready(path)
        out.flush()
    (place / "folder").write_text(str(folder))


def run_worker(name, place, options):
    """Run one library in a process of its own; return its numbers or its error."""
    command = [python(name, options.peers), __file__, "--worker", name, str(place)]
    command += ["--network", options.network, "--batch", str(options.batch)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {TIMEOUT} s"}
    except OSError:
        return {"error": "not installed; give --install"}
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:160]}
    return json.loads(done.stdout.splitlines()[-1])


def work(name, place, network, batch):
    """Fit and score with one library, and print time and memory as JSON."""
    import torch
    from _real_images import networks
    from torch.utils.data import DataLoader, TensorDataset

    place = Path(place)
    load, _ = networks(Path((place / "folder").read_text()))[network]
    model = load().eval()
    sets = {k: np.load(place / f"{k}.npy") for k in ("fit", "id", "ood")}

    def loader(array):
        tensor = torch.from_numpy(array)
        classes = torch.zeros(len(tensor), dtype=torch.long)
        return DataLoader(TensorDataset(tensor, classes), batch)

    given = sets if name == "reactood" else {k: loader(X) for k, X in sets.items()}
    # Memory from here on is that of the library and of what it needs.
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fit = LIBRARIES[name]
    start = time.perf_counter()
    score, threshold = fit(model, given["fit"])
    fitted = time.perf_counter()
    id_scores = np.asarray(score(given["id"]), dtype=np.float64).ravel()
    ood_scores = np.asarray(score(given["ood"]), dtype=np.float64).ravel()
    scored = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.savez(place / f"{slug(name)}-{len(name)}.npz", id=id_scores, ood=ood_scores)
    print(
        json.dumps(
            {
                "threshold": threshold,
                "fit": fitted - start,
                "score": scored - fitted,
                "memory": (peak - resident) / 1024,
                "scores": [*id_scores, *ood_scores],
                "n_id": len(id_scores),
            }
        )
    )


def by_reactood(model, images):
    """Fit the pipeline of this package."""
    from reactood import make_react_pipeline

    pipeline = make_react_pipeline(model, percentile=PERCENTILE).fit(images)
    return pipeline.score_samples, float(pipeline[-1].activation_threshold_)


def by_openood(model, loader):
    """Apply OpenOOD's rule: a percentile of all features, and energy."""
    import torch

    backbone, head = pooled_parts(model)

    def features(loader):
        with torch.no_grad():
            return torch.cat([backbone(images) for images, _ in loader])

    threshold = np.percentile(features(loader).numpy().flatten(), PERCENTILE)

    def score(loader):
        with torch.no_grad():
            logits = head(features(loader).clip(max=threshold))
            return torch.logsumexp(logits, dim=1).numpy()

    return score, float(threshold)


def parts(model):
    """Return the network up to its maps, and the name of its linear layer."""
    from torch import nn

    if hasattr(model, "classifier"):  # MobileNetV2
        return model.features, "classifier.1"
    return nn.Sequential(*list(model.children())[:-2]), "fc"  # ResNet


def pooled_parts(model):
    """Return the network up to the pooled features, and its linear layer."""
    from torch import nn

    maps, head = parts(model)
    pooled = nn.Sequential(maps, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return pooled, model.get_submodule(head)


def by_pytorch_ood(model, loader, *, pooled):
    """Fit pytorch-ood's ReAct on pooled features, or on maps as it documents."""
    import torch
    from pytorch_ood.detector import ReAct
    from torch import nn

    backbone, head = pooled_parts(model)
    if not pooled:
        backbone, _ = parts(model)
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    detector = ReAct(backbone=backbone, head=head, percentile=PERCENTILE / 100)
    detector.fit(loader)

    def score(loader):
        with torch.no_grad():
            return -torch.cat([detector(images) for images, _ in loader]).numpy()

    return score, float(detector.threshold)


def by_oodeel(model, loader):
    """Fit oodeel's energy with ReAct."""
    from oodeel.methods import Energy

    detector = Energy(use_react=True, react_quantile=PERCENTILE / 100)
    detector.fit(model, fit_dataset=loader, head_layer_id=parts(model)[1])

    def score(loader):
        return -np.asarray(detector.score(loader)[0])

    return score, float(np.asarray(detector.react_threshold))


def by_detectors(model, loader):
    """Fit detectors' ReAct."""
    import torch
    from detectors.methods import create_detector

    detector = create_detector(
        "react", model=model, features_nodes=["flatten"], p=PERCENTILE / 100
    )
    detector.fit(loader)

    def score(loader):
        return torch.cat([detector(images) for images, _ in loader]).detach().numpy()

    return score, float(detector.detector.thrs[-1])


LIBRARIES = {
    "reactood": by_reactood,
    "OpenOOD's rule": by_openood,
    "pytorch-ood, pooled": lambda *a: by_pytorch_ood(*a, pooled=True),
    "pytorch-ood, maps": lambda *a: by_pytorch_ood(*a, pooled=False),
    "oodeel": by_oodeel,
    "detectors": by_detectors,
}


def report(runs):
    """Print medians beside ours, and a sentence on each rule."""
    from _timing import machine, print_table
    from scipy.stats import spearmanr

    from reactood.metrics import auroc, fpr_at_tpr

    print("\n" + machine() + "\n")
    ours, rows = runs["reactood"], []
    for name, found in runs.items():
        errors = [run["error"] for run in found if "error" in run]
        if errors:
            rows.append((name, "failed", "", "", "", "", "", "", errors[0]))
            continue
        scores, n_id = np.array(found[-1]["scores"]), found[-1]["n_id"]
        y = np.repeat([1, -1], [n_id, len(scores) - n_id])
        theirs = np.array(ours[-1]["scores"])
        agreement = spearmanr(scores, theirs).statistic
        pairs = list(zip(found, ours, strict=True))
        ratios = [
            f"{np.median([run[key] / our[key] for run, our in pairs]):.2f}"
            for key in ("fit", "score")
        ]
        memory = np.median([run["memory"] for run in found])
        threshold = found[-1]["threshold"]
        rows.append(
            (
                name,
                "?" if threshold is None else f"{threshold:.4f}",
                f"{100 * auroc(y, scores):.2f}",
                f"{100 * fpr_at_tpr(y, scores):.2f}",
                f"{agreement:.4f} / {np.abs(scores - theirs).max():.1e}",
                *ratios,
                f"{memory:.0f}",
                SENTENCES.get(name, ""),
            )
        )
    titles = (
        "library",
        "clip",
        "AUROC",
        "FPR95",
        "rank correlation / largest difference",
    )
    titles += "fit, ratio", "scoring, ratio", "memory, MiB", "rule"
    print_table(titles, rows)
    seconds = [np.median([run[key] for run in ours]) for key in ("fit", "score")]
    print("Ratios are to reactood's {:.1f} s and {:.1f} s.".format(*seconds))


if __name__ == "__main__":
    main()
