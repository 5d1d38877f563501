"""The command ``benchmark``."""

import argparse
import shlex
import sys
from pathlib import Path

from reactood._cli._options import shows_progress

SUITES = (
    *("digits", "fashion-mnist", "imagenet-sample", "imagenet-val", "imagenet"),
    *("cifar10-sample", "cifar10", "cifar100", "own"),
)
WITH_FOLDERS = "imagenet-val", "own"
PROTOCOLS = "clean", "official", "official-percentile"
DESCRIPTION = """\
Compare ReAct with the baselines of its paper and with later rules, on public images and
any classifier. Writes report.txt, .csv, .json and .html to a folder. Computed features
are stored in the same folder: if a run is interrupted, repeat the command to resume it.

suites, and the files that they read from --data DIR:
  digits           none: images and a network come with the package
  fashion-mnist    fashion-mnist/*.gz, optionally mnist/t10k-*.gz; trains a network
  imagenet-sample  imagenet-sample/CLASS/*, textures/; needs --model
  imagenet-val     imagenet-val/CLASS/*, textures/, flowers/; or --id and --ood; needs
                   --model
  imagenet         id_data/ILSVRC-2012/val/CLASS/*,
                   ood_data/{iNaturalist,SUN,Places,dtd}
  cifar10-sample   cifar10-jpeg/CLASS/*, tiny-imagenet/, textures/; needs --model
  own              none: --id DIR and --ood NAME=DIR; needs --model
  cifar10, cifar100  downloaded; ood_data/{svhn,LSUN,LSUN_resize,iSUN,dtd,places365}
"""
EPILOG = """\
methods, comma-separated:
  msp max-logit energy odin mahalanobis dice     each also +react, and +react@PERCENTILE
  centered-energy centered-max-logit gen lts fdbd nci vim knn            each also those
  react-per-unit react-two-sided react-layer:LAYER       variants of ReAct, with energy
  bats vra-p bfact ash-p ash-b ash-s scale                                   later rules
  tuned                              what tune_detector chooses, without OOD data
  groups: paper scores compatibility percentiles variants rivals shaping; features (all
  of these that need no layer and no gradient), all (odin too)

examples:
  python -m reactood benchmark digits
  python -m reactood benchmark imagenet --data datasets --protocol official
  python -m reactood benchmark imagenet --data datasets --model my_net.py:build
  python -m reactood benchmark own --id photos --ood drawings=scans \\
      --model my_net.py:build=weights.pt --methods features
"""


def add_parser(commands):
    """Add the command to the program's commands."""
    parser = commands.add_parser(
        "benchmark",
        help="run the paper's comparisons on public images",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("suite", choices=SUITES, metavar="SUITE", help="one of the suites above")
    add("--data", metavar="DIR", help="folder of the images (default: $REACTOOD_DATA)")
    add(
        "--model",
        help="a torchvision name, timm/NAME, FILE.py:FUNCTION or MODULE:FUNCTION (a "
        "function that builds the model), FILE.py:FUNCTION(TEXT) (called with this "
        "text), or one of these with =CHECKPOINT; for fashion-mnist also resnet-batch, "
        "resnet-group or resnet-weight",
    )
    add(
        "--preprocess",
        metavar="FILE.py:FUNCTION",
        help="a function that returns the model's transform (default: the usual "
        "transform of the data set; none for fashion-mnist and digits)",
    )
    add(
        "--id",
        metavar="DIR",
        help="your ID images, one folder for each class if you know the classes; for "
        "own and imagenet-val",
    )
    add(
        "--ood",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="your OOD images, and their name in the report; can be repeated",
    )
    add("--methods", default="paper", help="see below (default: %(default)s)")
    add(
        "--percentile",
        type=float,
        default=90.0,
        help="percentile of the clip (default: %(default)s)",
    )
    add(
        "--threshold",
        type=float,
        help="a fixed value for the clip, instead of a percentile",
    )
    add(
        "--noise",
        type=float,
        help="ODIN's noise (default: the paper's value for the model)",
    )
    add(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="resamples for the 95 %% intervals in report.csv; 0 for none (default: "
        "%(default)s)",
    )
    add(
        "--protocol",
        choices=PROTOCOLS,
        default="clean",
        help="imagenet only. clean: learn from training or held-out images. official: "
        "learn from 2,025 of the test images and use a fixed clip, as the paper's code "
        "does. official-percentile: the same, with a percentile (default: clean)",
    )
    add("--limit", type=int, metavar="N", help="use at most N images of each set")
    add(
        "--seed",
        type=int,
        default=0,
        help="seed of all random choices (default: %(default)s)",
    )
    add("--out", metavar="DIR", help="folder of the report (default: reactood-SUITE)")
    add("--batch-size", type=int, help="images per batch")
    add("--device", default="auto", help="cuda, cpu, ... (default: %(default)s)")
    add("--precision", default="float32", help="or bfloat16, float16")
    add("--engine", default="eager", help="or compile, openvino, auto")
    add(
        "--decoder", default="pillow", help="or torchcodec, auto (default: %(default)s)"
    )
    add("--workers", type=int, default=0, help="number of processes that read images")
    add("--quiet", action="store_true", help="print only the table")


def run(options):
    """Run the benchmark with the parsed options."""
    from reactood._cli.benchmark import _figures as figures
    from reactood._cli.benchmark import _report as report
    from reactood._cli.benchmark._files import Absent
    from reactood._cli.benchmark._methods import parse_methods
    from reactood._cli.benchmark._run import Benchmark
    from reactood._cli.benchmark._suites import SUITES
    from reactood._cli.benchmark._tasks import Request, limited

    out = options.out or f"reactood-{options.suite}"
    progress = shows_progress(options)
    try:
        ood_folders = _named_folders(options)
    except ValueError as error:
        sys.exit(f"reactood benchmark: {error}")
    request = Request(
        ood_folders=ood_folders,
        data=options.data,
        model=options.model,
        preprocess=options.preprocess,
        id_folder=options.id,
        protocol=options.protocol,
        out=out,
        seed=options.seed,
        verbose=not options.quiet,
        progress=progress,
    )
    try:
        methods = parse_methods(options.methods)
        task = SUITES[options.suite](request)
    except (Absent, ValueError) as error:
        sys.exit(f"reactood benchmark: {error}")
    if not options.quiet:
        print(*task.notes, sep="\n")
    task = limited(task, options.limit, options.seed)
    benchmark = Benchmark(
        task,
        out,
        percentile=options.percentile,
        threshold=options.threshold,
        noise=options.noise,
        n_bootstrap=options.bootstrap,
        verbose=request.verbose,
        progress=progress,
        batch_size=options.batch_size or "auto",
        device=options.device,
        precision=options.precision,
        engine=options.engine,
        decoder=options.decoder,
        num_workers=options.workers,
    )
    result = benchmark.run(methods)
    result |= {"seed": options.seed, "protocol": options.protocol}
    result["command"] = "python -m reactood " + shlex.join(options.arguments)
    written = report.write(result, figures.draw(benchmark), out)
    print("\n" + report.as_text(result))
    print("Written: " + ", ".join(map(str, written)))


def _named_folders(options):
    """Return the folders of ``--ood`` by their names."""
    folders = {}
    if (options.id or options.ood) and options.suite not in WITH_FOLDERS:
        raise ValueError(
            f"--id and --ood are for {' and '.join(WITH_FOLDERS)}; {options.suite} "
            "reads the images of --data."
        )
    for text in options.ood:
        name, separator, folder = text.partition("=")
        if not (separator and name and folder):
            raise ValueError(f"--ood {text}: expected NAME=DIR.")
        if name in folders:
            raise ValueError(f"--ood {text}: {name} is there twice.")
        folders[name] = folder
    for folder in [*folders.values(), *filter(None, [options.id])]:
        if not Path(folder).is_dir():
            raise ValueError(f"There is no folder {folder!r}.")
    return folders
