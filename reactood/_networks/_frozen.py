"""FrozenModel: a private copy of the user's model that never changes after `fit`."""

import contextlib
import copy
import threading
import zlib
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from reactood._networks._backbone import Backbone
from reactood._networks._build import build_network, seeded
from reactood._networks._engines import make_engine
from reactood._networks._forward import explained
from reactood._networks._head import head_checksum
from reactood._networks._hugging_face import version_of
from reactood._networks._proof import attach
from reactood._utils._ambient import default_device, no_gradients, without_autocast
from reactood._utils._fingerprint._walk import identity
from reactood._utils._recent import Recent

# What this process has learned: about models given by name, under their recipe; and
# about where networks stop, under their identity.
_FOUND = Recent(128)
_STARTING = threading.RLock()  # backbones and engines are made once, for all threads


class FrozenModel:
    """A network, where it stops and how it was rearranged; runs it when asked to.

    A network is built at once, except for a name that was built in this process
    before: then what is known of it is enough, until its features are asked for. It is
    proved once, by `prove`, and never changes after that. A pickle holds the weights
    unless they can be built again from the model's name.

    Parameters
    ----------
    model : str, nn.Module or callable
        The classifier, its name, or a function that builds it.
    weights : str, WeightsEnum or None
        Weights of a model given by name.

    Attributes
    ----------
    named : bool
        Whether the model was given by name.
    title : str
        What to call the model.
    identity : str or None
        What tells the network and its weights from any other; None with a ``problem``.
    problem : str or None
        Why the network has no identity.
    transform : callable or None
        The preprocessing that belongs to the weights.
    embeds : bool
        Whether the network has embeddings, and so may take integers.
    head_checksum : int or None
        Of the head of a network that a function built.
    plan : Plan
        Where the network stops, once that is proved.
    input_shape : tuple of int
        The shape of one preprocessed image, once the network is proved.
    """

    def __init__(self, model, weights):
        self.named = isinstance(model, str)
        self.recipe: Any = (model, weights) if self.named else None
        self.problem = self.head_checksum = None
        self.embeds = False
        self.plan: Any = None
        self.input_shape: Any = None
        self._network: Any = None  # before it is proved
        # Made when they are needed, and again where a pickle was opened.
        self._backbone: Any = None
        self._engine: Any = None
        self._engine_settings: Any = None
        key = model, weights, version_of(model)
        known = self._recall(key) if self.named else None
        if known is not None:
            self.title, self.identity, self._checksum, self.transform = known[:4]
            self.embeds = known[4]
            return
        self._network, self.transform = build_network(model, weights)
        self.title = model if self.named else type(self._network).__name__
        self.identity = self._identify()
        kinds = nn.Embedding | nn.EmbeddingBag
        self.embeds = any(isinstance(m, kinds) for m in self._network.modules())
        self._checksum = checksum_weights(self._network) if self.named else None
        if self.named:
            known = (
                *(self.title, self.identity, self._checksum, self.transform),
                self.embeds,
            )
            self._remember(key, known)
        elif not isinstance(model, nn.Module):
            self.head_checksum = head_checksum(self._network)

    def prove(self, batch, layer, *, folding, passes, fields=None):
        """Find where the network stops, proved on a few preprocessed images.

        ``layer`` names a layer whose output is the feature; None stands for the input
        of the head. ``passes`` is the default device of the program, as the network's
        code may ask for it. ``fields`` says what a batch of integers holds.
        """
        key = self.identity, layer, tuple(batch.shape), folding, fields
        plan = self._recall(key)
        backbone = None
        if plan is None:
            network = self._take().to(batch.device)
            with explained(network, batch), default_device(passes):
                backbone, plan, consistent = attach(
                    network, batch, layer, folding=folding, fields=fields
                )
            # One image alone cannot show that images depend on each other.
            if consistent and self.identity is not None:
                self._remember(key, plan)
        elif not self.named:  # a named model is built later, when it is needed
            backbone = plan.apply(self._take())
        self.plan, self._backbone, self._network = plan, backbone, None
        self.input_shape = tuple(batch.shape[1:])

    def restore(self, plan, input_shape):
        """Take over what `prove` found in another process."""
        backbone = plan.apply(self._take())
        self.plan, self._backbone, self._network = plan, backbone, None
        self.input_shape = input_shape

    def takes_tokens(self, batch):
        """Return whether the network, not proved yet, takes these integers as such."""
        if not self.embeds:
            return False
        if self._network is None:  # it was built before, by its name
            self._network = self._take()
        network = self._network.to(batch.device)
        with seeded(), no_gradients(), contextlib.suppress(Exception):
            network(batch[:1].clone())
            return True
        return False

    @property
    def backbone(self) -> Backbone:
        """The network up to its features; built again where only its name was kept."""
        with _STARTING:
            if self._backbone is None:
                self._backbone = self._built_again()
            return self._backbone

    def engine(self, name, device, precision, batch_size):
        """Return what runs the backbone: that of the last time, if nothing changed."""
        compiled_for = batch_size if name == "compile" else None
        settings = name, device, precision, compiled_for
        with _STARTING:
            if self._engine is None or self._engine_settings != settings:
                self._engine = make_engine(
                    name, self.backbone, device, precision, batch_size
                )
                self._engine_settings = settings
            return self._engine

    def __getstate__(self):
        state = self.__dict__ | {"_network": None, "_engine": None}
        if self.named or self._backbone is None:
            return state | {"_backbone": None}
        # On the CPU: a pickle must open where there is no accelerator.
        with no_gradients():
            return state | {"_backbone": copy.deepcopy(self._backbone).cpu()}

    @without_autocast()
    def _built_again(self):
        with no_gradients(), default_device():
            return self.plan.apply(self._take())

    def _take(self):
        """Return the network, which nothing else holds from now on."""
        if self._network is not None:
            network, self._network = self._network, None
            return network
        network, _ = build_network(*self.recipe)
        if checksum_weights(network) != self._checksum:
            raise ValueError(
                f"The model built of {self.recipe} has other weights here than where "
                "this extractor was fitted: another version of its library, perhaps. "
                "Fit it again."
            )
        return network

    def _identify(self):
        if any(map(is_lazy, self._network.parameters())):
            self.problem = "its lazy layers have no weights yet"
            return None
        try:
            return identity(self._network)
        except (TypeError, RuntimeError, NotImplementedError) as error:
            self.problem = str(error)
            return None

    @staticmethod
    def _recall(key):
        with contextlib.suppress(TypeError):  # weights that cannot be a key
            return _FOUND.get(key)
        return None

    @staticmethod
    def _remember(key, found):
        with contextlib.suppress(TypeError):  # weights that cannot be a key
            _FOUND.put(key, found)


def checksum_weights(network):
    """Return a checksum of all weights."""
    checksum = 0
    for name, tensor in network.state_dict().items():
        checksum = zlib.crc32(name.encode(), checksum)
        array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(array.numpy().data, checksum)
    return checksum
