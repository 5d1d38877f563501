"""ImageScorer: from paths to rows of a table, one for each image whatever is in it."""

from reactood._cli._detectors import take_apart
from reactood._networks._engines import device_of
from reactood._networks._forward import read_size
from reactood.distributed._row_scorer import NO_NUMBER, RowScorer

__all__ = ["NO_NUMBER", "ImageScorer"]


class ImageScorer(RowScorer):
    """Scores image files with a fitted detector.

    Parameters
    ----------
    estimator : Pipeline or ConformalDetector
        Takes images.
    name : str
        The file that it is from, for errors.

    Attributes
    ----------
    table_columns : tuple of str
        The keys of each row.
    batch_size : int
        How many images go through the network at once. Scores may depend on it in
        their last digits.
    settings : dict
        All on which the last digits of scores may depend.
    """

    def __init__(self, estimator, name):
        take_apart(estimator, name)  # raises unless it begins with images
        super().__init__(estimator)
        self.table_columns = ("path", *self.columns)
        device = device_of(self.extractor.device, self.extractor.engine)
        self.batch_size = read_size(self.extractor.batch_size, device)
        self.settings = {
            "batch size": self.batch_size,
            "device": device.type,
            "precision": self.extractor.precision,
            "engine": self.extractor.engine,
            "decoder": self.extractor.decoder,
        }

    def __call__(self, paths):
        """Return a dict for each image; values that there are not are None."""
        rows = zip(paths, *self.of_images(paths).values(), strict=True)
        return [dict(zip(self.table_columns, row, strict=True)) for row in rows]
