"""What tells two things apart: images by their content, settings by all they hold.

Identities survive the process: no addresses, no salted hashes, no line numbers.  A
function is its code, with its defaults, its closure and the globals that it uses; a
class its bases and attributes; an object its class and its state; a tensor its values.
What belongs to Python or to a library that is known to say so when it changes is its
name and the version.
"""

import dis
import enum
import functools
import hashlib
import os
import sys
import sysconfig
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
_STDLIB = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))
_SITE = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))
_BY_NAME: tuple[Any, ...] = types.BuiltinFunctionType, types.MemberDescriptorType
_BY_NAME += types.GetSetDescriptorType, types.WrapperDescriptorType


def image_digest(item, *, prepared=False):
    """Return 16 bytes that stand for an image's pixels or, for a file, its version.

    A file is told by its path, size and time of change, without reading it. None if
    there is no such file. Pixels that are ``prepared``, cut to size, stand for another
    image than the same ones that are not; floats always are.
    """
    digest = _new_hash(b"prepared" if prepared and item.dtype == torch.uint8 else b"")
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
        self.modules = set()  # of the user's, each with the attributes looked at

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
            self.note(getattr(thing, "co_exceptiontable", b""))
            self(thing.co_consts)
        elif isinstance(thing, types.FunctionType):
            self._walk_function(thing)
        elif isinstance(thing, types.MethodType):
            self(thing.__func__), self(thing.__self__)
        elif isinstance(thing, property):
            self((thing.fget, thing.fset))
        elif isinstance(thing, functools.cached_property):
            self(thing.func)
        elif isinstance(thing, functools._lru_cache_wrapper):
            self(thing.__wrapped__)
        elif isinstance(thing, classmethod | staticmethod):
            self(thing.__func__)
        elif isinstance(thing, functools.partial):
            self((thing.func, thing.args, thing.keywords))
        elif isinstance(thing, type):
            self._walk_class(thing)
        elif isinstance(thing, _BY_NAME):
            self.note(*_name(thing))
            if not isinstance(getattr(thing, "__self__", None), types.ModuleType):
                self(getattr(thing, "__self__", None))
        elif isinstance(thing, types.ModuleType):
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
        self((function.__defaults__, function.__kwdefaults__, function.__dict__))
        for cell in function.__closure__ or ():
            try:
                self(cell.cell_contents)
            except ValueError:  # not filled yet
                self.note("empty cell")
        names, attributes = _names(function.__code__)
        for name in sorted(names & function.__globals__.keys()):
            self.note(name)
            try:
                self._walk_global(function.__globals__[name], attributes)
            except TypeError as error:
                raise TypeError(
                    f"{error}; it is {name!r}, which {function.__qualname__} uses"
                ) from error

    def _walk_global(self, value, attributes):
        """Walk what a function uses of a global, which may be a module of helpers."""
        self(value)
        if not isinstance(value, types.ModuleType) or _is_of_library(value):
            return
        if (value, attributes) not in self.modules:  # modules may hold each other
            self.modules.add((value, attributes))
            for name in sorted(attributes & vars(value).keys()):
                self.note(name)
                self._walk_global(vars(value)[name], attributes)

    def _walk_class(self, cls):
        self.note(*_name(cls))
        if _is_of_library(cls):
            return
        for base in cls.__bases__:
            self(base)
        for name, value in sorted(vars(cls).items()):
            # Of what Python itself keeps in a class, methods alone do something.
            own = name.startswith("__") and name.endswith("__")
            if name != "_abc_impl" and (not own or callable(value)):
                self.note(name), self(value)

    def _walk_module(self, module):
        self(type(module))
        for name, value in vars(module).items():
            if name.startswith("_") and "hooks" in name and isinstance(value, dict):
                value = list(value.values()) or None  # keys count in this process
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
    module = _module_name(thing)
    qualname = getattr(thing, "__qualname__", getattr(thing, "__name__", ""))
    top = sys.modules.get(module.partition(".")[0])
    version = getattr(top, "__version__", "")
    if _is_of_library(thing):
        version = version or sys.version_info[:2]
    return type(thing).__name__, module, qualname, str(version)


def _module_name(thing):
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    return getattr(thing, "__module__", None) or "builtins"


def _is_of_library(thing):
    top = _module_name(thing).partition(".")[0]
    if top in _LIBRARIES:
        return True
    if top == "builtins" and isinstance(thing, types.FunctionType):
        return False  # Python's own are not written in Python: this one has no module
    if top not in sys.stdlib_module_names or top == "__main__":
        return False
    # A script of the user's may have the name of a module that nobody imports.
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is None or (file.startswith(_STDLIB) and not file.startswith(_SITE))


def _names(code):
    """Return the names of globals and of attributes in a function's code."""
    used: set[str] = set()
    attributes = frozenset(code.co_names)
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            used.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            more = _names(constant)
            used, attributes = used | more[0], attributes | more[1]
    return used, attributes
