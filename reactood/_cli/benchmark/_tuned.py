"""The method ``tuned``: what `tune_detector` chooses from ID features alone."""

import numpy as np

from reactood.detector import ReActDetector
from reactood.model_selection import tune_detector
from reactood.model_selection._candidates import same

COMPARED = {  # settings of other methods, whose result on left-out classes is kept
    "msp": ("msp", None),
    "energy": ("energy", None),
    "energy+react@90": ("energy", 90.0),
}


def choose(inputs, calibration):
    """Return the fitted choice, its clip, and what the report says about the choice.

    ``left_out`` holds AUROC on left-out classes, which are near-OOD data: of the
    choice, of plain scores, and of ReAct as in the paper.
    """
    tuned = tune_detector(ReActDetector(inputs.head), calibration)
    detector, chosen = tuned.best_estimator_, tuned.best_params_
    clip = None
    if chosen["percentile"] is not None:
        clip = float(np.max(detector.activation_threshold_))
    table = tuned.cv_results_
    found = {"tuned": tuned.best_score_}
    for name, (score, percentile) in COMPARED.items():
        own = {"score_function": score, "percentile": percentile}
        for params, value in zip(
            table["params"], table["mean_test_score"], strict=True
        ):
            if same(params, own):
                found[name] = float(value)
    shown = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
    return detector, clip, {"remark": f"chosen: {shown}.", "left_out": found}
