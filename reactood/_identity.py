"""What tells two things apart: images by their content, settings by all they hold.

Identities survive the process: no addresses, no salted hashes, no line numbers.  A
function is its code, with its defaults, its closure and the plain globals that it
uses; an object is its class and its state; a tensor its values.  What belongs to an
installed library is its name and the library's version.
"""

import enum
import functools
import hashlib
import os
import sys
import types
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.parameter import is_lazy

from reactood._blocks import as_tensor
from reactood._images import as_rgb_or_grey

_new_hash: Any
try:  # 30 times as fast; not made to withstand an attacker who crafts images
    from xxhash import xxh3_128

    _new_hash, HASH = xxh3_128, "xxh3_128"
except ImportError:
    _new_hash, HASH = functools.partial(hashlib.blake2b, digest_size=16), "blake2b"

_PLAIN: tuple[Any, ...] = (type(None), bool, int, float, complex, str, bytes, range)
_PLAIN += np.dtype, torch.dtype, torch.device, torch.Size, torch.memory_format
_PLAIN += (os.PathLike,)
_LIBRARIES = {"torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "PIL"}


def image_digest(item):
    """Return 16 bytes that stand for an image's pixels or, for a file, its version.

    A file is told by its path, size and time of change, without reading it. None if
    there is no such file.
    """
    digest = _new_hash()
    if isinstance(item, str | os.PathLike):
        try:
            status = os.stat(item)
        except OSError:
            return None
        version = os.path.abspath(item), status.st_size, status.st_mtime_ns
        digest.update(repr(("file", *version)).encode())
    elif isinstance(item, Image.Image):
        image = as_rgb_or_grey(item)
        digest.update(repr(("PIL", image.mode, image.size)).encode())
        digest.update(image.tobytes())
    else:
        _feed_tensor(digest, as_tensor(item))
    return digest.digest()


def identity(thing):
    """Return a hexadecimal string that is the same for things that do the same.

    Raises
    ------
    TypeError
        If the thing holds something that has no identity beyond this process.
    """
    walk = _Walk()
    walk(thing)
    return walk.digest.hexdigest()


class _Walk:
    """Feeds a hash with everything that an object holds."""

    def __init__(self):
        self.digest = _new_hash()
        self.seen = {}  # by id; holds what it has seen, so that ids stay taken

    def note(self, *words):
        self.digest.update(repr(words).encode())

    def __call__(self, thing):
        if isinstance(thing, enum.Enum):
            self.note(type(thing).__qualname__, thing.name)
        elif isinstance(thing, _PLAIN):
            self.note(type(thing).__qualname__, str(thing))
        elif id(thing) in self.seen:
            self.note("seen", self.seen[id(thing)][0])
        else:
            self.seen[id(thing)] = len(self.seen), thing
            self._walk_new(thing)

    def _walk_new(self, thing):
        if isinstance(thing, torch.Tensor):
            self._walk_tensor(thing)
        elif isinstance(thing, np.ndarray) and thing.dtype != object:
            self.note("array", thing.dtype.str, thing.shape)
            self.digest.update(np.ascontiguousarray(thing).tobytes())
        elif isinstance(thing, dict):
            self.note("dict", len(thing))
            for key, value in thing.items():
                self(key), self(value)
        elif isinstance(thing, set | frozenset):
            self.note("set"), self(sorted(thing, key=repr))
        elif isinstance(thing, list | tuple):
            self.note("list", len(thing))
            for item in thing:
                self(item)
        elif isinstance(thing, types.CodeType):
            self.note("code", thing.co_code, thing.co_names, thing.co_varnames)
            self(thing.co_consts)
        elif isinstance(thing, types.FunctionType):
            self._walk_function(thing)
        elif isinstance(thing, types.MethodType):
            self(thing.__func__), self(thing.__self__)
        elif isinstance(thing, property):
            self((thing.fget, thing.fset))
        elif isinstance(thing, classmethod | staticmethod):
            self(thing.__func__)
        elif isinstance(thing, functools.partial):
            self((thing.func, thing.args, thing.keywords))
        elif isinstance(thing, type):
            self._walk_class(thing)
        elif isinstance(thing, types.ModuleType | types.BuiltinFunctionType):
            self.note(*_name(thing))
        elif isinstance(thing, nn.Module):
            self._walk_module(thing)
        else:
            self._walk_object(thing)

    def _walk_tensor(self, tensor):
        if is_lazy(tensor) or tensor.is_meta:
            return self.note("tensor without values")
        _feed_tensor(self.digest, tensor)

    def _walk_function(self, function):
        self.note(*_name(function))
        if _is_of_library(function):
            return
        self(function.__code__)
        self((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                self(cell.cell_contents)
            except ValueError:  # not filled yet
                self.note("empty cell")
        for name in sorted(_global_names(function.__code__)):
            value = function.__globals__.get(name)
            if isinstance(value, (*_PLAIN, types.FunctionType, type)):
                self.note(name), self(value)

    def _walk_class(self, cls):
        self.note(*_name(cls))
        if _is_of_library(cls):
            return
        for base in cls.__bases__:
            self(base)
        for name, value in sorted(vars(cls).items()):
            kinds = types.FunctionType, property, classmethod, staticmethod, *_PLAIN
            if isinstance(value, kinds) and name not in ("__module__", "__doc__"):
                if not name.startswith("__") or callable(value):
                    self.note(name), self(value)

    def _walk_module(self, module):
        self(type(module))
        for name, value in vars(module).items():
            if "hooks" in name:  # their keys count hooks in this process
                value = list(value.values()) if value else None
            if name != "training" and not (name.startswith("_") and value is None):
                self.note(name), self(value)

    def _walk_object(self, thing):
        try:
            reduced = thing.__reduce_ex__(4)
        except Exception as error:  # whatever an object's own method may raise
            raise TypeError(
                f"a {type(thing).__name__} cannot be told from another ({error})"
            ) from error
        if isinstance(reduced, str):
            return self.note(*_name(thing), reduced)
        constructor, args, *rest = reduced
        self(constructor), self(args)
        self([list(r) if isinstance(r, types.GeneratorType) else r for r in rest[:1]])
        for items in rest[1:3]:
            self(None if items is None else list(items))


def _feed_tensor(digest, tensor):
    tensor = tensor.detach().cpu().contiguous()
    digest.update(repr((str(tensor.dtype), tuple(tensor.shape))).encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _name(thing):
    module = getattr(thing, "__module__", None) or ""
    qualname = getattr(thing, "__qualname__", getattr(thing, "__name__", ""))
    top = sys.modules.get(module.partition(".")[0])
    version = getattr(top, "__version__", "") if _is_of_library(thing) else ""
    return type(thing).__name__, module, qualname, str(version)


def _is_of_library(thing):
    top = (getattr(thing, "__module__", None) or "builtins").partition(".")[0]
    return top in _LIBRARIES or (top in sys.stdlib_module_names and top != "__main__")


def _global_names(code):
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names
