"""Run methods on a task and compute their results; finished work is kept."""

import functools
import hashlib
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reactood._cli.benchmark._methods import (
    SCORES,
    MethodInputs,
    classes_for_mahalanobis,
)
from reactood._cli.benchmark._published import published
from reactood._cli.benchmark._tuned import choose
from reactood._images._digest import image_digest
from reactood._utils._fingerprint._walk import identity
from reactood._utils._response import parts_of
from reactood._utils._warnings import warn
from reactood.baselines import ODINFeatureExtractor, clip_layer
from reactood.cache._feature_cache import FeatureCache
from reactood.detector import ReActDetector
from reactood.extractor._extractor import TorchFeatureExtractor
from reactood.metrics import auroc, fpr_at_tpr
from reactood.metrics._bootstrap import metrics_of_resamples
from reactood.metrics._ranking import marks_of

ODIN_TEMPERATURE = 1000.0
UNKNOWN_TO_ODIN = "precision", "engine", "decoder"
CHECK = "score_function="  # how the warning of ReActDetector's check starts
CONFIDENCE = 95.0  # percent, of the intervals
PACKAGES = "reactood", "torch", "torchvision", "scikit-learn", "numpy", "scipy"


class Benchmark:
    """One task on one machine.

    Parameters
    ----------
    task : Task
        Model and images.
    out : Path
        Folder of the report. Features are kept in it, so that an interrupted run can
        be resumed.
    percentile, threshold : float or None
        Parameters of the clip. A threshold of None means that of the task.
    noise : float or None
        Noise of ODIN; None for the noise of the task.
    n_bootstrap : int
        Number of bootstrap resamples for the intervals; 0 for none.
    verbose, progress : bool
        Whether to print the current step; whether to show progress bars.
    **options
        Parameters of the extractor.
    """

    def __init__(
        self,
        task,
        out,
        *,
        percentile=90.0,
        threshold=None,
        noise=None,
        n_bootstrap=0,
        verbose=False,
        progress=False,
        **options,
    ):
        self.task, self.out = task, Path(out)
        self.verbose, self.progress = verbose, progress
        # Published figures were made with Pillow.
        self.options = options = {"decoder": "pillow"} | options
        self.extractor = TorchFeatureExtractor(
            task.model,
            weights=task.weights,
            preprocess=task.preprocess,
            cache=FeatureCache(self.out / "cache"),
            verbose=progress,
            **options,
        )
        self.percentile, self.threshold, self.noise = percentile, threshold, noise
        self.n_bootstrap = n_bootstrap
        self.timings = {}
        self.images = {"ID to learn from": task.calibration, "ID judged": task.test}
        self.images |= {f"OOD {name}": images for name, images in task.ood.items()}

    def run(self, methods):
        """Return all contents of the report, as plain values."""
        self._prepare()
        results = []
        for method in methods:
            self._say(method.text)
            results.append(self._judged(method))
        return {
            "suite": self.task.suite,
            "model": self.task.model_name,
            "percentile": self.inputs.percentile,
            "threshold": self.inputs.threshold,
            "odin_noise": list(self.inputs.noise),
            "n_bootstrap": self.n_bootstrap,
            "counts": {name: len(images) for name, images in self.images.items()},
            "id_accuracy": self._accuracy(self.plain_classes),
            "notes": self.task.notes,
            "methods": results,
            "timings": self.timings,
            "versions": versions(),
        }

    def _prepare(self):
        """Extract the features, and set the values that all methods need."""
        task, threshold, noise = self.task, self.threshold, self.noise
        self.features = self._extracted(self.extractor)
        self.calibration, self.test, *_ = self.features.values()
        self.inputs = MethodInputs(
            head=self.extractor.head_,
            percentile=self.percentile,
            threshold=task.threshold if threshold is None else threshold,
            classes=classes_for_mahalanobis(task.calibration_classes),
            shape=self.calibration.shape,
            noise=task.noise if noise is None else (noise, noise),
        )
        plain = ReActDetector(self.inputs.head, percentile=None, check_score=False)
        self.plain_classes = plain.fit(self.calibration).predict_class(self.test)

    def _extracted(self, extractor):
        """Return the features of each set of images, by its name."""
        extractor.fit(self.task.calibration)
        found = {}
        for name, images in self.images.items():
            self._say(f"{name}: {len(images):,} images")
            start = time.perf_counter()
            found[name] = extractor.transform(images)
            key = f"features, {name}"
            self.timings.setdefault(key, time.perf_counter() - start)
        return found

    def _judged(self, method):
        """Return the results of one method, or its error."""
        row = {"method": method.text}
        start = time.perf_counter()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                detector, scores, clip, extra = self._scores(method)
        except ValueError as error:
            return row | {"error": str(error)}
        checked = _passed_on(caught)
        row |= extra
        row["clip"] = clip
        row["seconds"] = time.perf_counter() - start
        row["accuracy"] = self._accuracy_with(method, detector)
        _, id_scores, *ood_scores = scores
        row["ood"] = [
            self._cell(method, name, id_scores, of_set)
            for name, of_set in zip(self.task.ood, ood_scores, strict=True)
        ]
        row["mean"] = _mean(row["ood"])
        self._add_intervals(row, id_scores, ood_scores)
        if remark := self._remark(method, detector):
            row["remark"] = remark
        if checked and method.name in SCORES:
            row["remark"] = f"fit warns: {checked}"
        return row

    def _add_intervals(self, row, id_scores, ood_scores):
        """Add the ends of bootstrap intervals to the results of a method."""
        if not self.n_bootstrap:
            return
        found = metrics_of_resamples(
            id_scores, ood_scores, tpr=0.95, n_bootstrap=self.n_bootstrap, seed=0
        )
        found = np.concatenate([found, found.mean(axis=1, keepdims=True)], axis=1)
        ends = (100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2
        for end, values in zip(
            ("low", "high"), np.percentile(found, ends, axis=0), strict=True
        ):
            for cell, (fpr, area, *_) in zip(
                [*row["ood"], row["mean"]], values, strict=True
            ):
                cell |= {f"fpr95_{end}": float(fpr), f"auroc_{end}": float(area)}

    def _remark(self, method, detector):
        """Return a remark if the lower clip changes nothing, as after a ReLU."""
        if method.name != "react-two-sided":
            return None
        low = detector.lower_activation_threshold_
        if any(np.min(X) < low for X in self.features.values()):
            return None
        return f"no activation is below its lower clip, {low:g}: this is one-sided."

    def _cell(self, method, name, id_scores, ood_scores):
        y = marks_of(len(id_scores), len(ood_scores))
        scores = np.concatenate([id_scores, ood_scores])
        cell = {"ood": name, "fpr95": fpr_at_tpr(y, scores), "auroc": auroc(y, scores)}
        key = method.text if method.percentile is None else None
        values = published(self.task.published, key, name)
        if values is not None:
            cell |= {
                "published_fpr95": values[0] / 100,
                "published_auroc": values[1] / 100,
            }
        return cell

    def _scores(self, method):
        """Return a fitted detector, the scores of each set, the clip, and more."""
        if method.name == "odin":
            return *self._odin(method), {}
        features = self.features
        if method.name == "tuned":
            chosen, *more = choose(self.inputs, self.calibration)
            return chosen, self._scored(chosen, features), *more
        detector: Any = method.make(self.inputs)
        clip: Any = None
        if method.layer:
            extractor = clip_layer(
                self.extractor,
                method.layer,
                self.task.calibration,
                percentile=method.clip(self.inputs)["percentile"],
            )
            features = self._extracted(extractor)
        calibration, *_ = features.values()
        classes = self.inputs.classes if "mahalanobis" in method.name else None
        detector.fit(calibration, classes)
        _, last = parts_of(detector)
        if method.clipped and not method.layer:
            clip = getattr(last, "activation_threshold_", None)
            if detector is not last:
                clip = float(np.max(detector[0].high_))
            if np.ndim(clip):
                clip = None  # one per unit
        return detector, self._scored(detector, features), clip, {}

    def _scored(self, detector, features):
        return [detector.score_samples(X) for X in features.values()]

    def _odin(self, method):
        clip = float("inf")
        if method.clipped:
            detector = ReActDetector(
                self.inputs.head, check_score=False, **method.clip(self.inputs)
            )
            clip = detector.fit(self.calibration).activation_threshold_
        noise = self.inputs.noise[method.clipped]
        options = {k: v for k, v in self.options.items() if k not in UNKNOWN_TO_ODIN}
        extractor = ODINFeatureExtractor(
            self.task.model,
            weights=self.task.weights,
            preprocess=self.task.preprocess,
            noise=noise,
            temperature=ODIN_TEMPERATURE,
            threshold=clip,
            verbose=self.progress,
            **options,
        ).fit(self.task.calibration)
        detector = ReActDetector(
            self.inputs.head,
            percentile=None,
            score_function="msp",
            temperature=ODIN_TEMPERATURE,
            check_score=False,
        )
        detector.fit(self.calibration)
        network = identity(self.extractor.model_)
        settings = network, self.task.preprocess, noise, clip

        def compute(images):
            return detector.score_samples(extractor.transform(images))

        scores = []
        for name, images in self.images.items():
            self._say(f"  {name}")
            key = identity((settings, self._digests[name]))
            scores.append(self._once(key, functools.partial(compute, images)))
        return detector, scores, clip if method.clipped else None

    @functools.cached_property
    def _digests(self):
        """A digest of each set of images, by its name."""
        return {name: _digest(images) for name, images in self.images.items()}

    def _once(self, key, compute):
        """Return the scores kept under ``key``, or compute and keep them."""
        file = self.out / "cache" / f"odin-{key}.npy"
        if not file.exists():
            partial = file.with_suffix(".partial.npy")
            np.save(partial, compute())
            partial.replace(file)
        return np.load(file)

    def _accuracy_with(self, method, detector):
        """Return the ID accuracy with the rule applied; None if undefined."""
        steps, last = parts_of(detector)
        if method.on_images or not hasattr(last, "predict_class"):
            return None
        X = self.test if steps is None else steps.transform(self.test)
        return self._accuracy(last.predict_class(last.rectify(X)))

    def _accuracy(self, classes):
        if self.task.test_classes is None:
            return None
        return float(np.mean(classes == self.task.test_classes))

    def _say(self, text):
        if self.verbose:
            print(text, flush=True)


def _passed_on(caught):
    """Issue warnings again, but return what the check in `fit` found, or None."""
    checked = None
    for warning in caught:
        text = str(warning.message)
        if text.startswith(CHECK):
            checked = text.partition(", and may rank")[0].removesuffix(".") + "."
        else:
            warn(warning.message, warning.category)
    return checked


def _mean(cells):
    keys = [key for key in cells[0] if key != "ood"]
    keys = [key for key in keys if all(key in cell for cell in cells)]
    return {key: float(np.mean([cell[key] for cell in cells])) for key in keys}


def _digest(images):
    digest = hashlib.blake2b(digest_size=16)
    for image in images:
        digest.update(image_digest(image) or b"?")
    return digest.hexdigest()


def versions():
    """Return the versions of the packages, and a description of the machine."""
    found: dict[str, Any] = {name: version(name) for name in PACKAGES}
    found["python"] = platform.python_version()
    found["machine"] = f"{platform.system()} {platform.machine()}"
    found["threads"] = torch.get_num_threads()
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
    return found
