"""The command ``tune``: score and percentile without out-of-distribution images."""

import argparse

from reactood._cli import _options as cli
from reactood._cli._exit import UsageError, say

DESCRIPTION = """\
Choose score and percentile without out-of-distribution images, by leaving classes out
of the classifier's head, and save the detector with the best setting. Starts from a
detector's file or from a model. Prints the choice, its reason and the best candidates.
Images that cannot be read are named and left out (exit code 3). The result is not
calibrated: for p-values, give the chosen setting to fit with --alpha.
"""
EPILOG = """\
examples:
  reactood tune det.safetensors --id train/ -o tuned.safetensors
  reactood tune --model resnet50 --id train/ -o tuned.safetensors
"""
MOST_SHOWN = 10


def add_parser(commands):
    """Add the command to the program's commands."""
    parser = commands.add_parser(
        "tune",
        help="choose score and percentile without OOD images",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "detector",
        nargs="?",
        metavar="DETECTOR",
        help="a file from fit; instead of it, --model",
    )
    cli.add_model(
        parser,
        help="a name of torchvision's, timm/NAME, FILE.py:FUNCTION or MODULE:FUNCTION; "
        "with DETECTOR, a function that builds the model, where the file needs it",
    )
    cli.add_id_images(parser)
    cli.add_output(parser, (cli.DETECTOR,), help="the detector's file, *.safetensors")
    cli.add_detector(parser)
    cli.add_subset(parser)
    cli.add_running(parser)


def run(options):
    """Tune a detector with the parsed options; return the exit code."""
    if options.detector is None and options.model is None:
        raise UsageError("one of DETECTOR and --model is required")

    from reactood._cli import _detectors as detectors
    from reactood._cli._inputs import draw, list_inputs
    from reactood._cli._rejected import note_of_few
    from reactood.model_selection import tune_detector
    from reactood.persistence import save

    detectors.check_free(options.out, force=options.force)
    paths = list_inputs(options.id, null=options.null)
    paths = draw(paths, options.limit, options.seed)
    if options.detector is None:
        pipeline = detectors.new_pipeline(options)
    else:
        loaded = detectors.load_detector(options)
        conformal, _, pipeline = detectors.take_apart(loaded, options.detector)
        if conformal is not None:
            say("The detector's calibration is left out: tune it, then calibrate.")
    name, detector = pipeline.steps[-1]
    features = detectors.Features(pipeline.steps[0][1], paths, options)
    values = features.values
    if len(pipeline.steps) > 2:
        values = pipeline[1:-1].transform(values)
    tuned = tune_detector(detector, values, random_state=options.seed)
    pipeline.steps[-1] = name, tuned.best_estimator_
    save(pipeline, options.out)
    print(tuned.summary_)
    print()
    print(_table(tuned.cv_results_))
    if not options.quiet:
        note = note_of_few(tuned.best_estimator_)
        if note:
            say(note)
        say(f"Written: {options.out}")
    return features.report()


def _table(results):
    """Return the best candidates, one a line."""
    import numpy as np

    mean, deviation = results["mean_test_score"], results["std_test_score"]
    order = np.argsort(-mean, kind="stable")  # NaN last
    lines = ["rank  AUROC   std     setting"]
    for rank, i in enumerate(order[:MOST_SHOWN], start=1):
        setting = ", ".join(f"{k}={v}" for k, v in results["params"][i].items())
        lines.append(
            f"{rank:>4}  {mean[i]:.4f}  {deviation[i]:.4f}  {setting or 'your own'}"
        )
    if len(order) > MOST_SHOWN:
        lines.append(f"      {len(order) - MOST_SHOWN} more")
    return "\n".join(lines)
