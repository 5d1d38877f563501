"""Options that several commands have."""

import argparse
import sys

SCORES = (
    *("energy", "centered_energy", "centered_max_logit", "msp"),
    *("max_logit", "entropy", "gen", "joint_energy"),
)
PRECISIONS = "float32", "bfloat16", "float16"
ENGINES = "eager", "compile", "openvino", "auto"
DECODERS = "auto", "pillow", "torchcodec"
DETECTOR = ".safetensors"
INPUTS = (
    "folders (with all folders below them), image files, patterns such as "
    "'new/**/*.jpg', or - for a list of files on stdin, one a line"
)


def add_id_images(parser):
    """Add ``--id``, the images to learn from."""
    parser.add_argument(
        "--id",
        nargs="+",
        required=True,
        metavar="IMAGES",
        help=f"in-distribution images: {INPUTS}",
    )
    add_null(parser)


def add_null(parser):
    """Add ``-0``, for the list on stdin."""
    parser.add_argument(
        "-0",
        "--null",
        action="store_true",
        help="the list on stdin is separated by NUL characters, as from find -print0",
    )


def add_subset(parser):
    """Add ``--limit`` and ``--seed``."""
    parser.add_argument(
        "--limit",
        type=count,
        metavar="N",
        help="use N of the images, drawn at random (default: all)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of all random choices (default: %(default)s)",
    )


def add_output(parser, suffixes, *, help, required=True):
    """Add ``-o``, a file with one of these suffixes, and ``--force``."""
    parser.add_argument(
        *("-o", "--out"),
        required=required,
        type=file_type(suffixes),
        metavar="FILE",
        help=help,
    )
    parser.add_argument(
        "--force", action="store_true", help="replace the output if it exists"
    )


def add_model(parser, *, help, required=False, transform="--preprocess"):
    """Add the options that name a model, and its ``transform``."""
    add = parser.add_argument
    parser.set_defaults(transform_option=transform)
    add("--model", required=required, metavar="MODEL", help=help)
    add(
        "--checkpoint",
        metavar="FILE",
        help="weights for the model: a .safetensors file, or one of torch.save that "
        "holds nothing but tensors",
    )
    add(
        transform,
        dest="preprocess",
        metavar="FILE.py:FUNCTION",
        help="a function that returns the transform from a PIL image to a tensor, also "
        "as MODULE:FUNCTION; auto: the transform of the weights; none: scale pixels "
        "to [0, 1] (default: auto)",
    )


def add_own_model(parser, **settings):
    """Add the options that name the model of a detector's file, where it needs one."""
    add_model(
        parser,
        **settings,
        help="FILE.py:FUNCTION or MODULE:FUNCTION, a function that builds the model, "
        "for a detector that was fitted with a model of your own",
    )


def add_detector(parser):
    """Add the settings of a detector that is to be fitted."""
    add = parser.add_argument
    add(
        "--weights",
        default="DEFAULT",
        help="pretrained weights of a model of torchvision or timm, such as "
        "IMAGENET1K_V1; none: random ones (default: %(default)s)",
    )
    add(
        "--percentile",
        type=percentile,
        default=90.0,
        metavar="P",
        help="percentile of the clip, in percent; none: no clip (default: 90)",
    )
    add(
        "--score",
        choices=SCORES,
        default="energy",
        metavar="SCORE",
        help=f"{', '.join(SCORES)} (default: %(default)s)",
    )


def add_running(parser):
    """Add the options on how a network is run; None leaves a detector's own value."""
    add = parser.add_argument
    add("--batch-size", type=count, metavar="N", help="images per batch")
    add("--device", help="auto, cpu, cuda, ...")
    add("--precision", choices=PRECISIONS, help="precision of the network")
    add("--engine", choices=ENGINES, help="what runs the network")
    add("--decoder", choices=DECODERS, help="what decodes and resizes JPEG files")
    add("--workers", type=count, metavar="N", help="processes that read images")
    add("--cache", metavar="DIR", help="folder where features are kept")
    add_quiet(parser)


def add_quiet(parser):
    """Add ``--quiet``."""
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="write nothing to stderr but warnings and errors",
    )


def running(options):
    """Return the parameters of an extractor that the options give."""
    names = (
        *("batch_size", "device", "precision", "engine"),
        *("decoder", "workers", "cache"),
    )
    given = {name: getattr(options, name, None) for name in names}
    given["num_workers"] = given.pop("workers")
    return {name: value for name, value in given.items() if value is not None}


def shows_progress(options):
    """Return whether to show progress bars: a log needs none."""
    return not options.quiet and sys.stderr.isatty()


# --- types of values: argparse reports their ArgumentTypeError as wrong usage ---------


def file_type(suffixes):
    """Return a type of files by their suffixes."""

    def check(text):
        if not text.lower().endswith(suffixes):
            expected = " or ".join(suffixes)
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected a file whose name ends in {expected}"
            )
        return text

    return check


def count(text):
    """Return a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a whole number of at least 1"
        )
    return value


def percentile(text):
    """Return a percentile, or None for "none"."""
    if text.lower() == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a percentage in (0, 100], or none"
        )
    return value


def fraction(text):
    """Return a number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a fraction between 0 and 1, such as 0.05"
        )
    return value
