"""Features of any torch classifier, as a scikit-learn transformer."""

import contextlib
import os
from typing import ClassVar

import PIL
import torch
import torchvision
from PIL import ImageFile
from sklearn.utils.validation import check_is_fitted

from reactood._images._codec import DECODERS, describe_decoder
from reactood._images._files import is_of_file
from reactood._images._preparation import READING, preparation_of
from reactood._networks._engines import DTYPES, ENGINES, describe_engine, device_of
from reactood._utils._ambient import float32_rounding
from reactood._utils._fingerprint._hashing import HASH
from reactood._utils._fingerprint._walk import identity
from reactood._utils._sklearn import StrOptions, _fit_context
from reactood._utils._version import __version__
from reactood.cache._feature_cache import FeatureCache, as_cache, open_store
from reactood.extractor._base import BaseFeatureExtractor, warn_of_another_order


class TorchFeatureExtractor(BaseFeatureExtractor):
    """Turns images into the features that a torch classifier decides by.

    The features are the input of the classifier's final linear layer, one row per
    image. `fit` builds a private, frozen copy of the model and proves on the first
    images that the head, applied to the features, gives the model's output. It
    trains nothing, and the model that you pass is left as it is.

    Parameters
    ----------
    model : str, callable or torch.nn.Module, default="resnet50"
        The name of a torchvision classifier (`"timm/NAME"` for timm's, and
        `"hf/OWNER/NAME"` or `"hf/FOLDER"` for those of Hugging Face's transformers), a
        function without arguments that builds the model, or the model itself. Names and
        functions are cheap to clone; a module is copied with its weights each time.

    weights : str, torchvision weights or None, default="DEFAULT"
        Pretrained weights of a model given by name, e.g. `"IMAGENET1K_V1"`; None for
        random ones, the same each time. Ignored for other models.

    layer : str, default=None
        Dotted name of the layer whose output is the feature instead, as in
        `dict(model.named_modules())`; maps and sequences are averaged over positions.

    preprocess : "auto", callable or None, default="auto"
        What turns a PIL image into a float tensor (C, H, W), or an image processor of
        Hugging Face's. `"auto"` takes the transform that belongs to the weights, and
        RGB; None scales pixels to [0, 1]. A callable gets images as they are, whatever
        their mode, turned as EXIF says. Float arrays and tensors are taken as already
        preprocessed and never touched.

    batch_size : int or "auto", default="auto"
        Images per forward pass. `"auto"` starts with a size for the device and goes
        on with half of it whenever memory runs out.

    device : "auto", str or torch.device, default="auto"
        Where the model runs; `"auto"` takes cuda, then mps, then cpu.

    precision : {"float32", "bfloat16", "float16"}, default="float32"
        Precision of the forward pass. Features are float32 always.

    engine : {"eager", "compile", "openvino", "auto"}, default="eager"
        What runs the model.

        - `"eager"`: torch, with batch normalisation folded into the convolutions
          before it (in float32) and channels last, where the first images get the
          same features.
        - `"compile"`: :func:`torch.compile`, with frozen weights. It takes from
          seconds to minutes to start; without a C++ compiler it warns and goes on in
          eager.
        - `"openvino"`: OpenVINO, on the CPU; the fastest there. Needs the extra
          `reactood[openvino]`.
        - `"auto"`: OpenVINO on a CPU if it is installed, else eager; also, with a
          warning, where OpenVINO cannot take the model.

    decoder : {"auto", "pillow", "torchcodec"}, default="auto"
        What decodes and resizes JPEG files, and contents of such files, where all
        steps of the preprocessing are known: those of the weights of torchvision and
        timm, of `preprocess=None`, and Compose([Resize, CenterCrop, ToTensor,
        Normalize]). Pillow reads all other files, and those that are damaged, CMYK,
        of more than 8 bits or of several images.

        - `"auto"`: torchcodec if it is installed and can be used, else Pillow.
        - `"pillow"`: Pillow only; the same features on every machine.
        - `"torchcodec"`: torchcodec, or an error if it cannot be used. Needs the extra
          `reactood[torchcodec]`, and torch 2.11 or later.

        With torchcodec, a core reads two to two and a half times as many files per
        second. Decoded pixels are equal. Of the resized ones of photos, fewer than 1
        of 100 differ, by at most 2 of 255. One image is compared with Pillow's when
        torchcodec is first used.

        .. versionadded:: 0.1

    num_workers : int, default=0
        Processes that read and prepare images. 0 does it in this one: image files in
        as many threads as torch uses, before each batch, which is best on a CPU. A
        Dataset and a `preprocess` of your own are then run in one thread. Processes
        help where such code is slow, or where the model runs on a GPU.

    cache : str, os.PathLike or FeatureCache, default=None
        A folder where features are kept, so that no image goes through the same model
        twice: see :class:`~reactood.cache.FeatureCache`.

    on_error : {"raise", "nan"}, default="raise"
        What to do about an image that cannot be read: raise an error that names it,
        or go on, fill its row with NaN, and give one warning that lists them all.
        `transform_with_errors` returns the errors instead.

    verbose : bool, default=False
        Whether to show a progress bar over the images that are computed.

    Attributes
    ----------
    model_ : torch.nn.Module
        The frozen private copy: images to features.

    head_ : tuple of ndarray
        Weight (n_classes, `n_features_out_`) and bias (n_classes,) of the classifier's
        final linear layer. Not there if `layer` is given.

    n_features_out_ : int
        Number of features.

    n_features_in_ : int
        Size of the second axis of a float array seen during `fit`: the number of
        channels of images. Not there for files, pixels and datasets.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names of a numeric DataFrame seen during `fit`.

    See Also
    --------
    reactood.cache.FeatureCache : Keeps features on disk.
    ReActDetector : Scores these features.
    make_react_pipeline : Joins the two.

    Notes
    -----
    Accepted images: float arrays or tensors (n_samples, n_channels, height, width),
    taken as preprocessed; uint8 arrays or tensors (n_samples, height, width,
    n_channels) or (n_samples, n_channels, height, width); lists of PIL images or of
    arrays, of contents of image files (`bytes`, `io.BytesIO`) or of dicts with an
    image; lists or arrays of paths; a pandas or polars column of any of these; a
    folder, read in the order of :func:`~reactood.datasets.list_images`; a torch or
    Hugging Face Dataset, or a DataLoader, whose labels are ignored. scikit-learn can
    slice all
    of them but a folder, a Dataset and a DataLoader; wrap a Dataset as
    :class:`~reactood.datasets.ImageDataset` for cross-validation.

    Features of the same JPEG file differ a little between torchcodec and Pillow, and so
    do scores: with `decoder="auto"`, a detector gives other last digits on a machine
    that has no torchcodec. A detector in a file that was saved before there was a
    choice is loaded with `decoder="pillow"`. A cache keeps the features of the two
    apart.

    Other inputs: float rows (n_samples, n_columns); dicts of arrays with one row per
    sample, which the model gets as arguments by name, such as `input_ids` and
    `attention_mask`; a matrix of integers, which stay integers where the model has
    embeddings and takes them, and become float32 elsewhere. Wrap a dict as
    :class:`~reactood.datasets.InputDict` for cross-validation.

    While `fit` builds and proves a model, and while a name is built again, the default
    random generators of torch, numpy and Python are seeded, and put back afterwards: a
    model without trained weights gets the same ones each time. These generators belong
    to all threads, so a thread that draws at the same time needs a generator of its
    own. `transform` leaves them alone.

    A pickle leaves out the weights of a model given by name; they are built again, and
    checked, at the first use. Weights of any other model are in the pickle.

    Examples
    --------
    >>> from reactood import TorchFeatureExtractor
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> images = load_digits_ood().X_test
    >>> extractor = TorchFeatureExtractor(digits_classifier).fit(images)
    >>> features = extractor.transform(images[:10])
    >>> features.shape == (10, extractor.n_features_out_)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseFeatureExtractor._parameter_constraints,
        "layer": [str, None],
        "precision": [StrOptions(set(DTYPES))],
        "engine": [StrOptions(set(ENGINES))],
        "decoder": [StrOptions(set(DECODERS))],
        "cache": [str, os.PathLike, FeatureCache, None],
        "on_error": [StrOptions({"raise", "nan"})],
    }

    def __init__(
        self,
        model="resnet50",
        *,
        weights="DEFAULT",
        layer=None,
        preprocess="auto",
        batch_size="auto",
        device="auto",
        precision="float32",
        engine="eager",
        decoder="auto",
        num_workers=0,
        cache=None,
        on_error="raise",
        verbose=False,
    ):
        self.model = model
        self.weights = weights
        self.layer = layer
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.engine = engine
        self.decoder = decoder
        self.num_workers = num_workers
        self.cache = cache
        self.on_error = on_error
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Build the private model and prove its head on the first images.

        Parameters
        ----------
        X : images
            Any of the kinds listed in the notes; only the first few are looked at.

        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : TorchFeatureExtractor
            The fitted extractor.

        Raises
        ------
        ValueError
            If the model has no linear head whose output is the model's output, or no
            such layer; if a name is not known; if the images cannot be read or do not
            fit the model.
        """
        self._fit(X)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None, *, out=None):
        """Fit, then extract the features of the same images.

        Parameters
        ----------
        X : images
            Any of the kinds listed in the notes.

        y : array-like of shape (n_samples,), default=None
            Not used, but for a warning if a DataLoader's rows come in another order.

        out : None, path, ndarray or callable, default=None
            As in `transform`.

        Returns
        -------
        features : ndarray of shape (n_samples, `n_features_out_`)
            Features, float32.
        """
        source = self._fit(X)
        if y is not None:  # labels must belong to their rows
            warn_of_another_order(source)
        with self._naming_on_error():
            return self._features(source, out, on_error=self.on_error)

    def transform(self, X, *, out=None):
        """Extract features.

        Parameters
        ----------
        X : images
            Any of the kinds listed in the notes.

        out : None, path, ndarray or callable, default=None
            Where the features go if not to memory: the path of an `.npy` file, which
            appears when it is complete, or a writable float32 array of the right
            shape, such as a :class:`numpy.memmap`. No other memory is then needed
            than for the images of a batch. A function is called as
            `out(rows, features)` with each batch as it comes: a list of row numbers,
            in any order, and an array of their features.

        Returns
        -------
        features : ndarray of shape (n_samples, `n_features_out_`)
            Features, float32, in the order of `X`; `out` itself if it is an array, a
            read-only memory map of the file if it is a path, None if it is a function.
            NaN in the rows of images that cannot be read, with `on_error="nan"`.

        Raises
        ------
        ValueError
            If an image cannot be read, which is named, or images differ in shape; if
            the engine cannot take the model.
        """
        check_is_fitted(self)
        self._check_cache()
        with self._naming_on_error():
            source = self._open_again(X, missing_ok=self.on_error == "nan")
            return self._features(source, out, on_error=self.on_error)

    def transform_with_errors(self, X, *, out=None):
        """Extract features, and return which images cannot be read, and why.

        As `transform` with `on_error="nan"`, whatever that parameter is, and without
        its warning.

        Parameters
        ----------
        X : images
            Any of the kinds listed in the notes.

        out : None, path, ndarray or callable, default=None
            As in `transform`.

        Returns
        -------
        features : ndarray of shape (n_samples, `n_features_out_`)
            Features, float32; NaN in the rows of images that cannot be read. An array
            also where `set_output` asks `transform` for a DataFrame.

        errors : dict of int to Exception
            For each of these rows, in ascending order, the error that `transform`
            would raise with `on_error="raise"`. Its text is the reason. Empty if all
            images were read.

        Raises
        ------
        ValueError
            If the engine cannot take the model.

        Examples
        --------
        >>> from reactood import TorchFeatureExtractor
        >>> from reactood.datasets import digits_classifier, load_digits_ood
        >>> images = load_digits_ood().X_test[:4]
        >>> extractor = TorchFeatureExtractor(digits_classifier).fit(images)
        >>> images[2] = float("nan")
        >>> features, errors = extractor.transform_with_errors(images)
        >>> for row, error in errors.items():
        ...     print(row, error)
        2 Input X contains NaN or infinity: 64 values in row 2.
        """
        check_is_fitted(self)
        self._check_cache()
        errors: dict[int, Exception] = {}
        source = self._open_again(X, missing_ok=True)
        features = self._features(source, out, on_error="nan", errors=errors)
        return features, errors

    def _fit(self, X):
        """Fit, and return the source of the images that were looked at."""
        self._check_cache()
        with self._naming_on_error():
            return self._fit_model(
                X,
                layer=self.layer,
                # Folded weights rounded to 16 bits give less accurate features.
                folding=self.precision == "float32",
                engine=self.engine,
                skip=self.on_error == "nan",
            )

    @contextlib.contextmanager
    def _naming_on_error(self):
        """Say how to leave out a file, where one stops everything."""
        try:
            yield
        except (FileNotFoundError, ValueError) as error:
            if self.on_error == "raise" and is_of_file(error):
                error.args = (f"{error} To leave such images out: on_error='nan'.",)
            raise

    def _check_cache(self):
        """Raise if the cache is none, before anything is run."""
        if self.cache is not None:
            as_cache(self.cache)

    def _features(self, source, out, *, on_error, errors=None):
        def get_engine(device, batch_size):
            return self._frozen.engine(self.engine, device, self.precision, batch_size)

        store = None if self.cache is None else self._open_store
        device = device_of(self.device, self.engine)
        return self._extract(
            source,
            out,
            device,
            get_engine,
            store=store,
            on_error=on_error,
            errors=errors,
        )

    def _open_store(self, device):
        """Open the part of the cache that holds rows made with these settings."""
        frozen = self._frozen
        prepare = preparation_of(self.preprocess, frozen.transform, self.decoder)
        if frozen.identity is None:
            raise ValueError(
                f"cache= needs an identity of the model, but {frozen.problem}. "
                "Use cache=None, or a model without it."
            )
        try:
            preprocess = identity((prepare.transform, prepare.rgb))
        except TypeError as error:
            raise ValueError(
                f"cache= needs an identity of preprocess={self.preprocess!r}, but "
                f"{error}. Use cache=None, or a function or an object that can be "
                "pickled."
            ) from error
        about = {
            "model": frozen.title,
            "layer": None if frozen.plan.stop.at_input else frozen.plan.stop.name,
            "precision": self.precision,
            "engine": describe_engine(self.engine, device),
            "device": device.type,
            "rounding": float32_rounding(),
            "dtype": str(
                torch.get_default_dtype()
            ),  # the dtype that a transform may create
            "decoder": "pillow"
            if prepare.geometry is None
            else describe_decoder(self.decoder),
            "truncated": ImageFile.LOAD_TRUNCATED_IMAGES,  # are they read?
            "preprocess": repr(prepare.transform),
            "n_features": self.n_features_out_,
            "reactood": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "pillow": PIL.__version__,
        }
        seen = {k: v for k, v in about.items() if k not in ("model", "preprocess")}
        # From what was fitted; parameters may have changed since.
        digest = identity(
            (frozen.identity, frozen.plan, preprocess, HASH, READING, seen)
        )
        return open_store(self.cache, digest, about, self.n_features_out_)
