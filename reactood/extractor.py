"""Features of any torch classifier, as a scikit-learn transformer."""

import copy
import warnings
from numbers import Integral

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted
from torch import nn

from reactood._backbones import PROOF_IMAGES, Backbone, attach
from reactood._batches import ArraySource, LoaderSource, open_source
from reactood._forward import DTYPES, Forward, explained
from reactood._images import MissingTransform, Preparation
from reactood._modules import choose_device
from reactood._networks import build_network, fingerprint
from reactood._progress import progress_bar
from reactood._sklearn import Interval, StrOptions, _fit_context, validate_array

__all__ = ["TorchFeatureExtractor"]


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
        Dotted name of the layer whose output is wanted instead, as in
        `dict(model.named_modules())`; maps and sequences are averaged over positions.

    preprocess : "auto", callable or None, default="auto"
        What turns a PIL image into a float tensor (C, H, W). `"auto"` takes the
        transform that belongs to the weights; None scales pixels to [0, 1]. Files are
        read as RGB. Float arrays and tensors are taken as already preprocessed and
        never touched.

    batch_size : int or "auto", default="auto"
        Images per forward pass. `"auto"` starts with a size for the device and goes
        on with half of it whenever memory runs out.

    device : "auto", str or torch.device, default="auto"
        Where the model runs; `"auto"` takes cuda, then mps, then cpu.

    precision : {"float32", "bfloat16", "float16"}, default="float32"
        Precision of the forward pass, by autocast. Features are float32 always.

    num_workers : int, default=0
        Processes that read and prepare image files; 0 does it in this one.

    verbose : bool, default=False
        Whether to show a progress bar over images; needs tqdm.

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
    ReActDetector : Scores these features.
    make_react_pipeline : Joins the two.

    Notes
    -----
    Accepted images: float arrays or tensors (n_samples, n_channels, height, width),
    taken as preprocessed; uint8 arrays or tensors (n_samples, height, width,
    n_channels) or (n_samples, n_channels, height, width); lists of PIL images or of
    arrays; lists, arrays or a pandas column of paths; a folder, read in sorted order;
    a torch Dataset or DataLoader, whose labels are ignored. scikit-learn can slice all
    of them but a folder, a Dataset and a DataLoader; wrap a Dataset as
    :class:`~reactood.datasets.ImageDataset` for cross-validation.

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
        "num_workers": [Interval(Integral, 0, None, closed="left")],
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
        num_workers=0,
        verbose=False,
    ):
        self.model = model
        self.weights = weights
        self.layer = layer
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.num_workers = num_workers
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
        device = choose_device(self.device)
        network, transform = build_network(self.model, self.weights)
        for name in ("n_features_in_", "feature_names_in_"):  # not of all inputs
            self.__dict__.pop(name, None)
        source = self._open(X, transform, reset=True)
        batch = source.first(PROOF_IMAGES).to(device)
        with explained(network, batch):
            backbone = attach(network.to(device), batch, self.layer)
            with torch.inference_mode():
                width = backbone(batch[:1].clone()).shape[1]
        self._backbone, self._transform = backbone, transform
        # What a pickle needs to build the weights again, where a name is enough.
        named = isinstance(self.model, str)
        self._recipe = {"model": self.model, "weights": self.weights} if named else {}
        self.n_features_out_ = width
        return self

    def fit_transform(self, X, y=None):
        """Fit, then extract the features of the same images.

        Parameters
        ----------
        X : images
            Any of the kinds listed in the notes.

        y : array-like of shape (n_samples,), default=None
            Not used, but for a warning if a DataLoader's rows come in another order.

        Returns
        -------
        features : ndarray of shape (n_samples, `n_features_out_`)
            Features, float32.
        """
        self.fit(X)
        source = self._open(X, self._transform, reset=False)
        if y is not None:  # labels and rows must go together
            _warn_of_another_order(source)
        return self._extract(source)

    def transform(self, X):
        """Extract features.

        Parameters
        ----------
        X : images
            Any of the kinds listed in the notes.

        Returns
        -------
        features : ndarray of shape (n_samples, `n_features_out_`)
            Features, float32, in the order of `X`.

        Raises
        ------
        ValueError
            If an image cannot be read, which is named, or images differ in shape.
        """
        check_is_fitted(self)
        source = self._open(X, self._transform, reset=False)
        _warn_of_another_order(source)
        return self._extract(source)

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
        preprocess, rgb = self.preprocess, False
        if preprocess == "auto":
            preprocess, rgb = transform or MissingTransform(), True
        source = open_source(
            X, Preparation(preprocess, rgb=rgb), num_workers=self.num_workers
        )
        if source is not None:
            return source
        return ArraySource(
            validate_array(self, X, reset=reset, dtype="numeric", allow_nd=True)
        )

    def _extract(self, source):
        forward = Forward(
            self._get_backbone(),
            choose_device(self.device),
            self.precision,
            self.batch_size,
        )
        features = _Rows(source.n_rows, self.n_features_out_)
        with progress_bar(source.n_rows, self.verbose) as progress:
            for block in forward(source.batches(forward.batch_size)):
                features.append(block.numpy())
                progress.update(len(block))
        return features.array()

    def _get_backbone(self):
        """Return the backbone; build it again where a pickle left it out."""
        if not hasattr(self, "_backbone"):
            network, _ = build_network(**self._recipe)
            if fingerprint(network) != self._checksum:
                raise ValueError(
                    f"The model built of {self._recipe} has other weights here "
                    "than where this extractor was fitted: another version of "
                    "torchvision, perhaps. Fit it again."
                )
            self._backbone = Backbone(network, **self._stop)
        return self._backbone

    def __getstate__(self):
        """Leave out weights that can be built again from the model's name.

        Others go to the CPU first: a pickle must open where there is no accelerator.
        """
        state = super().__getstate__()
        if "_backbone" in state:
            state = state.copy()
            backbone = state.pop("_backbone")
            if state["_recipe"]:
                state["_checksum"] = fingerprint(backbone.network)
                state["_stop"] = backbone.stop
            else:
                state["_backbone"] = copy.deepcopy(backbone).cpu()
        return state


class _Rows:
    """Collects blocks of rows, without a second copy where their number is known."""

    def __init__(self, n_rows, width):
        self.out = None if n_rows is None else np.empty((n_rows, width), np.float32)
        self.blocks, self.row = [], 0

    def append(self, block):
        if self.out is None:
            self.blocks.append(block)
        else:
            self.out[self.row : self.row + len(block)] = block
            self.row += len(block)

    def array(self):
        if self.out is not None:
            return self.out
        if not self.blocks:
            raise ValueError("The DataLoader gave no images.")
        return np.concatenate(self.blocks)


def _warn_of_another_order(source):
    if isinstance(source, LoaderSource) and not source.in_order:
        warnings.warn(
            "The DataLoader shuffles, samples or drops images, so rows may not go with "
            "those of its dataset; use shuffle=False and drop_last=False, without a "
            "sampler.",
            UserWarning,
            stacklevel=4,
        )
