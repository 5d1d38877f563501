"""Features of any torch classifier, as a scikit-learn transformer."""

import contextlib
import copy
import functools
import os
import threading
from numbers import Integral

import PIL
import torch
import torchvision
from PIL import ImageFile
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted
from torch import nn

from reactood._images._preparation import READING, MissingTransform, Preparation
from reactood._images._source import first_images
from reactood._images._sources import open_source
from reactood._networks._engines import DTYPES, ENGINES, describe_engine, make_engine
from reactood._networks._forward import Forward, explained, read_size
from reactood._networks._frozen import Network, recall_plan, remember_plan
from reactood._networks._head import factory_keys, head_checksum, note_head
from reactood._networks._proof import PROOF_IMAGES, attach
from reactood._utils._ambient import (
    default_device,
    float32_rounding,
    no_gradients,
    passes_default,
    without_autocast,
)
from reactood._utils._estimators import as_a_whole
from reactood._utils._fingerprint._hashing import HASH
from reactood._utils._fingerprint._walk import identity
from reactood._utils._sklearn import Interval, StrOptions, _fit_context, validate_array
from reactood._utils._tensors import choose_device
from reactood._utils._version import __version__
from reactood._utils._warnings import warn
from reactood.cache._feature_cache import FeatureCache, as_cache, open_store
from reactood.extractor._extraction import Extraction
from reactood.extractor._sink import Rows


class TorchFeatureExtractor(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Turns images into the features that a torch classifier decides by.

    The features are the input of the classifier's final linear layer, one row per
    image. `fit` builds a private, frozen copy of the model and proves on the first
    images that the head, applied to the features, gives the model's output. It
    trains nothing, and the model that you pass is left as it is.

    Parameters
    ----------
    model : str, callable or torch.nn.Module, default="resnet50"
        The name of a torchvision classifier (`"timm/NAME"` for timm's), a function
        without arguments that builds the model, or the model itself. Names and
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

    verbose : bool, default=False
        Whether to show a progress bar over the images that are computed; needs tqdm.

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

    __metadata_request__transform = {"out": UNUSED}  # noqa: RUF012

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's own form)
        "model": [str, nn.Module, callable],
        "weights": "no_validation",
        "layer": [str, None],
        "preprocess": [StrOptions({"auto"}), callable, None],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "device": [str, torch.device],
        "precision": [StrOptions(set(DTYPES))],
        "engine": [StrOptions(set(ENGINES))],
        "num_workers": [Interval(Integral, 0, None, closed="left")],
        "cache": [str, os.PathLike, FeatureCache, None],
        "on_error": [StrOptions({"raise", "nan"})],
        "verbose": ["verbose"],
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

    @as_a_whole
    @without_autocast()
    def _fit(self, X):
        """Fit, and return the source of the images that were looked at."""
        device = self._choose_device()
        passes = passes_default(device)
        with no_gradients(), default_device():
            return self._build(X, device, passes)

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None, *, out=None):
        """Fit, then extract the features of the same images.

        Parameters
        ----------
        X : images
            Any of the kinds listed in the notes.

        y : array-like of shape (n_samples,), default=None
            Not used, but for a warning if a DataLoader's rows come in another order.

        out : None, path or ndarray, default=None
            As in `transform`.

        Returns
        -------
        features : ndarray of shape (n_samples, `n_features_out_`)
            Features, float32.
        """
        source = self._fit(X)
        if y is not None:  # labels and rows must go together
            _warn_of_another_order(source)
        return self._extract(source, out)

    def transform(self, X, *, out=None):
        """Extract features.

        Parameters
        ----------
        X : images
            Any of the kinds listed in the notes.

        out : None, path or ndarray, default=None
            Where the features go if not to memory: the path of an `.npy` file, which
            appears when it is complete, or a writable float32 array of the right
            shape, such as a :class:`numpy.memmap`. No other memory is then needed
            than for the images of a batch.

        Returns
        -------
        features : ndarray of shape (n_samples, `n_features_out_`)
            Features, float32, in the order of `X`; `out` itself if it is an array, a
            read-only memory map of the file if it is a path. NaN in the rows of
            images that cannot be read, with `on_error="nan"`.

        Raises
        ------
        ValueError
            If an image cannot be read, which is named, or images differ in shape; if
            the engine cannot take the model.
        """
        check_is_fitted(self)
        source = self._open(X, self._network.transform, reset=False)
        _warn_of_another_order(source)
        source.read_before = self._runtime.stream
        return self._extract(source, out)

    @property
    def model_(self):
        """The frozen private copy of the model: images to features."""
        check_is_fitted(self)
        return self._get_backbone()

    @property
    def head_(self):
        """Weight and bias of the classifier's final linear layer."""
        check_is_fitted(self)
        backbone = self._get_backbone()
        if not backbone.at_input:
            raise AttributeError(
                f"Features of layer={backbone.name!r} are not the input of the final "
                "linear layer, so there is no head_ for them."
            )
        return backbone.head()

    def _build(self, X, device, passes):
        """Build the network and find where it stops, proved on some of ``X``."""
        for name in ("n_features_in_", "feature_names_in_"):  # not of all inputs
            self.__dict__.pop(name, None)
        # A function that builds the model may change when it is called.
        factory = not isinstance(self.model, str | nn.Module)
        keys = factory_keys(self.model) if factory else ()
        network = Network(self.model, self.weights)
        checksum = head_checksum(network.peek()) if factory else None
        source = self._open(X, network.transform, reset=True)
        batch = first_images(
            source, PROOF_IMAGES, skip_errors=self.on_error == "nan"
        ).to(device)
        # Folded weights, rounded to 16 bits, are further from the model than its own.
        folding = self.precision == "float32"
        # One image alone cannot show that images depend on each other.
        key = network.identity, self.layer, tuple(batch.shape), folding
        plan = recall_plan(key)
        if plan is None:
            module = network.build().to(device)
            with explained(module, batch), default_device(passes):
                backbone, plan, consistent = attach(
                    module, batch, self.layer, folding=folding
                )
            if consistent and network.identity is not None:
                remember_plan(key, plan)
        elif network.named:
            backbone = None  # built again when it is needed: perhaps never
        else:
            backbone = plan.apply(network.build())
        self._runtime = _Runtime(backbone)
        self._network, self._plan = network.released(), plan
        self.n_features_out_ = plan.n_features
        self._runtime.stream = source.stream
        self._head_checksum = checksum
        note_head(keys, checksum)
        return source

    @property
    def _n_features_out(self):
        return self.n_features_out_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # What is accepted is what the model accepts: rows, sequences or images.
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _open(self, X, transform, *, reset):
        """Return the source of batches, after scikit-learn has seen numeric arrays."""
        if self.cache is not None:
            as_cache(self.cache)  # says what is wrong with it, before anything is run
        return open_source(
            X,
            self._prepare(transform),
            validate=functools.partial(
                validate_array, self, reset=reset, dtype="numeric", allow_nd=True
            ),
            num_workers=self.num_workers,
            missing_ok=self.on_error == "nan",
        )

    def _prepare(self, transform):
        if self.preprocess == "auto":
            return Preparation(transform or MissingTransform(), rgb=True)
        return Preparation(self.preprocess, rgb=False)

    def _choose_device(self):
        if self.device == "auto" and self.engine == "openvino":
            return torch.device("cpu")
        return choose_device(self.device)

    @without_autocast()
    def _extract(self, source, out=None):
        device = self._choose_device()
        n_rows = source.n_rows if out is None else source.length
        sink = Rows(n_rows, self.n_features_out_, out)
        forward = Forward(self._get_backbone, self._get_engine, device, self.batch_size)
        try:
            with (
                no_gradients(),
                default_device(),
                self._open_store(device) as store,
            ):
                Extraction(
                    source,
                    forward,
                    sink,
                    store,
                    batch_size=read_size(self.batch_size, device),
                    on_error=self.on_error,
                    verbose=self.verbose,
                ).run()
        except BaseException:
            sink.abandon()
            raise
        return sink.finish()

    def _get_engine(self, device, batch_size):
        """Return the engine, the one of the last time if nothing has changed."""
        compiled_for = batch_size if self.engine == "compile" else None
        settings = self.engine, device, self.precision, compiled_for
        with _STARTING:
            if self._runtime.settings != settings:
                backbone = self._get_backbone()
                self._runtime.engine = make_engine(
                    self.engine, backbone, device, self.precision, batch_size
                )
                self._runtime.settings = settings
            return self._runtime.engine

    def _open_store(self, device):
        """Open the part of the cache that holds rows made with these settings."""
        if self.cache is None:
            return contextlib.nullcontext()
        network, prepare = self._network, self._prepare(self._network.transform)
        if network.identity is None:
            raise ValueError(
                f"cache= needs to tell this model from others, but {network.problem}. "
                "Use cache=None, or a model without it."
            )
        try:
            preprocess = identity((prepare.transform, prepare.rgb))
        except TypeError as error:
            raise ValueError(
                f"cache= needs to tell preprocess={self.preprocess!r} from others, but "
                f"{error}. Use cache=None, or a function or an object that can be "
                "pickled."
            ) from error
        about = {
            "model": network.title,
            "layer": None if self._plan.stop["at_input"] else self._plan.stop["name"],
            "precision": self.precision,
            "engine": describe_engine(self.engine, device),
            "device": device.type,
            "rounding": float32_rounding(),
            "dtype": str(torch.get_default_dtype()),  # of what a transform makes
            "truncated": ImageFile.LOAD_TRUNCATED_IMAGES,  # read, or an error
            "preprocess": repr(prepare.transform),
            "n_features": self.n_features_out_,
            "reactood": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "pillow": PIL.__version__,
        }
        seen = {k: v for k, v in about.items() if k not in ("model", "preprocess")}
        # What was fitted, whatever the parameters say by now.
        digest = identity(
            (network.identity, self._plan, preprocess, HASH, READING, seen)
        )
        return open_store(self.cache, digest, about, self.n_features_out_)

    @without_autocast()
    def _get_backbone(self):
        """Return the backbone; build it again where only its name was kept."""
        with _STARTING:
            if self._runtime.backbone is None:
                with no_gradients(), default_device():
                    self._runtime.backbone = self._plan.apply(self._network.build())
            return self._runtime.backbone

    def __getstate__(self):
        """Leave out weights that can be built again from the model's name.

        Others go to the CPU first: a pickle must open where there is no accelerator.
        """
        state = super().__getstate__()
        if "_network" in state:
            backbone = None
            if not state["_network"].named:
                with no_gradients():
                    backbone = copy.deepcopy(state["_runtime"].backbone).cpu()
            state = state | {"_runtime": _Runtime(backbone)}
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if state.get("_head_checksum") is not None:  # as a cache of joblib's does
            note_head(factory_keys(self.model), state["_head_checksum"])


_STARTING = threading.RLock()  # of what an extractor runs: once, for all its threads


class _Runtime:
    """What an extractor runs: made when it is needed, left out of pickles."""

    def __init__(self, backbone):
        self.backbone = backbone
        self.engine = self.settings = None
        self.stream = None  # whose first images `fit` looked at


def _warn_of_another_order(source):
    if not source.in_order:
        warn(
            "The DataLoader shuffles, samples or drops images, so rows may not go with "
            "those of its dataset; use shuffle=False and drop_last=False, without a "
            "sampler.",
        )
