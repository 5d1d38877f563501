"""What `tune_detector` chooses without OOD data, judged by real OOD images.

    python benchmarks/selection_without_ood.py --data DIR
    python benchmarks/selection_without_ood.py --data DIR --study
    python benchmarks/selection_without_ood.py --data DIR --families

Half of the in-distribution (ID) images, drawn at random, choose; the other half is
separated from the OOD images, which are not used for the choice. "regret" is how far
the choice is behind the best of the whole grid, which only OOD data can tell, in points
of AUROC. `--study` compares the rules by which the choice could be made: the number of
parts, the tolerance, and whether centered scores are preferred.

The folder is that of `imagenet_sample.py`, with more networks and images; networks that
are not there are left out. Features are kept in `--cache`, so that a second run takes
minutes.
"""

import io
import tempfile
from pathlib import Path

import numpy as np
from _real_images import arguments, find_folder, images, load_file, networks
from _timing import limit_threads, machine, print_table
from PIL import Image
from scipy.stats import rankdata
from sklearn.model_selection import ParameterGrid
from torchvision import transforms

from reactood import ReActDetector, TorchFeatureExtractor
from reactood._cli.benchmark import _fashion as fashion
from reactood._cli.benchmark._files import read_idx
from reactood.cache import FeatureCache
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.metrics import auroc, fpr_at_tpr
from reactood.model_selection import tune_detector
from reactood.model_selection._candidates import (
    PERCENTILES,
    SCORES,
    choose,
    make_candidates,
)

CIFAR_NETS = "densenet_cifar10", "resnet20", "resnet56"
GRID = list(
    ParameterGrid({"score_function": (*SCORES, "gen"), "percentile": PERCENTILES})
)
MOST_ROWS = 1000  # to choose by
DEFAULT = {"score_function": "energy", "percentile": 90.0}
PLAIN = [{"score_function": name, "percentile": None} for name in ("msp", "energy")]


class AsJPEG:
    """Cut or scale an image to 32 pixels and put it through a lossy JPEG file.

    The ID images of the CIFAR networks are such files, and the loss must not tell them
    from OOD images.
    """

    def __init__(self, first):
        self.first = first

    def __call__(self, image):
        image = self.first(image.convert("RGB"))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=75, subsampling=2)
        file.seek(0)
        return Image.open(file).convert("RGB")


def imagenet_networks(folder, cache):
    """Yield names, heads and features of networks for ImageNet."""
    for name, (load, preprocess) in networks(folder).items():
        sets = {
            where: extract(load, preprocess, images(folder / where), cache)
            for where in ("textures", "flowers")
            if (folder / where).is_dir()
        }
        steps = [
            step
            for step in preprocess.transforms
            if type(step).__name__ != "Resize"  # these images are 227 pixels wide
        ]
        if (folder / "imagenet-val").is_dir():
            as_is = transforms.Compose(steps)
            paths = images(folder / "imagenet-val")
            H, head = extract(load, as_is, paths, cache)
            yield name, head, H, {key: value for key, (value, _) in sets.items()}
        elif name == "mobilenet_v2":
            H, head = extract(
                load, preprocess, images(folder / "imagenet-sample"), cache
            )
            yield name, head, H, {key: value for key, (value, _) in sets.items()}


def cifar_networks(folder, cache):
    """Yield names, heads and features of networks for CIFAR-10."""
    file = folder / "cifar-nets" / "cifar_nets.py"
    if not file.exists():
        return
    nets = load_file(file)
    scale = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32)])
    crop = transforms.CenterCrop(32)
    for name in CIFAR_NETS:
        to_tensor = transforms.Compose(nets.preprocess(name).transforms[-2:])
        load = lambda name=name: nets.load(name)
        H, head = extract(load, to_tensor, images(folder / "cifar10-jpeg"), cache)
        ood = {}
        for where, key, first in (
            ("tiny-imagenet", "tiny-imagenet, scaled", scale),
            ("tiny-imagenet", "tiny-imagenet, cropped", crop),
            ("textures", "textures, scaled", scale),
        ):
            step = transforms.Compose([AsJPEG(first), *to_tensor.transforms])
            ood[key], _ = extract(load, step, images(folder / where), cache)
        yield name, head, H, ood


def digits(cache):
    """Yield the digits network of the package."""
    data = load_digits_ood()
    extractor = TorchFeatureExtractor(digits_classifier).fit(data.X_test[:4])
    ood = {name: extractor.transform(X) for name, X in data.ood.items()}
    yield "digits", extractor.head_, extractor.transform(data.X_test), ood


def fashion_network(folder, file):
    """Yield the network that `reactood benchmark --suite fashion-mnist` has trained."""

    def read(where):
        found = sorted((folder / where).glob("t10k-images*"))
        return (read_idx(found[0]).astype(np.float32) / 255)[:, None]

    extractor = TorchFeatureExtractor(fashion.loader(file))
    H = extractor.fit_transform(read("fashion-mnist"))
    yield (
        "fashion-mnist",
        extractor.head_,
        H,
        {"mnist": extractor.transform(read("mnist"))},
    )


def extract(load, preprocess, paths, cache):
    """Return the features of images, and the head."""
    extractor = TorchFeatureExtractor(
        load(), preprocess=preprocess, cache=FeatureCache(cache)
    )
    return extractor.fit_transform(paths), extractor.head_


def judge(head, params, calibration, evaluation, ood):
    """Return AUROC and FPR95 in percent for each OOD set."""
    detector = ReActDetector(head, **params, check_score=False).fit(calibration)
    of_id, found = detector.score_samples(evaluation), {}
    for name, H in ood.items():
        y = np.repeat([1, -1], [len(evaluation), len(H)])
        scores = np.concatenate([of_id, detector.score_samples(H)])
        found[name] = 100 * auroc(y, scores), 100 * fpr_at_tpr(y, scores)
    return found


def trials(networks, seeds):
    """Yield, for each network and seed, what was chosen and how all candidates do."""
    for name, head, H, ood in networks:
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(len(H))
            half = len(H) // 2
            calibration, evaluation = H[order[:half][:MOST_ROWS]], H[order[half:]]
            real = [judge(head, p, calibration, evaluation, ood) for p in GRID]
            yield name, seed, head, calibration, real


def table(networks, seeds):
    """Print what the default, the choice and the best of the grid reach."""
    rows, regrets, below = [], {}, {}
    for name, seed, head, calibration, real in trials(networks, seeds):
        detector = ReActDetector(head, check_score=False)
        tuned = tune_detector(detector, calibration, random_state=seed)
        chosen = real[GRID.index(tuned.best_params_)]
        default = real[GRID.index(DEFAULT)]
        msp, energy = (real[GRID.index(params)] for params in PLAIN)
        for ood in chosen:
            best = max(real, key=lambda found: found[ood][0])[ood]
            regret = best[0] - chosen[ood][0]
            regrets.setdefault((name, ood), []).append(regret)
            plain = max(msp[ood][0], energy[ood][0])
            below.setdefault((name, ood), []).append(plain - chosen[ood][0])
            if seed == 0:
                cells = [
                    f"{a:.1f} / {f:.1f}"
                    for a, f in (default[ood], chosen[ood], best, msp[ood], energy[ood])
                ]
                params = tuned.best_params_
                choice = f"{params['score_function']}, {params['percentile']}"
                rows.append([name, ood, choice, *cells, f"{regret:.1f}"])
    columns = "network", "OOD", "choice", "default", "chosen", "best", "msp"
    print_table((*columns, "energy", "regret"), rows)
    of_all = np.array(list(regrets.values()))  # (cells, seeds)
    first, means, spread = of_all[:, 0], of_all.mean(axis=1), of_all.std(axis=1)
    print(
        f"Regret over {len(of_all)} cells, first seed: mean {first.mean():.2f}, "
        f"worst {first.max():.2f}. Over {seeds} seeds: mean {of_all.mean():.2f}, worst "
        f"mean of a cell {means.max():.2f}, worst of all {of_all.max():.2f}; "
        f"standard deviation {spread.mean():.2f} on average, at most "
        f"{spread.max():.2f}."
    )
    worst = max(below, key=lambda cell: np.mean(below[cell]))
    print(
        "Furthest below the better of plain MSP and Energy: "
        f"{np.mean(below[worst]):.2f} points, mean over seeds ({', '.join(worst)})."
    )


def study(networks, seeds):
    """Print mean and worst regret of the rules of choice."""
    found = {}
    for name, seed, head, calibration, real in trials(networks, seeds):
        for n_parts, n_repeats in ((2, 1), (2, 3), (2, 5), (3, 2), (5, 1), (10, 1)):
            tuned = tune_detector(
                ReActDetector(head, check_score=False),
                calibration,
                n_parts=n_parts,
                n_repeats=n_repeats,
                random_state=seed,
            ).cv_results_
            candidates = make_candidates(ReActDetector(head))
            splits = [tuned[key] for key in tuned if key.startswith("split")]
            for tolerance in (0, 0.1, 0.15, 0.2, 0.25, 0.3):
                for safe in ((), ("centered_energy", "centered_max_logit")):
                    best, _ = choose(
                        np.array(splits), candidates, tolerance=tolerance, safe=safe
                    )
                    chosen = real[GRID.index(candidates[best].params)]
                    rule = n_parts, n_repeats, tolerance, bool(safe)
                    for ood, (value, _) in chosen.items():
                        top = max(r[ood][0] for r in real)
                        cells = found.setdefault(rule, {})
                        cells.setdefault((name, ood), []).append(top - value)
    rows = []
    for (n_parts, n_repeats, tolerance, safe), cells in found.items():
        means = [np.mean(regrets) for regrets in cells.values()]
        prefer = "centered" if safe else "the best"
        numbers = f"{np.mean(means):.2f}", f"{max(means):.1f}"
        rows.append([f"{n_parts}", f"{n_repeats}", f"{tolerance}", prefer, *numbers])
    print_table(
        ("parts", "repeats", "tolerance", "prefers", "mean regret", "worst"), rows
    )


def made_up(H, head, rng):
    """Yield names of families of surrogates, and rows made from ID features."""
    n, d = H.shape
    mean, least = H.mean(axis=0), H.min(axis=0)

    def shuffled():
        return H[rng.permutation(n)]

    yield "mean of 2 rows", (shuffled() + shuffled()) / 2
    yield "mean of 5 rows", np.mean([shuffled() for _ in range(5)], axis=0)
    yield (
        "each unit of one of 2 rows",
        np.where(rng.random((n, d)) < 0.5, H, shuffled()),
    )
    yield "each unit permuted", rng.permuted(H, axis=0)
    noise = rng.normal(mean, H.std(axis=0), H.shape)
    yield "Gaussian noise", np.maximum(noise, least).astype(np.float32)
    yield "shrunken towards the mean", mean + 0.5 * (H - mean)

    weight, bias = head
    of_class = weight[(H @ weight.T + bias).argmax(axis=1)]
    speaks_for_it = of_class * (H - mean)
    strongest = np.argsort(-speaks_for_it, axis=1)[:, : max(1, d // 10)]
    silenced = H.copy()
    np.put_along_axis(silenced, strongest, mean[strongest], axis=1)
    yield "strongest tenth of units silenced", silenced
    direction = of_class - weight.mean(axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    along = ((H - mean) * direction).sum(axis=1, keepdims=True)
    projected = np.maximum(H - along * direction, least)
    yield "direction of the class projected out", projected.astype(np.float32)


def families(networks, seeds):
    """Print mean and worst regret of the choice by each family of surrogates."""
    found = {}
    for name, seed, head, calibration, real in trials(networks, seeds):
        detector = ReActDetector(head, check_score=False)
        candidates = make_candidates(detector)
        tuned = tune_detector(detector, calibration, random_state=seed).cv_results_
        aurocs = {
            "left-out classes": np.mean(
                [tuned[key] for key in tuned if key.startswith("split")], axis=0
            )
        }
        rng = np.random.default_rng(seed)
        for family, made in made_up(calibration, head, rng):
            judged = [
                judge(head, some.params, calibration, calibration, {family: made})
                for some in candidates
            ]
            aurocs[family] = np.array([each[family][0] / 100 for each in judged])
        errors = [rankdata(1 - values) for values in aurocs.values()]
        aurocs["all of them, mean rank"] = 1 - np.mean(errors, axis=0) / len(candidates)
        for family, values in aurocs.items():
            rules = {
                "best": choose(values[None], candidates, tolerance=0, safe=()),
                "rule": choose(values[None], candidates),
            }
            for rule, (best, _) in rules.items():
                chosen = real[GRID.index(candidates[best].params)]
                cells = found.setdefault(family, {}).setdefault(rule, {})
                for ood, (value, _) in chosen.items():
                    top = max(each[ood][0] for each in real)
                    cells.setdefault((name, ood), []).append(top - value)
    rows = []
    for family, rules in found.items():
        means = [np.mean(list(cells.values()), axis=1) for cells in rules.values()]
        rows.append([family, *(f"{m.mean():.2f} / {m.max():.1f}" for m in means)])
    print_table(("surrogates", "the best", "the rule of tune_detector"), rows)


def main():
    """Extract the features that are not in the cache, and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--cache", help="folder for features; default: a temporary one")
    parser.add_argument("--fashion", help="weights that the suite fashion-mnist keeps")
    parser.add_argument("--seeds", type=int, default=10, help="of the calibration rows")
    parser.add_argument("--study", action="store_true", help="compare rules of choice")
    parser.add_argument("--families", action="store_true", help="compare surrogates")
    options = parser.parse_args()
    limit_threads(options.threads)
    folder = find_folder(options)
    if folder is None:
        return
    print(machine() + "\n")
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(options.cache or temporary)
        networks = [*digits(cache), *cifar_networks(folder, cache)]
        networks += imagenet_networks(folder, cache)
        if options.fashion:
            networks += fashion_network(folder, options.fashion)
        show = study if options.study else families if options.families else table
        show(networks, options.seeds)


if __name__ == "__main__":
    main()
