"""The command ``fit``: a detector from a model and a folder of images."""

import argparse

from reactood._cli import _options as cli
from reactood._cli._exit import say

DESCRIPTION = """\
Fit a detector to in-distribution images and save it. Features come from a trained
classifier, which is not changed. Images that cannot be read are named and left out
(exit code 3). Images that are new to the classifier give a better threshold than those
that it was trained on. Nothing is written if the command fails.
"""
EPILOG = """\
examples:
  reactood fit --model resnet50 --weights IMAGENET1K_V1 --id train/ -o det.safetensors
  reactood fit --model my_net.py:build --checkpoint w.safetensors \\
      --preprocess my_net.py:transform --id train/ --alpha 0.05 -o det.safetensors
"""


def add_parser(commands):
    """Add the command to the program's commands."""
    parser = commands.add_parser(
        "fit",
        help="fit a detector to images and save it",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_model(
        parser,
        required=True,
        help="a name of torchvision's, timm/NAME, or FILE.py:FUNCTION or "
        "MODULE:FUNCTION, a function without arguments that builds the model",
    )
    cli.add_id_images(parser)
    cli.add_output(parser, (cli.DETECTOR,), help="the detector's file, *.safetensors")
    cli.add_detector(parser)
    parser.add_argument(
        "--contamination",
        type=cli.fraction,
        default=0.05,
        metavar="C",
        help="share of the images that the threshold rejects, a fraction (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--alpha",
        type=cli.fraction,
        metavar="A",
        help="calibrate the detector: it has p-values, and rejects at most this share "
        "of in-distribution images on average. Half of the images are held out for it",
    )
    cli.add_subset(parser)
    cli.add_running(parser)


def run(options):
    """Fit a detector with the parsed options; return the exit code."""
    from reactood._cli import _detectors as detectors
    from reactood._cli._inputs import draw, list_inputs
    from reactood._cli._rejected import note_of_few
    from reactood.persistence import save

    detectors.check_free(options.out, force=options.force)
    paths = list_inputs(options.id, null=options.null)
    paths = draw(paths, options.limit, options.seed)
    pipeline = detectors.new_pipeline(options)
    pipeline.set_params(detector__contamination=options.contamination)
    features = detectors.Features(pipeline.steps[0][1], paths, options)
    if options.alpha is None:
        pipeline.steps[-1][1].fit(features.values)
        fitted = pipeline
    else:
        fitted = detectors.calibrated(
            pipeline, features.values, alpha=options.alpha, seed=options.seed
        )
    save(fitted, options.out)
    if not options.quiet:
        say(_summary(fitted, pipeline.steps[-1][1], len(features.values)))
        detector = pipeline.steps[-1][1]
        notes = [_note_of_signed(detector, features.values)]
        if options.alpha is None:
            notes.append(note_of_few(detector))
        for note in filter(None, notes):
            say(note)
        say(f"Written: {options.out}")
    return features.report()


def _summary(fitted, detector, n_images):
    """Return what was learned, in words."""
    from reactood._cli._inputs import counted

    if detector.percentile is None:
        clip = "without a clip"
    else:
        clip = (
            f"clip {detector.activation_threshold_:.4g} (percentile "
            f"{detector.percentile:g})"
        )
    text = f"{counted(n_images)}, {detector.score_function}, {clip}, "
    if not hasattr(fitted, "calibration_scores_"):
        return text + f"threshold {detector.offset_:.4g}."
    by = counted(len(fitted.calibration_scores_), "calibration ")
    return text + f"threshold {fitted.offset_:.4g} by {by} at alpha {fitted.alpha:g}."


def _note_of_signed(detector, features):
    """Return a hint where a clip from above meets features without a ReLU, or ""."""
    from reactood.detector import SIGNED

    share = float((features < 0).mean())
    from_above = detector.percentile is not None and detector.lower_percentile is None
    if share < SIGNED or not from_above or detector.score_function == "msp":
        return ""
    return (
        f"{100 * share:.0f} % of the activations are negative: ReAct was made for "
        "features after a ReLU. Compare other settings with reactood tune."
    )
