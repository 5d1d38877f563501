"""The options of the command ``benchmark``, and what it runs."""

import argparse
import shlex
import sys
from importlib.util import find_spec

SUITES = "digits", "fashion-mnist", "imagenet-sample", "imagenet", "cifar10", "cifar100"
PROTOCOLS = "clean", "official", "official-percentile"
DESCRIPTION = """\
Compare ReAct with the baselines of its paper and with later rules, on public images and
any classifier. Writes report.txt, .csv, .json and .html into a folder. What is computed
is kept there, so that the same command goes on where a killed run left off.

suites, and what --data DIR holds:
  digits           nothing: images and a network come with the package
  fashion-mnist    fashion-mnist/*.gz; mnist/t10k-*.gz if there; a network is trained
  imagenet-sample  imagenet-sample/CLASS/*, textures/; needs --model
  imagenet         id_data/ILSVRC-2012/val/CLASS/*,
                   ood_data/{iNaturalist,SUN,Places,dtd}
  cifar10, cifar100  downloaded; ood_data/{svhn,LSUN,LSUN_resize,iSUN,dtd,places365}
"""
EPILOG = """\
methods, comma-separated:
  msp max-logit energy odin mahalanobis dice     each also +react, and +react@PERCENTILE
  react-per-unit react-two-sided react-layer:LAYER       variants of ReAct, with energy
  bats vra-p bfact ash-p ash-b ash-s scale                           rules that followed
  groups: paper scores compatibility percentiles variants shaping

examples:
  python -m reactood benchmark digits
  python -m reactood benchmark imagenet --data datasets --protocol official
  python -m reactood benchmark imagenet --data datasets --model my_net.py:build
"""


def add_parser(commands):
    """Add the command to those of the program."""
    parser = commands.add_parser(
        "benchmark",
        help="run the paper's comparisons on public images",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("suite", choices=SUITES, metavar="SUITE", help="one of those above")
    add("--data", metavar="DIR", help="folder of the images; or $REACTOOD_DATA")
    add(
        "--model",
        help="a torchvision name, timm/NAME, FILE.py:FUNCTION that builds one, or "
        "NAME=CHECKPOINT; for fashion-mnist resnet-batch, -group or -weight",
    )
    add(
        "--preprocess",
        metavar="FILE.py:FUNCTION",
        help="a function that returns the model's transform (default: the usual one of "
        "the data set; fashion-mnist and digits have none)",
    )
    add("--methods", default="paper", help="see below (default: %(default)s)")
    add("--percentile", type=float, default=90.0, help="of the clip, in percent")
    add("--threshold", type=float, help="a clip given by hand")
    add("--noise", type=float, help="of ODIN (default: the paper's, by model)")
    add(
        "--protocol",
        choices=PROTOCOLS,
        default="clean",
        help="imagenet: learn from training or held-out images; or, as the paper's "
        "code does, with its clip, or with the percentile of 2,025 judged images",
    )
    add("--limit", type=int, metavar="N", help="at most N images of each set: a trial")
    add("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    add("--out", metavar="DIR", help="of the report (default: reactood-SUITE)")
    add("--batch-size", type=int, help="images per pass")
    add("--device", default="auto", help="cuda, cpu, ... (default: %(default)s)")
    add("--precision", default="float32", help="or bfloat16, float16")
    add("--engine", default="eager", help="or compile, openvino, auto")
    add("--workers", type=int, default=0, help="processes that read images")
    add("--quiet", action="store_true", help="print the table alone")


def run(options, arguments):
    """Do what the options say."""
    from reactood._cli.benchmark import _figures as figures
    from reactood._cli.benchmark import _report as report
    from reactood._cli.benchmark._files import Absent
    from reactood._cli.benchmark._methods import parse_methods
    from reactood._cli.benchmark._run import Benchmark
    from reactood._cli.benchmark._suites import SUITES
    from reactood._cli.benchmark._tasks import Request, limited

    out = options.out or f"reactood-{options.suite}"
    progress = not options.quiet and find_spec("tqdm") is not None
    request = Request(
        data=options.data,
        model=options.model,
        preprocess=options.preprocess,
        protocol=options.protocol,
        out=out,
        seed=options.seed,
        verbose=not options.quiet,
        progress=progress,
    )
    if request.verbose and not progress:
        print("Progress bars come with tqdm: pip install 'reactood[progress]'.")
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
        verbose=request.verbose,
        progress=progress,
        batch_size=options.batch_size or "auto",
        device=options.device,
        precision=options.precision,
        engine=options.engine,
        num_workers=options.workers,
    )
    result = benchmark.run(methods)
    result |= {"seed": options.seed, "protocol": options.protocol}
    result["command"] = "python -m reactood " + shlex.join(arguments)
    written = report.write(result, figures.draw(benchmark), out)
    print("\n" + report.as_text(result))
    print("Written: " + ", ".join(map(str, written)))
