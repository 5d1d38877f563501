"""ImageSet: the features and scores of image files, and which could not be read."""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from reactood._cli._exit import UNREADABLE, say
from reactood._cli._options import shows_progress
from reactood._cli._unreadable import problems_of, say_problems
from reactood._images._pixels import read_image
from reactood.distributed._row_scorer import NO_NUMBER, reason_of

SIDE = 192  # pixels of a thumbnail's longer side, at most
SMALL = 96  # images smaller than this are enlarged, without blur


@dataclass
class ImageSet:
    """The images of one set that could be read, and the reasons for the others.

    Parameters
    ----------
    name : str
        What the set is called.
    paths : list of str
        The images that could be read.
    X : ndarray of shape (n_read, n_features)
        What the detector takes, one row for each of these.
    problems : dict of str to str
        Why each of the other images could not be read, by path.
    """

    name: str
    paths: list
    X: np.ndarray
    problems: dict = field(default_factory=dict)
    scores: np.ndarray | None = None
    accepted: np.ndarray | None = None

    @property
    def n_images(self):
        """How many images were given."""
        return len(self.paths) + len(self.problems)

    def score(self, method, detector):
        """Score and judge the images, by the detector's method of this name."""
        self.scores = np.asarray(getattr(detector, method)(self.X), dtype=np.float64)
        self.accepted = np.asarray(detector.predict(self.X)) == 1


def read_set(scorer, name, paths, options):
    """Send images through the network, once, and return the set of them.

    No image is kept, only its features. Images that cannot be read are named on stderr.
    """
    extractor = scorer.extractor
    if not options.quiet:
        say(f"{name}: {len(paths)} images")
    extractor.set_params(verbose=shows_progress(options))
    features, errors = extractor.transform_with_errors(paths)
    extractor.set_params(verbose=False)
    reasons = {row: reason_of(error, row) for row, error in errors.items()}
    for row in np.flatnonzero(~np.isfinite(features).all(axis=1)):
        reasons.setdefault(int(row), NO_NUMBER)
    good = [row for row in range(len(paths)) if row not in reasons]
    if reasons:
        features = features[good]
    if good and scorer.later_steps is not None:
        features = scorer.later_steps.transform(features)
    problems = problems_of(reasons, paths)
    say_problems(problems, len(paths), name)
    return ImageSet(name, [paths[row] for row in good], features, problems)


def exit_code(sets):
    """Return the exit code of a command that has used these sets."""
    return UNREADABLE if any(images.problems for images in sets) else 0


def thumbnail(path):
    """Return a small JPEG of an image file, or None where it cannot be read again."""
    try:
        image = read_image(path)
    except (OSError, ValueError):  # it has changed since
        return None
    longest = max(image.size)
    if longest < SMALL:
        times = -(-SMALL // longest)
        size = image.width * times, image.height * times
        image = image.resize(size, Image.Resampling.NEAREST)
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()
