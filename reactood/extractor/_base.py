"""The base of feature extractors: build and prove the model, run over images."""

import contextlib
import functools
from numbers import Integral
from typing import ClassVar

import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted
from torch import nn

from reactood._images._image_source import first_images
from reactood._images._preparation import preparation_of
from reactood._images._sources import open_source
from reactood._networks._engines import device_of
from reactood._networks._forward import Forward, read_size
from reactood._networks._frozen import FrozenModel
from reactood._networks._head import factory_keys, note_head
from reactood._networks._proof import PROOF_IMAGES
from reactood._utils._ambient import (
    default_device,
    no_gradients,
    passes_default,
    without_autocast,
)
from reactood._utils._estimators import as_a_whole
from reactood._utils._fields import TOKENS, described
from reactood._utils._sklearn import Interval, StrOptions
from reactood._utils._validation import validate_array
from reactood._utils._warnings import warn
from reactood.extractor._extraction import fill
from reactood.extractor._pass import warn_of_errors
from reactood.extractor._sink import Received, Rows


class BaseFeatureExtractor(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Builds and proves a model, and takes features of images from it.

    A subclass has the parameters below; its ``fit`` calls ``_fit_model``, and its
    ``transform`` calls ``_extract``.
    """

    __metadata_request__transform: ClassVar = {"out": UNUSED}

    decoder = "pillow"  # a subclass may have it as a parameter

    _parameter_constraints: ClassVar[dict] = {
        "model": [str, nn.Module, callable],
        "weights": "no_validation",
        "preprocess": [StrOptions({"auto"}), callable, None],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "device": [str, torch.device],
        "num_workers": [Interval(Integral, 0, None, closed="left")],
        "verbose": ["verbose"],
    }

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in ("transform", "fit_transform"):
            if name in vars(cls):
                setattr(cls, name, _bare_with_function(vars(cls)[name]))

    @property
    def model_(self):
        """The frozen private copy of the model: images to features."""
        check_is_fitted(self)
        return self._frozen.backbone

    @property
    def head_(self):
        """Weight and bias of the classifier's final linear layer."""
        check_is_fitted(self)
        stop = self._frozen.plan.stop
        if not stop.at_input:
            raise AttributeError(
                f"Features of layer={stop.name!r} are not the input of the final "
                "linear layer, so there is no head_ for them."
            )
        return self._frozen.backbone.head()

    @property
    def _n_features_out(self):
        return self.n_features_out_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # The model decides what is accepted: rows, sequences or images.
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __setstate__(self, state):
        super().__setstate__(state)
        frozen = state.get("_frozen")
        if frozen is not None and frozen.head_checksum is not None:
            note_head(factory_keys(self.model), frozen.head_checksum)

    @as_a_whole
    @without_autocast()
    def _fit_model(self, X, *, layer=None, folding=True, engine="eager", skip=False):
        """Build the model, prove it on some of ``X``, and return the source of ``X``.

        With ``skip``, images that cannot be read are left out of the proof.
        """
        device = device_of(self.device, engine)
        passes = passes_default(device)
        with no_gradients(), default_device():
            for name in (
                "n_features_in_",
                "feature_names_in_",
            ):  # not every input has them
                self.__dict__.pop(name, None)
            # A function that builds the model may change when it is called.
            factory = not isinstance(self.model, str | nn.Module)
            keys = factory_keys(self.model) if factory else ()
            frozen = FrozenModel(self.model, self.weights)
            source = self._open(
                X, frozen.transform, reset=True, missing_ok=skip, tokens=frozen.embeds
            )
            batch = first_images(source, PROOF_IMAGES, skip_errors=skip).to(device)
            if source.fields == TOKENS and not frozen.takes_tokens(batch):
                source.fields, batch = None, batch.float()
            frozen.prove(
                batch, layer, folding=folding, passes=passes, fields=source.fields
            )
        self._frozen = frozen
        self.n_features_out_ = frozen.plan.n_features
        self._begun = source.begun
        note_head(keys, frozen.head_checksum)
        return source

    def _open_again(self, X, *, missing_ok=False):
        """Return the source of images that are given after those of `fit`."""
        transform = self._frozen.transform
        fields = self._frozen.plan.fields
        source = self._open(
            X,
            transform,
            reset=False,
            missing_ok=missing_ok,
            tokens=fields == TOKENS,
        )
        if source.fields != fields:
            raise ValueError(
                f"X holds {described(source.fields)}, and fit was given "
                f"{described(fields)}; expected the same names, types and, where "
                "fields differ in shape, shapes."
            )
        warn_of_another_order(source)
        source.read_before = self._begun
        return source

    def _open(self, X, transform, *, reset, missing_ok=False, tokens=False):
        source = open_source(
            X,
            preparation_of(self.preprocess, transform, self.decoder),
            validate=functools.partial(
                validate_array, self, reset=reset, dtype="numeric", allow_nd=True
            ),
            num_workers=self.num_workers,
            missing_ok=missing_ok,
            tokens=tokens,
        )
        if source.looks_like_pixels:
            warn(
                "The images are floats, which are taken as preprocessed, but the first "
                "holds whole numbers up to 255 only, as pixels are before. If they are "
                "pixels, pass X.astype('uint8'); then preprocess= is applied to them."
            )
        return source

    @without_autocast()
    def _extract(
        self,
        source,
        out,
        device,
        get_engine,
        *,
        store=None,
        on_error="raise",
        errors=None,
    ):
        """Return the features of all images, or give them to ``out``.

        ``get_engine(device, batch_size)`` returns what runs the backbone, and
        ``store(device)`` opens the rows of a cache. ``errors``, a dict, receives the
        errors of images that cannot be read, instead of a warning.
        """
        sink: Rows | Received
        if callable(out):
            sink = Received(out, self.n_features_out_)
        else:
            n_rows = source.n_rows if out is None else source.length
            sink = Rows(n_rows, self.n_features_out_, out)
        forward = Forward(
            lambda: self._frozen.backbone, get_engine, device, self.batch_size
        )
        try:
            with (
                no_gradients(),
                default_device(),
                contextlib.nullcontext() if store is None else store(device) as rows,
            ):
                found = fill(
                    sink,
                    source,
                    forward,
                    rows,
                    batch_size=read_size(self.batch_size, device),
                    on_error=on_error,
                    verbose=self.verbose,
                )
            if errors is None:
                warn_of_errors(found)
            else:
                errors |= found
        except BaseException:
            sink.abandon()
            raise
        return sink.finish()


def _bare_with_function(method):
    """Return a method that returns None for ``out=function``, as it is.

    scikit-learn would make a DataFrame of it where `set_output` asks for one.
    """
    if not hasattr(method, "__wrapped__"):
        return method

    @functools.wraps(method)
    def with_or_without(self, *args, **kwargs):
        if callable(kwargs.get("out")):
            return method.__wrapped__(self, *args, **kwargs)
        return method(self, *args, **kwargs)

    return with_or_without


def warn_of_another_order(source):
    """Warn where rows may not go with those of the input."""
    if not source.in_order:
        warn(
            "The DataLoader shuffles, samples or drops images, or its workers give "
            "them out of order, so rows may not go with those of its dataset; use "
            "shuffle=False and drop_last=False, without a sampler, and for an "
            "IterableDataset at most one worker.",
        )
